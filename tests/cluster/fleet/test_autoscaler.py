"""How many workers the load needs, and that nobody is started and ended in turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.fleet.autoscaler import Autoscaler, Demand, ScalingRules, least_missed, seats_of
from cluster.fleet.instance import HeldAdapters, Instance
from cluster.fleet.states import WorkerState
from worker.spec import Slot

RULES = ScalingRules(least=1, most=50, each=10.0, up_after=10.0, down_after=300.0)

#: Requests, by second.
Load = Callable[[int], float]


class Workers:
    """A count that follows what is decided, a look each second."""

    def __init__(self, count: int = 1, rules: ScalingRules = RULES) -> None:
        self.scaler, self.count, self.rules, self.now = Autoscaler(), count, rules, 0
        self.changes: list[tuple[int, int, int]] = []

    def see(self, requests: float, settled: bool = True, unread: float = 0.0) -> int:
        demand = Demand(round(requests), 0, unread)
        target = self.scaler.decide(demand, self.count, settled, self.rules, float(self.now)).target
        if target != self.count:
            self.changes.append((self.now, self.count, target))
        self.count, self.now = target, self.now + 1
        return target

    def run(self, load: Load, seconds: int) -> Workers:
        for second in range(seconds):
            self.see(load(second))
        return self


def test_a_little_more_than_there_is_brings_workers_after_a_while_and_not_before() -> None:
    workers = Workers(2).run(lambda second: 23, 60)
    assert workers.changes == [(10, 2, 3)]
    assert not Workers(2).run(lambda second: 22, 600).changes  # 10 % over are not too much
    assert not Workers(2).run(lambda second: 35 if second % 9 else 15, 250).changes  # nor is what does not last


def test_twice_of_what_there_is_brings_them_at_once_at_most_twice_as_many_in_a_step() -> None:
    assert Workers(2).run(lambda second: 170, 4).changes == [(0, 2, 4), (1, 4, 8), (2, 8, 16)]
    assert Workers(1, ScalingRules(1, 3, 10.0)).run(lambda second: 170, 9).count == 3


def test_workers_that_start_count() -> None:
    """They change nothing of the load at first, and nobody asks for others in their place."""
    workers = Workers(2).run(lambda second: 39, 400)
    assert workers.changes == [(10, 2, 4)]


def test_they_go_one_at_a_time_when_fewer_were_enough_for_long() -> None:
    workers = Workers(6).run(lambda second: 15, 300)
    assert not workers.changes
    workers.see(15)
    assert workers.changes == [(300, 6, 5)]
    for _ in range(100):  # that one is drained
        workers.see(15, settled=False)
    assert workers.count == 5
    workers.run(lambda second: 15, 30)
    assert workers.count == 3  # 1.5 needed: under 60 % of 3, not of 2
    assert [before - after for _, before, after in workers.changes] == [1, 1, 1]


def test_a_moment_of_load_keeps_what_there_is_for_as_long_again() -> None:
    workers = Workers(4).run(lambda second: 39 if second == 200 else 5, 500)
    assert not workers.changes
    assert workers.run(lambda second: 5, 10).changes[0][0] == 501


def test_somebody_elses_change_holds_until_the_load_speaks_against_it() -> None:
    workers = Workers(2).run(lambda second: 5, 299)
    workers.count = 6  # a person
    workers.run(lambda second: 5, 300)
    assert workers.count == 6
    assert workers.run(lambda second: 5, 10).count < 6
    workers = Workers(6).run(lambda second: 40, 100)
    workers.count = 3
    assert [at for at, _, _ in workers.run(lambda second: 40, 100).changes] == [110]


def test_what_was_decided_and_could_not_be_done_is_decided_again() -> None:
    scaler = Autoscaler()
    for second in range(4):
        assert scaler.decide(Demand(30), 1, True, RULES, float(second)).target == 2
        scaler.taken_back(1)


def test_prompts_that_are_not_read_count_where_they_need_more_than_the_requests() -> None:
    workers = Workers(2)
    workers.see(3, unread=8.1)  # 4.05 workers would have read them in 2 s
    assert workers.changes == [(0, 2, 4)]
    assert RULES.needed(Demand(25, 10, 1.0)) == 3.5


def test_the_least_and_the_most_hold_whatever_the_load_is() -> None:
    workers = Workers(1, ScalingRules(4, 6, 10.0)).run(lambda second: 0, 1000)
    assert workers.changes == [(0, 1, 4)]
    workers.rules = ScalingRules(1, 2, 10.0)  # what was on is over, and there is less room
    workers.see(39, settled=False)
    assert workers.count == 4
    assert workers.run(lambda second: 39, 5).count == 2
    assert Workers(3, ScalingRules(8, 4, 10.0)).run(lambda second: 0, 5).count == 4


LOADS = st.floats(0, 400)


@settings(max_examples=60, deadline=None)
@given(LOADS, st.integers(1, 40))
def test_a_load_that_stays_brings_them_one_way_and_then_nothing_happens(load: float, count: int) -> None:
    workers = Workers(count).run(lambda second: load, 1000)
    steps = [after - before for _, before, after in workers.changes]
    assert all(step > 0 for step in steps) or all(step == -1 for step in steps)
    settled = len(workers.changes)
    workers.run(lambda second: load, 2000)
    assert len(workers.changes) == settled
    assert load <= 1.1 * 10 * workers.count + 1


@settings(max_examples=40, deadline=None)
@given(st.floats(1, 400), st.integers(0, 10**6), st.integers(1, 40))
def test_noise_within_a_tenth_never_makes_them_come_and_go(load: float, seed: int, count: int) -> None:
    uniform = Random(seed).uniform

    def noisy(second: int) -> float:
        return load * uniform(0.9, 1.1)

    steps = [after - before for _, before, after in Workers(count).run(noisy, 2000).changes]
    assert all(step > 0 for step in steps) or all(step < 0 for step in steps)
    assert not Workers(max(1, math.ceil(load / 10))).run(noisy, 2000).changes


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 600), st.integers(1, 120)), min_size=1, max_size=30), st.integers(1, 60))
def test_whatever_the_load_does_steps_and_whiles_are_kept(pieces: Iterable[tuple[int, int]], count: int) -> None:
    workers = Workers(min(count, 50))
    for load, seconds in pieces:
        workers.run(lambda second, load=load: load, seconds)  # type: ignore[misc]
    last_up = -1
    for at, before, after in workers.changes:
        assert after == before - 1 or before < after <= min(50, 2 * before)
        assert 1 <= after <= 50
        if after > before:
            last_up = at
        else:
            assert last_up < 0 or at - last_up >= 300  # nobody goes while the load of the rise is in mind


def _instance(number: int, state: WorkerState = WorkerState.READY, *adapters: str) -> Instance:
    held = HeldAdapters(loaded=dict.fromkeys(adapters, "/content"))
    return Instance(f"instance_{number}", Slot(), state, adapters=held, seats=number or None)


@pytest.mark.parametrize(
    ("workers", "leaves"),
    [
        ([_instance(0), _instance(1), _instance(2)], "instance_2"),
        ([_instance(0), _instance(1, WorkerState.STARTING), _instance(2)], "instance_1"),
        ([_instance(0, WorkerState.READY, "a", "b"), _instance(1, WorkerState.READY, "a"),
          _instance(2, WorkerState.READY, "c")], "instance_1"),
        ([_instance(0, WorkerState.READY, "a"), _instance(1, WorkerState.READY, "a", "b", "c"),
          _instance(2, WorkerState.READY, "d")], "instance_0"),
        ([_instance(0, WorkerState.READY, "a"), _instance(1, WorkerState.BACKOFF, "a"),
          _instance(2, WorkerState.READY, "a")], "instance_1"),
    ],
)  # fmt: skip
def test_the_one_goes_that_is_missed_the_least(workers: list[Instance], leaves: str) -> None:
    assert least_missed(workers) == leaves


def test_the_seats_are_those_of_the_smallest_that_says_so() -> None:
    assert seats_of([_instance(0), _instance(5), _instance(3)]) == 3
    assert seats_of([_instance(0)]) is None
