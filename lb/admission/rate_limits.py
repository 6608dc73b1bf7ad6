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
    """Of one bucket, through all balancers: what is ``gone``, taken by all of them and the most that any has seen
    ``saved``."""

    def taken(self) -> int: ...
    def saved(self) -> int: ...
    def gone(self) -> int: ...
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

    def gone(self) -> int:
        return self.sum + self.most

    def take(self, change: int) -> None:
        self.sum += change

    def save(self, most: int) -> None:
        self.most = most


class Bucket(Protocol):
    """As `TokenBucket` has it."""

    @property
    def limit(self) -> int: ...
    @property
    def left(self) -> float: ...
    def take(self, amount: int, now: float) -> bool: ...
    def settle(self, change: int, now: float) -> object: ...
    def level(self, now: float) -> float: ...
    def wait(self, amount: float, level: float) -> float: ...


class TokenBucket:
    """``limit``: a minute, and at once; ``left``: after the last that was taken. Times are seconds, monotonic and the
    same for all balancers."""

    __slots__ = ("_cells", "left", "limit")

    def __init__(self, limit: int, cells: Cells) -> None:
        self.limit, self._cells, self.left = min(limit, _MOST), cells, 0.0

    def take(self, amount: int, now: float) -> bool:
        """False, and nothing is taken, where there is less."""
        left = self.limit * _UNIT + self.settle(amount, now) - self._cells.gone()
        if left >= 0:
            self.left = left / _UNIT
            return True
        self._cells.take(-amount * _UNIT)
        return False

    def settle(self, change: int, now: float) -> int:
        """Takes so much more or, negative, gives it back. It may be more than there is: then that is missing. Returns
        what has flowed in by now."""
        cells, filled = self._cells, self.limit * int(now * _UNIT) // 60
        if filled > cells.gone():
            cells.save(filled - cells.taken())
        cells.take(change * _UNIT)
        return filled

    def level(self, now: float) -> float:
        """What is there; negative where more was taken than there was."""
        filled = self.limit * int(now * _UNIT) // 60
        return min(self.limit, (self.limit * _UNIT + filled - self._cells.gone()) / _UNIT)

    def wait(self, amount: float, level: float) -> float:
        """Seconds until there is so much, where there is ``level`` now."""
        return max(0.0, (amount - level) * 60 / self.limit)


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
        #: Those of a tenant, by its mark or name, of requests and of tokens; and whose they are as it was told of.
        self._at_hand: dict[str, tuple[Tenant, Bucket | None, Bucket | None]] = {}

    def take(self, tenant: Tenant, length: int) -> Charge:
        """For a request with ``length`` bytes of prompt. Raises ProxyError (429), and nothing is taken."""
        budget = tenant.budget
        if budget is not None and self._spent(tenant.name, budget.period) >= budget.tokens:
            raise ProxyError(
                429, f"You exceeded your current quota: {budget.tokens} tokens a {budget.period} (UTC)",
                code=QUOTA, headers={"x-should-retry": "false"},
            )  # fmt: skip
        now, (requests, tokens) = self._clock(), self._of(tenant)
        charge, told = Charge(), ""
        if requests is not None:
            if not requests.take(1, now):
                raise self._over(tenant, requests, "requests", 1, now)
            told = _lines("requests", requests, requests.left)
        if tokens is not None:
            # More than fits is never there. It is charged when it is known.
            charge.tokens = amount = min(length // BYTES_A_TOKEN, tokens.limit)
            if (not amount and tokens.level(now) <= 0) or not tokens.take(amount, now):
                if requests is not None:
                    requests.settle(-1, now)
                raise self._over(tenant, tokens, "tokens", max(1, amount), now)
            told += _lines("tokens", tokens, tokens.left)
        charge.told = told.encode()
        return charge

    def settle(self, tenant: Tenant, charge: Charge, prompt: int | None, made: int) -> None:
        """It is over and took so many tokens; ``prompt`` None: as many as were estimated."""
        if (tokens := self._of(tenant)[1]) is not None:
            tokens.settle((charge.tokens if prompt is None else prompt) + made - charge.tokens, self._clock())

    def _over(self, tenant: Tenant, bucket: Bucket, kind: str, amount: int, now: float) -> ProxyError:
        level = bucket.level(now)
        wait = bucket.wait(amount, level)
        kinds = zip(("requests", "tokens"), self._of(tenant), strict=True)
        told = "".join(_lines(kind, each, each.level(now)) for kind, each in kinds if each is not None)
        fields = dict(line.split(": ") for line in told.split("\r\n")[1:])
        return ProxyError(
            429,
            f"Rate limit reached for {kind} per minute of this key: limit {bucket.limit}, "
            f"available {max(0, int(level))}, requested {amount}. Please try again in {duration(wait)}.",
            code="rate_limit_exceeded", retry_after=max(1, math.ceil(wait)), headers=fields,
        )  # fmt: skip

    def _of(self, tenant: Tenant) -> tuple[Bucket | None, Bucket | None]:
        """Its buckets, of requests and of tokens."""
        name = tenant.mark or tenant.name
        found = self._at_hand.get(name)
        if found is None or found[0] is not tenant:
            if len(self._at_hand) >= _MOST_BUCKETS:
                self._at_hand.clear()
            found = self._at_hand[name] = (
                tenant, None if tenant.rpm is None else self._bucket(tenant, "requests", tenant.rpm),
                None if tenant.tpm is None else self._bucket(tenant, "tokens", tenant.tpm),
            )  # fmt: skip
        return found[1:]

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


def _lines(kind: str, bucket: Bucket, level: float) -> str:
    """As https://platform.openai.com/docs/guides/rate-limits has them, each behind a CRLF."""
    limit = bucket.limit
    left = min(limit, max(0, int(level)))
    return (
        f"\r\nx-ratelimit-limit-{kind}: {limit}\r\nx-ratelimit-remaining-{kind}: {left}"
        f"\r\nx-ratelimit-reset-{kind}: {duration(bucket.wait(limit, level))}"
    )


def duration(seconds: float) -> str:
    """As Go and OpenAI write it: ``17ms``, ``1.2s``, ``6m0s``, ``2h0m3s``."""
    whole = math.ceil(seconds * 1000 - 1e-6)
    if whole < 1000:
        return f"{whole}ms"
    minutes, rest = divmod(whole, 60_000)
    hours, minutes_left = divmod(minutes, 60)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    return (f"{hours}h" if hours else "") + (f"{minutes_left}m" if minutes else "") + f"{text}s"
