"""The arithmetic of limits that machines share, against a store that is slow, forgets, or is not there."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.admission.rate_limits import OwnCells, TokenBucket
from lb.admission.stored_buckets import FULL_US, StoredBucket, StoredBuckets, Word

#: Of the machines of these tests, in ticks of 10 ms: between two messages, and each way of one at most.
EVERY, WAY = 5, 4

#: Ticks of a minute, and µs of a tick.
MINUTE, TICK_US = 6_000, 10_000


class PretendStore:
    """What `lb.control.limits_store` has written in Lua, for one bucket; ``now`` in ticks."""

    def __init__(self) -> None:
        self._full, self._epoch = 0.0, 1

    def exchange(self, word: Word, now: int) -> tuple[float, str]:
        left = max(0.0, self._full - now * TICK_US)
        if word.epoch != str(self._epoch):
            left = max(left, word.missing)
        left = max(0.0, left + word.taken)
        self._full = now * TICK_US + left
        return left, str(self._epoch)

    def flush(self) -> None:
        self._full, self._epoch = 0.0, self._epoch + 1


@dataclass
class Machine:
    """Tells the store what it has to say at the next multiple of `EVERY` after its last word, and hears of it later."""

    store: PretendStore
    limit: int
    way: int = 0
    started_at: int = 0
    next_word: int = 0

    def __post_init__(self) -> None:
        self.buckets = StoredBuckets()
        self.bucket = self.buckets.widen("a", TokenBucket(self.limit, OwnCells()))
        self._told, self._found = Word(0.0, 0.0, ""), (0.0, "")
        #: At which tick the message arrives, and the answer; None: nothing is under way.
        self._arrives: int | None = None
        self._returns: int | None = None

    def now(self, time: int) -> float:
        """Its clock began when it was started."""
        return (time + self.started_at) / 100

    def step(self, time: int) -> None:
        """One tick."""
        if self._returns == time:
            self.bucket.hear(*self._found, self.now(time))
            self._returns = None
        if self._arrives == time:
            self._arrives = None
            self._found = self.store.exchange(self._told, time)
            self._returns = time + max(1, self.way)
        if self._arrives is None and self._returns is None and time >= self.next_word and self.buckets.due(1):
            self._told = self.bucket.tell(self.now(time))
            self.next_word, self._arrives = time + EVERY, time + max(1, self.way)


_STEPS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 2), st.integers(1, 40), st.integers(1, 8)), min_size=1, max_size=30
)


@given(st.integers(1, 300), st.tuples(*[st.integers(0, WAY)] * 3), _STEPS)
def test_over_by_what_is_taken_while_word_is_under_way(
    limit: int, ways: tuple[int, ...], steps: list[tuple[int, int, int, int]]
) -> None:
    """Three machines take from one bucket. In no time do they take more than it held and what flowed in, but for what
    each took while what the others had taken was on its way to it; and that, once."""
    store = PretendStore()
    machines = [Machine(store, limit, way, 10**6 * number) for number, way in enumerate(ways)]
    time, by = 0, [list[tuple[int, int]]() for _ in machines]
    for passed, number, amount, times in steps:
        for _ in range(passed):
            time += 1
            for machine in machines:
                machine.step(time)
        for _ in range(times):
            if machines[number].bucket.take(amount, machines[number].now(time)):
                by[number].append((time, amount))
    lag = EVERY + 2 * max(1, WAY)
    over = sum(max((_sum(taken, at - lag, at) for at, _ in taken), default=0) for taken in by)
    together = sorted(itertools.chain(*by))
    for begin, _ in together:
        for end, _ in together:
            assert _sum(together, begin, end) <= limit + limit * max(0, end - begin) / MINUTE + over + 0.01


def _sum(taken: list[tuple[int, int]], begin: int, end: int) -> int:
    return sum(amount for at, amount in taken if begin <= at <= end)


@pytest.mark.parametrize("way", [0, WAY])
def test_what_flooders_on_three_machines_take_in_ten_minutes(way: int) -> None:
    """Each asks for ten times the rate, all the time: together they get what one bucket has, and once what came while
    word was under way."""
    store, limit, minutes = PretendStore(), 600, 10
    machines = [Machine(store, limit, way, 10**6 * number) for number in range(3)]
    got = [0, 0, 0]
    for time in range(minutes * MINUTE):
        for number, machine in enumerate(machines):
            machine.step(time)
            got[number] += machine.bucket.take(1, machine.now(time))
    lag = EVERY + 2 * max(1, way)
    assert limit * (minutes + 1) - 1 <= sum(got) <= limit * (minutes + 1) + 3 * lag
    assert min(got) > sum(got) / 10


@given(st.integers(1, 600), st.lists(st.tuples(st.integers(0, 300), st.integers(1, 12)), max_size=50))
def test_a_machine_alone_has_what_it_would_have_without_a_store(limit: int, steps: list[tuple[int, int]]) -> None:
    """But for what flows in while word is under way."""
    machine, plain, time = Machine(PretendStore(), limit, WAY), TokenBucket(limit, OwnCells()), 0
    for passed, amount in steps:
        for _ in range(passed):
            time += 1
            machine.step(time)
        before = plain.level(machine.now(time))
        here = machine.bucket.take(amount, machine.now(time))
        assert here or before < amount + limit * (EVERY + 2 * WAY) / MINUTE + 0.01
        if here:
            assert plain.take(amount, machine.now(time)), "never more than its own bucket lets through"


def test_what_others_took_is_missing_and_what_they_give_back_is_there() -> None:
    store = PretendStore()
    one, other = (Machine(store, 100, 1, started) for started in (0, 10**6))
    one.bucket.settle(250, one.now(0))
    assert one.bucket.level(one.now(0)) == pytest.approx(-150)
    for time in range(10):
        one.step(time)
    assert other.bucket.take(1, other.now(10)), "it has not heard yet"
    for time in range(10, 20):
        other.step(time)
    assert not other.bucket.take(1, other.now(20))
    assert other.bucket.level(other.now(20)) == pytest.approx(-151, abs=0.5)
    assert other.bucket.wait(1, other.bucket.level(other.now(20))) == pytest.approx(152 * 0.6, abs=0.5)
    one.bucket.settle(-200, one.now(60))
    for time in range(60, 200):
        one.step(time)
        other.step(time)
    assert other.bucket.take(40, other.now(200))


def test_a_store_that_has_forgotten_is_told() -> None:
    store = PretendStore()
    machine, other = Machine(store, 100, 1), Machine(store, 100, 1)
    assert machine.bucket.take(90, machine.now(0))
    for time in range(10):
        machine.step(time)
    store.flush()
    assert machine.bucket.take(5, machine.now(100))
    for time in range(100, 110):
        machine.step(time)
    other.bucket.take(1, other.now(200))
    for time in range(200, 210):
        other.step(time)
    assert other.bucket.level(other.now(210)) == pytest.approx(4 + 2.1 * 100 / 60, abs=0.1)


def test_what_may_have_been_heard_is_not_told_as_taken_again() -> None:
    """The message arrived and its answer did not, or neither did: of both the store takes what is missing here."""
    for lost in (True, False):
        store = PretendStore()
        bucket = StoredBucket("a", TokenBucket(100, OwnCells()), lambda bucket: None)
        assert bucket.take(30, 1.0)
        told = bucket.tell(1.0)
        if not lost:
            store.exchange(told, 100)
        assert bucket.take(20, 1.0)
        again = bucket.tell(1.0)
        assert again == (pytest.approx(0.2 * FULL_US), pytest.approx(0.3 * FULL_US), "")
        assert store.exchange(again, 100)[0] == pytest.approx(0.5 * FULL_US)


@pytest.mark.parametrize("missing", [-1.0, float("nan"), float("inf"), 1e18])
def test_what_cannot_be_is_not_believed(missing: float) -> None:
    bucket = StoredBucket("a", TokenBucket(100, OwnCells()), lambda bucket: None)
    bucket.tell(1.0)
    with pytest.raises(ValueError, match="bucket"):
        bucket.hear(missing, "1", 1.0)
    assert bucket.take(100, 1.0)


def test_each_is_due_once_in_the_order_that_they_came() -> None:
    woken = list[int]()
    buckets = StoredBuckets()
    buckets.wake = lambda: woken.append(len(buckets))
    made = [buckets.widen(str(number), TokenBucket(10, OwnCells())) for number in range(3)]
    for bucket in (made[1], made[0], made[1], made[2]):
        bucket.settle(1, 1.0)
    assert woken == [1, 2, 3]
    assert buckets.due(2) == [made[1], made[0]]
    assert buckets.due(2) == [made[2]]
    assert not buckets.due(2)
    assert len({bucket.key for bucket in made}) == 3
