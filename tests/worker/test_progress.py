"""What is read of a worker's metrics."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from prometheus_client import CollectorRegistry, Counter

from worker import progress
from worker.sim.engine.metrics import SimMetrics

NAMES = parse_qs(urlsplit(progress.PATH).query)["name[]"]


def page(running: int = 2, waiting: int = 1, tokens: int = 7, usage: float = 0.25) -> str:
    metrics = SimMetrics("demo", 4096, 2)
    metrics.gauges["num_requests_running"].set(running)
    metrics.gauges["num_requests_waiting"].set(waiting)
    metrics.gauges["kv_cache_usage_perc"].set(usage)
    metrics.counters["generation_tokens"].inc(tokens)
    return metrics.render().decode()


def marks(**what: float) -> frozenset[str]:
    reading = progress.read(page(**what))  # type: ignore[arg-type]
    assert reading is not None
    return reading.marks


def test_requests_running_and_waiting_are_read() -> None:
    reading = progress.read(page())
    assert reading is not None
    assert (reading.running, reading.waiting) == (2, 1)


@pytest.mark.parametrize("moved", [{"tokens": 8}, {"usage": 0.5}, {"running": 3}, {"waiting": 0}])
def test_whatever_a_step_moves_makes_other_marks(moved: dict[str, float]) -> None:
    assert marks() == marks()
    assert marks() != marks(**moved)


def test_what_moves_without_a_step_does_not_count() -> None:
    """The process' own series, and refusals that the API server counts by itself."""
    metrics = SimMetrics("demo", 4096, 2)
    before = progress.read(metrics.render().decode())
    metrics.rejected.inc()
    metrics.loras(["a"], [])
    assert progress.read(metrics.render().decode()) == before


def test_several_engines_are_added() -> None:
    text = "".join(f'vllm:num_requests_running{{engine="{n}",model_name="a}} b"}} {n}.0\n' for n in (1, 2))
    reading = progress.read(text)
    assert reading is not None
    assert (reading.running, reading.waiting, len(reading.marks)) == (3, 0, 2)


@pytest.mark.parametrize(
    "text",
    ["", "up 1\n", "vllm:generation_tokens_total 5\n", "vllm:num_requests_running x\n",
     "vllm:num_requests_running NaN\n", "vllm:num_requests_running +Inf\n", "# HELP vllm:num_requests_running of\n"],
)  # fmt: skip
def test_a_page_that_does_not_tell(text: str) -> None:
    assert progress.read(text) is None


def test_the_simulator_renders_the_named_series_alone() -> None:
    metrics = SimMetrics("demo", 4096, 2)
    metrics.counters["generation_tokens"].inc(3)
    some, every = metrics.render(NAMES).decode(), metrics.render().decode()
    assert progress.read(some) == progress.read(every)
    lines = [line for line in some.splitlines() if not line.startswith("#")]
    assert {re.split(r"[{ ]", line)[0] for line in lines} == set(NAMES)


def test_a_name_that_there_is_not_is_no_mistake() -> None:
    registry = CollectorRegistry()
    Counter("other", "Another", registry=registry).inc()
    assert progress.read(str(registry.restricted_registry(NAMES))) is None


def test_vllm_has_the_series() -> None:
    """By the source of the one installed, if one is."""
    found = importlib.util.find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        assert "CI" not in os.environ, "set-up installs it"
        pytest.skip("vLLM is not installed")
    source = (Path(found.submodule_search_locations[0]) / "v1/metrics/loggers.py").read_text()
    declared = set(re.findall(r'name="(vllm:[a-z_]+)"', source))
    assert {re.sub(r"(tokens|queries|success)_total$|_count$", r"\1", name) for name in NAMES} <= declared


def test_tokens_and_the_kv_cache_in_use_are_read() -> None:
    reading = progress.read(page(tokens=7, usage=0.25))
    assert reading is not None
    assert (reading.tokens, reading.cache) == (7, 0.25)


@pytest.mark.parametrize("usage", ["NaN", "-1", "1.5", "x"])
def test_a_cache_that_makes_no_sense_is_not_told(usage: str) -> None:
    text = f'vllm:num_requests_running 1.0\nvllm:kv_cache_usage_perc{{engine="0"}} {usage}\n'
    reading = progress.read(text)
    assert reading is not None and reading.cache is None
    other = progress.read(text + 'vllm:kv_cache_usage_perc{engine="1"} 0.5\n')
    assert other is not None and other.cache == 0.5
