"""Series by model: bounded, and right on every way out."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from lb.telemetry.model_metrics import BATCH, MOST, OTHER, ModelMetrics


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _value(registry: CollectorRegistry, name: str, model: str = "poet") -> float | None:
    return registry.get_sample_value(f"clusterctl_model_{name}", {"model": model})


def test_a_stream_is_measured_from_arrival_to_first_byte_and_between_chunks() -> None:
    clock, registry = Clock(), CollectorRegistry()
    recorder = ModelMetrics(registry, clock).begin("poet")
    assert _value(registry, "in_flight") == 1
    clock.now += 0.5
    recorder.chunk(b'data: {"a": 1}\n\n', stream=True)
    clock.now += 0.25
    recorder.chunk(b'data: {"a": 2}\n\ndata: [DONE]\n\n', stream=True)
    recorder.end(failed=False)
    assert _value(registry, "time_to_first_token_seconds_sum") == 0.5
    assert _value(registry, "inter_token_seconds_sum") == 0.25
    assert (_value(registry, "requests_total"), _value(registry, "errors_total")) == (1, 0)
    assert (_value(registry, "tokens_total"), _value(registry, "in_flight")) == (2, 0)


def test_tokens_are_those_that_the_usage_tells() -> None:
    registry = CollectorRegistry()
    recorder = ModelMetrics(registry, Clock()).begin("poet")
    recorder.chunk(b'{"choices": [], "usage": {"prompt_tokens": 3, "comple', stream=False)
    recorder.chunk(b'tion_tokens": 42}}', stream=False)
    recorder.end(failed=True)
    assert (_value(registry, "tokens_total"), _value(registry, "errors_total")) == (42, 1)
    assert _value(registry, "prompt_tokens_total") == 3


@pytest.mark.parametrize("chunks", [BATCH - 1, BATCH, BATCH + 1, 2 * BATCH])
def test_the_usage_is_found_however_many_chunks_an_answer_comes_in(chunks: int) -> None:
    registry = CollectorRegistry()
    recorder = ModelMetrics(registry, Clock()).begin("poet")
    for _ in range(chunks - 2):
        recorder.chunk(b"x" * 100, stream=False)
    recorder.chunk(b'"usage": {"prompt_tokens": 3, "comple', stream=False)
    recorder.chunk(b'tion_tokens": 42}}', stream=False)
    recorder.end(failed=False)
    assert (_value(registry, "tokens_total"), _value(registry, "prompt_tokens_total")) == (42, 3)
    assert recorder.chunks == chunks
    assert _value(registry, "in_flight") == 0


def test_tokens_of_prompts_are_counted_of_whole_answers_and_of_streams_that_somebody_reads_along() -> None:
    registry = CollectorRegistry()
    metrics = ModelMetrics(registry, Clock())
    metrics.begin("poet").whole(b'{"usage":{"prompt_tokens":7,"total_tokens":9,"completion_tokens":2}}', 101.0)
    streamed = metrics.begin("poet")
    streamed.tokens = lambda: 4
    streamed.chunk(b'data: {"a": 1}\n\n', stream=True)
    streamed.end(failed=False, prompt=5)
    assert (_value(registry, "prompt_tokens_total"), _value(registry, "tokens_total")) == (12, 6)


def test_more_names_than_there_is_room_for_are_counted_together() -> None:
    registry = CollectorRegistry()
    metrics = ModelMetrics(registry, Clock())
    for n in range(MOST + 5):
        metrics.begin(f"a{n}").end(failed=False)
    assert _value(registry, "requests_total", OTHER) == 5
    assert _value(registry, "requests_total", f"a{MOST}") is None


def test_the_latest_chunks_are_kept_and_all_are_counted() -> None:
    clock, registry = Clock(), CollectorRegistry()
    recorder = ModelMetrics(registry, clock).begin("poet")
    for n in range(100):
        clock.now += 0.5
        recorder.chunk(b'data: {"n": %d}\n\n' % n, stream=True)
    assert (recorder.chunks, recorder.first, recorder.last) == (100, 100.5, 150.0)
    assert recorder.latest == [b'data: {"n": %d}\n\n' % n for n in range(96, 100)]
    recorder.end(failed=False)
    assert _value(registry, "inter_token_seconds_count") == 99
    assert _value(registry, "inter_token_seconds_sum") == 49.5
    assert _value(registry, "tokens_total") == 100
