"""What becomes of a worker by what happens to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.fleet.fleet import Fleet, describe_exit
from cluster.fleet.groups import instance_name
from cluster.fleet.instance import HeldAdapters, Instance, Refusal, restore
from cluster.fleet.restart import Backoff, RestartPolicy
from cluster.fleet.states import DesiredState, IllegalTransition, InstanceDesired, WorkerState
from fakedriver import FakeDriver
from fakes import Clock, rng
from worker.spec import Slot, WorkerEndpoint, WorkerSpec

S = WorkerState
MODELS = ({"id": "demo"},)


def _refusing(name: str) -> HeldAdapters:
    """As of a worker that does not take ``name``."""
    return HeldAdapters(refused={name: Refusal("its rank", "/content", 1, 5.0)})


class Cluster:
    """A fleet of two, with what it told people."""

    def __init__(self) -> None:
        self.clock, self.driver = Clock(), FakeDriver()
        self.told: list[tuple[str, str]] = []
        policy = RestartPolicy(Backoff(jitter=0.0))
        self.fleet = Fleet(DesiredState(), policy, rng().random, self._hear)
        self.fleet.intent.scale(2)

    def _hear(self, subject: str, text: str, kind: str = "", data: object = None) -> None:
        self.told.append((subject, text))

    def starting(self, name: str = "instance_0", fresh: bool = True) -> Instance:
        instance = self.fleet.instances.get(name) or self.fleet.admit(name, Slot(gpus=(0,)), self.clock())
        number = len(self.driver.started) + 1
        spec = WorkerSpec(name, number, (), {}, Path(), Path(), Path(), WorkerEndpoint(20_000 + number), "key")
        self.fleet.starting(instance, spec, self.clock(), fresh)
        self.fleet.started(instance, self.driver.start(spec, "a title"), 5.0)
        return instance

    def ready(self, name: str = "instance_0", refused: str | None = None) -> Instance:
        instance = self.starting(name)
        self.clock.advance(2.0)
        if refused is not None:
            instance.adapters = _refusing(refused)
        self.fleet.ready(instance, MODELS, self.clock())
        return instance

    def exited(self, instance: Instance, status: int | None = 1) -> dict[str, Any]:
        self.fleet.exited(instance, status, ["last line"], self.clock(), 77.0)
        assert instance.last_exit is not None
        return instance.last_exit


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_scaling_down_removes_the_newest_and_up_fills_from_below(cluster: Cluster) -> None:
    cluster.fleet.intent.scale(4)
    cluster.fleet.intent.scale(1)
    assert list(cluster.fleet.intent.desired.instances) == ["instance_0"]
    cluster.fleet.intent.scale(3)
    assert list(cluster.fleet.intent.desired.instances) == ["instance_0", "instance_1", "instance_2"]


def test_scaling_forgets_no_restart_that_was_asked_for(cluster: Cluster) -> None:
    cluster.fleet.intent.restart("instance_0")
    cluster.fleet.intent.scale(3)
    assert cluster.fleet.intent.desired.instances["instance_0"].generation == 1


def test_a_restart_is_noticed_after_scaling_down_and_up_again(cluster: Cluster) -> None:
    """The worker is still there, of the generation that earlier restarts brought it to."""
    cluster.fleet.intent.restart("instance_1")
    cluster.fleet.intent.restart("instance_1")
    instance = cluster.ready("instance_1")
    cluster.fleet.intent.scale(1)
    cluster.fleet.intent.scale(2)
    cluster.fleet.intent.restart("instance_1")
    assert cluster.fleet.intent.desired.instances["instance_1"].generation > instance.generation


def test_a_restart_by_hand_does_not_wait_for_the_others(cluster: Cluster) -> None:
    cluster.fleet.intent.restart_rolling()
    assert set(cluster.fleet.intent.desired.instances.values()) == {InstanceDesired(1, rolling=True)}
    cluster.fleet.intent.restart("instance_1")
    assert cluster.fleet.intent.desired.instances["instance_1"] == InstanceDesired(2, rolling=False)


def test_a_restart_of_what_is_not_wanted_is_an_error(cluster: Cluster) -> None:
    with pytest.raises(KeyError):
        cluster.fleet.intent.restart("instance_9")


def test_a_hurried_shutdown_stays_hurried(cluster: Cluster) -> None:
    cluster.fleet.intent.shut_down(now=True)
    cluster.fleet.intent.shut_down()
    assert cluster.fleet.intent.desired.shutting_down and cluster.fleet.intent.desired.kill_now


def test_a_start_forgets_the_incarnation_before(cluster: Cluster) -> None:
    instance = cluster.ready(refused="poet")
    cluster.exited(instance)
    cluster.fleet.tree_empty(instance, cluster.clock())
    cluster.starting(fresh=False)
    assert (instance.state, instance.incarnation, instance.starts) == (S.STARTING, 2, 2)
    assert (instance.ready_at, instance.models, instance.failure) == (None, (), None)
    assert instance.tree_empty is False


def test_a_ready_worker_has_its_models_and_says_how_long_it_took(cluster: Cluster) -> None:
    instance = cluster.ready(refused="poet")
    assert (instance.state, instance.models, instance.adapters.reasons()) == (S.READY, MODELS, {"poet": "its rank"})
    assert cluster.told[-1] == ("instance_0", "ready after 2.0 s; refused poet")
    assert cluster.fleet.ready_count() == 1


@pytest.mark.parametrize("state", sorted(set(S) - {S.STARTING, S.UNHEALTHY}))
def test_a_probe_that_answers_too_late_changes_nothing(cluster: Cluster, state: S) -> None:
    instance = cluster.ready()
    instance.state = state
    cluster.fleet.ready(instance, (), cluster.clock())
    assert (instance.state, instance.models) == (state, MODELS)


def test_failed_probes_take_a_worker_out_and_then_give_it_up(cluster: Cluster) -> None:
    instance = cluster.ready()
    cluster.fleet.unhealthy(instance, "no answer", cluster.clock(), lost=False)
    assert (instance.state, instance.failing_probes, cluster.fleet.ready_count()) == (S.UNHEALTHY, False, 0)
    told = len(cluster.told)
    cluster.fleet.unhealthy(instance, "no answer", cluster.clock(), lost=True)
    assert (instance.state, instance.failing_probes, len(cluster.told)) == (S.UNHEALTHY, True, told)


def test_a_worker_that_comes_back_has_served_since_it_was_first_ready(cluster: Cluster) -> None:
    instance = cluster.ready()
    first = instance.ready_at
    cluster.fleet.unhealthy(instance, "no answer", cluster.clock.advance(9.0), lost=True)
    cluster.fleet.ready(instance, MODELS, cluster.clock.advance(9.0))
    assert (instance.state, instance.ready_at, instance.failing_probes) == (S.READY, first, False)


@pytest.mark.parametrize("status", [0, 1, -9, None])
def test_an_end_that_nobody_asked_for_is_a_crash_whatever_the_code(cluster: Cluster, status: int | None) -> None:
    instance = cluster.ready()
    cluster.clock.advance(60.0)
    ended = cluster.exited(instance, status)
    assert (instance.state, instance.handle, instance.tree_empty) == (S.BACKOFF, None, False)
    assert instance.restart_at == cluster.clock()
    assert (ended["expected"], ended["log"], ended["at"], ended["pid"]) == (False, ["last line"], 77.0, 100)
    assert instance.reason.endswith("; restart 1 of 5 at once")


@pytest.mark.parametrize(("status", "code", "number"), [(0, 0, None), (3, 3, None), (-9, None, 9), (None, None, None)])
def test_code_and_signal_of_an_end_are_kept_apart(
    cluster: Cluster, status: int | None, code: int | None, number: int | None
) -> None:
    ended = cluster.exited(cluster.ready(), status)
    assert (ended["code"], ended["signal"]) == (code, number)


def test_early_failures_wait_ever_longer_and_end_in_failed(cluster: Cluster) -> None:
    waits = []
    for attempt in range(5):
        instance = cluster.starting(fresh=attempt == 0)
        cluster.exited(instance)
        waits.append(instance.restart_at - cluster.clock())
    assert waits == [0.0, 1.0, 2.0, 4.0, 0.0] and instance.state is S.FAILED
    assert "crash loop" in instance.reason and "exited with code 1" in instance.reason
    cluster.starting(fresh=True)
    cluster.exited(instance)
    assert (instance.state, instance.restart_at) == (S.BACKOFF, cluster.clock())


def test_a_worker_is_never_where_the_table_does_not_let_it(cluster: Cluster) -> None:
    instance = cluster.starting()
    with pytest.raises(IllegalTransition, match="starting -> draining"):
        cluster.fleet.drain(instance, cluster.clock(), (1, 1), balancer=True)


def test_what_is_wanted_at_run_time_can_be_stored(cluster: Cluster) -> None:
    cluster.fleet.intent.weights["instance_1"] = 3
    cluster.fleet.intent.restart("instance_1")
    assert cluster.fleet.intent.durable() == {"strategy": "", "model_names": {}, "desired": {
        "instances": {
            "instance_0": {"generation": 0, "rolling": False}, "instance_1": {"generation": 1, "rolling": False},
        },
        "spares": {}, "weights": {"instance_1": 3}, "drained": {},
    }}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "exited with code 0, which nobody asked for"),
        (3, "exited with code 3"),
        (-9, "killed by signal 9 (SIGKILL)"),
        (-99, "killed by signal 99 (?)"),
        (None, "ended (adopted, so its exit status is not known)"),
    ],
)
def test_an_end_is_described_in_words(status: int | None, words: str) -> None:
    assert describe_exit(status) == words


def test_names_count_from_zero() -> None:
    assert [instance_name(n) for n in range(2)] == ["instance_0", "instance_1"]


# why it was started again


def _hang(cluster: Cluster, instance: Instance) -> None:
    cluster.fleet.hung(instance, "no token for 30 s")
    cluster.fleet.stopping(instance, "hung", cluster.clock(), failure=True)


def _give_up(cluster: Cluster, instance: Instance) -> None:
    cluster.fleet.stopping(instance, "probes fail", cluster.clock(), failure=True)


def _ask(cluster: Cluster, instance: Instance) -> None:
    cluster.fleet.stopping(instance, "restart", cluster.clock())


def _nothing(cluster: Cluster, instance: Instance) -> None:
    """It ends by itself."""


@pytest.mark.parametrize(("before", "ready", "status", "reason"), [
    (_nothing, True, 0, "exit"), (_nothing, False, 1, "exit"), (_nothing, True, None, "exit"),
    (_nothing, True, -9, "signal"), (_give_up, True, -9, "unhealthy"), (_give_up, False, -9, "start"),
    (_hang, True, -9, "hung"), (_ask, True, -15, "planned"),
])  # fmt: skip
def test_restarts_are_counted_by_why_it_had_ended(
    cluster: Cluster, before: Callable[[Cluster, Instance], None], ready: bool, status: int | None, reason: str
) -> None:
    instance = cluster.ready() if ready else cluster.starting()
    before(cluster, instance)
    cluster.exited(instance, status)
    assert instance.restarted == {}, "not before it is started again"
    cluster.fleet.tree_empty(instance, cluster.clock())
    cluster.starting(fresh=False)
    assert (instance.restarted, instance.starts) == ({reason: 1}, 2)
    again = restore("instance_0", json.loads(json.dumps(instance.record())), cluster.clock())
    assert again.restarted == {reason: 1}


def test_the_first_start_is_no_restart_and_its_length_is_known(cluster: Cluster) -> None:
    instance = cluster.ready()
    assert (instance.restarted, instance.start_seconds) == ({}, 2.0)
    cluster.fleet.unhealthy(instance, "slow", cluster.clock(), lost=False)
    cluster.clock.advance(9.0)
    cluster.fleet.ready(instance, MODELS, cluster.clock())
    assert instance.start_seconds == 2.0, "to come back is no start"


def test_a_worker_lacks_what_it_refuses_and_another_ready_one_holds(cluster: Cluster) -> None:
    first, second = cluster.ready("instance_0", refused="sql"), cluster.ready("instance_1")
    assert not cluster.fleet.observed()["instance_0"].missing_adapters, "nobody holds it"
    second.adapters = _refusing("other")
    second.adapters.loaded["sql"] = "/content"
    assert cluster.fleet.missing_adapters(first) == ["sql"] and cluster.fleet.missing_adapters(second) == []
    assert [i.missing_adapters for i in cluster.fleet.observed().values()] == [True, False]
    cluster.fleet.unhealthy(second, "probes fail", 9.0, lost=False)
    assert not cluster.fleet.observed()["instance_0"].missing_adapters
