"""What a key may take: requests and tokens a minute, from two token buckets that hold a minute's worth; and tokens in a
day or month. Pure.

Several balancers of one machine fill and empty the same buckets without a lock, as only sums and maxima are shared:
what each has taken since ever, and the most that each has seen saved up. With ``filled`` = rate x time, a bucket holds
``size + filled - taken - saved``, where ``saved`` is the largest ``filled - taken`` that there was before anything was
taken: what a full bucket runs over by is lost. Each balancer writes what it takes before it looks at the sum, and takes
it back where that is too much; so together they never take more than there is. Whole numbers, of which nothing drifts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from config.identity.api_keys import Period
from lb.protocol.error_shapes import QUOTA
from lb.protocol.errors import ProxyError
from lb.protocol.tenant import Tenant

#: Bytes of a body that are one token of its prompt, about: what a request is charged until its worker has counted.
BYTES_A_TOKEN = 4

#: A larger limit is this one: no machine comes near.
_MOST = 10**9

#: Amounts are kept in thousandths, times in milliseconds.
_UNIT = 1000

#: Buckets at hand. Nothing is lost with one that is not.
_MOST_BUCKETS = 8_192


class Cells(Protocol):
    """Of one bucket, through all balancers: ``taken`` by all of them, and the most that any has seen ``saved``."""

    def taken(self) -> int: ...
    def saved(self) -> int: ...
    def take(self, change: int) -> None: ...
    def save(self, most: int) -> None: ...


@dataclass(slots=True)
class OwnCells:
    """Of one balancer alone."""

    sum: int = 0
    most: int = -(2**62)

    def taken(self) -> int:
        return self.sum

    def saved(self) -> int:
        return self.most

    def take(self, change: int) -> None:
        self.sum += change

    def save(self, most: int) -> None:
        self.most = most


class Bucket(Protocol):
    """As `TokenBucket` has it."""

    @property
    def limit(self) -> int: ...
    def take(self, amount: int, now: float) -> bool: ...
    def settle(self, change: int, now: float) -> object: ...
    def level(self, now: float) -> float: ...
    def wait(self, amount: float, level: float) -> float: ...


class TokenBucket:
    """``limit``: a minute, and at once. Times are seconds, monotonic and the same for all balancers."""

    __slots__ = ("_cells", "limit")

    def __init__(self, limit: int, cells: Cells) -> None:
        self.limit, self._cells = min(limit, _MOST), cells

    def take(self, amount: int, now: float) -> bool:
        """False, and nothing is taken, where there is less."""
        filled = self.settle(amount, now)
        if self._level(filled) >= 0:
            return True
        self._cells.take(-amount * _UNIT)
        return False

    def settle(self, change: int, now: float) -> int:
        """Takes so much more or, negative, gives it back. It may be more than there is: then that is missing. Returns
        what has flowed in by now."""
        cells, filled = self._cells, self._filled(now)
        if (most := filled - cells.taken()) > cells.saved():
            cells.save(most)
        cells.take(change * _UNIT)
        return filled

    def level(self, now: float) -> float:
        """What is there; negative where more was taken than there was."""
        return min(self.limit, self._level(self._filled(now)) / _UNIT)

    def wait(self, amount: float, level: float) -> float:
        """Seconds until there is so much, where there is ``level`` now."""
        return max(0.0, (amount - level) * 60 / self.limit)

    def _filled(self, now: float) -> int:
        return self.limit * int(now * _UNIT) // 60

    def _level(self, filled: int) -> int:
        return self.limit * _UNIT + filled - self._cells.taken() - self._cells.saved()


@dataclass(slots=True)
class Charge:
    """What a request was charged: ``tokens`` of its prompt, estimated. ``told``: field lines of its answer's head, each
    behind a CRLF."""

    tokens: int = 0
    told: bytes = b""


class RateLimits:
    """``share``: the cells of the bucket of that name that all balancers have, None where there are none. ``spent``:
    tokens of the key of that name in the period that is now. ``widen``: makes of a bucket of this machine and its name
    one that others share. ``clock``: as `TokenBucket` has it."""

    def __init__(
        self, clock: Callable[[], float], share: Callable[[str], Cells | None] = lambda name: None,
        spent: Callable[[str, Period], int] = lambda name, period: 0,
        widen: Callable[[str, TokenBucket], Bucket] | None = None,
    ) -> None:
        self._clock, self._share, self._spent, self._widen = clock, share, spent, widen
        self._buckets: dict[tuple[str, str, int], Bucket] = {}

    def take(self, tenant: Tenant, length: int) -> Charge:
        """For a request with ``length`` bytes of prompt. Raises ProxyError (429), and nothing is taken."""
        budget = tenant.budget
        if budget is not None and self._spent(tenant.name, budget.period) >= budget.tokens:
            raise ProxyError(
                429, f"You exceeded your current quota: {budget.tokens} tokens a {budget.period} (UTC)",
                code=QUOTA, headers={"x-should-retry": "false"},
            )  # fmt: skip
        now, requests, tokens = self._clock(), self._requests(tenant), self._tokens(tenant)
        # More than fits is never there. It is charged when it is known.
        charge = Charge(0 if tokens is None else min(length // BYTES_A_TOKEN, tokens.limit))
        if requests is not None and not requests.take(1, now):
            raise self._over(tenant, requests, "requests", 1, now)
        if tokens is not None and (tokens.level(now) <= 0 or not tokens.take(charge.tokens, now)):
            if requests is not None:
                requests.settle(-1, now)
            raise self._over(tenant, tokens, "tokens", max(1, charge.tokens), now)
        charge.told = "".join(f"\r\n{name}: {value}" for name, value in self._told(tenant, now)).encode()
        return charge

    def settle(self, tenant: Tenant, charge: Charge, prompt: int | None, made: int) -> None:
        """It is over and took so many tokens; ``prompt`` None: as many as were estimated."""
        if (tokens := self._tokens(tenant)) is not None:
            tokens.settle((charge.tokens if prompt is None else prompt) + made - charge.tokens, self._clock())

    def _over(self, tenant: Tenant, bucket: Bucket, kind: str, amount: int, now: float) -> ProxyError:
        level = bucket.level(now)
        wait = bucket.wait(amount, level)
        return ProxyError(
            429,
            f"Rate limit reached for {kind} per minute of this key: limit {bucket.limit}, "
            f"available {max(0, int(level))}, requested {amount}. Please try again in {duration(wait)}.",
            code="rate_limit_exceeded", retry_after=max(1, math.ceil(wait)), headers=dict(self._told(tenant, now)),
        )  # fmt: skip

    def _told(self, tenant: Tenant, now: float) -> list[tuple[str, str]]:
        """As https://platform.openai.com/docs/guides/rate-limits has it."""
        made = []
        for kind, bucket in (("requests", self._requests(tenant)), ("tokens", self._tokens(tenant))):
            if bucket is not None:
                level = bucket.level(now)
                made += [
                    (f"x-ratelimit-limit-{kind}", str(bucket.limit)),
                    (f"x-ratelimit-remaining-{kind}", str(max(0, int(level)))),
                    (f"x-ratelimit-reset-{kind}", duration(bucket.wait(bucket.limit, level))),
                ]
        return made

    def _requests(self, tenant: Tenant) -> Bucket | None:
        return None if tenant.rpm is None else self._bucket(tenant, "requests", tenant.rpm)

    def _tokens(self, tenant: Tenant) -> Bucket | None:
        return None if tenant.tpm is None else self._bucket(tenant, "tokens", tenant.tpm)

    def _bucket(self, tenant: Tenant, kind: str, limit: int) -> Bucket:
        """Another limit is another bucket, and so is a key that is made anew under an old name."""
        key = (tenant.mark or tenant.name, kind, limit)
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= _MOST_BUCKETS:
                self._buckets.clear()
            name = "\0".join(map(str, key))
            local = TokenBucket(limit, self._share(name) or OwnCells())
            bucket = self._buckets[key] = local if self._widen is None else self._widen(name, local)
        return bucket


def duration(seconds: float) -> str:
    """As Go and OpenAI write it: ``17ms``, ``1.2s``, ``6m0s``, ``2h0m3s``."""
    whole = math.ceil(seconds * 1000 - 1e-6)
    if whole < 1000:
        return f"{whole}ms"
    minutes, rest = divmod(whole, 60_000)
    hours, minutes_left = divmod(minutes, 60)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    return (f"{hours}h" if hours else "") + (f"{minutes_left}m" if minutes else "") + f"{text}s"
