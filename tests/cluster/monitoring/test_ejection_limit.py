"""What follows when workers stand still, and how they are watched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from cluster.deployment import backend_urls
from cluster.fleet.fleet import Fleet
from cluster.fleet.groups import DEFAULT, instance_name
from cluster.fleet.instance import Instance
from cluster.fleet.restart import Backoff, RestartPolicy
from cluster.fleet.states import DesiredState, WorkerState
from cluster.monitoring.ejection_limit import EjectionLimit, may_take_out
from cluster.monitoring.external import ExternalBackend
from cluster.monitoring.hang_detector import Hang, Work
from cluster.monitoring.hang_monitors import HangMonitors
from cluster.monitoring.recovery_times import RecoveryTimes
from clusterfakes import Told
from config.settings import load
from fakes import Clock, rng, soon
from movedloop import moved
from worker.probe import Target
from worker.sim.engine.metrics import SimMetrics
from worker.spec import Slot

S = WorkerState
STALL = 0.4


# never more than half


@given(st.integers(1, 64))
def test_never_more_than_half_are_out_but_one_may_always_be(workers: int) -> None:
    ready, out = workers, 0
    while ready and may_take_out(ready, out):
        ready, out = ready - 1, out + 1
    assert out == max(1, workers // 2)


@given(st.integers(2, 64), st.integers(0, 64))
def test_whoever_comes_back_makes_room(ready: int, out: int) -> None:
    if out and not may_take_out(ready, out):
        assert any(may_take_out(ready + back, out - back) for back in range(1, out + 1))


class Control:
    """As much of a supervisor as is needed, with ``count`` ready workers."""

    def __init__(self, count: int = 4, urls: tuple[str, ...] = ()) -> None:
        self.clock, self.told, self.recovery = Clock(), Told(), RecoveryTimes()
        self.fleet = Fleet(DesiredState(), RestartPolicy(Backoff()), rng().random, self.told)
        self.external = [ExternalBackend(spec) for spec in backend_urls.parse(urls, None, 1)]
        self.settings = load({"engine": "sim", "stall_timeout": STALL, "canary_interval": 0.2})
        self.work = Work()
        self.now: Callable[[], float] = self.clock
        now = lambda: self.now()  # noqa: E731
        self.limit = EjectionLimit(lambda: [*self.fleet.instances.values(), *self.external], now, self.told)
        self.hangs = HangMonitors(
            self.limit, self.fleet, self.recovery, lambda: self.settings, lambda name: self.work, self.post, now
        )
        for number in range(count):
            self.instance(number)
        for server in self.external:
            server.may_take_out, server.emit = self.limit.admits, self.told
            server.ready(({"id": "demo", "max_model_len": 2048},))
        self.told.events.clear()

    def instance(self, number: int, group: str = DEFAULT) -> Instance:
        instance = Instance(instance_name(number, group), Slot(), state=S.READY, incarnation=number + 1)
        self.fleet.instances[instance.id] = instance
        return instance

    def post(self, event: Callable[[], None]) -> None:
        event()

    def hang(self, number: int) -> bool:
        """Whether it is taken out."""
        instance = self.fleet.instances[f"instance_{number}"]
        why = "hung: no token for 2.0 s"
        return self.limit.admits(instance, why) and self.fleet.hung(instance, why)

    def out(self, number: int) -> None:
        self.fleet.stopping(self.fleet.instances[f"instance_{number}"], "hung", self.clock(), failure=True)

    def back(self, number: int) -> None:
        instance = self.fleet.instances[f"instance_{number}"]
        instance.state = S.STARTING
        self.fleet.ready(instance, (), self.clock())


def test_when_all_stand_still_half_are_taken_out_and_the_rest_is_told_of_once() -> None:
    control = Control(4)
    for _ in range(3):
        taken = [number for number in range(4) if control.hang(number)]
        for number in taken:
            control.out(number)
    assert [i.state for i in control.fleet.instances.values()] == [S.STOPPING, S.STOPPING, S.READY, S.READY]
    exempt = [(name, text) for name, text in control.told.events if "exempt from ejection" in text]
    assert [name for name, _ in exempt] == ["instance_2", "instance_3"]
    assert "as 4 of 4 make no progress at once: that looks like the machine" in exempt[1][1]


def test_as_soon_as_one_is_back_the_next_may_be_taken_out() -> None:
    control = Control(3)
    assert [control.hang(0), control.hang(1)] == [True, False]
    control.out(0)
    assert not control.hang(1)
    control.back(0)
    assert control.hang(1)


def test_half_of_each_group_is_left_whatever_the_others_do() -> None:
    control = Control(4)
    alone = control.instance(0, "second")
    assert [control.hang(number) for number in range(3)] == [True, True, False]
    assert control.limit.admits(alone, "hung")


def test_one_that_is_alone_may_be_taken_out() -> None:
    assert Control(1).hang(0)


def test_one_that_has_been_given_up_is_not_waited_for() -> None:
    control = Control(2)
    assert control.hang(0)
    control.out(0)
    assert not control.hang(1)
    instance = control.fleet.instances["instance_0"]
    instance.history = type(instance.history)(early=100)
    control.fleet.exited(instance, -9, [], control.clock(), 0.0)
    assert instance.state is S.FAILED
    assert control.hang(1)


def test_one_that_is_out_of_rotation_already_takes_nobodys_place() -> None:
    control = Control(2)
    assert control.hang(0)
    control.out(0)
    control.fleet.unhealthy(control.fleet.instances["instance_1"], "/health: refused", 0.0, lost=False)
    assert control.hang(1)


def test_slow_probes_and_hangs_share_one_half() -> None:
    control = Control(2)
    instance = control.fleet.instances["instance_0"]
    assert control.limit.admits(instance, "/health: no answer")
    control.fleet.unhealthy(instance, "/health: no answer", 0.0, lost=False, slow=True)
    assert not control.hang(1)
    control.fleet.ready(instance, (), 1.0)
    assert control.hang(1)


def test_what_is_exempt_is_told_of_again_only_after_a_while() -> None:
    control = Control(2)
    control.hang(0)
    control.out(0)
    for seconds in (0, 1, 20, 100):
        control.clock.advance(seconds)
        control.hang(1)
    assert len([text for _, text in control.told.events if "exempt from ejection" in text]) == 2


def test_a_hang_is_said_once_and_only_of_a_worker_that_should_work() -> None:
    control = Control(4)
    assert [control.hang(0), control.hang(0)] == [True, False]
    control.out(0)
    assert not control.hang(0)


def test_what_was_detected_is_counted_by_cause() -> None:
    control = Control(2)
    instance = control.fleet.instances["instance_0"]
    control.hangs.count(instance, Hang("still", 10.2, ""))
    control.hangs.count(instance, Hang("still", 10.4, ""))
    found = control.recovery.to_json()["detect"]["still"]
    assert (instance.hangs, found["count"], found["sum"]) == (2, 2, 20.6)


# servers that are not ours


def test_a_foreign_server_is_out_until_it_goes_on() -> None:
    control = Control(0, ("http://a:1", "http://b:1"))
    one, other = control.external
    one.hung("hung: no token for 2.0 s")
    assert (one.state, one.slow, one.reason) == (S.UNHEALTHY, True, "hung: no token for 2.0 s")
    assert not control.limit.admits(other, "hung")
    one.going()
    assert (one.state, one.slow, one.reason) == (S.READY, False, "")
    assert control.limit.admits(other, "hung")
    assert [text for name, text in control.told.events if name == "backend_0"][-1].startswith("back in rotation")


def test_one_that_fails_its_probes_is_not_back_because_it_moves() -> None:
    (server,) = Control(0, ("http://a:1",)).external
    server.hung("hung: no token for 2.0 s")
    server.unhealthy("/v1/models: 500", lost=False)
    server.going()
    assert server.state is S.UNHEALTHY
    server.ready(({"id": "demo"},))
    assert server.state is S.READY


def test_slow_probes_of_all_foreign_servers_leave_half() -> None:
    control = Control(0, ("http://a:1", "http://b:1"))
    for server in control.external * 2:
        server.unhealthy("/v1/models: no answer in 5 s", lost=False, slow=True)
    assert [server.state for server in control.external] == [S.UNHEALTHY, S.READY]


# watched


class Engine:
    """A worker's HTTP side, over an engine that may stand still, be silent, or answer with an error."""

    def __init__(self) -> None:
        self.metrics = SimMetrics("demo", 2048, 2)
        self.hangs = self.silent = self.steps = False
        self.tells = True
        self.status = 200
        self.asked = 0
        self.queries: list[str] = []
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/v1/completions", self._complete)
        self.server = TestServer(app, host="127.0.0.1")

    def running(self, count: int) -> None:
        self.metrics.gauges["num_requests_running"].set(count)

    async def _metrics(self, request: web.Request) -> web.Response:
        self.queries.append(request.query_string)
        if self.silent:
            await asyncio.sleep(60)
        if self.steps:
            self.metrics.counters["generation_tokens"].inc()
        page = self.metrics.render(request.query.getall("name[]", [])) if self.tells else b"up 1\n"
        return web.Response(body=page)

    async def _complete(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.hangs or self.silent:
            await asyncio.sleep(60)
        self.metrics.counters["generation_tokens"].inc()
        return web.json_response({}, status=self.status)


@pytest.fixture
def engine() -> Engine:
    return Engine()


@asynccontextmanager
async def watching(control: Control, engine: Engine, member: Instance | ExternalBackend) -> AsyncIterator[None]:
    control.now = asyncio.get_running_loop().time
    async with engine.server, aiohttp.ClientSession() as session:
        target = Target(session, str(engine.server.make_url("")).rstrip("/"))
        if isinstance(member, ExternalBackend):
            watching = control.hangs.attend(member, target)
        else:
            watching = control.hangs.watch(member, target)
        task = asyncio.create_task(watching, name="watch")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@moved
async def test_an_engine_that_makes_no_steps_is_found(engine: Engine) -> None:
    control = Control(1)
    instance, began = control.fleet.instances["instance_0"], asyncio.get_running_loop().time()
    engine.running(3)
    async with watching(control, engine, instance):
        await soon(lambda: instance.hung)
    assert asyncio.get_running_loop().time() - began >= STALL
    assert str(instance.hung).endswith("with 3 requests running")
    assert instance.hangs == 1 and control.recovery.to_json()["detect"]["still"]["count"] == 1
    assert all("name%5B%5D=" in query or "name[]=" in query for query in engine.queries)


@moved
async def test_an_engine_that_makes_steps_is_left_alone(engine: Engine) -> None:
    control = Control(1)
    instance = control.fleet.instances["instance_0"]
    engine.steps = True
    engine.running(3)
    async with watching(control, engine, instance):
        await soon(lambda: len(engine.queries) > 4 * STALL / 0.05)
    assert (instance.hung, engine.asked) == (None, 0)
    assert control.hangs.finding(instance.id).seen_at is not None


@moved
async def test_a_server_that_does_not_answer_is_found_by_what_the_balancer_has_there(engine: Engine) -> None:
    control = Control(1)
    instance = control.fleet.instances["instance_0"]
    control.work, engine.silent = Work(2), True
    async with watching(control, engine, instance):
        await soon(lambda: instance.hung)
    assert "no answer and no token" in str(instance.hung)


@moved
async def test_an_idle_worker_is_asked_for_a_token_and_found_if_none_comes(engine: Engine) -> None:
    control = Control(1)
    instance = control.fleet.instances["instance_0"]
    async with watching(control, engine, instance):
        await soon(lambda: engine.asked >= 3)
        assert instance.hung is None
        engine.hangs = True
        await soon(lambda: instance.hung)
    assert "not even for a request of our own" in str(instance.hung)


@pytest.mark.parametrize(("status", "hung"), [(500, True), (503, False), (404, False)])
@moved
async def test_only_an_error_of_the_engine_is_one(engine: Engine, status: int, hung: bool) -> None:
    control = Control(1)
    instance = control.fleet.instances["instance_0"]
    engine.status = status
    engine.metrics.counters.pop("generation_tokens")
    engine.metrics.counters["generation_tokens"] = engine.metrics.counters["num_preemptions"]
    async with watching(control, engine, instance):
        await soon(lambda: engine.asked >= (2 if hung else 3))
        if hung:
            await soon(lambda: instance.hung)
    assert bool(instance.hung) is hung


@moved
async def test_a_foreign_server_is_taken_out_and_comes_back_when_it_moves(engine: Engine) -> None:
    control = Control(0, ("http://a:1", "http://b:1"))
    server = control.external[0]
    engine.running(1)
    async with watching(control, engine, server):
        await soon(lambda: server.state is S.UNHEALTHY)
        engine.steps = True
        await soon(lambda: server.state is S.READY)
    assert server.hangs == 1


@moved
async def test_a_foreign_server_that_tells_nothing_is_only_probed(engine: Engine) -> None:
    control = Control(0, ("http://a:1",))
    engine.tells, control.work = False, Work(4, 4, 100)
    async with watching(control, engine, control.external[0]):
        await soon(lambda: len(engine.queries) > 3 * STALL / 0.05)
    assert (control.external[0].state, engine.asked) == (S.READY, 0)


@moved
async def test_a_worker_that_starts_is_not_looked_at(engine: Engine) -> None:
    control = Control(1)
    instance = control.fleet.instances["instance_0"]
    instance.state = S.STARTING
    async with watching(control, engine, instance):
        await asyncio.sleep(0.3)
        assert engine.queries == []
        control.fleet.ready(instance, (), 0.0)
        await soon(lambda: engine.queries)
    assert control.hangs.finding(instance.id).seen_at is not None
