"""The simulated engine: what it computes at once is what it would compute step by step."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.sim.engine.batch import BatchEngine, BatchJob
from worker.sim.engine.costs import H100_8B

SMALL = replace(H100_8B, kv_tokens=6000, batched_tokens=512, seats=6)


class StepByStep(BatchEngine):
    def _plan(self, now: float) -> None:
        super()._plan(now)
        if self._planned > 1:
            self._planned, self.due = 1, now + self._base


JOBS = st.lists(
    st.tuples(
        st.floats(0, 3), st.integers(1, 900), st.integers(1, 60), st.sampled_from([None, "a", "b", "c", "d"]),
        st.integers(0, 3),
    ),
    min_size=1, max_size=25,
)  # fmt: skip


def times(kind: type[BatchEngine], jobs: list[tuple[float, int, int, str | None, int]]) -> list[tuple[float, float]]:
    done: list[BatchJob] = []
    engine = kind(SMALL, 2, 3, lambda job, now: None, lambda job, now: done.append(job))
    for number, (at, prompt, output, adapter, blocks) in enumerate(sorted(jobs, key=lambda job: job[0])):
        while engine.due <= at:
            engine.advance()
        ranks = {None: 0, "a": 8, "b": 16, "c": 64, "d": 8}
        engine.submit(BatchJob(number, at, prompt, output, adapter, ranks[adapter], tuple(range(blocks))), at)
    while engine.due < math.inf:
        engine.advance()
    assert (engine.running, engine.lines.count, engine.kv, engine.active, engine.lines.by_adapter) == (0, 0, 0, {}, {})
    assert engine._context == engine.pending_tokens() == 0
    return [(job.first, job.ended) for job in sorted(done, key=lambda job: job.number)]


@settings(max_examples=60)
@given(JOBS)
def test_many_steps_at_once_end_when_they_would_one_by_one(
    jobs: list[tuple[float, int, int, str | None, int]],
) -> None:
    at_once, one_by_one = times(BatchEngine, jobs), times(StepByStep, jobs)
    assert len(at_once) == len(jobs)
    for made, expected in zip(at_once, one_by_one, strict=True):
        assert made == pytest.approx(expected, rel=1e-6)


@settings(max_examples=40)
@given(JOBS, st.data())
def test_whoever_goes_away_leaves_nothing_behind(
    jobs: list[tuple[float, int, int, str | None, int]], data: st.DataObject
) -> None:
    ended: list[int] = []
    engine = BatchEngine(SMALL, 2, 3, lambda job, now: None, lambda job, now: ended.append(job.number))
    sent, gone = [], set()
    for number, (at, prompt, output, adapter, blocks) in enumerate(sorted(jobs, key=lambda job: job[0])):
        while engine.due <= at:
            engine.advance()
        sent.append(BatchJob(number, at, prompt, output, adapter, 8, tuple(range(blocks))))
        engine.submit(sent[-1], at)
        victim = sent[data.draw(st.integers(0, number))]
        if victim.number not in ended and victim.number not in gone:
            gone.add(victim.number)
            engine.cancel(victim, at)
    while engine.due < math.inf:
        engine.advance()
    assert set(range(len(sent))) - gone <= set(ended)
    assert len(ended) == len(set(ended))
    assert (engine.running, engine.lines.count, engine.kv, engine.active) == (0, 0, 0, {})
    assert engine._context == engine.pending_tokens() == 0


def test_an_adapter_that_comes_from_disk_stops_the_others_once_their_step_is_over() -> None:
    ends = []
    for loads in (False, True):
        engine = BatchEngine(H100_8B, 2, 3, lambda job, now: None, lambda job, now: ends.append(now))
        engine.submit(BatchJob(0, 0.0, 100, 100, None, 0), 0.0)
        while engine.due <= 0.3:
            engine.advance()
        if loads:
            assert engine.hold("a", 16, 0.3) == H100_8B.fetch_time(16)
            assert engine.hold("a", 16, 0.3) == 0.0  # it is there
        while engine.due < math.inf:
            engine.advance()
    assert ends[1] == pytest.approx(ends[0] + H100_8B.fetch_time(16))


def test_no_more_adapters_at_a_time_than_slots_and_none_is_passed_over_for_ever() -> None:
    most, random = 0, Random(1)
    ended: list[BatchJob] = []
    engine = BatchEngine(SMALL, 2, 3, lambda job, now: None, lambda job, now: ended.append(job))
    for number in range(200):
        at = number * 0.01
        while engine.due <= at:
            engine.advance()
            most = max(most, len(engine.active))
        engine.submit(BatchJob(number, at, 50, 20, random.choice("abcdef"), 8), at)
    while engine.due < math.inf:
        engine.advance()
        most = max(most, len(engine.active))
    assert (most, len(ended)) == (2, 200)


def test_a_prompt_that_was_read_is_not_read_again() -> None:
    firsts: list[float] = []
    engine = BatchEngine(H100_8B, 2, 3, lambda job, now: firsts.append(now - job.arrived), lambda job, now: None)
    for number, adapter in enumerate(("a", "a", "b")):
        at = number * 100.0
        while engine.due <= at:
            engine.advance()
        engine.submit(BatchJob(number, at, 8000, 1, adapter, 8, tuple(range(15))), at)
    while engine.due < math.inf:
        engine.advance()
    assert firsts[1] < firsts[0] / 5
    assert firsts[2] > firsts[0] / 2  # of another adapter: other keys and values
    assert engine.cached_tokens == 15 * 512
