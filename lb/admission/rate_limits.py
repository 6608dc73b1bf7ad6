"""What a key may take: requests and tokens a minute, from two token buckets that hold a minute's worth; and tokens in a
day or month. Pure.

Several balancers of one machine fill and empty the same buckets without a lock, as only sums and maxima are shared:
what each has taken since ever, and the most that each has seen saved up. With ``filled`` = rate x time, a bucket holds
``size + filled - taken - saved``, where ``saved`` is the largest ``filled - taken`` that there was before anything was
taken: what a full bucket runs over by is lost. Each balancer writes what it takes before it looks at the sum, and takes
it back where that is too much; so together they never take more than there is. Whole numbers, of which nothing drifts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Protocol

from config.identity.api_keys import Budget
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
    """Of one bucket, through all balancers."""

    def gone(self) -> int:
        """What is taken by all of them, and the most that any has seen saved up."""

    def flow(self, filled: int, change: int) -> int:
        """So much has flowed in since ever: what of it ran over is noted as saved up. Then ``change`` more is taken.
        Returns what is `gone` after that."""


@dataclass(slots=True)
class OwnCells:
    """Of one balancer alone."""

    sum: int = 0
    most: int = -(2**62)

    def gone(self) -> int:
        return self.sum + self.most

    def flow(self, filled: int, change: int) -> int:
        if filled > self.sum + self.most:
            self.most = filled - self.sum
        self.sum += change
        return self.sum + self.most


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

    __slots__ = ("_cells", "_flow", "_size", "left", "limit")

    def __init__(self, limit: int, cells: Cells) -> None:
        self.limit, self._cells, self._flow, self.left = min(limit, _MOST), cells, cells.flow, 0.0
        self._size = self.limit * _UNIT

    def take(self, amount: int, now: float) -> bool:
        """False, and nothing is taken, where there is less."""
        amount *= _UNIT
        filled = self.limit * int(now * _UNIT) // 60
        left = self._size + filled - self._flow(filled, amount)
        if left >= 0:
            self.left = left / _UNIT
            return True
        self._flow(filled, -amount)
        return False

    def settle(self, change: int, now: float) -> None:
        """Takes so much more or, negative, gives it back. It may be more than there is: then that is missing."""
        self._flow(self.limit * int(now * _UNIT) // 60, change * _UNIT)

    def level(self, now: float) -> float:
        """What is there; negative where more was taken than there was."""
        filled = self.limit * int(now * _UNIT) // 60
        return min(self.limit, (self._size + filled - self._cells.gone()) / _UNIT)

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
    """``share``: the cells of the bucket of that name that all balancers have, None where there are none.
    ``has_spent``: whether the key of that name has used up a budget. ``widen``: makes of a bucket of this machine and
    its name one that others share. ``clock``: as `TokenBucket` has it."""

    def __init__(
        self, clock: Callable[[], float], share: Callable[[str], Cells | None] = lambda name: None,
        has_spent: Callable[[str, Budget], bool] = lambda name, budget: False,
        widen: Callable[[str, TokenBucket], Bucket] | None = None,
    ) -> None:
        self._clock, self._share, self._has_spent, self._widen = clock, share, has_spent, widen
        self._buckets: dict[tuple[str, str, int], Bucket] = {}

    def of(self, tenant: Tenant) -> TenantRates:
        """For all of its requests, to be kept."""
        requests = None if tenant.rpm is None else self._bucket(tenant, "requests", tenant.rpm)
        tokens = None if tenant.tpm is None else self._bucket(tenant, "tokens", tenant.tpm)
        return TenantRates(tenant, requests, tokens, self._has_spent, self._clock)

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


class TenantRates:
    """What requests of one tenant are charged to. ``requests``, ``tokens``: its buckets, None without such a limit;
    the others as `RateLimits` has them."""

    __slots__ = ("_clock", "_has_spent", "_requests", "_tenant", "_tokens", "_told")

    def __init__(
        self, tenant: Tenant, requests: Bucket | None, tokens: Bucket | None,
        has_spent: Callable[[str, Budget], bool], clock: Callable[[], float],
    ) -> None:
        self._tenant, self._requests, self._tokens = tenant, requests, tokens
        self._has_spent, self._clock = has_spent, clock
        #: What answers say of both, with what `_left` tells left open.
        self._told = _lines("requests", requests) + _lines("tokens", tokens)

    def take(self, length: int) -> Charge:
        """For a request with ``length`` bytes of prompt. Raises ProxyError (429), and nothing is taken."""
        tenant, requests, tokens = self._tenant, self._requests, self._tokens
        budget = tenant.budget
        if budget is not None and self._has_spent(tenant.name, budget):
            raise ProxyError(
                429, f"You exceeded your current quota: {budget.tokens} tokens a {budget.period} (UTC)",
                code=QUOTA, headers={"x-should-retry": "false"},
            )  # fmt: skip
        now, amount = self._clock(), 0
        left: tuple[int | bytes, ...] = ()
        if requests is not None:
            if not requests.take(1, now):
                raise self._over(requests, "requests", 1, now)
            left = _left(requests)
        if tokens is not None:
            # More than fits is never there. It is charged when it is known.
            amount = min(length // BYTES_A_TOKEN, tokens.limit)
            if (not amount and tokens.level(now) <= 0) or not tokens.take(amount, now):
                if requests is not None:
                    requests.settle(-1, now)
                raise self._over(tokens, "tokens", max(1, amount), now)
            left += _left(tokens)
        return Charge(amount, self._told % left)

    def settle(self, change: int) -> None:
        """Requests took so many tokens more than they were charged."""
        if change and self._tokens is not None:
            self._tokens.settle(change, self._clock())

    def _over(self, bucket: Bucket, kind: str, amount: int, now: float) -> ProxyError:
        level = bucket.level(now)
        wait = bucket.wait(amount, level)
        buckets = [each for each in (self._requests, self._tokens) if each is not None]
        told = self._told % tuple(value for each in buckets for value in _left_at(each, each.level(now)))
        fields = dict(line.split(": ") for line in told.decode().split("\r\n")[1:])
        return ProxyError(
            429,
            f"Rate limit reached for {kind} per minute of this key: limit {bucket.limit}, "
            f"available {max(0, int(level))}, requested {amount}. Please try again in {duration(wait)}.",
            code="rate_limit_exceeded", retry_after=max(1, ceil(wait)), headers=fields,
        )  # fmt: skip


def _lines(kind: str, bucket: Bucket | None) -> bytes:
    """As https://platform.openai.com/docs/guides/rate-limits has them, each behind a CRLF."""
    if bucket is None:
        return b""
    name = kind.encode()
    limit = b"\r\nx-ratelimit-limit-%b: %d" % (name, bucket.limit)
    return limit + b"\r\nx-ratelimit-remaining-%b: %%d\r\nx-ratelimit-reset-%b: %%b" % (name, name)


def _left(bucket: Bucket) -> tuple[int, bytes]:
    """After the last that was taken: how much there is, and when it is full."""
    left, limit = bucket.left, bucket.limit
    if (milliseconds := ceil((limit - left) / limit * 60_000 - 1e-6)) < 1000:
        return int(left), b"%dms" % milliseconds
    return int(left), duration(milliseconds / 1000).encode()


def _left_at(bucket: Bucket, level: float) -> tuple[int, bytes]:
    limit = bucket.limit
    return min(limit, max(0, int(level))), duration(bucket.wait(limit, level)).encode()


def duration(seconds: float) -> str:
    """As Go and OpenAI write it: ``17ms``, ``1.2s``, ``6m0s``, ``2h0m3s``."""
    whole = ceil(seconds * 1000 - 1e-6)
    if whole < 1000:
        return f"{whole}ms"
    minutes, rest = divmod(whole, 60_000)
    hours, minutes_left = divmod(minutes, 60)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    return (f"{hours}h" if hours else "") + (f"{minutes_left}m" if minutes else "") + f"{text}s"
