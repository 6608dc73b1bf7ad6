"""Series by model: the base model and each adapter, as many as `MOST`, the rest together as ``other``."""

from __future__ import annotations

import re
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

#: Distinct values of the label ``model``.
MOST = 100
OTHER = "other"

_TTFT = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_ITL = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_USAGE = re.compile(rb'"completion_tokens":\s*(\d+)')

#: The usage stands at the end of an answer; so much of it (bytes) is kept to find it.
_TAIL = 4096


class ModelMetrics:
    """``clock``: monotonic seconds."""

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: set[str] = set()
        label = ["model"]
        self._requests = Counter("clusterctl_model_requests", "Requests by model", label, registry=registry)
        self._errors = Counter("clusterctl_model_errors", "Requests that failed", label, registry=registry)
        self._tokens = Counter(
            "clusterctl_model_tokens", "Generated tokens; of a stream that tells no usage, its events", label,
            registry=registry,
        )
        self._in_flight = Gauge("clusterctl_model_in_flight", "Requests in flight", label, registry=registry)
        self._ttft = Histogram(
            "clusterctl_model_time_to_first_token_seconds", "From arrival to the first byte of the answer", label,
            buckets=_TTFT, registry=registry,
        )
        self._itl = Histogram(
            "clusterctl_model_inter_token_seconds", "Between two chunks of a stream", label, buckets=_ITL,
            registry=registry,
        )

    def begin(self, model: str | None) -> Meter:
        """A request for ``model`` has come; end its meter on every way out."""
        return Meter(self, self._label(model))

    def _label(self, model: str | None) -> str:
        name = model or "none"
        if name not in self._known:
            if len(self._known) >= MOST:
                return OTHER
            self._known.add(name)
        return name


class Meter:
    """Measures one request, over all its attempts."""

    __slots__ = ("_began", "_events", "_last", "_model", "_owner", "_tail")

    def __init__(self, owner: ModelMetrics, model: str) -> None:
        self._owner, self._model = owner, model
        self._began = owner._clock()
        self._last: float | None = None
        self._events = 0
        self._tail = b""
        owner._requests.labels(model).inc()
        owner._in_flight.labels(model).inc()

    def chunk(self, data: bytes, stream: bool) -> None:
        """Bytes of the answer have gone to the client."""
        now = self._owner._clock()
        if self._last is None:
            self._owner._ttft.labels(self._model).observe(now - self._began)
        elif stream:
            self._owner._itl.labels(self._model).observe(now - self._last)
        self._last = now
        if stream:
            self._events += data.count(b"data: {")
        self._tail = (self._tail + data)[-_TAIL:]

    def end(self, failed: bool) -> None:
        """The request is over, however."""
        self._owner._in_flight.labels(self._model).dec()
        if failed:
            self._owner._errors.labels(self._model).inc()
        found = _USAGE.findall(self._tail)
        tokens = int(found[-1]) if found else self._events
        if tokens:
            self._owner._tokens.labels(self._model).inc(tokens)
