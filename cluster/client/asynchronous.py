"""The client to await."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx

from cluster.client import calls, streams, talks
from cluster.client import results as r
from cluster.client.core import Call, ClusterError, Place

T = TypeVar("T")


class AsyncClusterClient:
    """Talks to the balancer at ``url`` or, given a ``state_dir``, to the supervisor there. Times are seconds;
    ``timeout`` is that of one question. ``admin_key``: where the cluster has one; without it the token of a cluster on
    this machine is sent where it is asked for.

    Every method raises ClusterError."""

    def __init__(
        self, url: str = "http://127.0.0.1:8000", admin_key: str | None = None, *, state_dir: Path | None = None,
        timeout: float = 35.0,
    ) -> None:
        self._place = place = Place(url, admin_key, state_dir)
        transport = httpx.AsyncHTTPTransport(uds=place.socket) if place.socket else None
        self._http = httpx.AsyncClient(
            base_url=place.base_url, headers=place.headers, timeout=timeout, trust_env=False, transport=transport,
            auth=place.auth,
        )

    @property
    def where(self) -> str:
        return str(self._place)

    async def __aenter__(self) -> AsyncClusterClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    # looking

    async def status(self) -> r.Status:
        return await self._do(calls.status())

    async def snapshot(self) -> dict[str, Any]:
        """The supervisor's own view; only with ``state_dir``."""
        return await self._do(calls.snapshot())

    async def openapi(self) -> dict[str, Any]:
        """The API's description, OpenAPI 3.1."""
        return await self._do(calls.openapi())

    async def history(self, seconds: int = 3600) -> dict[str, Any]:
        """Traffic and latency of the last ``seconds``."""
        return await self._do(calls.history(seconds))

    async def why(self, request_id: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
        """How the latest ``limit`` requests were routed, or those with that ``X-Request-Id``; the newest first.
        ClusterError 404: no balancer knows it, or not any more."""
        return await self._do(calls.why(request_id, limit))

    async def system_health(self) -> r.SystemHealth:
        return await self._do(calls.system_health())

    async def system_metrics(self) -> r.SystemMetrics:
        return await self._do(calls.system_metrics())

    async def healthy(self) -> bool:
        """Whether at least one worker is ready."""
        try:
            await self._do(calls.healthy())
        except ClusterError:
            return False
        return True

    async def models(self) -> list[r.Model]:
        """What a request's ``model`` can be; adapters have a ``parent``."""
        return await self._do(calls.models())

    # changing

    async def scale(self, instances: int) -> r.Scaled:
        """Wants ``instances`` workers."""
        return await self._do(calls.scale(instances))

    async def scale_by(self, change: int) -> r.Scaled:
        """Wants ``change`` workers more (or, negative, fewer) than now."""
        return await self._do(calls.scale_by(change))

    async def strategy(self, name: str) -> r.StrategySet:
        return await self._do(calls.strategy(name))

    async def restart(self, instance: str) -> r.Restarting:
        """``instance``: a worker, or ``load_balancer`` for the balancer, which is replaced."""
        return await self._do(calls.restart(instance))

    async def restart_rolling(self, spare: bool | None = None) -> r.Restarting:
        """``spare``: whether a spare worker is started first; None leaves it to the cluster's settings."""
        return await self._do(calls.restart_rolling(spare))

    async def drain(self, instance: str, grace: float | None = None) -> r.Drained:
        """Takes it out of rotation until `undrain`; what runs there may finish for ``grace`` s (None: the cluster's
        drain timeout), the rest goes on elsewhere."""
        return await self._do(calls.drain(instance, grace))

    async def undrain(self, instance: str) -> r.Drained:
        return await self._do(calls.undrain(instance))

    async def weight(self, instance: str, weight: int) -> r.Weighted:
        return await self._do(calls.weight(instance, weight))

    async def apply(
        self, settings: Mapping[str, Any] | None = None, *, defaults: Sequence[str] = (), previous: bool = False,
        dry_run: bool = False, spare: bool | None = None,
    ) -> r.Applied:
        """Changes ``settings`` of the running cluster (as in a settings file; paths absolute), and puts those named
        in ``defaults`` back to what they are if nobody gives them; or, ``previous``, takes back the last apply."""
        return await self._do(calls.apply(settings, defaults, previous, dry_run, spare))

    async def shutdown(self, now: bool = False) -> r.ShuttingDown:
        """Drains, then stops everything; ``now`` does not wait for running requests."""
        return await self._do(calls.shutdown(now))

    async def ui_link(self) -> r.UiLink:
        """A code for the page, good once."""
        return await self._do(calls.ui_link())

    # adapters

    async def adapters(self) -> list[r.Adapter]:
        """Every adapter of the registry."""
        return await self._do(calls.adapters())

    async def adapter(self, name: str) -> r.AdapterDetail:
        """One adapter, with its versions."""
        return await self._do(calls.adapter(name))

    async def load_adapter(
        self, name: str, path: Path | str, *, replace: bool = False, description: str | None = None,
        allow_no_effect: bool = False,
    ) -> r.AdapterChanged:
        """Returns once it is on every ready worker. ``replace`` makes new content of a known name its next version.
        A ``path`` is the cluster's own: absolute. ``allow_no_effect``: it may answer as the base model does."""
        return await self._do(calls.load_adapter(name, path, replace, description, allow_no_effect))

    async def unload_adapter(self, name: str) -> r.AdapterUnloaded:
        return await self._do(calls.unload_adapter(name))

    async def rollback_adapter(self, name: str, version: int | None = None) -> r.AdapterChanged:
        """Makes ``version`` (default: the one before) the active one again."""
        return await self._do(calls.rollback_adapter(name, version))

    # models

    async def ask(self, model: str, prompt: str, max_tokens: int) -> str:
        """The answer of ``model``, the same each time. A model without a chat template completes the prompt."""
        return await self._drive(talks.ask(model, prompt, max_tokens))

    async def first_token(self, model: str, prompt: str) -> float:
        """Seconds from a request to the first token of its answer."""
        begun = time.monotonic()
        async with self._stream(calls.first_token(model, prompt)) as lines:
            async for line in lines:
                if streams.is_token(line):
                    return time.monotonic() - begun
        raise ClusterError(f"{self.where}: {streams.NO_TOKEN}")

    # waiting

    async def wait_ready(self, count: int, timeout: float = 600.0, pause: float = 0.2) -> r.Status:
        """The status once at least ``count`` workers are ready. A cluster that does not answer may be starting."""
        return await self._drive(talks.wait_ready(count, timeout, pause))

    async def wait_settled(
        self, timeout: float, pause: float = 0.2, look: Callable[[r.Status], None] = lambda status: None
    ) -> r.Status:
        """The status once nothing is on its way any more; ``look`` is shown every status before it. Raises
        ClusterError at the ``timeout``, and sooner if it cannot come to an end: the supervisor is gone, or a rolling
        restart waits for a failed worker."""
        return await self._drive(talks.wait_settled(timeout, pause, look))

    # streams

    async def logs(self, instance: str, lines: int = 100, follow: bool = False) -> httpx.Response:
        """What it wrote, as an open streaming response; close it. ``follow``: without an end."""
        return await self._open(calls.logs(instance, lines, follow))

    async def log_lines(self, instance: str, lines: int = 100, follow: bool = False) -> AsyncIterator[str]:
        """The last ``lines`` of what it wrote and, to ``follow``, what it writes, without an end."""
        async with self._stream(calls.logs(instance, lines, follow)) as found:
            async for line in found:
                yield line

    async def events(self, limit: int = 100, since: int | None = None) -> list[r.Event]:
        """The last ``limit`` events, or the first ``limit`` after the one with the id ``since``; the oldest first."""
        return await self._do(calls.events(limit, since))

    @contextlib.asynccontextmanager
    async def listen(self, since: int) -> AsyncIterator[AsyncIterator[r.Event]]:
        """All events after the one with the id ``since``, as they come. They end with the connection: go on after the
        last one, or see `follow`."""
        async with self._stream(calls.listen(since)) as lines:
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
                        following.heard(event)
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
            raise self._place.failed(error) from None

    async def _do(self, call: Call[T]) -> T:
        try:
            response = await self._http.send(self._place.build(self._http, call))
        except httpx.HTTPError as error:
            raise self._place.failed(error) from None
        return self._place.result(call, response)

    async def _drive(self, talk: talks.Talk[T]) -> T:
        try:
            step = next(talk)
            while True:
                if not isinstance(step, Call):
                    await asyncio.sleep(step)
                    step = talk.send(None)
                    continue
                try:
                    answer = await self._do(step)
                except ClusterError as error:
                    step = talk.throw(error)
                else:
                    step = talk.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _open(self, call: Call[None]) -> httpx.Response:
        try:
            response = await self._http.send(self._place.build(self._http, call, stream=True), stream=True)
            if response.status_code != 200:
                await response.aread()
                self._place.refuse(response)
        except httpx.HTTPError as error:
            raise self._place.failed(error) from None
        return response

    @contextlib.asynccontextmanager
    async def _stream(self, call: Call[None]) -> AsyncIterator[AsyncIterator[str]]:
        """The lines of a streamed answer."""
        async with contextlib.aclosing(await self._open(call)) as response:
            try:
                yield response.aiter_lines()
            except httpx.HTTPError as error:
                raise self._place.failed(error) from None
