"""What `clusterctl top` shows, from statuses and pages of metrics. Pure: times are handed in.

Rates are differences over the last seconds, percentiles over the last minute: of one interval alone they would jump.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.tools.top import series
from cluster.tools.top.series import Family

#: Seconds over which rates and percentiles are taken.
RATES, PERCENTILES = 5.0, 60.0

TOKENS = "vllm:generation_tokens_total"
WAITING = "vllm:num_requests_waiting"
KV = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
TTFT = "vllm:time_to_first_token_seconds_bucket"
QUEUED = "clusterctl_queued_requests"
GPU_BUSY, GPU_MEMORY = "clusterctl_gpu_utilization_ratio", "clusterctl_gpu_memory_used_bytes"
WANTED = (TOKENS, WAITING, *KV, TTFT, QUEUED, GPU_BUSY, GPU_MEMORY)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """``at``: monotonic seconds."""

    at: float
    status: Mapping[str, Any]
    metrics: Mapping[str, Family]

    def family(self, *names: str) -> Family:
        return next((self.metrics[name] for name in names if name in self.metrics), {})


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """One instance. None: not known. ``kv``: 0 to 1; rates a second; latencies in s; ``gpu_busy``: 0 to 1, the mean of
    its GPUs; memory in MB."""

    name: str
    state: str
    note: str
    gpus: tuple[int, ...]
    gpu_busy: float | None
    gpu_memory: float | None
    memory: float | None
    cpu: float | None
    in_flight: int
    waiting: int | None
    tokens: float | None
    requests: float | None
    errors: float | None
    p50: float | None
    p99: float | None
    kv: float | None
    restarts: int
    adapters: int
    uptime: float | None


@dataclass(frozen=True, slots=True)
class ClusterTotals:
    """The cluster as a whole."""

    ready: int
    wanted: int
    strategy: str
    model: str
    supervisor: int | None
    balancers: tuple[int, ...]
    in_flight: int
    queued: int
    tokens: float | None
    requests: float | None
    errors: float | None
    p50: float | None
    p99: float | None
    adapters: int
    #: Seconds since the supervisor's last word.
    age: float | None = None


@dataclass
class SnapshotHistory:
    """Samples of the last minute."""

    samples: deque[Snapshot] = field(default_factory=deque)

    def add(self, sample: Snapshot) -> None:
        self.samples.append(sample)
        while len(self.samples) > 2 and self.samples[1].at <= sample.at - PERCENTILES:
            self.samples.popleft()

    def before(self, seconds: float) -> Snapshot:
        """The latest that is at least so many ``seconds`` older than the last, or the oldest."""
        last = self.samples[-1]
        older = [s for s in self.samples if s.at <= last.at - seconds]
        return older[-1] if older else self.samples[0]

    def view(self, lifetime: bool = False) -> tuple[ClusterTotals, list[InstanceRow]]:
        """``lifetime``: percentiles since the workers' starts."""
        last, near = self.samples[-1], self.before(RATES)
        took = last.at - near.at
        far = None if lifetime else self.before(PERCENTILES)

        def rate(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
            return {name: grown / took for name, grown in series.grown(before, now).items()} if took > 0 else {}

        tokens = rate(series.by(near.family(TOKENS), "instance"), series.by(last.family(TOKENS), "instance"))
        requests = rate(_column(near, "requests_total"), _column(last, "requests_total"))
        errors = rate(_column(near, "errors_total"), _column(last, "errors_total"))
        rows = [
            _row(name, seen, last, far, tokens.get(name), requests.get(name), errors.get(name))
            for name, seen in last.status["instances"].items()
        ]
        status, balancer = last.status, last.status["load_balancer"]
        p50, p99 = _percentiles(last, far, None)
        return ClusterTotals(
            ready=status["running_instances"], wanted=status["total_instances"],
            strategy=status["load_balancer_strategy"], model=status.get("model") or "",
            supervisor=status["supervisor"].get("pid"),
            balancers=tuple(p["pid"] for p in balancer.get("processes", ())) or (balancer["pid"],),
            in_flight=balancer.get("in_flight", 0), queued=int(sum(last.family(QUEUED).values())),
            tokens=sum(tokens.values()) if tokens else None, requests=sum(requests.values()) if requests else None,
            errors=sum(errors.values()) if errors else None, p50=p50, p99=p99,
            adapters=max((row.adapters for row in rows), default=0), age=status["supervisor"].get("age_s"),
        ), rows


def _column(sample: Snapshot, key: str) -> dict[str, float]:
    return {name: float(i.get(key) or 0) for name, i in sample.status["instances"].items()}


def _row(
    name: str, seen: Mapping[str, Any], last: Snapshot, far: Snapshot | None, tokens: float | None,
    requests: float | None, errors: float | None,
) -> InstanceRow:
    kv = {dict(labels).get("instance"): 0.0 for labels in last.family(*KV)}
    for labels, value in last.family(*KV).items():  # of several engines in one worker, the fullest
        kv[dict(labels).get("instance")] = max(kv[dict(labels).get("instance")], value)
    gpus = tuple(seen.get("gpus") or ())
    busy, memory = series.by(last.family(GPU_BUSY), "gpu"), series.by(last.family(GPU_MEMORY), "gpu")
    known = [busy[str(gpu)] for gpu in gpus if str(gpu) in busy]
    used = [memory[str(gpu)] for gpu in gpus if str(gpu) in memory]
    waiting = series.by(last.family(WAITING), "instance").get(name)
    p50, p99 = _percentiles(last, far, name)
    models = seen.get("models") or []
    return InstanceRow(
        name=name, state=seen["state"] + (" (degraded)" if seen.get("degraded") else ""), note=_note(seen), gpus=gpus,
        gpu_busy=sum(known) / len(known) if known else None, gpu_memory=sum(used) / 1e6 if used else None,
        memory=seen.get("memory_mb"), cpu=seen.get("cpu_percent"), in_flight=seen.get("in_flight", 0),
        waiting=None if waiting is None else int(waiting), tokens=tokens, requests=requests, errors=errors, p50=p50,
        p99=p99, kv=kv.get(name), restarts=seen.get("restarts", 0),
        adapters=sum(model != last.status.get("model") for model in models), uptime=seen.get("uptime_s"),
    )


def _note(seen: Mapping[str, Any]) -> str:
    if note := seen.get("reason") or seen.get("phase"):
        return str(note)
    last = seen.get("last_exit")
    return f"last end: {last['reason']}" if last and not last["expected"] else ""


def _percentiles(last: Snapshot, far: Snapshot | None, instance: str | None) -> tuple[float | None, float | None]:
    """Of the time to first token. Added up over several instances only what each has grown by: one may have been
    started anew meanwhile."""
    now = last.family(TTFT)
    names = {dict(labels).get("instance") for labels in now} if instance is None else {instance}
    counts: dict[str, float] = {}
    for name in names:
        mine = series.buckets(now, name)
        if far is not None and far is not last:
            before = series.buckets(far.family(TTFT), name)
            anew = any(mine[bound] < count for bound, count in before.items() if bound in mine)
            mine = {bound: count - (0.0 if anew else before.get(bound, 0.0)) for bound, count in mine.items()}
        elif far is not None:
            mine = {}
        for bound, count in mine.items():
            counts[bound] = counts.get(bound, 0.0) + count
    edges = [(float(bound), count) for bound, count in counts.items()]
    return series.quantile(0.5, edges), series.quantile(0.99, edges)


#: What rows can be sorted by, and whether the most come first.
SORTS: dict[str, tuple[Callable[[InstanceRow], Any], bool]] = {
    "instance": (lambda row: 0, False), "in flight": (lambda row: row.in_flight, True),
    "tokens/s": (lambda row: row.tokens or 0, True), "requests/s": (lambda row: row.requests or 0, True),
    "TTFT p99": (lambda row: row.p99 or 0, True), "KV cache": (lambda row: row.kv or 0, True),
    "CPU": (lambda row: row.cpu or 0, True), "memory": (lambda row: row.memory or 0, True),
    "restarts": (lambda row: row.restarts, True),
}  # fmt: skip


def ordered(rows: Sequence[InstanceRow], by: str) -> list[InstanceRow]:
    """Equals stay in the cluster's order."""
    key, most_first = SORTS[by]
    return sorted(rows, key=key, reverse=most_first)


def fitting(widths: Mapping[str, int], importance: Sequence[str], room: int, gap: int = 2) -> set[str]:
    """Which columns are shown in ``room`` characters: the most important ones, as long as they fit; the first always.
    ``widths``: of each column; ``importance``: the most important first."""
    kept = {importance[0]}
    used = widths[importance[0]]
    for name in importance[1:]:
        if used + gap + widths[name] > room:
            break
        used += gap + widths[name]
        kept.add(name)
    return kept
