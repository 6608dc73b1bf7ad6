"""What a hop costs: this balancer beside the others, against the same upstream, in one run. ``make bench``.

Two set-ups. For CPU time one core is shared by proxy, upstream and load, so that nobody has the caches of a core to
himself: ``small`` (requests of 700 bytes, 32 connections) and ``streams`` (64 chunks, one a millisecond, 32 at a time).
For latency and memory the proxy has the first core, upstream and load the second: ``paced`` (64 streams, 100 chunks a
second each), ``many`` (2,000 open streams), ``slow`` (a client that stops reading). Each target is measured in every
round, each time another one first; figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import psutil
import report
import targets
from targets import Target

_LOAD = Path(__file__).with_name("load.py")


class Bench:
    """``core``: where upstream and load run; the proxies run on core 0."""

    def __init__(self, port: int, process: psutil.Process) -> None:
        self.upstream, self._process, self._core = port, process, 1

    def share_the_core(self, shared: bool) -> None:
        self._core = 0 if shared else 1
        self._process.cpu_affinity([self._core])

    def start(self, port: int, **wanted: Any) -> subprocess.Popen[bytes]:
        """The load generator, in a process of its own."""
        command = ["taskset", "-c", str(self._core), sys.executable, str(_LOAD), str(port), json.dumps(wanted)]
        return subprocess.Popen(command, stdout=subprocess.PIPE)

    def load(self, port: int, **wanted: Any) -> dict[str, Any]:
        output, _ = self.start(port, **wanted).communicate(timeout=90)
        return dict(json.loads(output))

    def watched(self, target: Target, **wanted: Any) -> tuple[dict[str, Any], int]:
        """Beside the load's results the most memory that ``target`` had meanwhile, in bytes."""
        child, most = self.start(target.port, **wanted), 0
        while child.poll() is None:
            most = max(most, target.memory())
            time.sleep(0.1)
        assert child.stdout is not None
        return dict(json.loads(child.stdout.read())), most

    def connections(self) -> int:
        """How many connections the upstream has taken so far."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.upstream}/connections") as answer:
            return int(answer.read())


def small(bench: Bench, target: Target, requests: int) -> dict[str, float]:
    bench.load(target.port, scenario="small", connections=32, times=20)  # warm
    before, opened = target.cpu_seconds(), bench.connections()
    result = bench.load(target.port, scenario="small", connections=32, times=requests // 32)
    return {
        "cpu_us": (target.cpu_seconds() - before) / result["requests"] * 1e6,
        "per_second": result["per_second"],
        "first_p50_ms": result["first_ms"]["p50"],
        "first_p99_ms": result["first_ms"]["p99"],
        "errors": result["errors"],
        "opened_per_1000": (bench.connections() - opened - 1) / result["requests"] * 1000,
    }


def streams(bench: Bench, target: Target, times: int) -> dict[str, float]:
    """CPU time of a chunk is that of the whole request, divided by its 64 chunks."""
    bench.load(target.port, scenario="streams", connections=32, times=1, chunks=8, gap=0.001)  # warm
    before = target.cpu_seconds()
    result = bench.load(target.port, scenario="streams", connections=32, times=times, chunks=64, gap=0.001)
    return {
        "cpu_us": (target.cpu_seconds() - before) / (result["requests"] * 64) * 1e6,
        "chunks_per_second": result["requests"] * 64 / result["seconds"],
        "errors": result["errors"],
    }


def paced(bench: Bench, target: Target) -> dict[str, float]:
    bench.load(target.port, scenario="streams", connections=64, times=1, chunks=8, gap=0.01)  # warm
    before = target.cpu_seconds()
    result = bench.load(target.port, scenario="streams", connections=64, times=3, chunks=64, gap=0.01)
    return {
        "cpu_us": (target.cpu_seconds() - before) / (result["requests"] * 64) * 1e6,
        "first_p50_ms": result["first_ms"]["p50"],
        "first_p99_ms": result["first_ms"]["p99"],
        "gap_p50_ms": result["gap_ms"]["p50"],
        "gap_p99_ms": result["gap_ms"]["p99"],
        "errors": result["errors"],
    }


def many(bench: Bench, target: Target, count: int, seconds: int) -> dict[str, float]:
    """``count`` open streams of 10 chunks a second."""
    bench.load(target.port, scenario="streams", connections=64, times=1, chunks=8, gap=0.01)
    empty, before, began = target.memory(), target.cpu_seconds(), time.monotonic()
    result, most = bench.watched(
        target, scenario="streams", connections=count, times=1, chunks=seconds * 10, gap=0.1
    )
    return {
        "errors": result["errors"],
        "kib_per_stream": (most - empty) / count / 1024,
        "core_share": (target.cpu_seconds() - before) / (time.monotonic() - began),
        "gap_p50_ms": result["gap_ms"]["p50"],
        "gap_p99_ms": result["gap_ms"]["p99"],
    }


def slow_client(bench: Bench, target: Target) -> dict[str, float]:
    """63 streams with and without one client beside them that asks for 50 MB and reads nothing."""
    wanted: dict[str, Any] = {"scenario": "streams", "connections": 63, "times": 2, "chunks": 64, "gap": 0.01}
    alone, before = bench.watched(target, **wanted)
    beside, most = bench.watched(target, slow=True, **wanted)
    return {
        "gap_p99_ms_alone": alone["gap_ms"]["p99"],
        "gap_p99_ms_beside": beside["gap_ms"]["p99"],
        "grown_kib": (most - before) / 1024,
        "errors": alone["errors"] + beside["errors"],
    }


def rounds(
    running: list[Target], count: int, measure: Callable[[Target], dict[str, float]]
) -> dict[str, list[dict[str, float]]]:
    """Every target in every round, each time another one first."""
    seen: dict[str, list[dict[str, float]]] = {target.name: [] for target in running}
    for number in range(count):
        for target in running[number % len(running) :] + running[: number % len(running)]:
            seen[target.name].append(measure(target))
            print(".", end="", flush=True, file=sys.stderr)
    return seen


def medians(seen: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        name: {key: statistics.median(one[key] for one in each) for key in each[0]} for name, each in seen.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=6400)
    parser.add_argument("--stream-times", type=int, default=10)
    parser.add_argument("--many", type=int, default=2000)
    parser.add_argument("--only", default="", help="names of targets, comma separated")
    parser.add_argument("--scenarios", default="small,streams,paced,many,slow")
    parser.add_argument("--routers", type=Path, default=Path(".venv-routers"), help="venv with the Rust routers")
    parser.add_argument("--out", type=Path, default=None, help="folder for performance.json and performance.svg")
    options = parser.parse_args()
    starts: dict[str, Any] = {"direct": targets.direct, "floor": targets.floor}
    for name in ("nginx", "haproxy"):
        if targets.installed(name):
            starts[name] = getattr(targets, name)
    starts |= targets.routers(options.routers.absolute())
    starts |= {"clusterctl": targets.clusterctl(), "clusterctl again": targets.clusterctl("clusterctl again")}
    starts["clusterctl --no-resume"] = targets.clusterctl("clusterctl --no-resume", resume=False)
    if options.only:
        starts = {name: starts[name] for name in options.only.split(",")}
    results: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = Bench(*stack.enter_context(targets.stub(folder)))
        running = [stack.enter_context(start(folder, bench.upstream)) for start in starts.values()]
        proxies = [target for target in running if target.process is not None]
        wanted, count = options.scenarios.split(","), options.rounds
        bench.share_the_core(True)
        if "small" in wanted:
            results["small"] = rounds(running, count, lambda t: small(bench, t, options.requests))
        if "streams" in wanted:
            results["streams"] = rounds(proxies, count, lambda t: streams(bench, t, options.stream_times))
        bench.share_the_core(False)
        if "paced" in wanted:
            results["paced"] = rounds(running, count, lambda t: paced(bench, t))
        if "many" in wanted:
            results["many"] = rounds(proxies, 1, lambda t: many(bench, t, options.many, 10))
        if "slow" in wanted:
            results["slow"] = rounds(proxies, count, lambda t: slow_client(bench, t))
    print(file=sys.stderr)
    summary = {scenario: medians(seen) for scenario, seen in results.items()}
    print(report.table(summary))
    print(report.verdicts(summary))
    if options.out is not None:
        report.write(options.out, results, summary)


if __name__ == "__main__":
    main()
