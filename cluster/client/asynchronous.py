"""The client to await."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import httpx

from cluster.client import results as r
from cluster.client import streams
from cluster.client.calls import Calls
from cluster.client.core import Address, Call, ClusterError
from cluster.client.method import Awaiting
from cluster.client.trust import Verify
from cluster.client.workflows import Workflow

T = TypeVar("T")


class AsyncClusterClient(Calls, Awaiting):
    """Talks to the balancer at ``url`` or, given a ``state_dir``, to the supervisor there. Times are seconds;
    ``timeout`` is that of one question. ``admin_key``: where the cluster has one; without it the token of a cluster on
    this machine is sent where it is asked for. ``verify``: whom to trust over https, a file of authorities or an
    SSLContext; without it exactly the certificate of a cluster on this machine, else whom the system trusts. ``cert``:
    a file with the certificate and key to show.

    Every method raises ClusterError."""

    def __init__(
        self, url: str = "http://127.0.0.1:8000", admin_key: str | None = None, *, state_dir: Path | None = None,
        timeout: float = 35.0, verify: Verify = None, cert: Path | None = None,
    ) -> None:
        self._address = address = Address(url, admin_key, state_dir, verify, cert)
        transport = httpx.AsyncHTTPTransport(uds=address.socket) if address.socket else None
        self._http = httpx.AsyncClient(
            base_url=address.base_url, headers=address.headers, timeout=timeout, trust_env=False, transport=transport,
            auth=address.auth, verify=address.verification,
        )

    @property
    def where(self) -> str:
        return str(self._address)

    async def __aenter__(self) -> AsyncClusterClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def first_token(self, model: str, prompt: str) -> float:
        """Seconds from a request to the first token of its answer."""
        begun = time.monotonic()
        async with self._stream(streams.first_token(model, prompt)) as lines:
            async for line in lines:
                if streams.is_token(line):
                    return time.monotonic() - begun
        raise ClusterError(f"{self.where}: {streams.NO_TOKEN}")

    async def logs(self, instance: str, lines: int = 100, follow: bool = False) -> httpx.Response:
        """What it wrote, as an open streaming response; close it. ``follow``: without an end."""
        return await self._open(streams.logs(instance, lines, follow))

    async def log_lines(self, instance: str, lines: int = 100, follow: bool = False) -> AsyncIterator[str]:
        """The last ``lines`` of what it wrote and, to ``follow``, what it writes, without an end."""
        async with self._stream(streams.logs(instance, lines, follow)) as found:
            async for line in found:
                yield line

    @contextlib.asynccontextmanager
    async def listen(self, since: int) -> AsyncIterator[AsyncIterator[r.Event]]:
        """All events after the one with the id ``since``, as they come. They end with the connection: go on after the
        last one, or see `follow`."""
        async with self._stream(streams.listen(since)) as lines:
            yield self._heard(lines)

    async def follow(
        self, since: int | None = None, *, trouble: Callable[[ClusterError], None] = lambda error: None
    ) -> AsyncIterator[r.Event]:
        """All events after the one with the id ``since`` (None: from now on), as they come, without an end and
        without a gap: a connection that ends is opened again. ``trouble`` is told when the cluster cannot be reached;
        what is of no use to try again is raised."""
        if since is None:
            since = max((event["id"] for event in await self.events(1)), default=0)
        following = streams.Following(since, trouble)
        while True:
            try:
                async with self._stream(following.call()) as lines:
                    following.opened()
                    async for event in self._heard(lines):
                        following.on_event(event)
                        yield event
            except ClusterError as error:
                following.broken(error)
            await asyncio.sleep(streams.AGAIN)

    # how

    async def _heard(self, lines: AsyncIterator[str]) -> AsyncIterator[r.Event]:
        try:
            async for line in lines:
                if (event := streams.event(line)) is not None:
                    yield event
        except ValueError as error:
            raise self._address.failed(error) from None

    async def _ask(self, call: Call[T]) -> T:
        try:
            response = await self._http.send(self._address.build(self._http, call))
        except (httpx.HTTPError, ssl.SSLError) as error:
            raise self._address.failed(error) from None
        return self._address.result(call, response)

    async def _run(self, work: Call[T] | Workflow[T]) -> T:
        if isinstance(work, Call):
            return await self._ask(work)
        try:
            step = next(work)
            while True:
                if not isinstance(step, Call):
                    await asyncio.sleep(step)
                    step = work.send(None)
                    continue
                try:
                    answer = await self._ask(step)
                except ClusterError as error:
                    step = work.throw(error)
                else:
                    step = work.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _open(self, call: Call[None]) -> httpx.Response:
        try:
            response = await self._http.send(self._address.build(self._http, call, stream=True), stream=True)
            if response.status_code != 200:
                await response.aread()
                self._address.refuse(response)
        except (httpx.HTTPError, ssl.SSLError) as error:
            raise self._address.failed(error) from None
        return response

    @contextlib.asynccontextmanager
    async def _stream(self, call: Call[None]) -> AsyncIterator[AsyncIterator[str]]:
        """The lines of a streamed answer."""
        async with contextlib.aclosing(await self._open(call)) as response:
            try:
                yield response.aiter_lines()
            except (httpx.HTTPError, ssl.SSLError) as error:
                raise self._address.failed(error) from None
