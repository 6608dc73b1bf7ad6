"""Where adapters belong: everywhere the same rules, whatever is asked for and whoever comes and goes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.adapters.homes import Homes, HomeWorker

Placed = Mapping[str, Sequence[str]]

WORK = st.lists(st.sampled_from([0.0, 0.0, 1.0, 3.0, 10.0, 80.0, 500.0]), min_size=1, max_size=24)


def workers(count: int, places: int = 4, slots: int = 2) -> list[HomeWorker]:
    return [HomeWorker(f"instance_{number}", slots, places) for number in range(count)]


def named(work: Sequence[float]) -> tuple[dict[str, float], dict[str, int]]:
    """Work and ranks by adapter."""
    names = [f"a{number}" for number in range(len(work))]
    return dict(zip(names, work, strict=True)), {name: (8, 16, 64)[at % 3] for at, name in enumerate(names)}


def crowd(homes: Placed) -> Counter[str]:
    """Adapters by worker."""
    return Counter(worker for ids in homes.values() for worker in ids)


def steady(homes: Homes, work: Mapping[str, float], ranks: Mapping[str, int], there: list[HomeWorker]) -> Placed:
    """After so many rounds that patience has come to its end."""
    return [homes.round(work, 5.0, ranks, there) for _ in range(8)][-1]


@given(WORK, st.integers(1, 7), st.integers(1, 8))
def test_each_has_a_home_and_nobody_too_many_while_there_is_room(work: list[float], count: int, places: int) -> None:
    by_name, ranks = named(work)
    homes, there = Homes(), workers(count, places)
    for now in (there, there[: max(1, count - 1)], there):
        found = homes.round(by_name, 5.0, ranks, now)
        assert found.keys() == ranks.keys()
        assert all(ids and len(set(ids)) == len(ids) for ids in found.values())
        assert set(crowd(found)) <= {worker.id for worker in now}
        if len(work) <= len(now) * places:
            assert max(crowd(found).values()) <= places
        else:
            assert all(len(ids) == 1 for ids in found.values()), "no second home before each has one"


@given(WORK, st.integers(1, 7))
def test_the_same_input_gives_the_same_homes_and_nothing_moves_while_nothing_changes(
    work: list[float], count: int
) -> None:
    by_name, ranks = named(work)
    first, second = Homes(), Homes()
    found = steady(first, by_name, ranks, workers(count))
    assert found == steady(second, by_name, dict(reversed(ranks.items())), workers(count))
    for _ in range(5):
        assert first.round(by_name, 5.0, ranks, workers(count)) == found


@given(st.integers(1, 24), st.integers(2, 7))
def test_who_leaves_takes_little_more_than_what_was_there_along(adapters: int, count: int) -> None:
    by_name, ranks = named([1.0] * adapters)
    homes = Homes()
    there = workers(count, places=24)
    before = steady(homes, by_name, ranks, there)
    after = homes.round(by_name, 5.0, ranks, there[1:])
    gone = there[0].id
    own = sum(gone in ids for ids in before.values())
    moved = sum(bool(set(before[name]) - set(after[name]) - {gone}) for name in ranks)
    assert moved <= own + 1


def test_homes_are_by_share_of_work_grow_at_once_and_shrink_when_that_has_lasted() -> None:
    work, ranks = {"hot": 70.0, "b": 10.0, "c": 10.0, "d": 10.0}, dict.fromkeys(("hot", "b", "c", "d"), 8)
    homes, there = Homes(), workers(4)
    found = homes.round(dict.fromkeys(work, 10.0), 5.0, ranks, there)
    assert {name: len(ids) for name, ids in found.items()} == dict.fromkeys(work, 1)
    found = homes.round({"hot": 1000.0}, 5.0, ranks, there)
    assert len(found["hot"]) == 4, "nine tenths of the work of four workers"
    kept = [len(homes.round(dict.fromkeys(work, 5000.0), 5.0, ranks, there)["hot"]) for _ in range(4)]
    assert kept[:2] == [4, 4] and kept[2] < 4


def test_more_homes_than_its_work_fills_are_of_no_use() -> None:
    work = {"hot": 30.0, **{f"a{n}": 1.0 for n in range(70)}}
    found = Homes().round(work, 5.0, dict.fromkeys(work, 8), workers(10, places=40, slots=8))
    assert len(found["hot"]) == 3, "of ten workers' work; its share of the slots is 24"


def test_work_is_spread_and_who_comes_gets_some() -> None:
    work = {f"a{number}": 1.0 + number % 3 for number in range(30)}
    homes, ranks = Homes(), dict.fromkeys(work, 8)

    def loads(found: Placed) -> list[float]:
        each: Counter[str] = Counter()
        for name, ids in found.items():
            for worker in ids:
                each[worker] += work[name] / len(ids)  # type: ignore[assignment]
        return sorted(each.values())

    before = loads(steady(homes, work, ranks, workers(5, places=12)))
    assert before[-1] <= 1.3 * sum(before) / 5
    after = loads(steady(homes, work, ranks, workers(6, places=12)))
    assert len(after) == 6 and after[0] >= 0.7 * sum(after) / 6


def test_where_there_is_a_choice_those_of_like_rank_live_together() -> None:
    ranks = {f"a{number}": 128 if number % 2 else 8 for number in range(48)}
    found = Homes().round(dict.fromkeys(ranks, 1.0), 5.0, ranks, workers(8, places=12))
    low = sum(all(ranks[name] == 8 for name, ids in found.items() if w.id in ids) for w in workers(8))
    assert low >= 2, "workers that pay for no large rank"


def test_what_was_there_before_is_kept_by_a_successor() -> None:
    before = {"a": ("instance_2",), "b": ("instance_0",), "c": ("instance_1",)}
    assert Homes(before).round({}, 1.0, dict.fromkeys(before, 8), workers(3)) == before


@pytest.mark.alone
def test_a_round_of_a_thousand_workers_and_a_thousand_adapters_is_short() -> None:
    count = 1000
    work = {f"adapter-{number}": 1000.0 / (number + 1) for number in range(count)}
    ranks, there, homes = dict.fromkeys(work, 16), workers(count, places=32, slots=8), Homes()
    spent = []
    for now in (there, there, there[1:], there):
        began = time.process_time()
        homes.round(work, 5.0, ranks, now)
        spent.append(time.process_time() - began)
    assert min(spent) < 0.05
