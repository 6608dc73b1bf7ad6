"""Series by model: the base model and each adapter, as many as `MOST`, the rest together as ``other``; and the record
of one request that they are made from."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from operator import sub

from prometheus_client import CollectorRegistry

from lb.protocol import usage
from lb.protocol.usage import TokenUsage
from lb.telemetry.instruments import FINE, Counter, CounterFamily, GaugeFamily, Histogram, HistogramFamily

#: Distinct values of the label ``model``.
MOST = 100
OTHER = "other"

_TTFT = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_ITL = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_USAGE = re.compile(rb'"completion_tokens":\s*(\d+)')
#: What an answer tells of its prompt.
PROMPT_TOKENS = re.compile(rb'"prompt_tokens":\s*(\d+)')

#: Of an answer in flight so many of its latest chunks are kept (references), and no more than the last bytes of each.
BATCH, KEPT = 16, 4096


class ModelMetrics:
    """``clock``: monotonic seconds."""

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._series: dict[str, Series] = {}
        label = ["model"]
        self._requests = CounterFamily("clusterctl_model_requests", "Requests by model", label, registry)
        self._errors = CounterFamily("clusterctl_model_errors", "Requests that failed", label, registry)
        self._prompts = CounterFamily(
            "clusterctl_model_prompt_tokens", "Tokens of prompts, where answers tell them", label, registry
        )
        self._tokens = CounterFamily(
            "clusterctl_model_tokens", "Generated tokens; of a stream that tells no usage, its events", label, registry
        )
        self._in_flight = GaugeFamily("clusterctl_model_in_flight", "Requests in flight", label, registry)
        self._times = Histogram(FINE)
        self._queued = GaugeFamily("clusterctl_model_queued_requests", "Requests waiting for a worker", label, registry)
        self._ttft = HistogramFamily(
            "clusterctl_model_time_to_first_token_seconds", "From arrival to the first byte of the answer", label,
            _TTFT, registry, self._times,
        )
        self._itl = HistogramFamily(
            "clusterctl_model_inter_token_seconds", "Between two chunks of a stream", label, _ITL, registry
        )

    def totals(self) -> tuple[float, float, float, float, list[int]]:
        """Requests, failed ones, tokens and requests in flight of all models; times to first token by `FINE`."""
        self._itl.settle()
        counts = (self._requests, self._errors, self._tokens, self._in_flight)
        requests, errors, tokens, in_flight = (count.sum() for count in counts)
        return requests, errors, tokens, in_flight, list(self._times.buckets)

    def begin(self, model: str | None) -> RequestRecorder:
        """A request for ``model`` has come; end its recorder on every way out."""
        return RequestRecorder(self._of(model), self.clock())

    def queue(self, model: str | None) -> Counter:
        """How many requests for ``model`` wait for a worker."""
        return self._of(model).queued

    def _of(self, model: str | None) -> Series:
        name = model or "none"
        series = self._series.get(name)
        if series is None:
            if len(self._series) >= MOST and name != OTHER:
                return self._of(OTHER)
            series = self._series[name] = Series(self, name)
        return series


class Series:
    """The cells of one model."""

    __slots__ = ("clock", "errors", "in_flight", "itl", "prompts", "queued", "requests", "tokens", "ttft")

    def __init__(self, owner: ModelMetrics, model: str) -> None:
        self.clock = owner.clock
        self.requests, self.errors = owner._requests.at(model), owner._errors.at(model)
        self.prompts = owner._prompts.at(model)
        self.tokens, self.in_flight = owner._tokens.at(model), owner._in_flight.at(model)
        self.queued = owner._queued.at(model)
        self.ttft: Histogram = owner._ttft.at(model)
        self.itl: Histogram = owner._itl.at(model)


class RequestRecorder:
    """One request, over all its attempts: when it came and when the first bytes of its answer did (s, monotonic), and
    of the latest chunks what they were and when they came (references, at most 2 x `BATCH`).

    A chunk costs two appends; what is to be counted of chunks is counted `BATCH` at a time. One attribute more than a
    class should have: in parts, each chunk would pay for the way from one to the other."""

    first = _last = 0.0
    #: When something came last that the client had had before (s, monotonic).
    heard = 0.0
    #: Is given chunks when they leave the record.
    fold: Callable[[Sequence[bytes]], None] | None = None
    #: Tokens of the answer, where somebody counts them better than can be done here.
    tokens: Callable[[], int] | None = None
    #: ... and surely, so that they need not be counted here too.
    exact = False
    #: Tokens of the answer, and of the prompt if that is known, once it is over.
    made = 0
    prompt: int | None = None
    #: Whether what the answer says of its usage is read, for somebody's account; and that.
    reads_usage = False
    usage: TokenUsage | None = None
    #: The first bytes of such a stream.
    _beginning = b""
    _before: Sequence[bytes] = ()
    _counted = _events = 0
    _stream = False

    def __init__(self, series: Series, now: float) -> None:
        self._series, self.began = series, now
        self.latest: list[bytes] = []
        self.stamps: list[float] = []
        series.requests.value += 1
        series.in_flight.value += 1

    @property
    def chunks(self) -> int:
        """So many have come."""
        return self._counted + len(self.latest)

    @property
    def last(self) -> float:
        """When the last of them did, or something that is not passed on; 0 before the first."""
        return max(self.heard, self.stamps[-1] if self.stamps else self._last)

    def recent(self) -> list[bytes]:
        """The chunks in the record, oldest first."""
        return [*self._before, *self.latest]

    def hears(self) -> None:
        """Something has come that the client had had before."""
        self.heard = self._series.clock()

    def forget(self) -> None:
        """The record begins anew."""
        self.count()
        self.count()

    def chunk(self, data: bytes, stream: bool, whole: bool = False) -> None:
        """Bytes of the answer have come, on their way to the client. ``whole``: all of them are kept."""
        now = self._series.clock()
        if not self.first:
            self.first = self._last = now
            self._stream = stream
            if stream and self.reads_usage:
                self._beginning = data[:KEPT]
            self._series.ttft.observe(now - self.began)
        else:
            self.stamps.append(now)
        self.latest.append(data if whole or len(data) <= KEPT else self._cut(data))
        if len(self.latest) >= BATCH:
            self.count()

    def so_far(self) -> TokenUsage:
        """Of a stream that is not over, where nobody counts better: its events, and what the first said of its prompt
        (Anthropic's do)."""
        if not self._stream:
            return TokenUsage(0, 0, 0)
        made = self._events + b"".join(self.latest).count(b"data: {")
        told = usage.read(self._beginning)
        return TokenUsage(0, 0, made) if told is None else TokenUsage(told.prompt, told.cached, made)

    def _cut(self, data: bytes) -> bytes:
        """Its end, unless it may be a whole answer in which something follows the usage."""
        return data if self.reads_usage and not self._stream and not self.chunks else data[-KEPT:]

    def count(self) -> None:
        """What the latest chunks amount to."""
        self._counted += len(self.latest)
        stamps = self.stamps
        if stamps:
            if self._stream:
                self._series.itl.observe_all(map(sub, stamps, [self._last, *stamps]))
            self._last = stamps[-1]
            stamps.clear()
        if self._stream and not self.exact:
            self._events += b"".join(self.latest).count(b"data: {")
        if self.fold is not None and self._before:
            self.fold(self._before)
        self._before, self.latest = self.latest, []

    def whole(self, body: bytes, now: float) -> None:
        """All of the answer came at ``now``, and was the end of the request."""
        series = self._series
        self.first = now
        series.ttft.observe(now - self.began)
        series.in_flight.value -= 1
        if (told := usage.read_plain(body)) is not None:
            self.prompt, _, self.made = self.usage = told
            series.prompts.value += told.prompt
            series.tokens.value += told.completion
            return
        found = _USAGE.search(body, max(0, body.rfind(b'"completion_tokens"')))
        if found:
            self.made = tokens = int(found[1])
            series.tokens.value += tokens
        self._read(body)
        if self.reads_usage:
            self.usage = usage.read(body)

    def _read(self, answer: bytes) -> None:
        """The tokens of the prompt that ``answer``, or the end of one, tells."""
        found = PROMPT_TOKENS.search(answer, max(0, answer.rfind(b'"prompt_tokens"')))
        if found:
            self.prompt = tokens = int(found[1])
            self._series.prompts.value += tokens

    def end(self, failed: bool, prompt: int | None = None) -> None:
        """The request is over, however. ``prompt``: tokens of its prompt, where somebody knows better than can be read
        here."""
        series = self._series
        series.in_flight.value -= 1
        if failed:
            series.errors.value += 1
        if not self.first:
            return
        if self.reads_usage:
            self.usage = usage.read(b"".join(self.recent()[-4:]))
        if self.tokens is not None:
            self.count()
            self.made = tokens = self.tokens() or self._events
            series.tokens.value += tokens
            self.prompt = prompt
            series.prompts.value += prompt or 0
            return
        if self._stream or self.chunks > 1:
            end = b"".join(self.recent()[-4:])
            self.count()
        else:
            end = self.latest[0]
        found = _USAGE.search(end, max(0, end.rfind(b'"completion_tokens"')))
        self.made = tokens = int(found[1]) if found else self._events
        if tokens:
            series.tokens.value += tokens
        self._read(end)
        if self._beginning and (said := self.usage or usage.read(self._beginning)) is not None:
            # One that broke off has told of its prompt, and of its tokens nothing, or that there were none yet.
            self.usage = said if said.completion else said._replace(completion=tokens)
