"""The store (Redis) through which clusters on several machines share limits of keys (`lb.admission.stored_buckets`):
told what was taken here, some times a second, and asked what is missing by now. Nobody waits for it. While it does not
answer, the limits hold on each machine by itself, which is said, and it is tried again.

Needs the extra ``redis``, which is imported only where there is a store.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from config.aio import Tasks
from config.text import printable
from config.values.store_url import StoreUrl
from lb.admission.stored_buckets import StoredBucket, StoredBuckets

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger(__name__)

#: Seconds between two messages; that an answer may take; and until it is tried again where none came.
_EVERY, _ANSWER_S, _AGAIN_S = 0.05, 0.5, 1.0

#: Seconds after which one that nobody had anything to say to is asked whether it is there.
_IDLE_S = 5.0

#: Buckets in one message.
_MOST = 1_000

_PREFIX = "clusterctl:limits:"

#: The first key is that of what the store is called, the first word what to call it where it has no name: it has
#: forgotten everything. Then for each bucket a key, and a `Word`. A bucket's value is when it will be full (µs since
#: 1970, by the store's clock): then it is gone by itself, as a bucket that is not there is full.
_SCRIPT = """
local epoch = redis.call('GET', KEYS[1])
if not epoch then
  epoch = ARGV[1]
  redis.call('SET', KEYS[1], epoch)
end
local time = redis.call('TIME')
local now = time[1] * 1e6 + time[2]
local found = {epoch}
for i = 2, #KEYS do
  local taken, missing, known = unpack(ARGV, 3 * i - 4, 3 * i - 2)
  local full = tonumber(redis.call('GET', KEYS[i]) or 0)
  local left = math.max(full - now, 0)
  if known ~= epoch then
    left = math.max(left, tonumber(missing))
  end
  left = math.max(left + tonumber(taken), 0)
  if left > 0 then
    redis.call('SET', KEYS[i], string.format('%.2f', now + left), 'PX', math.ceil(left / 1000))
  else
    redis.call('DEL', KEYS[i])
  end
  found[i] = string.format('%.2f', left)
end
return found
"""


class LimitsStore:
    """At ``url``. ``reason``: why the limits are not shared now; empty while they are, None before that is known.
    ``clock``: that of the buckets (s). Counts of what was asked: ``answered``, ``failed``."""

    def __init__(self, url: StoreUrl, buckets: StoredBuckets, clock: Callable[[], float] = time.monotonic) -> None:
        self.url = url
        self.reason: str | None = None
        self.answered = self.failed = 0
        self.buckets, self._clock, self._tasks = buckets, clock, Tasks()
        self._wanted = asyncio.Event()
        self._client: Redis | None = None
        buckets.wake = self._wanted.set

    def describe(self) -> dict[str, Any]:
        """For status and the supervisor."""
        return {"store": self.url.shown, "shared": self.reason == "", "reason": self.reason or ""}

    def start(self) -> None:
        self._tasks.start(self._run(), "share limits with other machines")

    async def close(self) -> None:
        """Says what it has still to say, if it is heard at once."""
        await self._tasks.close()
        if self.reason == "" and len(self.buckets):
            await self._exchange()
        await self._forget()

    async def _run(self) -> None:
        while True:
            answers = await self._exchange()
            await asyncio.sleep(_EVERY if answers else _AGAIN_S)
            if answers and not len(self.buckets):
                self._wanted.clear()
                try:
                    async with asyncio.timeout(_IDLE_S):
                        await self._wanted.wait()
                except TimeoutError:
                    pass

    async def _exchange(self) -> bool:
        """Whether it answered."""
        buckets = self.buckets.due(_MOST)
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._ask(buckets)
        except Exception as error:  # of a library, a network, or what another program has written there
            self.failed += 1
            self._becomes(_in_words(error))
            await self._forget()
            for bucket in buckets:
                self.buckets.note(bucket)
            return False
        self.answered += 1
        self._becomes("")
        return True

    async def _ask(self, buckets: list[StoredBucket]) -> None:
        client = self._client = self._client or _client(self.url)
        if not buckets:
            await client.ping()
            return
        now, words = self._clock(), [secrets.token_hex(16)]
        for bucket in buckets:
            word = bucket.tell(now)
            words += repr(word.taken), repr(word.missing), word.epoch
        keys = [_PREFIX + "epoch", *(_PREFIX + bucket.key for bucket in buckets)]
        answer: Any = await client.register_script(_SCRIPT)(keys, words)
        epoch, now = answer[0].decode(), self._clock()
        for bucket, missing in zip(buckets, answer[1:], strict=True):
            bucket.hear(float(missing), epoch, now)

    def _becomes(self, reason: str) -> None:
        if reason and not self.reason:
            log.warning("%s: %s; keys' limits hold on this machine by itself meanwhile", self.url.shown, reason)
        elif self.reason and not reason:
            log.info("%s answers: keys' limits are shared again", self.url.shown)
        self.reason = reason

    async def _forget(self) -> None:
        """Whatever comes late over this connection is nobody's answer."""
        client, self._client = self._client, None
        if client is not None:
            try:
                async with asyncio.timeout(_ANSWER_S):
                    await client.aclose()
            except Exception as error:
                log.debug("the store's connection: %s", type(error).__name__)


def _client(url: StoreUrl) -> Redis:
    """Raises ImportError where the extra is not installed."""
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    made: Redis = Redis.from_url(
        url.text, socket_timeout=_ANSWER_S, socket_connect_timeout=_ANSWER_S, retry=Retry(NoBackoff(), 0), protocol=2,
        client_name="clusterctl",
    )  # fmt: skip
    return made


def _in_words(error: Exception) -> str:
    """Says nothing that the URL has and `StoreUrl.shown` has not: the words of the library may."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error  # of what made a connection fail
    kind, said = type(cause).__name__, str(cause)
    if isinstance(cause, TimeoutError) or kind == "TimeoutError":
        return f"it does not answer within {_ANSWER_S:g} s"
    if isinstance(cause, ImportError):
        return "the extra is not installed: pip install 'clusterctl[redis]'"
    if kind in ("AuthenticationError", "AuthenticationWrongNumberOfArgsError") or said.startswith("WRONGPASS"):
        return "it refuses the password, or wants one"
    if kind == "NoPermissionError":
        return "its user may not do what this needs: GET, SET, DEL, TIME, EVALSHA, SCRIPT LOAD and PING"
    if isinstance(cause, OSError) or kind in ("ConnectionError", "BusyLoadingError", "MaxConnectionsError"):
        return "it cannot be connected to"
    word = printable(said.split(" ", 1)[0][:32])
    return f"it answers what is not understood ({kind}{f': {word}' if word.isupper() else ''})"
