from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from cluster.cli.running.top_view import screen
from cluster.tools.top import series
from cluster.tools.top.top import SORTS, WANTED, Snapshot, SnapshotHistory, fitting, ordered
from lbfakes import instance


def _status(*requests: int, **fields: Any) -> dict[str, Any]:
    instances = {
        f"instance_{n}": instance(f"instance_{n}", in_flight=n, requests_total=count, errors_total=0, models=["m", "a"])
        for n, count in enumerate(requests)
    }
    return {
        "running_instances": len(instances), "total_instances": len(instances), "load_balancer_strategy": "random",
        "model": "m", "supervisor": {"pid": 1}, "load_balancer": {"pid": 2, "in_flight": 3, "processes": [{"pid": 2}]},
        "instances": instances, **fields,
    }  # fmt: skip


def _page(*tokens: float, ttft: tuple[tuple[int, int], ...] = (), extra: str = "") -> str:
    """``ttft``: of each instance, how many were under 0.1 s and how many between that and 1 s."""
    out = [f'vllm:generation_tokens_total{{instance="instance_{n}",engine="0"}} {t}' for n, t in enumerate(tokens)]
    for n, (quick, slow) in enumerate(ttft):
        for le, count in (("0.1", quick), ("1.0", quick + slow), ("+Inf", quick + slow)):
            name = "vllm:time_to_first_token_seconds_bucket"
            out.append(f'{name}{{instance="instance_{n}",le="{le}"}} {count}')
    return "\n".join([*out, extra])


def _sample(at: float, status: dict[str, Any], page: str = "") -> Snapshot:
    return Snapshot(at, status, series.read(page, WANTED))


def _history(*samples: Snapshot) -> SnapshotHistory:
    history = SnapshotHistory()
    for sample in samples:
        history.add(sample)
    return history


def test_rates_are_differences_by_time() -> None:
    totals, rows = _history(
        _sample(10.0, _status(100, 50), _page(1000, 500)), _sample(14.0, _status(140, 50), _page(1800, 600)),
    ).view()  # fmt: skip
    assert [(row.requests, row.tokens) for row in rows] == [(10.0, 200.0), (0.0, 25.0)]
    assert (totals.requests, totals.tokens, totals.errors) == (10.0, 225.0, 0.0)


def test_of_one_look_alone_there_are_no_rates() -> None:
    totals, rows = _history(_sample(1.0, _status(100), _page(1000, ttft=((5, 0),)))).view()
    assert rows[0].tokens is rows[0].requests is rows[0].p50 is totals.tokens is None


def test_a_worker_that_began_anew_has_no_negative_rate() -> None:
    _, rows = _history(
        _sample(0.0, _status(10), _page(5000, ttft=((100, 0),))), _sample(2.0, _status(12), _page(30, ttft=((0, 4),)))
    ).view()
    assert rows[0].tokens == 15.0
    assert rows[0].p50 is not None
    assert rows[0].p50 > 0.1


def test_percentiles_are_of_the_last_minute_rates_of_the_last_seconds() -> None:
    samples = [_sample(float(s), _status(s), _page(s * (10 if s < 90 else 100), ttft=((0, s),))) for s in range(0, 89)]
    quick = [_sample(float(s), _status(s), _page(s * 10.0, ttft=((s - 88, 88),))) for s in range(89, 160)]
    history = _history(*samples, *quick)
    _, rows = history.view()
    assert rows[0].p99 is not None
    assert rows[0].p99 <= 0.1  # the slow ones are longer ago
    assert rows[0].requests == pytest.approx(1.0)
    assert len(history.samples) <= 62
    _, since_start = history.view(lifetime=True)
    assert since_start[0].p99 is not None
    assert since_start[0].p99 > 0.1


def test_percentiles_of_the_cluster_are_of_all_its_answers() -> None:
    totals, _ = _history(
        _sample(0.0, _status(0, 0), _page(0, 0, ttft=((0, 0), (0, 0)))),
        _sample(2.0, _status(1, 1), _page(1, 1, ttft=((98, 0), (0, 2)))),
    ).view()
    assert totals.p50 is not None
    assert totals.p99 is not None
    assert totals.p50 < 0.1 < totals.p99


def test_cache_queue_and_gpus() -> None:
    extra = "\n".join([
        'vllm:kv_cache_usage_perc{instance="instance_0",engine="0"} 0.25',
        'vllm:kv_cache_usage_perc{instance="instance_0",engine="1"} 0.75',
        'vllm:num_requests_waiting{instance="instance_0",engine="0"} 4', "clusterctl_queued_requests 2",
        'clusterctl_gpu_utilization_ratio{gpu="1",uuid="u"} 0.5', 'clusterctl_gpu_memory_used_bytes{gpu="1"} 8e9',
        'clusterctl_gpu_utilization_ratio{gpu="3"} 0.9',
    ])  # fmt: skip
    status = _status(1)
    status["instances"]["instance_0"]["gpus"] = [1, 3]
    totals, rows = _history(_sample(0.0, status, extra)).view()
    assert (rows[0].kv, rows[0].waiting, rows[0].gpu_busy, rows[0].gpu_memory) == (0.75, 4, 0.7, 8000.0)
    assert (rows[0].adapters, totals.adapters, totals.queued) == (1, 1, 2)


def test_sorting() -> None:
    _, rows = _history(_sample(0.0, _status(1, 1, 1))).view()
    assert [row.in_flight for row in ordered(rows, "in flight")] == [2, 1, 0]
    assert [row.name for row in ordered(rows, "instance")] == ["instance_0", "instance_1", "instance_2"]
    for name in SORTS:
        assert len(ordered(rows, name)) == 3


@given(st.dictionaries(st.text(min_size=1), st.integers(1, 40), min_size=1), st.integers(1, 300))
def test_columns_fit_or_are_the_first_alone(widths: dict[str, int], room: int) -> None:
    kept = fitting(widths, list(widths), room)
    assert next(iter(widths)) in kept
    taken = sum(widths[name] for name in kept) + 2 * (len(kept) - 1)
    assert taken <= room or len(kept) == 1


def _shown(history: SnapshotHistory, width: int, height: int | None, bar: str = "", trouble: str = "") -> list[str]:
    totals, rows = history.view()
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, highlight=False)
    events = [{"at": 0.0, "text": f"event {n} " + "x" * 300} for n in range(8)]
    console.print(screen(totals, rows, events, "http://127.0.0.1:8000", width, height, bar, trouble))
    return out.getvalue().rstrip("\n").split("\n")


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(20, 200), st.integers(8, 60), st.booleans())
def test_it_never_needs_more_room_than_there_is(count: int, width: int, height: int, trouble: bool) -> None:
    status = _status(*range(count))
    status["instances"]["instance_0"]["reason"] = "it will not start " * 10
    lines = _shown(_history(_sample(0.0, status)), width, height, "q quit", "no answer" if trouble else "")
    assert max(map(len, lines)) <= width
    assert lines[-1].startswith("q quit")
    assert len(lines) == height
    assert any(line.startswith("instance_") for line in lines)


def test_on_a_wide_terminal_everything_is_there_and_on_a_narrow_one_what_counts() -> None:
    status = _status(5)
    status["instances"]["instance_0"]["reason"] = "crash loop"
    history = _history(_sample(0.0, status), _sample(1.0, status, _page(1)))
    wide = "\n".join(_shown(history, 200, None))
    assert "crash loop" in wide
    assert "restarts" in wide
    narrow = _shown(history, 44, 24)
    header = next(line for line in narrow if line.startswith("instance"))
    assert header.split() == ["instance", "state", "in", "flight", "tok/s", "TTFT", "p50"][: len(header.split())]
    assert "instance_0: crash loop" in narrow


def test_what_is_hidden_is_counted() -> None:
    lines = _shown(_history(_sample(0.0, _status(*range(30)))), 100, 15, "q")
    assert any(line.startswith("… 2") and line.rstrip().endswith("more") for line in lines)
