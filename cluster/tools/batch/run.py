"""Asks many things at once and gives the answers in the order of the questions, in bounded memory."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol, TypeVar

import aiohttp

from cluster.client import ClusterError
from cluster.client.core import address, root_of
from cluster.tools.batch.files import BatchStep
from cluster.tools.batch.lines import LONGEST as LONGEST_LINE
from cluster.tools.batch.lines import BadLine, BatchRequest, answered, failed, refused
from config import bounded
from config.aio import Tasks
from config.backoff import doubled

T = TypeVar("T")

#: Answers that say: later, perhaps.
AGAIN = frozenset({429, 502, 503, 504})
#: The longest pause (s) between two attempts, whatever a server asks for.
LONGEST = 120.0
#: Of what is done, or being done, before it can be written: so many times the concurrency.
_WINDOW = 4
#: Lines read ahead of what is asked.
_AHEAD = 64


def pause(attempt: int, retry_after: str | None, random: Random, now: float) -> float:
    """Seconds until the next attempt, after ``attempt`` (from 0) was told to come again; ``now``: since the epoch.
    Spread, so that those who were refused together do not come back together."""
    wanted = _seconds(retry_after, now)
    if wanted is None:
        return doubled(0.5, 30.0, attempt) * random.uniform(0.5, 1.5)
    return min(LONGEST, wanted + random.uniform(0.0, min(1.0, 0.1 + wanted / 4)))


def _seconds(retry_after: str | None, now: float) -> float | None:
    if retry_after is None:
        return None
    if retry_after.strip().isascii() and retry_after.strip().isdigit():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None


#: Says that a request is in no hurry (RFC 9218, 4.1): a cluster lets all others go first.
BACKGROUND: Mapping[str, str] = {"Priority": "u=7"}


class LineSender(Protocol):
    """Answers lines, from entering to leaving it."""

    async def __aenter__(self) -> Any: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def __call__(self, ask: BatchRequest) -> dict[str, Any]: ...


class RequestSender:
    """Puts one line after the other to a server. ``timeout``: s for one answer; ``retries``: further attempts;
    ``headers``: more of each request."""

    def __init__(
        self, url: str, key: str | None, concurrency: int, retries: int = 5, timeout: float = 600.0,
        random: Random | None = None, verify: ssl.SSLContext | bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._verify, self._headers = verify, headers or {}
        self._url, self._key, self._timeout = root_of(url), key, timeout
        self._concurrency, self._retries = concurrency, retries
        self._random = random or Random()

    async def __aenter__(self) -> RequestSender:
        headers = {"Content-Type": "application/json", **self._headers}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._http = aiohttp.ClientSession(
            headers=headers, connector=aiohttp.TCPConnector(limit=self._concurrency, ssl=self._verify),
            timeout=aiohttp.ClientTimeout(total=self._timeout, sock_connect=10.0), cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def __call__(self, ask: BatchRequest) -> dict[str, Any]:
        """The line that answers it. Raises ClusterError if there is no cluster any more."""
        if not ask.path:
            return failed(ask, f"line {ask.number}: {ask.wrong}")
        attempt = 0
        while True:
            after = None
            try:
                async with self._http.post(address(self._url, ask.path), data=ask.body) as response:
                    text = await bounded.gathered(response.content.iter_any(), LONGEST_LINE)
                    status, after = response.status, response.headers.get("Retry-After")
                    request_id = response.headers.get("X-Request-Id")
                if status not in AGAIN or attempt >= self._retries:
                    return line_for(ask, status, text, request_id)
            except aiohttp.ClientConnectorError as error:
                if attempt >= self._retries:
                    raise ClusterError(f"no cluster at {self._url} any more ({error.strerror})") from None
            except aiohttp.ConnectionTimeoutError:
                if attempt >= self._retries:
                    raise ClusterError(f"no cluster at {self._url} any more (it takes no connection)") from None
            except aiohttp.InvalidURL:
                raise ClusterError(f"{self._url}: not an address") from None
            except bounded.Unfit as error:
                return failed(ask, str(error))
            except TimeoutError:
                return failed(ask, f"no answer within {self._timeout:g} s")
            except aiohttp.ClientError as error:
                if attempt >= self._retries:
                    return failed(ask, f"the connection broke ({str(error) or type(error).__name__})")
            await asyncio.sleep(pause(attempt, after, self._random, time.time()))
            attempt += 1


def line_for(ask: BatchRequest, status: int, text: bytes, request_id: str | None = None) -> dict[str, Any]:
    """The line for an answer with that ``status`` and body."""
    try:
        data = json.loads(text)
    except ValueError:
        return failed(ask, f"an answer of status {status} that is not JSON", status)
    if status != 200:
        return refused(ask, status, data)
    try:
        return answered(ask, data, request_id)
    except BadLine as error:
        return failed(ask, str(error), status, data)


@dataclass(slots=True)
class _Pending:
    step: BatchStep
    answer: asyncio.Task[Mapping[str, Any] | ClusterError] | None = None


async def in_order(
    steps: AsyncIterator[BatchStep], work: Callable[[BatchRequest], Awaitable[Mapping[str, Any]]], concurrency: int,
    give: Callable[[BatchStep, Mapping[str, Any] | None], None],
) -> None:
    """Works at ``concurrency`` of the steps at a time and calls ``give`` with each in their order. What ``work``
    raises (ClusterError) is raised once all before it have been given."""
    slots: asyncio.Queue[_Pending | BaseException | None] = asyncio.Queue(_WINDOW * concurrency)
    gate, tasks = asyncio.Semaphore(concurrency), Tasks()

    async def one(ask: BatchRequest) -> Mapping[str, Any] | ClusterError:
        try:
            return await work(ask)
        except ClusterError as error:
            return error
        finally:
            gate.release()

    async def start() -> None:
        try:
            async for step in steps:
                slot = _Pending(step)
                if step.ask is not None:
                    await gate.acquire()
                    slot.answer = tasks.start(one(step.ask), f"line {step.ask.number}")
                await slots.put(slot)
            await slots.put(None)
        except Exception as error:
            await slots.put(error)

    starter = tasks.start(start(), "lines")
    try:
        while (slot := await slots.get()) is not None:
            if isinstance(slot, BaseException):
                raise slot
            answer = await slot.answer if slot.answer is not None else None
            if isinstance(answer, ClusterError):
                raise answer
            give(slot.step, answer)
    finally:
        starter.cancel()
        await tasks.close()


async def fed(items: Iterable[T]) -> AsyncIterator[T]:
    """Iterates in a thread, a little ahead: reading may block, for ever where it is a pipe. The thread is left alone
    when nobody wants more."""
    loop, queue, room = asyncio.get_running_loop(), asyncio.Queue[tuple[T | None, Any]](), threading.Semaphore(_AHEAD)
    over = threading.Event()

    def pump() -> None:
        end: Any = StopIteration
        try:
            for item in items:
                room.acquire()
                if over.is_set():
                    return
                loop.call_soon_threadsafe(queue.put_nowait, (item, None))
        except Exception as error:
            end = error
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(queue.put_nowait, (None, end))

    threading.Thread(target=pump, name="lines", daemon=True).start()
    try:
        while True:
            item, end = await queue.get()
            if end is StopIteration:
                return
            if end is not None:
                raise end
            room.release()
            yield item  # type: ignore[misc]
    finally:
        over.set()
        room.release()
