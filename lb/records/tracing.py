"""A span for each request and one below it for each attempt, sent to an OpenTelemetry collector.

Needs the extra ``otel``, and is imported only where somebody traces. Names follow OpenTelemetry's conventions for HTTP
and for generative AI; what it has no name for begins with ``clusterctl.``. Spans are exported by the SDK's own thread.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from lb.protocol import routes
from lb.protocol.messages import Request
from lb.records.decision_log import Entry, Row, Step, prompt_tokens, usage
from lb.routing.backend import Backend
from lb.routing.strategies.base import RequestInfo

_HEADER = re.compile(rb"\r\ntraceparent:[^\r\n]*", re.IGNORECASE)

_OPERATIONS = {
    "/v1/chat/completions": "chat", "/v1/chat/completions/batch": "chat", "/v1/chat/{route}": "chat",
    routes.RPC_CHAT: "chat",
    "/v1/messages": "chat", "/v1/responses": "chat",
    "/v1/completions": "text_completion", "/v1/embeddings": "embeddings",
}  # fmt: skip

#: Seconds that the last spans have to be sent when the process ends.
_LAST_S = 2.0

#: The spans of one request: its own, and by its beginning (s, monotonic) that of each attempt.
_Spans = tuple[Span, dict[float, Span]]


class SpanTracer:
    """Implements `lb.records.decision_log.Tracer`. ``clock`` is that of the entries (s, monotonic)."""

    def __init__(self, provider: TracerProvider, clock: Callable[[], float] = time.monotonic) -> None:
        self._provider, self._tracer, self._clock = provider, provider.get_tracer("clusterctl"), clock
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def exporting(cls, endpoint: str) -> SpanTracer:
        """Sends to the collector at ``endpoint``, a base URL or that of its traces. The SDK's own ``OTEL_…`` variables
        (headers, sampler, resource attributes) hold."""
        path = urlsplit(endpoint).path.rstrip("/")
        url = endpoint if path else f"{endpoint.rstrip('/')}/v1/traces"
        resource = Resource.create({"service.name": "clusterctl"}).merge(OTELResourceDetector().detect())
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
        return cls(provider)

    def close(self) -> None:
        """Sends what there is; blocks for some seconds at most."""
        last = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(_LAST_S)

    def sent(self, row: Row, request: Request, head: bytes) -> bytes:
        info, backend, began, came = row[:4]
        assert backend is not None
        root, attempts = self._spans(info, came, request)
        span = attempts.get(began)
        if span is None:  # else it is sent once more, on another connection
            span = attempts[began] = self._attempt(root, backend, began)
        of = span.get_span_context()
        line = b"\r\ntraceparent: 00-%032x-%016x-%02x" % (of.trace_id, of.span_id, of.trace_flags)
        return _HEADER.sub(b"", head[:-4]) + line + b"\r\n\r\n"

    def over(self, row: Row, request: Request | None, answer: bytes, prompt: int | None) -> None:
        entry = Entry._make(row)
        info = entry.info
        if request is None or (info.notes is None and not info.steps and entry.status < 500):
            return  # refused before anything was done for it
        root, attempts = self._spans(info, entry.came, request)
        for step in map(Step._make, info.steps):
            span = attempts.get(step.began) or self._attempt(root, step.backend, step.began)
            span.set_attribute("error.type", step.cause)
            span.set_status(Status(StatusCode.ERROR, step.reason))
            span.end(self._ns(step.ended))
        if entry.backend is not None:
            span = attempts.get(entry.began) or self._attempt(root, entry.backend, entry.began)
            self._end(span, entry)
        self._describe(root, entry, prompt_tokens(usage(answer)) if prompt is None else prompt)
        self._end(root, entry)
        info.notes = None  # the decision log keeps no spans

    def _spans(self, info: RequestInfo, came: float, request: Request) -> _Spans:
        if info.notes is None:
            operation = _OPERATIONS.get(routes.template(info.path), info.path)
            given = request.head.find(b"traceparent")
            carrier = {} if given is None else {"traceparent": given, "tracestate": request.head.find(b"tracestate")}
            context = self._propagator.extract({name: value for name, value in carrier.items() if value})
            root = self._tracer.start_span(
                f"{operation} {info.model}" if info.model else operation, context, SpanKind.SERVER,
                {"http.request.method": request.head.method, "url.path": info.path,
                 "gen_ai.operation.name": operation, "clusterctl.request_id": info.id},
                start_time=self._ns(came),
            )  # fmt: skip
            info.notes = root, {}
        spans: _Spans = info.notes
        return spans

    def _attempt(self, root: Span, backend: Backend, began: float) -> Span:
        return self._tracer.start_span(
            f"attempt {backend.id}", set_span_in_context(root), SpanKind.CLIENT,
            {"clusterctl.instance": backend.id, "clusterctl.incarnation": backend.spec.incarnation,
             "server.address": backend.spec.host, "server.port": backend.spec.port},
            start_time=self._ns(began),
        )  # fmt: skip

    def _describe(self, root: Span, entry: Entry, prompt: int | None) -> None:
        root.set_attribute("clusterctl.attempts", len(entry.info.steps) + (entry.backend is not None))
        for name, value in (
            ("gen_ai.request.model", entry.info.model), ("gen_ai.usage.input_tokens", prompt),
            ("gen_ai.usage.output_tokens", entry.made or None),
            ("gen_ai.response.time_to_first_chunk", entry.first - entry.came if entry.first else None),
            ("clusterctl.instance", None if entry.backend is None else entry.backend.id),
        ):  # fmt: skip
            if value is not None:
                root.set_attribute(name, value)

    def _end(self, span: Span, entry: Entry) -> None:
        span.set_attribute("http.response.status_code", entry.status)
        if entry.status >= 500:
            span.set_attribute("error.type", str(entry.status))
            span.set_status(Status(StatusCode.ERROR, entry.reason))
        span.end(self._ns(entry.ended))

    def _ns(self, at: float) -> int:
        """``at`` (s, monotonic) in ns since the epoch."""
        return time.time_ns() - int((self._clock() - at) * 1e9)
