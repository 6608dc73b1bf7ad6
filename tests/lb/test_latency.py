from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.latency import PeakEwma

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
