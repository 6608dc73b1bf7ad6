"""Connections to workers: pooled, bytes passed as they are, no name looked up on the request path."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from lb.errors import AttemptFailed
from lb.headers import Pairs

#: Below the 5 s after which vLLM closes an idle connection by default.
_IDLE_S = 3.0
_CONNECT_S = 2.0


class Upstream:
    """``addresses`` tells the IP address of each backend's host name, as the supervisor resolved it."""

    def __init__(self, addresses: Callable[[], Mapping[str, str]]) -> None:
        connector = aiohttp.TCPConnector(
            limit=0, keepalive_timeout=_IDLE_S, resolver=_Known(addresses), use_dns_cache=False
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            trust_env=False,
            read_bufsize=2**16,
        )

    async def send(
        self, base: str, method: str, target: str, headers: Pairs, body: bytes | None
    ) -> aiohttp.ClientResponse:
        """The head of the answer has come when this returns. Raises AttemptFailed."""
        try:
            return await self._session.request(
                method, URL(base + target, encoded=True), headers=headers, data=body, allow_redirects=False
            )
        except aiohttp.ClientConnectorError as error:
            reason = error.os_error.strerror or error.os_error
            raise AttemptFailed(f"cannot connect: {reason}", connected=False) from None
        except aiohttp.ConnectionTimeoutError:
            raise AttemptFailed(f"no connection in {_CONNECT_S:g} s", connected=False) from None
        except (aiohttp.ClientError, OSError) as error:
            raise AttemptFailed(f"no answer, connection closed ({_words(error)})", connected=True) from None

    async def websocket(
        self, base: str, target: str, headers: Pairs, protocols: tuple[str, ...]
    ) -> aiohttp.ClientWebSocketResponse:
        """Raises AttemptFailed."""
        try:
            return await self._session.ws_connect(
                URL(base + target, encoded=True), headers=headers, protocols=protocols, autoping=False, max_msg_size=0
            )
        except aiohttp.ClientConnectorError as error:
            raise AttemptFailed(f"cannot connect: {error}", connected=False) from None
        except (aiohttp.ClientError, OSError) as error:
            raise AttemptFailed(f"no WebSocket: {_words(error)}", connected=True) from None

    async def get_text(self, base: str, path: str, api_key: str | None, timeout: float) -> str:
        """Raises AttemptFailed for anything but a 200."""
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            async with self._session.get(
                URL(base + path, encoded=True), headers=headers, timeout=aiohttp.ClientTimeout(total=timeout)
            ) as response:
                if response.status != 200:
                    raise AttemptFailed(f"{path}: {response.status}", connected=True)
                return await response.text(errors="replace")
        except (aiohttp.ClientError, OSError) as error:
            raise AttemptFailed(f"{path}: {_words(error)}", connected=True) from None

    async def close(self) -> None:
        await self._session.close()


class _Known(AbstractResolver):
    def __init__(self, addresses: Callable[[], Mapping[str, str]]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        ip = self._addresses().get(host)
        if not ip:
            raise OSError(f"{host} has not been resolved")
        kind = socket.AF_INET6 if ":" in ip else socket.AF_INET
        return [ResolveResult(hostname=host, host=ip, port=port, family=kind, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing is held."""


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
