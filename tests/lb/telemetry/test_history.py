"""The last hour: pure, with a clock that the test turns."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.telemetry.history import BYTES, INSTANCES, SLOTS, STEP, Ring, merged, quantile
from lb.telemetry.instruments import FINE
from lb.telemetry.metrics import Metrics, TrafficTotals

T0 = 1_700_000_000.0 // STEP * STEP


def totals(requests: float = 0, errors: float = 0, tokens: float = 0, in_flight: float = 0, queued: float = 0,
           ttft: tuple[int, int] = (0, 0)) -> TrafficTotals:  # fmt: skip
    """``ttft``: a bucket, and how many answers are in it."""
    spread = [0.0] * (len(FINE) + 1)
    spread[ttft[0]] = float(ttft[1])
    return TrafficTotals(requests, errors, tokens, in_flight, queued, spread, [0.0] * (len(FINE) + 1))


def recorded(*looks: tuple[float, TrafficTotals, dict[str, float]]) -> bytearray:
    memory = bytearray(BYTES)
    ring = Ring(memory)
    for seconds, seen, made in looks:
        ring.add(T0 + seconds, seen, made)
    ring.release()
    return memory


def samples(*rings: bytearray, now: float, seconds: float = 3600) -> list[dict[str, Any]]:
    return merged(rings, T0 + now, seconds)


def test_what_was_counted_between_two_looks_is_in_the_step_of_the_second() -> None:
    ring = recorded(
        (0, totals(requests=100), {}), (5, totals(requests=120, errors=2, tokens=50, in_flight=4, queued=1), {}),
        (9, totals(requests=130, errors=2, tokens=60, in_flight=2), {}), (12, totals(requests=135, errors=2), {}),
    )  # fmt: skip
    one, two = samples(ring, now=20)
    assert (one["at"], two["at"]) == (T0, T0 + STEP)
    assert (one["requests_per_s"], one["errors_per_s"], one["tokens_per_s"]) == (3.0, 0.2, 6.0)
    assert (one["in_flight"], one["queued"], two["requests_per_s"]) == (3.0, 0.5, 0.5)


def test_the_first_look_only_says_where_to_count_from() -> None:
    assert samples(recorded((0, totals(requests=1000), {"a": 7.0})), now=20) == []


def test_a_step_under_way_is_a_rate_of_what_there_is_of_it() -> None:
    ring = recorded((0, totals(), {}), (2, totals(requests=10), {}))
    assert samples(ring, now=2)[0]["requests_per_s"] == 5.0


def test_times_are_quantiles_and_nothing_is_none() -> None:
    ring = recorded((0, totals(), {}), (1, totals(ttft=(2, 100)), {}))
    (sample,) = samples(ring, now=10)
    assert FINE[1] * 1000 < sample["ttft_p50_ms"] < sample["ttft_p99_ms"] < FINE[2] * 1000
    assert sample["duration_p50_ms"] is None


def test_the_oldest_makes_room_and_nothing_older_is_shown() -> None:
    memory = bytearray(BYTES)
    ring, count = Ring(memory), 0
    for step in range(2 * SLOTS):
        count += 10
        ring.add(T0 + step * STEP, totals(requests=count), {})
    now = (2 * SLOTS - 1) * STEP
    found = samples(memory, now=now + 9.9)
    assert [s["at"] for s in found] == [T0 + (SLOTS + n) * STEP for n in range(SLOTS)]
    assert {s["requests_per_s"] for s in found[:-1]} == {1.0}
    assert [s["at"] for s in samples(memory, now=now, seconds=30)] == [T0 + now - 30 + n * STEP for n in range(4)]
    assert samples(memory, now=now + 3 * 3600) == []


def test_several_processes_are_one_and_the_dead_are_among_them() -> None:
    one = recorded((0, totals(), {}), (5, totals(requests=10, in_flight=1, ttft=(0, 9)), {"a": 0.0}))
    two = recorded((0, totals(), {"b": 0.0, "a": 0.0}), (5, totals(requests=20, in_flight=2), {"b": 30.0, "a": 50.0}))
    (sample,) = samples(one, two, bytearray(b"not ours"), bytearray(BYTES), now=10)
    assert (sample["requests_per_s"], sample["in_flight"]) == (3.0, 3.0)
    assert sample["instances"] == {"a": 5.0, "b": 3.0}, "both are told the same by the engines: not added"
    assert sample["ttft_p50_ms"] is not None


def test_an_engine_that_was_started_again_counts_from_0() -> None:
    ring = recorded(
        (0, totals(), {"a": 100.0}), (1, totals(), {"a": 120.0}), (2, totals(), {"a": 5.0}),
        (3, totals(), {"a": 5.0, "new": 1000.0}), (4, totals(), {"a": 5.0, "new": 1010.0}),
    )  # fmt: skip
    assert samples(ring, now=10)[0]["instances"] == {"a": 2.5, "new": 1.0}


def test_a_ring_goes_on_where_the_process_before_ended() -> None:
    memory = recorded((0, totals(), {"a": 0.0}), (1, totals(requests=10), {"a": 10.0}))
    ring = Ring(memory)
    ring.add(T0 + 3, totals(requests=0), {"a": 0.0, "b": 0.0})
    ring.add(T0 + 4, totals(requests=5), {"a": 0.0, "b": 20.0})
    (sample,) = samples(memory, now=10)
    assert (sample["requests_per_s"], sample["instances"]) == (1.5, {"a": 1.0, "b": 2.0})


def test_instances_beyond_the_last_one_are_left_out() -> None:
    many = {f"instance_{n}": 0.0 for n in range(INSTANCES + 5)}
    ring = recorded((0, totals(), many), (1, totals(), dict.fromkeys(many, 10.0)))
    assert len(samples(ring, now=10)[0]["instances"]) == INSTANCES


def test_a_long_name_is_cut_not_spilled() -> None:
    name = "x" * 500
    ring = recorded((0, totals(), {name: 0.0, "b": 0.0}), (1, totals(), {name: 10.0, "b": 20.0}))
    assert samples(ring, now=10)[0]["instances"] == {"x" * 96: 1.0, "b": 2.0}


@given(st.lists(st.floats(0.001, 100.0), min_size=1, max_size=200))
def test_a_quantile_is_between_the_bounds_of_its_value(values: list[float]) -> None:
    counts = [0.0] * (len(FINE) + 1)
    for value in values:
        counts[next((n for n, bound in enumerate(FINE) if value <= bound), len(FINE))] += 1
    median = sorted(values)[(len(values) - 1) // 2]
    found = quantile(FINE, counts, 0.5)
    assert found is not None
    bucket = next((n for n, bound in enumerate(FINE) if median <= bound), len(FINE))
    low, high = [0.0, *FINE][min(bucket, len(FINE) - 1)], [*FINE, FINE[-1]][bucket]
    assert low <= found <= high


@pytest.mark.parametrize("part", [0.5, 0.99])
def test_a_quantile_of_nothing_is_none(part: float) -> None:
    assert quantile(FINE, [0.0] * (len(FINE) + 1), part) is None


def test_what_a_quantile_is_read_from_is_near_enough() -> None:
    metrics = Metrics()
    ring = Ring(memory := bytearray(BYTES))
    ring.add(T0, metrics.totals(), {})
    for number in range(100):
        metrics.finished("instance_0", "/v1/completions", 200, 0.600 + number / 1000)
        metrics.route_stats("instance_0", "/v1/completions").whole(200, 0.600 + number / 1000)
    ring.add(T0 + 1, metrics.totals(), {})
    (sample,) = samples(memory, now=10)
    assert sample["duration_p50_ms"] == pytest.approx(650, rel=0.2)
    assert sample["duration_p99_ms"] == pytest.approx(699, rel=0.2)
