"""What only the supervisor can do or tell: passed on to it, which checks it."""

from __future__ import annotations

import json
from pathlib import Path

import aiohttp
from aiohttp import web
from yarl import URL

from config.identity.principal import PEER_HEADER, PRINCIPAL_HEADER
from config.link import SEQUENCE_HEADER
from config.paths import short_socket_path
from lb.control.link import Link
from lb.protocol.errors import ProxyError, Source
from lb.telemetry.shared_counters import ADAPTER, Counters

#: How long (s) a change may take at the supervisor: a roll-out goes worker by worker. And a mere question.
_CHANGE_S, _QUESTION_S = 900.0, 5.0


#: A key's secret is in one of them, once.
_NOT_KEPT = {"Cache-Control": "no-store"}


class SupervisorCalls:
    """Over its ``control`` socket."""

    def __init__(self, control: Path, link: Link, counters: Counters) -> None:
        self._link, self._counters = link, counters
        connector = aiohttp.UnixConnector(path=short_socket_path(control), limit=256, force_close=True)
        self._session = aiohttp.ClientSession(connector=connector, trust_env=False)

    async def close(self) -> None:
        await self._session.close()

    async def adapters(self, request: web.Request) -> web.Response:
        """The supervisor's answer, with what only the balancer can count."""
        answer, text = await self._ask(request, b"")
        if answer.status == 200:
            data = json.loads(text)
            for adapter in data.get("adapters", [data]):
                name = f"{ADAPTER}{adapter['lora_name']}"
                adapter["requests_total"], adapter["errors_total"] = self._counters.get(name)
                adapter["last_used"] = self._counters.last_used(name)
            text = json.dumps(data)
        return web.Response(status=answer.status, text=text, content_type="application/json")

    async def question(self, request: web.Request) -> web.Response:
        """The supervisor's answer as it is."""
        answer, text = await self._ask(request, b"")
        return web.Response(status=answer.status, text=text, content_type="application/json", headers=_NOT_KEPT)

    async def change(self, request: web.Request) -> web.Response:
        """Passed on to the supervisor; its answer is passed back once what it changed shows here too."""
        answer, text = await self._ask(request, await request.read())
        if sequence := answer.headers.get(SEQUENCE_HEADER):
            epoch, _, number = sequence.partition(".")
            await self._link.has_snapshot((int(epoch), int(number)), timeout=1.0)
        return web.Response(status=answer.status, text=text, content_type="application/json", headers=_NOT_KEPT)

    async def _ask(self, request: web.Request, body: bytes) -> tuple[aiohttp.ClientResponse, str]:
        """Raises ProxyError (503) where there is no supervisor, or none that answers."""
        method = "GET" if request.method == "HEAD" else request.method  # the same head, of the same body
        patience = aiohttp.ClientTimeout(total=_QUESTION_S if method == "GET" else _CHANGE_S)
        try:
            async with self._session.request(
                method, _at_supervisor(request), data=body, timeout=patience,
                headers={name: request.headers.get(name, "") for name in (PRINCIPAL_HEADER, PEER_HEADER)},
            ) as answer:
                return answer, await answer.text()
        except TimeoutError:
            done = "" if method == "GET" else "; the change may still be made: see /v1/cluster/events"
            raise ProxyError(
                503, f"the supervisor has not answered in {patience.total:g} s; traffic is served{done}",
                source=Source.INTERNAL, retry_after=5,
            ) from None
        except (aiohttp.ClientError, OSError):
            raise ProxyError(
                503, "the supervisor is not running; traffic is served, changes are not possible",
                source=Source.INTERNAL, retry_after=5,
            ) from None


def _at_supervisor(request: web.Request) -> URL:
    """The path as it was sent: an encoded question mark in a name must not become one."""
    return URL(f"http://supervisor{request.rel_url.raw_path_qs}", encoded=True)
