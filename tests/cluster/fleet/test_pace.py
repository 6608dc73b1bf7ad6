"""How many requests a worker is busy enough with, learnt from what workers say of themselves."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.fleet.pace import EngineReading, GroupPace, PaceModel

GOAL, NAMED, SEATS = 0.05, 50.0, 256

ONE = ("instance_0", 1)


class Worker:
    """Tells what runs and what was made at a pace (s a token) that depends on the batch."""

    def __init__(self, pace: Callable[[int], float]) -> None:
        self.pace, self.group, self.now, self.made = pace, GroupPace(), 0.0, 0.0

    def run(self, batch: int, seconds: int, key: tuple[str, int] = ONE) -> Worker:
        for _ in range(seconds):
            self.group.saw({key: EngineReading(batch, int(self.made))}, GOAL, self.now)
            self.now += 1.0
            self.made += batch / self.pace(batch)
        return self

    def each(self, named: float = NAMED, seats: int = SEATS) -> float:
        return self.group.each(GOAL, named, seats)


def line(base: float, more: float) -> Callable[[int], float]:
    return lambda batch: base + more * batch


def moved(worker: Worker, batches: tuple[int, ...] = (2, 8, 14, 20, 26), rounds: int = 40) -> Worker:
    """The load goes through these batches, 20 s each."""
    for _ in range(rounds):
        for batch in batches:
            worker.run(batch, 20)
    return worker


def test_before_anything_is_seen_it_is_what_the_settings_say() -> None:
    assert not GroupPace().learnt
    assert GroupPace().each(GOAL, NAMED, SEATS) == pytest.approx(NAMED)
    assert PaceModel().carried(GOAL, NAMED) == pytest.approx(NAMED)


@pytest.mark.parametrize(
    ("base", "more", "carried"),
    [(0.010, 0.001, 40.0), (0.005, 0.0005, 90.0), (0.010, 0.002, 20.0)],
    ids=["as expected", "more", "fewer"],
)
def test_it_becomes_what_the_goal_allows_less_some_room(base: float, more: float, carried: float) -> None:
    found = moved(Worker(line(base, more)))
    assert found.group.learnt
    assert found.each() == pytest.approx(0.7 * carried, rel=0.15)


def test_it_stays_within_a_quarter_and_four_times_and_within_the_seats() -> None:
    slow, fast = moved(Worker(line(0.001, 0.02))), moved(Worker(line(0.005, 1e-5)))
    assert slow.each() == NAMED / 4
    assert fast.each() == 4 * NAMED
    assert fast.each(seats=64) == 64
    assert moved(Worker(line(0.001, 0.04)), (1, 2, 3)).each(named=2.0) == 1.0


def test_where_one_request_is_too_slow_already_more_workers_help_nobody() -> None:
    """A machine that is slower than the goal whatever it has to do."""
    assert moved(Worker(line(0.3, 0.0))).each() == pytest.approx(NAMED)
    assert moved(Worker(line(0.06, 0.001))).each() == pytest.approx(NAMED)


def test_a_load_that_never_moves_says_little_of_a_larger_one() -> None:
    at_five = Worker(line(0.008, 0.0001)).run(5, 3000)
    assert at_five.each() == pytest.approx(NAMED, rel=0.15)


def test_what_was_long_ago_is_forgotten() -> None:
    worker = moved(Worker(line(0.010, 0.002)), rounds=40)
    worker.pace = line(0.010, 0.001)
    assert moved(worker, rounds=300).each() == pytest.approx(0.7 * 40, rel=0.2)


def test_an_idle_worker_one_that_stands_still_and_one_that_starts_again_say_nothing() -> None:
    worker = Worker(line(0.01, 0.001)).run(0, 60)
    worker.pace = lambda batch: math.inf
    worker.run(9, 60)
    assert not worker.group.learnt
    worker.pace = line(0.01, 0.001)
    worker.run(9, 3)
    worker.made = 0.0  # another incarnation: its counter begins anew
    worker.run(9, 3, ("instance_0", 2))
    assert not worker.group.learnt
    assert worker.run(9, 5, ("instance_0", 2)).group.learnt


@given(
    st.lists(st.tuples(st.floats(0.5, 300), st.floats(1e-4, 1.0)), max_size=200), st.floats(1, 200), st.integers(1, 512)
)
def test_whatever_is_seen_it_is_within_its_bounds(
    seen: list[tuple[float, float]], named: float, seats: int
) -> None:
    model = PaceModel()
    for batch, seconds in seen:
        model.observe(batch, seconds)
    assert model.carried(GOAL, named) > 0
    group = GroupPace()
    group._model = model
    assert min(1.0, named / 4) <= group.each(GOAL, named, seats) <= max(1.0, min(4 * named, max(named, seats)))


@given(st.floats(0.002, 0.02), st.floats(0.0002, 0.004), st.floats(5, 150))
def test_a_stricter_goal_never_allows_more(base: float, more: float, named: float) -> None:
    model = PaceModel()
    for _ in range(30):
        for batch in (2, 10, 20, 40):
            model.observe(batch, base + more * batch)
    if base + 2 * more < GOAL / 4:  # it is within reach
        assert model.carried(GOAL / 2, named) <= model.carried(GOAL, named) + 1e-9
