from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lb.admission.pace import Pace


def slow_at(*steps: tuple[float, int], still: float = 60.0, rate: float = 500.0) -> float | None:
    """When it is found to be slow; ``steps`` are times and the bytes that there have been by then."""
    pace = Pace(still, rate, 0.0, 0)
    return next((now for now, count in steps if pace.is_slow(now, count)), None)


def test_what_stands_still_is_slow_after_that_time() -> None:
    assert slow_at((30, 10**6), (89, 10**6), (90, 10**6)) == 90


def test_a_byte_now_and_then_does_not_keep_it_alive() -> None:
    assert slow_at(*((8 * n, n) for n in range(1, 20))) == 64


def test_a_good_beginning_earns_no_credit() -> None:
    found = slow_at((1, 10**9), *((float(n), 10**9 + n) for n in range(2, 200)))
    assert found is not None and found <= 120


def test_what_comes_fast_enough_may_take_for_ever() -> None:
    assert slow_at(*((float(n), 600 * n) for n in range(1, 5000))) is None


def test_without_a_rate_every_byte_counts() -> None:
    assert slow_at(*((50.0 * n, n) for n in range(1, 100)), rate=0) is None


def test_a_pause_that_somebody_else_made_is_none_of_its() -> None:
    pace = Pace(60, 500, 0, 0)
    pace.begin(1000, 5)
    assert not pace.is_slow(1059, 5) and pace.is_slow(1060, 5)


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=300), st.integers(-(10**6), 10**6))
def test_only_what_is_below_the_rate_is_slow_wherever_counting_begins(steps: list[int], start: int) -> None:
    pace, count = Pace(10.0, 500.0, 0.0, start), start
    for second, step in enumerate(steps, 1):
        count += step
        if pace.is_slow(float(second), count):
            window = steps[max(0, second - 20) : second]
            assert min(sum(window[n : n + 10]) for n in range(max(1, len(window) - 9))) < 500 * 10
            return
