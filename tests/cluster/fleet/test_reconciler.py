"""The reconciler, one decision at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from cluster.fleet import rolling
from cluster.fleet.groups import DEFAULT, InstanceDesired, WorkerGroup
from cluster.fleet.instance import Instance
from cluster.fleet.reconciler import (
    Action,
    Admit,
    Dismiss,
    Drain,
    Exit,
    Kill,
    Retire,
    Sleep,
    Start,
    Stop,
    Sweep,
    Wake,
    reconcile,
)
from cluster.fleet.states import (
    RUNNING,
    TRANSITIONS,
    DesiredState,
    IllegalTransition,
    InstanceObserved,
    WorkerState,
)
from worker.spec import Slot

S = WorkerState


def _wanting(instances: Mapping[str, InstanceDesired], **more: Any) -> DesiredState:
    """In one group; it has whatever names."""
    return DesiredState({DEFAULT: WorkerGroup(instances=instances)}, **more)


def _desired(*names: str, **more: Any) -> DesiredState:
    return _wanting({n: InstanceDesired() for n in names}, **more)


def _seen(name: str, state: S, since: float = 0.0, **more: Any) -> InstanceObserved:
    alive = state in RUNNING
    seen = InstanceObserved(name, state, since, main_alive=alive, tree_empty=not alive)
    return replace(seen, **more)


def _actions(desired: DesiredState, *seen: InstanceObserved, now: float = 0.0) -> list[Action]:
    return reconcile(desired, {i.id: i for i in seen}, now)


def test_what_is_wanted_and_not_there_is_admitted_in_order() -> None:
    assert _actions(_desired("a", "b")) == [Admit("a"), Admit("b")]


def test_an_admitted_worker_is_started_with_a_clean_record() -> None:
    assert _actions(_desired("a"), _seen("a", S.STOPPED)) == [Start("a", fresh=True)]


@pytest.mark.parametrize(("now", "actions"), [(4.9, []), (5.0, [Start("a")])])
def test_a_crashed_worker_is_started_when_its_delay_is_over(now: float, actions: list[Action]) -> None:
    assert _actions(_desired("a"), _seen("a", S.BACKOFF, restart_at=5.0), now=now) == actions


@pytest.mark.parametrize("state", [S.BACKOFF, S.FAILED, S.STOPPED, S.STOPPING])
@pytest.mark.parametrize("desired", [_desired("a"), _desired(), _desired(shutting_down=True, kill_now=True)])
def test_what_a_dead_worker_left_behind_is_swept_before_anything_else(state: S, desired: DesiredState) -> None:
    seen = _seen("a", state, main_alive=False, tree_empty=False, generation=-1)
    assert _actions(desired, seen, now=1e9) == [Sweep("a")]


@pytest.mark.parametrize("state", [S.READY, S.UNHEALTHY])
def test_a_hung_worker_is_killed_at_once_and_has_failed(state: S) -> None:
    seen = _seen("a", state, hung="hung: no token for 10.4 s")
    assert _actions(_desired("a"), seen) == [Kill("a", "hung: no token for 10.4 s", failure=True)]


def test_a_hung_worker_that_was_to_end_is_not_waited_for() -> None:
    seen = _seen("a", S.DRAINING, in_flight=3, hung="hung: no token for 10.4 s")
    assert _actions(_desired(), seen) == [Kill("a", "hung: no token for 10.4 s")]


@pytest.mark.parametrize("state", [S.FAILED, S.READY, S.STARTING, S.UNHEALTHY])
def test_a_worker_that_is_where_it_should_be_is_left_alone(state: S) -> None:
    assert _actions(_desired("a"), _seen("a", state), now=600.0) == []


def test_a_start_that_takes_too_long_is_a_failure() -> None:
    (kill,) = _actions(_desired("a", startup_timeout=9.0), _seen("a", S.STARTING), now=9.1)
    assert kill == Kill("a", "not ready within 9 s", failure=True)


def test_a_worker_whose_probes_keep_failing_is_killed_as_a_failure() -> None:
    (kill,) = _actions(_desired("a"), _seen("a", S.UNHEALTHY, failing_probes=True))
    assert isinstance(kill, Kill) and kill.failure


@pytest.mark.parametrize("state", [S.BACKOFF, S.FAILED])
def test_a_restart_that_is_asked_for_clears_the_record_at_once(state: S) -> None:
    desired = _wanting({"a": InstanceDesired(generation=1)})
    assert _actions(desired, _seen("a", state, restart_at=99.0)) == [Start("a", fresh=True)]


@pytest.mark.parametrize("state", [S.READY, S.UNHEALTHY])
@pytest.mark.parametrize("desired", [_desired(), _wanting({"a": InstanceDesired(1)})])
def test_a_serving_worker_is_drained_before_it_ends(state: S, desired: DesiredState) -> None:
    assert _actions(desired, _seen("a", state)) == [Drain("a")]


@pytest.mark.parametrize("desired", [_desired(), _wanting({"a": InstanceDesired(1)})])
def test_a_starting_worker_ends_without_a_drain(desired: DesiredState) -> None:
    (stop,) = _actions(desired, _seen("a", S.STARTING))
    assert isinstance(stop, Stop)


@pytest.mark.parametrize(
    ("in_flight", "now", "reason"),
    [
        (0, 0.0, "drained"),
        (None, 0.0, None),
        (2, 29.9, None),
        (2, 30.0, "drain timeout of 30 s"),
        (None, 30.0, "drain timeout of 30 s"),
    ],
)
@pytest.mark.parametrize("desired", [_desired(), _desired("a")])
def test_a_drain_ends_when_nothing_runs_or_time_is_up(
    desired: DesiredState, in_flight: int | None, now: float, reason: str | None
) -> None:
    expected = [Stop("a", reason)] if reason else []
    assert _actions(desired, _seen("a", S.DRAINING, in_flight=in_flight), now=now) == expected


@pytest.mark.parametrize(("now", "kills"), [(9.9, 0), (10.0, 1)])
@pytest.mark.parametrize("desired", [_desired(), _desired("a")])
def test_a_worker_that_does_not_stop_is_killed(desired: DesiredState, now: float, kills: int) -> None:
    actions = _actions(desired, _seen("a", S.STOPPING), now=now)
    assert [type(a) for a in actions] == [Kill] * kills
    assert not any(a.failure for a in actions if isinstance(a, Kill))


@pytest.mark.parametrize("state", [S.BACKOFF, S.FAILED, S.STOPPED])
def test_what_is_neither_wanted_nor_running_is_forgotten(state: S) -> None:
    assert _actions(_desired(), _seen("a", state)) == [Retire("a")]


@pytest.mark.parametrize("state", sorted(RUNNING))
def test_a_hurried_shutdown_kills_whatever_runs(state: S) -> None:
    desired = _desired("a", shutting_down=True, kill_now=True)
    assert _actions(desired, _seen("a", state)) == [Kill("a", "asked to end at once")]


def test_a_shutdown_starts_nothing_and_exits_when_all_is_gone() -> None:
    desired = _desired("a", "b", shutting_down=True)
    assert _actions(desired, _seen("b", S.STOPPED)) == [Retire("b")]
    assert _actions(desired) == [Exit()]
    assert _actions(_desired()) == []


def test_two_workers_of_one_gpu_start_one_after_the_other() -> None:
    a, b, c = (_seen(n, S.STOPPED, gpus=g) for n, g in (("a", (0, 1)), ("b", (1,)), ("c", (2,))))
    desired = _desired("a", "b", "c")
    assert _actions(desired, a, b, c) == [Start("a", fresh=True), Start("c", fresh=True)]
    assert _actions(desired, replace(a, state=S.STARTING), b, replace(c, state=S.READY)) == []
    assert _actions(desired, replace(a, state=S.READY), b, replace(c, state=S.READY)) == [Start("b", fresh=True)]


def test_a_worker_that_is_not_wanted_any_more_still_holds_its_gpu_while_it_starts() -> None:
    actions = _actions(_desired("a"), _seen("a", S.STOPPED, gpus=(0,)), _seen("b", S.STARTING, gpus=(0,)))
    assert [type(a) for a in actions] == [Stop]


ROLL = _wanting({n: InstanceDesired(1, rolling=True) for n in "abc"})


def test_a_rolling_restart_takes_one_worker_if_all_others_are_ready() -> None:
    ready = [_seen(n, S.READY) for n in "abc"]
    assert _actions(ROLL, *ready) == [Drain("a")]
    assert _actions(ROLL, replace(ready[0], generation=1), *ready[1:]) == [Drain("b")]


@pytest.mark.parametrize("state", sorted(set(S) - {S.READY, S.ASLEEP}))
def test_a_rolling_restart_waits_for_a_worker_that_is_not_ready(state: S) -> None:
    seen = _seen("a", state, generation=1, restart_at=99.0, in_flight=1)
    actions = _actions(ROLL, seen, _seen("b", S.READY), _seen("c", S.READY))
    assert not [a for a in actions if not isinstance(a, Start)]


def test_a_rolling_restart_begins_with_a_worker_that_serves_nobody() -> None:
    seen = [_seen("a", S.READY), _seen("b", S.FAILED), _seen("c", S.READY)]
    assert _actions(ROLL, *seen) == [Start("b", fresh=True)]


def test_a_rolling_restart_waits_for_a_worker_that_somebody_restarts_by_hand() -> None:
    """Else both go down at once, although the rolling one could have known."""
    desired = _wanting({"a": InstanceDesired(1, rolling=True), "b": InstanceDesired(2)})
    assert _actions(desired, _seen("a", S.READY), _seen("b", S.READY)) == [Drain("b")]


SPARE = ROLL.with_group(replace(ROLL.groups[DEFAULT], spares={"s": InstanceDesired(0, rolling=True)}))


def test_a_spare_is_started_before_anything_is_taken_down() -> None:
    ready = [_seen(n, S.READY) for n in "abc"]
    assert _actions(SPARE, *ready) == [Admit("s")]
    assert _actions(SPARE, *ready, _seen("s", S.STOPPED)) == [Start("s", fresh=True)]
    assert _actions(SPARE, *ready, _seen("s", S.STARTING)) == []
    assert _actions(SPARE, *ready, _seen("s", S.FAILED)) == []
    assert _actions(SPARE, *ready, _seen("s", S.READY)) == [Drain("a")]


def test_a_spare_goes_when_all_are_back() -> None:
    done = [_seen(n, S.READY, generation=1) for n in "ab"]
    spare = _seen("s", S.READY)
    assert _actions(SPARE, *done, _seen("c", S.STARTING, generation=1), spare) == []
    back = (*done, _seen("c", S.READY, generation=1), spare)
    assert _actions(SPARE, *back) == [Dismiss("s")]
    assert _actions(ROLL, *back) == [Drain("s")]


def test_a_spare_stays_for_a_worker_that_does_not_come_back() -> None:
    seen = [_seen("a", S.FAILED, generation=1), *(_seen(n, S.READY) for n in "bcs")]
    assert _actions(SPARE, *seen) == []


@pytest.mark.parametrize("who", ["s", "a"])
def test_one_that_refuses_what_others_hold_stops_a_rolling_restart(who: str) -> None:
    """It is ready, for the base model alone: the others are the last that hold the adapters."""
    ready = {n: _seen(n, S.READY) for n in "abcs"}
    desired = SPARE if who == "s" else ROLL
    if who == "a":
        del ready["s"]
    ready[who] = replace(ready[who], generation=desired.wanted[who].generation, missing_adapters=True)
    assert _actions(desired, *ready.values()) == []
    seen = rolling.progress(desired, ready)
    assert (seen.active, seen.done, seen.stopped_by) == (True, 0, who)
    ready[who] = replace(ready[who], missing_adapters=False)
    assert _actions(desired, *ready.values()) == [Drain("a" if who == "s" else "b")]
    assert rolling.progress(desired, ready).stopped_by is None


def test_a_spare_stays_while_it_alone_holds_what_the_last_one_refuses() -> None:
    back = [_seen(n, S.READY, generation=1) for n in "abc"]
    back[2] = replace(back[2], missing_adapters=True)
    assert _actions(SPARE, *back, _seen("s", S.READY)) == []
    assert rolling.progress(SPARE, {i.id: i for i in [*back, _seen("s", S.READY)]}).stopped_by == "c"


def test_one_that_refused_an_adapter_before_is_rolled_like_all() -> None:
    ready = [_seen(n, S.READY, missing_adapters=n == "a") for n in "abc"]
    assert _actions(ROLL, *ready) == [Drain("a")]
    assert rolling.progress(ROLL, {i.id: i for i in ready}).stopped_by is None


def test_a_shutdown_ends_the_spare_like_all_others() -> None:
    ready = [_seen(n, S.READY) for n in "abcs"]
    assert sorted(a.id for a in _actions(replace(SPARE, shutting_down=True), *ready) if isinstance(a, Drain)) == [
        "a", "b", "c", "s",
    ]  # fmt: skip


@pytest.mark.parametrize(("state", "fresh"), [(S.BACKOFF, False), (S.STOPPED, True)])
def test_a_worker_that_is_not_to_be_rolled_yet_is_started_with_what_it_had(state: S, fresh: bool) -> None:
    """The one that was rolled has failed: what it was started with is not for the others."""
    seen = [_seen("a", S.FAILED, generation=1), _seen("b", state), _seen("c", S.READY)]
    assert _actions(ROLL, *seen) == [Start("b", fresh=fresh, keep=True)]


def test_a_drained_worker_is_rolled_first_and_counts_as_nobody() -> None:
    a, b, c = (_seen(n, S.READY) for n in "abc")
    assert _actions(ROLL, a, replace(b, cordoned=True), c) == [Drain("b")]
    assert _actions(ROLL, a, replace(b, cordoned=True, generation=1), c) == []
    assert _actions(SPARE, a, replace(b, cordoned=True, generation=1), c, _seen("s", S.READY)) == [Drain("a")]


ASLEEP = _wanting({"a": InstanceDesired(asleep=True)})


@pytest.mark.parametrize(
    ("seen", "actions"),
    [
        (_seen("a", S.READY), [Drain("a")]), (_seen("a", S.UNHEALTHY), [Drain("a")]),
        (_seen("a", S.DRAINING, in_flight=None), []), (_seen("a", S.DRAINING, in_flight=1), []),
        (_seen("a", S.DRAINING), [Sleep("a")]), (_seen("a", S.DRAINING, dozing=True), []),
        (_seen("a", S.DRAINING, hung="it refuses"), [Kill("a", "it refuses", failure=True)]),
        (_seen("a", S.ASLEEP), []), (_seen("a", S.STARTING), [Stop("a", "restart asked for")]),
        *((_seen("a", state), []) for state in (S.BACKOFF, S.FAILED, S.STOPPED)),
        (_seen("a", S.FAILED, tree_empty=False, main_alive=False), [Sweep("a")]),
    ],
)  # fmt: skip
def test_one_that_is_to_sleep_is_drained_first_and_is_not_started(
    seen: InstanceObserved, actions: list[Action]
) -> None:
    """However long its requests take."""
    assert _actions(ASLEEP, seen, now=10.0**6) == actions


def test_one_that_sleeps_is_woken_where_nothing_starts_on_its_gpu() -> None:
    asleep = _seen("a", S.ASLEEP, gpus=(0,))
    assert _actions(_desired("a"), asleep) == [Wake("a")]
    assert _actions(_desired("a", "b"), asleep, _seen("b", S.STARTING, gpus=(0,))) == []
    assert _actions(_desired("a"), _seen("a", S.DRAINING, dozing=True)) == [], "when it sleeps"
    assert _actions(_desired(), asleep) == [Stop("a", "not wanted any more")]
    altered = _seen("a", S.STARTING, hung="it answers otherwise")
    assert _actions(_desired("a"), altered) == [Kill("a", "it answers otherwise", failure=True)]


@pytest.mark.parametrize("old", S)
def test_only_transitions_of_the_table_are_possible(old: S) -> None:
    for new in S:
        instance = Instance("instance_0", Slot(), state=old)
        if new in (old, *TRANSITIONS[old]):
            instance.enter(new, 1.0, "why")
            assert (instance.state, instance.reason) == (new, "why")
        else:
            with pytest.raises(IllegalTransition, match=f"{old} -> {new}"):
                instance.enter(new, 1.0, "why")
            assert instance.state is old


def test_from_every_state_a_worker_can_both_serve_and_be_gone() -> None:
    def reachable(state: S) -> set[S]:
        found, todo = {state}, [state]
        while todo:
            new = TRANSITIONS[todo.pop()] - found
            found |= new
            todo += new
        return found

    assert all({S.READY, S.STOPPED} <= reachable(state) for state in S)


def test_no_more_are_started_at_once_than_there_is_room_for() -> None:
    desired = _wanting({n: InstanceDesired() for n in "abc"}, starts_at_once=2)
    seen = [_seen(n, S.STOPPED) for n in "abc"]
    assert _actions(desired, *seen) == [Start("a", fresh=True), Start("b", fresh=True)]
    assert _actions(desired, _seen("a", S.STARTING, main_alive=True), *seen[1:]) == [Start("b", fresh=True)]


def test_a_forked_start_leaves_room_for_another() -> None:
    desired = _wanting({n: InstanceDesired() for n in "abcd"}, starts_at_once=2)
    seen = [_seen(n, S.STARTING, forked=True) for n in "ab"] + [_seen(n, S.STOPPED) for n in "cd"]
    assert _actions(desired, *seen) == [Start("c", fresh=True)]
    seen[2] = _seen("c", S.STARTING, forked=True)
    assert _actions(desired, *seen) == [Start("d", fresh=True)]
    seen[2] = _seen("c", S.STARTING)
    assert _actions(desired, *seen) == []


def test_a_start_that_hangs_does_not_hold_up_the_others() -> None:
    desired = _wanting({n: InstanceDesired() for n in "ab"}, starts_at_once=1)
    hanging = _seen("a", S.STARTING, main_alive=True, since=-1000.0)
    assert Start("b", fresh=True) in reconcile(desired, {"a": hanging, "b": _seen("b", S.STOPPED)}, -800.0)
