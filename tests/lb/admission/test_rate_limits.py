from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from config.identity import api_keys
from config.identity.api_keys import ApiKey, Digest
from lb.admission.rate_limits import Charge, OwnCells, RateLimits, TokenBucket, duration
from lb.protocol.errors import ProxyError
from lb.protocol.tenant import Tenant
from lbfakes import Balanced, Worker, running_balancer, running_worker


class Reference:
    """A token bucket as the textbook has it, in exact numbers."""

    def __init__(self, limit: int, now: Fraction) -> None:
        self.limit, self.level, self.now = limit, Fraction(limit), now

    def pass_time(self, now: Fraction) -> None:
        self.level = min(Fraction(self.limit), self.level + Fraction(self.limit, 60) * (now - self.now))
        self.now = now


_STEPS = st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 12), st.sampled_from(["take", "more", "back"])))


@given(st.integers(1, 600), st.integers(0, 10**9), _STEPS)
def test_it_is_a_token_bucket(limit: int, start: int, steps: list[tuple[int, int, str]]) -> None:
    """Milliseconds pass, and an amount is taken, or settled, either way."""
    now, reference = start, Reference(limit, Fraction(start, 1000))
    bucket = TokenBucket(limit, OwnCells())
    bucket.take(0, now / 1000)
    taken: list[tuple[int, int]] = []
    for passed, amount, what in steps:
        now += passed
        reference.pass_time(Fraction(now, 1000))
        if what != "take":
            change = amount if what == "more" else -amount
            bucket.settle(change, now / 1000)
            reference.level -= change
            continue
        enough = bucket.take(amount, now / 1000)
        slack = abs(reference.level - amount)
        assert enough == (reference.level >= amount) or slack <= Fraction(3, 1000) + Fraction(limit, 60_000)
        if enough:
            reference.level -= amount
            taken.append((now, amount))
        assert abs(bucket.level(now / 1000) - min(reference.level, limit)) < 0.01 + limit / 60_000
    assert bucket.wait(limit, bucket.level(now / 1000)) >= 0


@given(st.integers(1, 300), st.lists(st.tuples(st.integers(0, 5_000), st.integers(1, 5), st.integers(0, 3))))
def test_in_no_window_more_than_what_was_full_and_what_came(limit: int, steps: list[tuple[int, int, int]]) -> None:
    """Over several balancers, each with a column of its own."""
    shared = Shared()
    buckets = [TokenBucket(limit, Column(shared, number)) for number in range(4)]
    now, taken = 10**7, list[tuple[int, int]]()
    for passed, amount, number in steps:
        now += passed
        if buckets[number].take(amount, now / 1000):
            taken.append((now, amount))
    for first, (begin, _) in enumerate(taken):
        total = 0
        for end, amount in taken[first:]:
            total += amount
            assert total <= limit + Fraction(limit * (end - begin), 60_000) + Fraction(1, 1000)


@given(st.integers(1, 10**9), st.integers(1, 50))
def test_nothing_drifts(limit: int, weeks: int) -> None:
    """After weeks in which it was emptied again and again it holds a minute's worth after a minute."""
    bucket = TokenBucket(limit, OwnCells())
    for minute in range(200):
        now = minute * weeks * 7 * 86_400 / 200
        assert bucket.take(limit, now) and not bucket.take(1, now)
    assert bucket.level(now + 30) == pytest.approx(limit / 2, abs=1)
    assert bucket.level(now + 60) == pytest.approx(limit, rel=1e-9, abs=0.01)


class Shared:
    def __init__(self) -> None:
        self.taken, self.saved = [0] * 4, [-(2**62)] * 4


class Column:
    def __init__(self, shared: Shared, number: int) -> None:
        self._shared, self._number = shared, number

    def gone(self) -> int:
        return sum(self._shared.taken) + max(self._shared.saved)

    def flow(self, filled: int, change: int) -> int:
        if filled > self.gone():
            self._shared.saved[self._number] = filled - sum(self._shared.taken)
        self._shared.taken[self._number] += change
        return self.gone()


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def _told(charge: Charge) -> dict[str, str]:
    return dict(line.split(": ") for line in charge.told.decode().split("\r\n")[1:])


def test_it_says_what_is_left_as_openai_does() -> None:
    limits, tenant = RateLimits(Time()), Tenant("a", rpm=60, tpm=1000)
    assert _told(limits.of(tenant).take(400)) == {
        "x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "1000", "x-ratelimit-remaining-tokens": "900", "x-ratelimit-reset-tokens": "6s",
    }  # fmt: skip


def test_over_a_rate_it_says_when_there_is_more() -> None:
    time = Time()
    limits, tenant = RateLimits(time), Tenant("a", rpm=2)
    for _ in range(2):
        limits.of(tenant).take(0)
    with pytest.raises(ProxyError) as refused:
        limits.of(tenant).take(0)
    error = refused.value
    assert (error.status, error.code, error.retry_after) == (429, "rate_limit_exceeded", 30)
    assert error.headers["x-ratelimit-remaining-requests"] == "0"
    assert error.headers["x-ratelimit-reset-requests"] == "1m0s"
    assert "try again in 30s" in str(error)
    time.now += 30
    limits.of(tenant).take(0)


def test_what_was_estimated_is_settled() -> None:
    time = Time()
    limits, tenant = RateLimits(time), Tenant("a", rpm=10, tpm=1000)
    charge = limits.of(tenant).take(400)
    limits.of(tenant).settle(50 + 250 - charge.tokens)
    assert _told(limits.of(tenant).take(0))["x-ratelimit-remaining-tokens"] == "700"
    limits.of(tenant).settle(900 + 100 - limits.of(tenant).take(0).tokens)
    with pytest.raises(ProxyError, match="tokens per minute") as refused:
        limits.of(tenant).take(0)  # 300 are missing, and one is needed
    assert refused.value.retry_after == 19
    assert refused.value.headers["x-ratelimit-remaining-requests"] == "7", "it is not charged for what is refused"
    time.now += 19
    limits.of(tenant).take(0)


def test_what_is_larger_than_a_minute_goes_when_a_minute_is_there() -> None:
    limits, tenant = RateLimits(Time()), Tenant("a", tpm=100)
    charge = limits.of(tenant).take(10**6)
    assert charge.tokens == 100
    with pytest.raises(ProxyError) as refused:
        limits.of(tenant).take(10**6)
    assert refused.value.retry_after == 60


def test_another_limit_is_another_bucket() -> None:
    limits = RateLimits(Time())
    limits.of(Tenant("a", rpm=1)).take(0)
    with pytest.raises(ProxyError):
        limits.of(Tenant("a", rpm=1)).take(0)
    limits.of(Tenant("a", rpm=2)).take(0)
    limits.of(Tenant("a", rpm=1, mark="a\x002")).take(0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.017, "17ms"), (1, "1s"), (1.2, "1.2s"), (8.64, "8.64s"), (360, "6m0s"), (61.5, "1m1.5s"),
     (7203, "2h0m3s"), (0.0001, "1ms"), (59.9999, "1m0s")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# through the balancer

SECRET = {"x-api-key": "cck_a"}


def key(secret: str = "cck_a", name: str = "a", **fields: Any) -> dict[str, Any]:
    return ApiKey(name, digests=(Digest(api_keys.digest(secret)),), **fields).to_json()


async def _answer(request: web.Request) -> web.StreamResponse:
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    body = await request.json()
    if body.get("stream"):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices":[{"index":0,"text":"x"}]}\n\n')
        await asyncio.sleep(0.01)
        await response.write(b'data: {"choices":[{"index":0,"text":"","finish_reason":"length"}]}\n\ndata: [DONE]\n\n')
        return response
    return web.json_response({"choices": [{"index": 0, "text": "x"}], "usage": usage})


@asynccontextmanager
async def _house(folder: Path, *keys: dict[str, Any]) -> AsyncIterator[tuple[Balanced, Worker]]:
    async with running_worker("instance_0", _answer) as worker, running_balancer(folder) as balancer:
        balancer.push(worker.spec())
        balancer.parts.keys.apply({"version": [1, 1], "keyed": True, "keys": keys})
        yield balancer, worker


async def test_answers_say_what_is_left(tmp_path: Path) -> None:
    """Those that come in one piece, streams, and our own."""
    async with _house(tmp_path, key(rpm=4, tpm=1000)) as (balancer, worker):
        for number, stream in enumerate((False, True)):
            body = {"model": "base", "prompt": "x", "stream": stream}
            async with balancer.request("POST", "/v1/completions", json=body, headers=SECRET) as answer:
                await answer.read()
                assert answer.status == 200
                assert answer.headers["x-ratelimit-limit-requests"] == "4"
                assert answer.headers["x-ratelimit-remaining-requests"] == str(3 - number)
                assert re.fullmatch(r"(\d+m)?[\d.]+m?s", answer.headers["x-ratelimit-reset-requests"])
                assert int(answer.headers["x-ratelimit-remaining-tokens"]) > 900
        balancer.push()
        for status in (503, 503, 429):
            body = {"model": "base", "prompt": "x"}
            headers = {**SECRET, "X-Request-Timeout": "0.05"}
            async with balancer.request("POST", "/v1/completions", json=body, headers=headers) as answer:
                said = await answer.json()
                assert answer.status in (status, 504), said
                assert answer.headers.getall("x-ratelimit-limit-requests") == ["4"]
        assert said["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(answer.headers["Retry-After"]) <= 15
        assert len(worker.seen) == 2


async def test_tokens_are_settled_by_usage(tmp_path: Path) -> None:
    async with _house(tmp_path, key(tpm=600)) as (balancer, _):
        for _ in range(3):
            body = {"model": "base", "prompt": "x" * 800}
            async with balancer.request("POST", "/v1/completions", json=body, headers=SECRET) as answer:
                await answer.read()
        left = int(answer.headers["x-ratelimit-remaining-tokens"])
        assert 600 - 24 - 220 <= left <= 600 - 24 - 200 + 10, "12 each, and the estimate of the one that runs"


async def test_without_limits_nothing_is_said(tmp_path: Path) -> None:
    async with _house(tmp_path, key()) as (balancer, _):
        body = {"model": "base", "prompt": "x"}
        async with balancer.request("POST", "/v1/completions", json=body, headers=SECRET) as answer:
            assert not [name for name in answer.headers if name.lower().startswith("x-ratelimit")]
        assert not (balancer.state_dir / "limits.bin").exists()
