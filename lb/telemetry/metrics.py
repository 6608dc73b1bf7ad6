"""The balancer's own series. One registry an application, nothing global."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lb.protocol import routes
from lb.protocol.errors import Source
from lb.protocol.usage import TokenUsage
from lb.telemetry.instruments import (
    FINE,
    Counter,
    CounterFamily,
    Families,
    GaugeFamily,
    Histogram,
    HistogramFamily,
    Read,
)
from lb.telemetry.model_metrics import OTHER, ModelMetrics

#: API keys that have series of their own, and names of routes, aliases and what they choose.
_MOST_KEYS = 100

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


@dataclass(frozen=True, slots=True)
class TrafficTotals:
    """What one process has counted since it began. ``in_flight`` and ``queued`` are of this moment; ``ttft`` and
    ``duration`` how many answers fell between two bounds of `FINE`."""

    requests: float
    errors: float
    tokens: float
    in_flight: float
    queued: float
    ttft: Sequence[float]
    duration: Sequence[float]


class Metrics:
    """Labels are bounded: instances, the allow-listed routes, status codes. More attributes than a class should have:
    each is a series."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Longer than a function should be: it is a table, a line or two a series."""
        self.registry = registry = Families()

        def count(name: str, meaning: str, *labels: str) -> CounterFamily:
            return CounterFamily(name, meaning, labels, registry)

        self._requests = count(
            "clusterctl_requests", "Requests answered (499: the client went away)", "instance", "route", "code"
        )
        self.attempt_failed = count(
            "clusterctl_attempt_failures", "Attempts that came to nothing", "instance", "cause"
        )
        self.refused = count(
            "clusterctl_refused", "Requests answered by the balancer itself with an error", "source", "code"
        )
        self.slow_readers = count(
            "clusterctl_slow_readers", "Connections cut off as their client did not read its answer"
        )
        self.ejected = count("clusterctl_ejections", "Backends left out after a failure to connect", "instance")
        self.retried = count("clusterctl_retries", "Requests made again on another instance", "cause")
        self.over_budget = count(
            "clusterctl_retry_budget_refusals", "Requests not made again: too many were already"
        )
        self.poisonous = count("clusterctl_poison_requests", "Requests not given to a third instance: two had died")
        self._moved = count("clusterctl_streams_moved", "Streams continued elsewhere", "instance", "cause", "way")
        self.broken = count(
            "clusterctl_streams_broken", "Streams that ended in an error after they had begun", "instance"
        )
        self._regenerated = count("clusterctl_tokens_regenerated", "Tokens made a second time to continue a stream")
        self.stalled = count(
            "clusterctl_streams_stalled", "Streams taken from an instance on which they stood still", "instance"
        )
        for counts in (self.over_budget, self.poisonous, self._regenerated):
            counts.at()
        self.opened = count("clusterctl_upstream_connections", "Connections opened to an instance", "instance")
        self._first_byte = HistogramFamily(
            "clusterctl_first_byte_seconds", "From choosing a backend to the first byte of its answer",
            ["instance", "route"], _BUCKETS, registry,
        )
        self._durations = Histogram(FINE)
        self._duration = HistogramFamily(
            "clusterctl_request_seconds", "From choosing a backend to the end of its answer", ["instance", "route"],
            _BUCKETS, registry, self._durations,
        )
        self.read("clusterctl_errors_total", "Requests that failed, by whose fault it was", ["source"], self._errors)
        self.models = ModelMetrics(registry, clock)
        self._queue = GaugeFamily("clusterctl_queued_requests", "Requests waiting for a backend", [], registry)
        self._queue.at()
        self._waited = HistogramFamily(
            "clusterctl_queue_wait_seconds", "How long those waited for a worker that had to, and got one", ["key"],
            _BUCKETS, registry,
        )
        self._model_waited = HistogramFamily(
            "clusterctl_model_wait_seconds", "How long requests waited that a base model came up for", ["model"],
            _BUCKETS, registry,
        )
        self._dropped = CounterFamily(
            "clusterctl_queue_dropped", "Requests that waited for a worker and got none", ["key", "reason"], registry
        )
        self._chosen = CounterFamily(
            "clusterctl_model_choices", "Requests by the route or alias that was asked for, and the model it chose",
            ["asked", "model"], registry,
        )
        self._shadowed = CounterFamily(
            "clusterctl_shadow_requests", "Copies of requests by alias, model and what became of them",
            ["asked", "model", "outcome"], registry,
        )
        self._shadow_times = HistogramFamily(
            "clusterctl_shadow_seconds", "From asking for a copy to the end of its answer", ["asked", "model"],
            _BUCKETS, registry,
        )
        self._keys: set[str] = set()
        self._key_requests = CounterFamily(
            "clusterctl_key_requests", "Requests with an API key that workers were given", ["key"], registry,
            self._count_used,
        )
        self._key_tokens = CounterFamily(
            "clusterctl_key_tokens", "Tokens of those, as answers told; cached ones are of the prompt",
            ["key", "kind"], registry, self._count_used,
        )
        self._just_used: list[tuple[str, TokenUsage]] = []
        self._used: dict[str, tuple[Counter, Counter, Counter, Counter]] = {}
        self._names: set[str] = set()

    def finished(self, instance: str, route: str, code: int, seconds: float) -> None:
        self.route_stats(instance, route).finished(code, seconds)

    def route_stats(self, instance: str, route: str) -> RouteStats:
        """Where the answers of one instance to one route are counted."""
        label = routes.template(route)
        duration, first_byte = self._duration.at(instance, label), self._first_byte.at(instance, label)
        return RouteStats(self._requests, duration, first_byte, instance, label)

    def _errors(self) -> list[tuple[tuple[str, ...], float]]:
        """Of the client, of a worker, of the balancer or the cluster. A client that went away has made none."""
        found = dict.fromkeys(Source, 0.0)
        for (source, _), cell in self.refused.cells():
            found[Source(source)] += cell.value
        for (_, _, code), cell in self._requests.cells():
            if code >= "400" and code != "499":
                found[Source.CLIENT if code < "500" else Source.UPSTREAM] += cell.value
        return [((source,), value) for source, value in found.items()]

    def moved(self, instance: str, cause: str, way: str, tokens_again: int) -> None:
        """A stream of ``instance`` goes on elsewhere, where ``tokens_again`` are made a second time. ``way``: as
        `lb.forwarding.resume.followed.Way` names it."""
        self._moved.add(instance, cause, way)
        self._regenerated.at().value += tokens_again

    def mean_latency(self, instance: str) -> float | None:
        """Seconds from choosing the backend to the end of its answer, over the life of this balancer; None before
        the first."""
        spreads = [spread for (of, _), spread in self._duration.cells() if of == instance]
        count = sum(spread.count for spread in spreads)
        return sum(spread.sum for spread in spreads) / count if count else None

    def queued(self, model: str | None, change: int) -> None:
        """So many more wait for a backend, or fewer."""
        self._queue.at().value += change
        self.models.queue(model).value += change

    def waited(self, tenant: str, seconds: float, absent: str | None = None) -> None:
        """One of its was served that had to wait for it. ``absent``: the model that had to come up first."""
        self._waited.at(_bounded(self._keys, tenant)).observe(seconds)
        if absent is not None:
            self._model_waited.at(_bounded(self._names, absent)).observe(seconds)

    def dropped(self, tenant: str, reason: str) -> None:
        """One of its waited in vain."""
        self._dropped.add(_bounded(self._keys, tenant), reason)

    def used(self, key: str, usage: TokenUsage) -> None:
        """A request with it is over."""
        self._just_used.append((key, usage))

    def _count_used(self) -> None:
        """What has been `used`: not with each request, but now and then and when somebody reads it."""
        just_used, self._just_used = self._just_used, []
        for key, usage in just_used:
            requests, prompt, cached, completion = self._used.get(key) or self._cells_of(key)
            requests.value += 1
            prompt.value += usage.prompt
            cached.value += usage.cached
            completion.value += usage.completion

    def _cells_of(self, key: str) -> tuple[Counter, Counter, Counter, Counter]:
        """What is counted in; kept for those that have cells of their own."""
        label = _bounded(self._keys, key)
        prompt, cached, completion = (self._key_tokens.at(label, kind) for kind in TokenUsage._fields)
        found = self._key_requests.at(label), prompt, cached, completion
        if label == key:
            self._used[key] = found
        return found

    def choices(self, name: str, model: str) -> Counter:
        """How often the route or alias ``name`` chose it; to be kept."""
        return self._chosen.at(_bounded(self._names, name), _bounded(self._names, model))

    def shadowed(self, name: str, model: str, outcome: str, seconds: float | None = None) -> None:
        """A copy for the alias ``name`` was answered with a status, or was ``failed``, ``given up`` or ``skipped``."""
        name, model = _bounded(self._names, name), _bounded(self._names, model)
        self._shadowed.add(name, model, outcome)
        if seconds is not None:
            self._shadow_times.at(name, model).observe(seconds)

    def totals(self) -> TrafficTotals:
        """To be asked for now and then: what has been observed is sorted into buckets."""
        self._first_byte.settle()
        self._duration.settle()
        self._count_used()
        requests, errors, tokens, in_flight, ttft = self.models.totals()
        durations = list(self._durations.buckets)
        return TrafficTotals(requests, errors, tokens, in_flight, self._queue.sum(), ttft, durations)

    def read(
        self, name: str, meaning: str, labels: Sequence[str],
        values: Callable[[], Iterable[tuple[tuple[str, ...], float]]],
    ) -> None:
        """A family whose values are read when somebody asks; a counter if its name ends in ``_total``, else a gauge."""
        Read(name, meaning, labels, values, self.registry)

    def render(self) -> str:
        return "".join(self.registry.pieces())


def _bounded(labels: set[str], name: str) -> str:
    """The label for ``name``: each of the first `_MOST_KEYS` of ``labels`` is its own."""
    if name not in labels:
        if len(labels) >= _MOST_KEYS:
            return OTHER
        labels.add(name)
    return name


class RouteStats:
    """The cells that one request after the other is counted in. ``first_byte`` takes s."""

    __slots__ = ("_instance", "_observe", "_requests", "_route", "_statuses", "first_byte")

    def __init__(
        self, requests: CounterFamily, duration: Histogram, first_byte: Histogram, instance: str, route: str
    ) -> None:
        self._requests, self._instance, self._route = requests, instance, route
        self._statuses: dict[int, Counter] = {}
        self.first_byte, self._observe = first_byte.observe, duration.observe

    def whole(self, code: int, seconds: float) -> None:
        """`first_byte` and `finished` at once."""
        self.finished(code, seconds)
        self.first_byte(seconds)

    def finished(self, code: int, seconds: float) -> None:
        cell = self._statuses.get(code)
        if cell is None:
            cell = self._statuses[code] = self._requests.at(self._instance, self._route, str(code))
        cell.value += 1
        self._observe(seconds)
