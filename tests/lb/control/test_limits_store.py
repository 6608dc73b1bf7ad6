"""Limits that machines share, through a real Redis: each `Machine` is what one balancer process of one has of it."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from config.identity.api_keys import ApiKey, Digest, digest
from config.values.store_url import StoreUrl
from fakes import soon
from lb.admission.rate_limits import RateLimits
from lb.admission.stored_buckets import StoredBuckets
from lb.control.limits_store import LimitsStore
from lb.protocol.errors import ProxyError
from lb.protocol.tenant import Tenant
from lbfakes import Balanced, running_balancer, running_worker
from redisserver import RedisServer, running_redis

pytestmark = pytest.mark.processes

#: Nothing of it flows in while a test runs.
SLOW = Tenant("a", rpm=20, mark="a")


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with running_redis(tmp_path) as server:
        yield server


class Machine:
    def __init__(self, url: str, name: str = "") -> None:
        self.store = LimitsStore(StoreUrl.parse(url), StoredBuckets())
        self.limits = RateLimits(time.monotonic, widen=self.store.buckets.widen)

    def ask(self, times: int, tenant: Tenant = SLOW) -> int:
        """How many of them are let through."""
        return sum(self._asks(tenant) for _ in range(times))

    def _asks(self, tenant: Tenant) -> bool:
        try:
            self.limits.of(tenant).take(0)
        except ProxyError:
            return False
        return True

    async def heard(self) -> None:
        """Returns when the store has answered all that was said until now."""
        await soon(lambda: not len(self.store.buckets), "it is told")
        buckets = self.limits._buckets.values()
        await soon(lambda: all(bucket._epoch for bucket in buckets), "it answers")  # type: ignore[attr-defined]


@pytest.fixture
async def machines(redis: RedisServer, stack: AsyncExitStack) -> list[Machine]:
    return [await _running(redis.url, stack) for _ in range(2)]


async def _running(url: str, stack: AsyncExitStack) -> Machine:
    machine = Machine(url)
    machine.store.start()
    stack.push_async_callback(machine.store.close)
    await soon(lambda: machine.store.reason is not None, "it has asked")
    return machine


async def test_two_machines_have_one_rate(machines: list[Machine]) -> None:
    one, other = machines
    assert one.ask(12) == 12
    await one.heard()
    assert other.ask(1) == 1, "at once, though it has not heard yet"
    await other.heard()
    assert other.ask(20) == 7
    await other.heard()
    assert one.ask(1) == 1, "nor has this one"
    await one.heard()
    assert one.ask(5) == 0
    assert other.ask(20, Tenant("a", rpm=20, mark="b")) == 20, "a key of its own"


async def test_tokens_are_settled_for_all(machines: list[Machine]) -> None:
    one, other = machines
    tenant = Tenant("a", tpm=1_000, mark="a")
    charge = one.limits.of(tenant).take(4 * 900)
    await one.heard()
    other.limits.of(tenant).take(0)
    await other.heard()
    with pytest.raises(ProxyError, match=r"available (99|1\d\d), requested 500"):
        other.limits.of(tenant).take(4 * 500)
    one.limits.of(tenant).settle(100 + 50 - charge.tokens)
    await one.heard()
    await other.heard()
    assert other.limits.of(tenant).take(4 * 500).tokens == 500


async def test_a_server_that_dies_and_comes_back(
    redis: RedisServer, machines: list[Machine], caplog: pytest.LogCaptureFixture
) -> None:
    """Meanwhile each machine keeps to the limit by itself, which is said once; what it took then is not forgotten."""
    caplog.set_level(logging.INFO, "lb.control.limits_store")
    one, other = machines
    assert one.ask(10) == 10
    await one.heard()
    await redis.kill()
    assert other.ask(30) == 20
    await soon(lambda: bool(other.store.reason), "it is missed")
    other.ask(3)
    await asyncio.sleep(1.2)
    assert other.store.describe() == {
        "store": f"unix://{redis.url.removeprefix('unix://')}", "shared": False, "reason": "it cannot be connected to",
    }  # fmt: skip
    await redis.start()
    await soon(lambda: other.store.reason == "", "it is found again")
    assert [record.levelname for record in caplog.records if record.args[0] == redis.url].count("WARNING") <= 2  # type: ignore[index]
    assert "shared again" in caplog.text
    await other.heard()
    await soon(lambda: one.store.reason == "", "by this one too")
    assert one.ask(1) == 1
    await one.heard()
    assert one.ask(10) == 0, "the other has told what it took"


async def test_a_server_that_was_emptied_is_told(redis: RedisServer, machines: list[Machine]) -> None:
    from redis.asyncio import Redis

    one, other = machines
    assert one.ask(15) == 15
    await one.heard()
    async with Redis.from_url(redis.url) as client:
        keys = await client.keys("*")
        assert len(keys) == 2 and all(key.startswith(b"clusterctl:limits:") for key in keys)
        assert not [key for key in keys if b"rpm" in key or b"requests" in key]
        (left,) = [await client.pttl(key) for key in keys if not key.endswith(b":epoch")]
        assert 40_000 < left <= 45_000, "a bucket is there until it is full"
        await client.flushall()
    assert one.ask(1) == 1
    await one.heard()
    assert other.ask(1) == 1
    await other.heard()
    assert other.ask(20) == 3


@pytest.mark.measured
async def test_a_server_that_stands_still_delays_nobody(redis: RedisServer, machines: list[Machine]) -> None:
    one, _ = machines
    tenant = Tenant("b", rpm=10**6, mark="b")
    await one.heard()
    redis.signal(signal.SIGSTOP)
    try:
        longest, deadline = 0.0, time.monotonic() + 10.0
        while not one.store.reason and (began := time.monotonic()) < deadline:
            assert one.ask(1, tenant)
            longest = max(longest, time.monotonic() - began)
            await asyncio.sleep(0)
        assert longest < 0.4, "who waits for the store waits for half a second"
        assert one.store.reason == "it does not answer within 0.5 s"
    finally:
        redis.signal(signal.SIGCONT)
    await soon(lambda: one.store.reason == "", "it goes on")


async def test_a_wrong_password_is_said_and_never_told(
    tmp_path: Path, stack: AsyncExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_redis(tmp_path, password="right-secret") as server:
        wrong = await _running(server.url.replace("right-secret", "wrong-secret"), stack)
        none = await _running(server.url.partition("?")[0], stack)
        for machine in (wrong, none):
            assert machine.store.reason == "it refuses the password, or wants one"
            assert machine.ask(30) == 20, "kept here"
        assert (await _running(server.url, stack)).store.reason == ""
        said = caplog.text + str([wrong.store.describe(), wrong.store.url])
        assert "wrong-secret" not in said and "right-secret" not in said


async def test_what_somebody_else_has_written_there(redis: RedisServer, stack: AsyncExitStack) -> None:
    from redis.asyncio import Redis

    one = await _running(redis.url, stack)
    one.ask(1)
    await one.heard()
    async with Redis.from_url(redis.url) as client:
        (key,) = [key for key in await client.keys("*") if not key.endswith(b":epoch")]
        for value in (b"nan", b"no number"):
            await client.set(key, value)
            one.ask(1)
            await soon(lambda: bool(one.store.reason), f"{value!r} is not believed")
            await client.delete(key)
            await soon(lambda: one.store.reason == "", "it goes on")
    assert one.ask(20) in (17, 18), "one may have flowed in"


async def test_through_balancers_on_two_machines(redis: RedisServer, tmp_path: Path) -> None:
    """They have nothing in common but the store and the keys; status and metrics say that they share."""
    key = ApiKey("a", digests=(Digest(digest("cck_a")),), rpm=5).to_json()
    async with AsyncExitStack() as exits:
        worker, two = await exits.enter_async_context(running_worker("instance_0")), list[Balanced]()
        for number in range(2):
            folder = tmp_path / str(number)
            folder.mkdir(mode=0o700)
            two.append(await exits.enter_async_context(running_balancer(folder, limits_store=redis.url)))
            two[-1].push(worker.spec())
            two[-1].parts.keys.apply({"version": [1, 1], "keyed": True, "keys": [key]})
            await soon(_shared(two[-1]), "it has asked")
        counts = [0, 0]
        for number in (0, 0, 0, 0, 1, 1, 1, 0, 1):
            body, headers = {"model": "base", "prompt": "x"}, {"x-api-key": "cck_a"}
            async with two[number].request("POST", "/v1/completions", json=body, headers=headers) as answer:
                counts[number] += answer.status == 200
                assert answer.status in (200, 429)
                assert int(answer.headers["x-ratelimit-limit-requests"]) == 5
            await asyncio.sleep(0.12)
        assert 5 <= sum(counts) <= 5 + 1, "one before each had heard"
        async with two[0].request("GET", "/v1/cluster/status") as answer:
            shown = (await answer.json())["load_balancer"]["limits"]
            assert shown == {"store": redis.url, "shared": True, "reason": ""}
        async with two[0].request("GET", "/metrics") as answer:
            assert "clusterctl_limits_store_up 1" in await answer.text()
        assert two[0].parts.link._limits() == shown


def _shared(balancer: Balanced) -> Callable[[], bool]:
    store = balancer.parts.limits_store
    assert store is not None
    return lambda: store.reason == ""
