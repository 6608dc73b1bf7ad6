"""Which jobs start, in which order, and what is remembered of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import Refused
from cluster.jobs.record import GpuWish, JobRecord, JobState, from_json
from cluster.jobs.registry import KEPT_S, MOST_ENDED, MOST_OPEN, TRANSFERS, JobRegistry


def job(number: int, computes: bool = True, **more: Any) -> JobRecord:
    kind = "train" if computes else "pull"
    return JobRecord(f"{kind}-{number}", kind, "me", 1.0, computes, **more)


def started(registry: JobRegistry) -> list[str]:
    names = []
    while may := registry.startable():
        registry.begin(may[0], 2.0, (), False)
        names.append(may[0].id)
    return names


@given(st.lists(st.booleans(), max_size=20), st.integers(1, 4), st.data())
def test_never_more_than_so_many_run_and_each_starts_in_its_turn(kinds: list[bool], most: int, data: Any) -> None:
    registry, order = JobRegistry(lambda: most), list[str]()
    for number, computes in enumerate(kinds):
        registry.add(job(number, computes))
    while True:
        order += started(registry)
        running = registry.running()
        assert sum(one.computes for one in running) <= most
        assert sum(not one.computes for one in running) <= TRANSFERS
        if not running:
            break
        state = data.draw(st.sampled_from([JobState.DONE, JobState.FAILED, JobState.CANCELLED]))
        registry.end(data.draw(st.sampled_from(running)), 3.0, state)
    for computes in (True, False):
        asked = [one.id for one in registry.jobs.values() if one.computes is computes]
        assert [name for name in order if name in asked] == asked
    assert sum(registry.totals.ended.values()) == len(kinds) == sum(registry.totals.seconds.values())


def test_one_that_waits_is_cancelled_at_once_and_one_that_runs_is_asked_once() -> None:
    registry = JobRegistry(lambda: 1)
    first, second = job(1), job(2)
    registry.add(first)
    registry.add(second)
    started(registry)
    assert registry.cancel(second, 5.0) is False and second.state is JobState.CANCELLED
    assert [registry.cancel(first, 5.0), registry.cancel(first, 6.0)] == [True, False]
    assert first.state is JobState.RUNNING and first.cancelling
    with pytest.raises(Refused, match="train-2 has ended already: cancelled"):
        registry.cancel(second, 7.0)
    with pytest.raises(ValueError):
        registry.begin(second, 8.0, (), False)


def test_the_oldest_of_too_many_are_forgotten_and_what_is_open_never_is() -> None:
    registry = JobRegistry(lambda: 1)
    for number in range(MOST_ENDED + 3):
        registry.add(job(number))
        if number:
            registry.end(registry.find(f"train-{number}"), 10.0, JobState.DONE)
    assert registry.forget(11.0) == ["train-1", "train-2"]
    assert len(registry.forget(11.0 + KEPT_S)) == MOST_ENDED and list(registry.jobs) == ["train-0"]


def test_no_more_than_so_many_wait() -> None:
    registry = JobRegistry(lambda: 1)
    for number in range(MOST_OPEN):
        registry.check_room()
        registry.add(job(number))
    with pytest.raises(Refused, match="wait or run"):
        registry.check_room()


@pytest.mark.parametrize("wish", [GpuWish(), GpuWish(()), GpuWish((1, 2), share=True)])
def test_a_record_is_read_as_it_was_stored_also_with_what_a_later_version_adds(wish: GpuWish) -> None:
    record = job(3, wish=wish, state=JobState.RUNNING, gpus=(1,), pid=5, started_at=2.0)
    stored = json.loads(json.dumps(record.to_json()))
    assert from_json({**stored, "new": 1}) == record
