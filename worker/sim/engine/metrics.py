"""``/metrics``: the names, types and labels of vLLM 0.32, in a registry of their own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TypeVar

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST
_Family = TypeVar("_Family", Counter, Gauge)
_ENGINE = ("model_name", "engine")
_LATENCY = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_TTFT = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
)  # fmt: skip
_ITL = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_ITERATION = tuple(float(1 << n) for n in (0, *range(3, 15)))
_SMALL = (1, 2, 5, 10, 20)
_PREEMPTIONS = (1, 2, 3, 4, 5, 10, 20)
_REASONS = ("stop", "length", "abort", "error", "repetition")
# Name, the values of its extra label (or none), and the label's name.
_COUNTERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("estimated_flops_per_gpu", "", ()),
    ("estimated_read_bytes_per_gpu", "", ()),
    ("estimated_write_bytes_per_gpu", "", ()),
    ("prefix_cache_queries", "", ()),
    ("prefix_cache_hits", "", ()),
    ("external_prefix_cache_queries", "", ()),
    ("external_prefix_cache_hits", "", ()),
    ("mm_cache_queries", "", ()),
    ("mm_cache_hits", "", ()),
    ("num_preemptions", "", ()),
    ("prompt_tokens", "", ()),
    ("prompt_tokens_by_source", "source", ("local_compute", "local_cache_hit", "external_kv_transfer")),
    ("prompt_tokens_cached", "", ()),
    ("prompt_tokens_cached_by_source", "source", ("device", "host", "p2p", "disk", "external_unspecified")),
    ("generation_tokens", "", ()),
    ("request_success", "finished_reason", _REASONS),
)
_GAUGES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("num_requests_running", "", ()),
    ("num_requests_waiting", "", ()),
    ("num_requests_waiting_by_reason", "reason", ("capacity", "deferred")),
    ("engine_sleep_state", "sleep_state", ("awake", "weights_offloaded", "discard_all")),
    ("kv_cache_usage_perc", "", ()),
)
_HISTOGRAMS: dict[str, Sequence[float]] = {
    "iteration_tokens_total": _ITERATION,
    "request_params_n": _SMALL,
    "time_to_first_token_seconds": _TTFT,
    "inter_token_latency_seconds": _ITL,
    "request_time_per_output_token_seconds": _ITL,
    "e2e_request_latency_seconds": _LATENCY,
    "request_queue_time_seconds": _LATENCY,
    "request_inference_time_seconds": _LATENCY,
    "request_prefill_time_seconds": _LATENCY,
    "request_decode_time_seconds": _LATENCY,
    "request_num_preemptions": _PREEMPTIONS,
}
_TOKEN_HISTOGRAMS = (
    "request_prompt_tokens",
    "request_generation_tokens",
    "request_max_num_generation_tokens",
    "request_params_max_tokens",
    "request_prefill_kv_computed_tokens",
)


class SimMetrics:
    """All metrics of one worker; times in seconds, lengths in tokens."""

    def __init__(self, model_name: str, max_model_len: int, max_loras: int | None) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._labels = {"model_name": model_name, "engine": "0"}
        self.counters: dict[str, Counter] = {}
        self.gauges: dict[str, Gauge] = {}
        self.histograms: dict[str, Histogram] = {}
        for name, label, values in _COUNTERS:
            self._add(Counter, self.counters, name, label, values)
        for name, label, values in _GAUGES:
            self._add(Gauge, self.gauges, name, label, values)
        buckets = {**_HISTOGRAMS, **dict.fromkeys(_TOKEN_HISTOGRAMS, _token_buckets(max_model_len))}
        for name, edges in buckets.items():
            family = Histogram(f"vllm:{name}", name, _ENGINE, registry=self.registry, buckets=edges)
            self.histograms[name] = family.labels(**self._labels)
        self.gauges["engine_sleep_state:awake"].set(1)
        rejected = Counter("vllm:admission_rejections", "503s", ("model_name", "reason"), registry=self.registry)
        self.rejected = rejected.labels(model_name, "max_num_queued_reqs")
        rejected.labels(model_name, "max_num_queued_tokens")
        self._max_loras = max_loras
        self._lora_info: Gauge | None = None
        if max_loras is not None:
            names = ("max_lora", "waiting_lora_adapters", "running_lora_adapters")
            self._lora_info = Gauge("vllm:lora_requests_info", "Adapters", names, registry=self.registry)

    def _add(
        self, kind: type[_Family], into: dict[str, _Family], name: str, label: str, values: tuple[str, ...]
    ) -> None:
        labels = (*_ENGINE, label) if label else _ENGINE
        family = kind(f"vllm:{name}", name.replace("_", " "), labels, registry=self.registry)
        if not label:
            into[name] = family.labels(**self._labels)
        for value in values:
            into[f"{name}:{value}"] = family.labels(**self._labels, **{label: value})

    def started(self, prompt_tokens: int, cached_tokens: int, n: int, max_tokens: int) -> None:
        """A request was given its place in the batch."""
        counters = self.counters
        counters["prompt_tokens"].inc(prompt_tokens)
        counters["prompt_tokens_by_source:local_compute"].inc(prompt_tokens - cached_tokens)
        counters["prompt_tokens_by_source:local_cache_hit"].inc(cached_tokens)
        counters["prompt_tokens_cached"].inc(cached_tokens)
        counters["prompt_tokens_cached_by_source:device"].inc(cached_tokens)
        counters["prefix_cache_queries"].inc(prompt_tokens)
        counters["prefix_cache_hits"].inc(cached_tokens)
        self.histograms["request_params_n"].observe(n)
        self.histograms["request_params_max_tokens"].observe(max_tokens)
        self.histograms["request_prefill_kv_computed_tokens"].observe(prompt_tokens - cached_tokens)

    def finished(
        self, reason: str, prompt_tokens: int, made: int, queued_s: float, prefill_s: float, decode_s: float
    ) -> None:
        """A sequence ended; ``made`` tokens were generated."""
        self.counters[f"request_success:{reason}"].inc()
        values = {
            "request_prompt_tokens": prompt_tokens,
            "request_generation_tokens": made,
            "request_max_num_generation_tokens": made,
            "e2e_request_latency_seconds": queued_s + prefill_s + decode_s,
            "request_queue_time_seconds": queued_s,
            "request_inference_time_seconds": prefill_s + decode_s,
            "request_prefill_time_seconds": prefill_s,
            "request_decode_time_seconds": decode_s,
            "request_time_per_output_token_seconds": decode_s / max(1, made - 1),
            "request_num_preemptions": 0,
        }
        for name, value in values.items():
            self.histograms[name].observe(value)

    def loras(self, running: Sequence[str], waiting: Sequence[str]) -> None:
        """Which adapters have requests in the batch and in the queue; as in vLLM, every mix stays listed."""
        if self._lora_info is not None:
            names = (str(self._max_loras), ",".join(waiting), ",".join(running))
            self._lora_info.labels(*names).set(time.time())

    def render(self, names: Sequence[str] = ()) -> bytes:
        """The page, or what of it has one of ``names``."""
        return generate_latest(self.registry.restricted_registry(names) if names else self.registry)


def _token_buckets(max_model_len: int) -> list[float]:
    edges: list[float] = []
    scale = 1
    while True:
        for step in (1, 2, 5):
            if step * scale > max_model_len:
                return edges
            edges.append(step * scale)
        scale *= 10
