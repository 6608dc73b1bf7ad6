from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.routing.backend import FORGETTING, PATIENCE, PeakEwma

TIMES = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 50)), min_size=1, max_size=20)


def test_before_the_first_measurement_it_is_unknown() -> None:
    assert PeakEwma().value is None


def test_the_first_measurement_is_believed() -> None:
    ewma = PeakEwma()
    ewma.observe(0.3, 5.0)
    assert ewma.value == 0.3


def test_a_slow_answer_is_believed_at_once() -> None:
    ewma = PeakEwma()
    ewma.observe(0.1, 0.0)
    ewma.observe(3.0, 0.001)
    assert ewma.value == 3.0


def test_a_quick_answer_moves_it_by_how_much_time_has_passed() -> None:
    ewma = PeakEwma(decay=10.0)
    ewma.observe(1.0, 0.0)
    ewma.observe(0.0, 10.0)
    assert ewma.value == pytest.approx(math.exp(-1))


def test_a_peak_is_forgotten_as_time_passes() -> None:
    ewma = PeakEwma(decay=10.0)
    ewma.observe(9.0, 0.0)
    for second in range(1, 101):
        ewma.observe(0.1, float(second))
    assert ewma.value == pytest.approx(0.1, abs=0.01)


def test_a_clock_that_stands_still_changes_nothing_downwards() -> None:
    ewma = PeakEwma()
    ewma.observe(1.0, 7.0)
    ewma.observe(0.1, 7.0)
    assert ewma.value == 1.0


@given(TIMES)
def test_it_is_never_outside_what_was_measured(measured: list[tuple[float, float]]) -> None:
    ewma, now = PeakEwma(), 0.0
    for latency, pause in measured:
        now += pause
        ewma.observe(latency, now)
    assert ewma.value is not None
    latencies = [latency for latency, _ in measured]
    assert min(latencies) * (1 - 1e-9) <= ewma.value <= max(latencies) * (1 + 1e-9)
    assert ewma.value >= measured[-1][0] * (1 - 1e-9)


def test_passed_over_it_is_reckoned_with_less_but_shown_as_measured() -> None:
    ewma = PeakEwma()
    ewma.passed_over(1)
    assert ewma.estimate is None
    ewma.observe(1.0, 0.0)
    for _ in range(PATIENCE):
        ewma.passed_over(1)
    assert ewma.estimate == 1.0
    for _ in range(int(FORGETTING)):
        ewma.passed_over(1)
    assert ewma.estimate == pytest.approx(math.exp(-1))
    assert ewma.value == 1.0
    ewma.observe(1.0, 0.0)
    ewma.passed_over(1)
    assert ewma.estimate == 1.0


def test_an_answer_after_that_is_believed_whichever_way_it_is_off() -> None:
    quicker, slower = PeakEwma(), PeakEwma()
    for ewma in (quicker, slower):
        ewma.observe(1.0, 0.0)
        for _ in range(50):
            ewma.passed_over(1)
    quicker.observe(0.01, 0.001)
    assert quicker.value == quicker.estimate == 0.01
    slower.observe(0.9, 0.001)
    assert slower.value == slower.estimate == 0.9


@given(st.lists(st.one_of(st.none(), st.tuples(st.floats(0, 100), st.floats(0, 50))), min_size=1, max_size=30))
def test_an_estimate_is_never_above_what_was_measured(steps: list[tuple[float, float] | None]) -> None:
    """None: passed over."""
    ewma, now, latencies = PeakEwma(), 0.0, []
    for step in steps:
        if step is None:
            before = ewma.estimate
            ewma.passed_over(1)
            assert before is None or (ewma.estimate is not None and ewma.estimate <= before)
            continue
        latencies.append(step[0])
        now += step[1]
        ewma.observe(step[0], now)
        assert ewma.estimate == ewma.value
    if not latencies:
        assert ewma.estimate is None
        return
    assert ewma.value is not None
    assert ewma.estimate is not None
    assert 0 <= ewma.estimate <= ewma.value
    assert min(latencies) * (1 - 1e-9) <= ewma.value <= max(latencies) * (1 + 1e-9)
