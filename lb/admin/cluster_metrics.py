"""What the supervisor and the counters tell, as series: they are read when somebody asks."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

from config.topology import ADAPTER_STATES, STATES
from lb.admin.recovery_metrics import NAMES, RecoverySeries
from lb.admin.series import base_models, jobs, nodes
from lb.control.link import Link
from lb.routing.pool import Pool
from lb.telemetry.metrics import Metrics
from lb.telemetry.shared_counters import Counters

#: Why a worker had ended that was started again; there from the beginning, as an increase from nothing is not seen.
REASONS = ("planned", "exit", "signal", "unhealthy", "hung", "start")

_Values = Iterable[tuple[tuple[str, ...], float]]


class ClusterSeries:
    """Registers them with ``metrics``. ``alike``: the names of those that every balancer process reads from the same
    place, so that the values of several are not added."""

    def __init__(self, metrics: Metrics, pool: Pool, link: Link, counters: Counters) -> None:
        self._metrics, self._pool, self._link, self._counters = metrics, pool, link, counters
        self.alike: set[str] = set(NAMES)
        self._version = _version()
        metrics.registry.register(RecoverySeries(lambda: link.snapshot.get("recovery", {})))
        self._add_traffic()
        self._add_instances()
        self._add_cluster()
        self._add_adapters()
        base_models.add(metrics, self.alike, lambda: link.snapshot.get("models") or ())
        jobs.add(metrics, self.alike, lambda: self._of("jobs"))
        nodes.add(metrics, self.alike, lambda: link.snapshot.get("nodes") or ())
        self._add_balancers()
        self._add_processes()
        self._add_gpus()

    def _add(self, name: str, meaning: str, labels: tuple[str, ...], values: Callable[[], _Values]) -> None:
        self.alike.add(name)
        self._metrics.read(name, meaning, labels, values)

    def _one(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        self._add(name, meaning, (), lambda: [((), float(value()))])

    def _of(self, part: str) -> Mapping[str, Any]:
        """A part of the supervisor's last word."""
        found: Mapping[str, Any] = self._link.snapshot.get(part) or {}
        return found

    def _number(self, part: str | None, key: str) -> float:
        return float((self._of(part) if part else self._link.snapshot).get(key) or 0)

    def _autoscale(self, key: str) -> _Values:
        value = self._of("autoscale").get(key)
        return [] if value is None else [((), float(value))]

    def _column(self, name: str, meaning: str, key: str, absent: float | None = 0.0) -> None:
        """By instance; ``absent``: of one that has none (None: no series)."""

        def values() -> _Values:
            for instance, seen in self._of("instances").items():
                value = seen.get(key)
                if value is not None or absent is not None:
                    yield (instance,), float(value or 0.0)

        self._add(name, meaning, ("instance",), values)

    # the families

    def _add_traffic(self) -> None:
        pool, counters = self._pool, self._counters

        def counted(which: int) -> Callable[[], _Values]:
            return lambda: [((name,), float(counters.get(name)[which])) for name in counters.names()]

        of = ("instance",)
        self._add("clusterctl_in_flight", "Requests in flight", of,
                  lambda: [((name,), float(load)) for name, load in pool.load().items()])  # fmt: skip
        self._add("clusterctl_instance_requests_total", "Requests sent to an instance; survives restarts", of,
                  counted(0))  # fmt: skip
        self._add("clusterctl_instance_errors_total", "Requests that failed on an instance; survives restarts", of,
                  counted(1))  # fmt: skip
        self._add("clusterctl_instance_ready", "1 if in rotation", of,
                  lambda: [((b.id,), float(b.spec.state == "ready")) for b in pool.backends.values()])  # fmt: skip
        self._add("clusterctl_instance_weight", "Weight", of,
                  lambda: [((b.id,), float(b.weight)) for b in pool.backends.values()])  # fmt: skip

    def _add_instances(self) -> None:
        column = self._column
        column("clusterctl_instance_restarts_total", "Starts after the first", "restarts")
        column("clusterctl_stalls_total", "Times that it was taken out as it stood still", "stalls")
        column("clusterctl_instance_cpu_percent", "CPU of the worker's process tree, percent of a core", "cpu_percent")
        column("clusterctl_instance_memory_megabytes", "Resident memory of the worker's process tree", "memory_mb")
        column("clusterctl_instance_degraded", "1 if ready without an adapter that it should hold", "degraded")
        column("clusterctl_instance_start_seconds", "How long its last start took, until it was ready",
               "start_seconds", None)  # fmt: skip
        column("clusterctl_instance_start_time_seconds", "When its process was started, since the epoch",
               "started_at", None)  # fmt: skip

        def states() -> _Values:
            for name, seen in self._of("instances").items():
                for state in STATES:
                    yield (name, state), float(seen.get("state") == state)

        def reasons() -> _Values:
            for name, seen in self._of("instances").items():
                counts = {**dict.fromkeys(REASONS, 0), **(seen.get("restarts_by") or {})}
                for reason, count in counts.items():
                    yield (name, reason), float(count)

        def gpus() -> _Values:
            for name, seen in self._of("instances").items():
                for index in seen.get("gpus") or ():
                    yield (name, str(index)), 1.0

        self._add("clusterctl_instance_state", "1 for the state that it is in", ("instance", "state"), states)
        self._add("clusterctl_restarts_total", "Starts after the first, by why the one before had ended",
                  ("instance", "reason"), reasons)  # fmt: skip
        self._add("clusterctl_instance_gpu", "1 for each GPU that it is pinned to", ("instance", "gpu"), gpus)

    def _add_cluster(self) -> None:
        self._one("clusterctl_supervisor_up", "1 if there is a supervisor", lambda: self._link.alive)
        self._one("clusterctl_joined_balancers", "Machines with balancers of their own that are connected",
                  lambda: len(self._of("load_balancer").get("joined", ())))  # fmt: skip
        for name, meaning, key in (
            ("clusterctl_instances_desired", "Workers wanted", "total_instances"),
            ("clusterctl_instances_min", "The fewest workers that may be wanted", "min_instances"),
            ("clusterctl_instances_max", "The most workers that may be wanted", "max_instances"),
        ):  # fmt: skip
            self._one(name, meaning, partial(self._number, None, key))
        for name, meaning, key in (
            ("clusterctl_autoscale_target", "Workers that autoscaling wants, or would want", "target"),
            ("clusterctl_autoscale_needed", "Workers that the load needs, and parts of one", "needed"),
        ):  # fmt: skip
            self._add(name, f"{meaning}; nothing while it is off", (), partial(self._autoscale, key))
        self._one(
            "clusterctl_instances_running", "Workers of this cluster in rotation",
            lambda: sum(b.spec.managed and b.spec.state == "ready" for b in self._pool.backends.values()),
        )
        self._one("clusterctl_supervisor_start_time_seconds", "When the supervisor was started, since the epoch",
                  lambda: self._of("supervisor").get("started_at") or 0)  # fmt: skip
        self._one("clusterctl_state_unsaved", "1 while the state cannot be written to the disk",
                  lambda: bool(self._of("supervisor").get("unsaved")))  # fmt: skip
        self._one("clusterctl_rolling_restart_stopped", "1 if a rolling restart does not go on",
                  lambda: bool((self._of("supervisor").get("rolling") or {}).get("stopped")))  # fmt: skip

        def info() -> _Values:
            seen = self._link.snapshot
            return [((self._version, str(seen.get("engine") or ""), str(seen.get("model") or "")), 1.0)]

        self._add("clusterctl_info", "Always 1", ("version", "engine", "model"), info)

    def _add_adapters(self) -> None:
        for key, name, meaning in (
            ("adapters", "clusterctl_adapters", "Adapters in the registry"),
            ("loads", "clusterctl_adapter_loads_total", "Adapters loaded on workers"),
            ("load_seconds", "clusterctl_adapter_load_seconds_total", "Seconds that loads took"),
            ("load_failures", "clusterctl_adapter_load_failures_total", "Loads that a worker refused"),
            ("rollbacks", "clusterctl_adapter_rollbacks_total", "Rollbacks asked for"),
            ("drift_repairs", "clusterctl_adapter_drift_repairs_total", "Workers changed behind our back, repaired"),
        ):
            self._one(name, meaning, partial(self._number, "adapters", key))

        def states() -> _Values:
            for adapter, seen in self._of("adapter_states").items():
                for state in ADAPTER_STATES:
                    yield (adapter, state), float(seen["states"].get(state, 0))

        def versions() -> _Values:
            for adapter, seen in self._of("adapter_states").items():
                if seen["version"] is not None:
                    yield (adapter,), float(seen["version"])

        self._add("clusterctl_adapter_instances", "Ready workers by what they have of an adapter", ("adapter", "state"),
                  states)  # fmt: skip
        self._add("clusterctl_adapter_version", "The active version", ("adapter",), versions)

    def _add_balancers(self) -> None:
        for key, name, meaning in (
            ("restarts", "clusterctl_balancer_restarts_total", "Balancer processes started as one had ended"),
            ("replacements", "clusterctl_balancer_replacements_total", "Balancer processes replaced as asked for"),
            ("lost_requests", "clusterctl_balancer_lost_requests_total",
             "Requests in flight in balancer processes that died, by their last report"),
        ):  # fmt: skip
            self._one(name, meaning, partial(self._number, "load_balancer", key))
        self._add(
            "clusterctl_balancer_ends_total", "Balancer processes that ended without being asked to", ("cause",),
            lambda: [((how,), float(count)) for how, count in self._of("load_balancer").get("ends", {}).items()],
        )
        self._one("clusterctl_balancer_draining", "Balancer processes that were replaced and finish what they have",
                  lambda: len(self._of("load_balancer").get("draining", ())))  # fmt: skip

    def _add_processes(self) -> None:
        for key, name, meaning in (
            ("cpu_seconds", "clusterctl_process_cpu_seconds_total", "CPU time; of a worker, of its process tree"),
            ("memory_bytes", "clusterctl_process_resident_memory_bytes", "Resident memory; pages shared count in each"),
            ("open_files", "clusterctl_process_open_files", "Open file descriptors"),
        ):
            self._add(name, meaning, ("process",), partial(self._used, key))
        self._add("clusterctl_process_max_open_files", "File descriptors that the balancer may have open", (),
                  lambda: [((), float(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))])  # fmt: skip

    def _used(self, key: str) -> _Values:
        return [((process,), float(used[key])) for process, used in self._processes().items()]

    def _processes(self) -> Mapping[str, Mapping[str, float]]:
        """The supervisor's figures; without one, what this process uses itself."""
        if self._link.alive:
            return self._of("processes")
        pids = [process.get("pid") for process in self._of("load_balancer").get("processes", ())]
        number = pids.index(os.getpid()) if os.getpid() in pids else 0
        return {f"balancer-{number}" if number else "balancer": _own_use()}

    def _add_gpus(self) -> None:
        for key, name, meaning in (
            ("memory_used", "clusterctl_gpu_memory_used_bytes", "Memory in use on a GPU, by whomever"),
            ("memory_total", "clusterctl_gpu_memory_total_bytes", "Memory of a GPU"),
            ("utilisation", "clusterctl_gpu_utilization_ratio", "Share of time in which a GPU was busy, 0 to 1"),
            ("temperature", "clusterctl_gpu_temperature_celsius", "Temperature of a GPU"),
            ("power", "clusterctl_gpu_power_watts", "Power that a GPU draws"),
        ):
            self._add(name, meaning, ("gpu", "uuid", "name"), partial(self._gpus, key))

    def _gpus(self, key: str) -> _Values:
        for gpu in self._link.snapshot.get("gpus", ()) if self._link.alive else ():
            if gpu[key] is not None:
                yield (str(gpu["index"]), gpu["uuid"], gpu["name"]), float(gpu[key])


def scraped(answered: Iterable[tuple[str, bool]]) -> Iterator[str]:
    """The one series that says of this very page which workers' series are in it."""
    yield "# HELP clusterctl_instance_scraped 1 if its own series are among these\n"
    yield "# TYPE clusterctl_instance_scraped gauge\n"
    for instance, came in answered:
        yield f'clusterctl_instance_scraped{{instance="{instance}"}} {float(came)}\n'


def mean_latency(series: Mapping[str, float], instance: str) -> float | None:
    """As `Metrics.mean_latency`, over several processes: ``series`` are the values of all of them."""

    def over_routes(kind: str) -> float:
        start = f'clusterctl_request_seconds_{kind}{{instance="{instance}",'
        return sum(value for name, value in series.items() if name.startswith(start))

    count = over_routes("count")
    return over_routes("sum") / count if count else None


def _own_use() -> dict[str, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "memory_bytes": pages * resource.getpagesize(),
        # Since Linux 6.2 the size of the folder is their number; to list ten thousand of them takes its time.
        "open_files": Path("/proc/self/fd").stat().st_size or len(os.listdir("/proc/self/fd")),  # noqa: PTH208
    }


@cache
def _version() -> str:
    try:
        return metadata.version("clusterctl")
    except metadata.PackageNotFoundError:
        return "unknown"
