"""The figures, on answers whose figures are known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.tools.bench.lag import doubt
from cluster.tools.bench.result import Result, all_failed
from cluster.tools.bench.samples import BenchRun, Sample, aggregate, over_time

ONE = Sample("a", 1.0, ttft=0.1, latency=0.5, gaps=[0.1, 0.3], prompt_tokens=10, output_tokens=3)
TWO = Sample("b", 2.0, ttft=0.3, latency=0.3, gaps=[], prompt_tokens=20, output_tokens=1)
LOST = Sample("a", 2.5, ttft=9.0, latency=9.0, gaps=[9.0], output_tokens=99, error="timeout", detail="too long")


def test_figures_are_those_of_the_answered() -> None:
    found = aggregate([ONE, TWO, LOST], 4.0, unfinished=2)
    assert (found["completed"], found["failed"], found["unfinished"]) == (2, 1, 2)
    assert found["errors"] == {"timeout": 1}
    assert (found["requests_per_s"], found["output_tokens_per_s"], found["total_tokens_per_s"]) == (0.5, 1.0, 8.5)
    assert found["ttft_ms"]["mean"] == pytest.approx(200) and found["ttft_ms"]["max"] == pytest.approx(300)
    assert found["tpot_ms"]["count"] == 1 and found["tpot_ms"]["mean"] == pytest.approx(200)
    assert found["itl_ms"]["count"] == 2 and found["itl_ms"]["min"] == pytest.approx(100)
    assert found["e2el_ms"]["median"] == pytest.approx(400)
    assert found["request_output_tokens_per_s"]["max"] == pytest.approx(6)
    assert "planned_e2el_ms" not in found


def test_what_a_late_client_hides_is_seen_from_the_planned_arrival() -> None:
    late = Sample("a", 3.0, planned=1.0, ttft=0.1, latency=0.2, output_tokens=2)
    found = aggregate([late], 4.0)
    assert found["e2el_ms"]["mean"] == pytest.approx(200)
    assert found["planned_ttft_ms"]["mean"] == pytest.approx(2100)
    assert found["planned_e2el_ms"]["mean"] == pytest.approx(2200) and found["late_ms"]["mean"] == pytest.approx(2000)


def test_of_nothing_there_are_no_figures() -> None:
    found = aggregate([], 0.0)
    assert found["ttft_ms"] is None and found["requests_per_s"] == 0.0 and all_failed([]) and all_failed([LOST])


SAMPLES = st.lists(
    st.builds(
        Sample, model=st.just("a"), sent=st.floats(0, 5), ttft=st.one_of(st.none(), st.floats(0, 1)),
        latency=st.floats(0, 1), output_tokens=st.integers(0, 50),
    ),
    max_size=30,
)  # fmt: skip


@given(SAMPLES, st.lists(st.floats(0, 0.2), max_size=5), st.integers(1, 60))
def test_no_token_and_no_answer_is_lost_over_time(samples: list[Sample], gaps: list[float], bins: int) -> None:
    for sample in samples:
        sample.gaps = gaps if sample.ttft is not None else []
    middles, tokens, answers = over_time(samples, 6.0, bins)
    width = 6.0 / bins
    assert len(middles) == len(tokens) == len(answers) == bins
    assert sum(tokens) * width == pytest.approx(sum(s.output_tokens for s in samples), abs=1e-6)
    assert sum(answers) * width == pytest.approx(len(samples), abs=1e-6)


def test_a_result_has_each_model_over_the_runs_it_was_in() -> None:
    runs = (BenchRun([ONE, LOST], 2.0, unfinished=["a"]), BenchRun([TWO], 4.0))
    result = Result({}, "now", True, runs)
    body = result.to_json(requests=True)
    assert body["total"]["duration_s"] == 6.0 and body["total"]["unfinished"] == 1
    assert {name: m["duration_s"] for name, m in body["models"].items()} == {"a": 2.0, "b": 4.0}
    assert body["models"]["b"]["requests_per_s"] == 0.25 and body["models"]["a"]["unfinished"] == 1
    assert [(r["run"], r["model"], r["error"]) for r in body["requests"]] == [
        (0, "a", None), (0, "a", "timeout"), (1, "b", None),
    ]  # fmt: skip
    assert body["requests"][0]["itl_ms"] == [100.0, 300.0] and body["error_examples"] == {"timeout": "too long"}
    assert body["notes"] == ["it was interrupted: these are the results so far"]
    assert "requests" not in result.to_json(requests=False)


def test_notes_tell_of_warming_up_counting_and_a_client_in_doubt() -> None:
    uncounted = Sample("a", 0.0, ttft=0.1, latency=0.1, output_tokens=1, counted=False)
    client = {"lag_p99_ms": 25.0, "lag_max_ms": 40.0, "cpu_share": 0.2}
    notes = Result({}, "now", False, (BenchRun([uncounted], 1.0, client=client, cold=[LOST]),)).notes()
    assert len(notes) == 3 and "1 of 1 requests to warm up failed" in notes[0]
    assert "of 1 answers" in notes[1] and "25.0 ms" in notes[2]


@pytest.mark.parametrize(("lag", "busy", "doubted"), [(1.0, 0.5, False), (11.0, 0.5, True), (1.0, 0.95, True)])
def test_a_client_is_in_doubt_when_it_is_late_or_busy(lag: float, busy: float, doubted: bool) -> None:
    assert (doubt({"lag_p99_ms": lag, "lag_max_ms": lag, "cpu_share": busy}) is not None) == doubted
    assert doubt({"lag_p99_ms": None, "lag_max_ms": None, "cpu_share": None}) is None
