"""The client that waits."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import httpx

from cluster.client import results as r
from cluster.client import streams
from cluster.client.calls import Calls
from cluster.client.core import Address, Call, ClusterError
from cluster.client.method import Blocking
from cluster.client.trust import Verify
from cluster.client.workflows import Workflow

T = TypeVar("T")


class ClusterClient(Calls, Blocking):
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
        transport = httpx.HTTPTransport(uds=address.socket) if address.socket else None
        self._http = httpx.Client(
            base_url=address.base_url, headers=address.headers, timeout=timeout, trust_env=False, transport=transport,
            auth=address.auth, verify=address.verification,
        )

    @property
    def where(self) -> str:
        return str(self._address)

    def __enter__(self) -> ClusterClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def first_token(self, model: str, prompt: str) -> float:
        """Seconds from a request to the first token of its answer."""
        begun = time.monotonic()
        with self._stream(streams.first_token(model, prompt)) as lines:
            for line in lines:
                if streams.is_token(line):
                    return time.monotonic() - begun
        raise ClusterError(f"{self.where}: {streams.NO_TOKEN}")

    def logs(self, instance: str, lines: int = 100, follow: bool = False) -> httpx.Response:
        """What it wrote, as an open streaming response; close it. ``follow``: without an end."""
        return self._open(streams.logs(instance, lines, follow))

    def log_lines(self, instance: str, lines: int = 100, follow: bool = False) -> Iterator[str]:
        """The last ``lines`` of what it wrote and, to ``follow``, what it writes, without an end."""
        with self._stream(streams.logs(instance, lines, follow)) as found:
            yield from found

    @contextlib.contextmanager
    def listen(self, since: int) -> Iterator[Iterator[r.Event]]:
        """All events after the one with the id ``since``, as they come. They end with the connection: go on after the
        last one, or see `follow`."""
        with self._stream(streams.listen(since)) as lines:
            yield self._heard(lines)

    def follow(
        self, since: int | None = None, *, trouble: Callable[[ClusterError], None] = lambda error: None
    ) -> Iterator[r.Event]:
        """All events after the one with the id ``since`` (None: from now on), as they come, without an end and
        without a gap: a connection that ends is opened again. ``trouble`` is told when the cluster cannot be reached;
        what is of no use to try again is raised."""
        if since is None:
            since = max((event["id"] for event in self.events(1)), default=0)
        following = streams.Following(since, trouble)
        while True:
            try:
                with self._stream(following.call()) as lines:
                    following.opened()
                    for event in self._heard(lines):
                        following.on_event(event)
                        yield event
            except ClusterError as error:
                following.broken(error)
            time.sleep(streams.AGAIN)

    # how

    def _heard(self, lines: Iterator[str]) -> Iterator[r.Event]:
        try:
            for line in lines:
                if (event := streams.event(line)) is not None:
                    yield event
        except ValueError as error:
            raise self._address.failed(error) from None

    def _ask(self, call: Call[T]) -> T:
        try:
            response = self._http.send(self._address.build(self._http, call))
        except httpx.HTTPError as error:
            raise self._address.failed(error) from None
        return self._address.result(call, response)

    def _run(self, work: Call[T] | Workflow[T]) -> T:
        if isinstance(work, Call):
            return self._ask(work)
        try:
            step = next(work)
            while True:
                if not isinstance(step, Call):
                    time.sleep(step)
                    step = work.send(None)
                    continue
                try:
                    answer = self._ask(step)
                except ClusterError as error:
                    step = work.throw(error)
                else:
                    step = work.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    def _open(self, call: Call[None]) -> httpx.Response:
        try:
            response = self._http.send(self._address.build(self._http, call, stream=True), stream=True)
            if response.status_code != 200:
                response.read()
                self._address.refuse(response)
        except httpx.HTTPError as error:
            raise self._address.failed(error) from None
        return response

    @contextlib.contextmanager
    def _stream(self, call: Call[None]) -> Iterator[Iterator[str]]:
        """The lines of a streamed answer."""
        with contextlib.closing(self._open(call)) as response:
            try:
                yield response.iter_lines()
            except httpx.HTTPError as error:
                raise self._address.failed(error) from None
