"""What a hop costs: this balancer beside the others, against the same upstream, in one run. ``make bench``.

Proxies run on the first core, upstream and load on the second. Each target is measured in every round, in an order that
changes; figures are medians over the rounds.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import report
import targets
from targets import Target

_LOAD = Path(__file__).with_name("load.py")


def load(port: int, **wanted: Any) -> dict[str, Any]:
    """Runs the load generator in a process of its own."""
    done = subprocess.run(
        ["taskset", "-c", "1", sys.executable, str(_LOAD), str(port), json.dumps(wanted)],
        check=True, capture_output=True, timeout=90,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


def connections(port: int) -> int:
    """How many connections the upstream has taken so far."""
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/connections") as answer:
        return int(answer.read())


def small(target: Target, upstream: int, requests: int) -> dict[str, float]:
    load(target.port, scenario="small", connections=32, times=20)  # warm
    before, opened = target.cpu_seconds(), connections(upstream)
    result = load(target.port, scenario="small", connections=32, times=requests // 32)
    return {
        "cpu_us": (target.cpu_seconds() - before) / result["requests"] * 1e6,
        "per_second": result["per_second"],
        "first_p50_ms": result["first_ms"]["p50"],
        "first_p99_ms": result["first_ms"]["p99"],
        "errors": result["errors"],
        "opened_per_1000": (connections(upstream) - opened - 1) / result["requests"] * 1000,
    }


def streams(target: Target, upstream: int, times: int) -> dict[str, float]:
    load(target.port, scenario="streams", connections=64, times=1, chunks=8, gap=0.01)  # warm
    before = target.cpu_seconds()
    result = load(target.port, scenario="streams", connections=64, times=times, chunks=64, gap=0.01)
    return {
        "cpu_us": (target.cpu_seconds() - before) / (result["requests"] * 65) * 1e6,
        "first_p50_ms": result["first_ms"]["p50"],
        "first_p99_ms": result["first_ms"]["p99"],
        "gap_p50_ms": result["gap_ms"]["p50"],
        "gap_p99_ms": result["gap_ms"]["p99"],
        "errors": result["errors"],
    }


def many(target: Target, upstream: int, count: int, seconds: int) -> dict[str, float]:
    """``count`` open streams of 10 chunks a second."""
    load(target.port, scenario="streams", connections=64, times=1, chunks=8, gap=0.01)
    empty, before, began = target.memory(), target.cpu_seconds(), time.monotonic()
    child = subprocess.Popen(
        ["taskset", "-c", "1", sys.executable, str(_LOAD), str(target.port),
         json.dumps({"scenario": "streams", "connections": count, "times": 1, "chunks": seconds * 10, "gap": 0.1})],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    most = 0
    while child.poll() is None:
        most = max(most, target.memory())
        time.sleep(0.2)
    assert child.stdout is not None
    result = json.loads(child.stdout.read())
    return {
        "errors": result["errors"],
        "kib_per_stream": (most - empty) / count / 1024,
        "core_share": (target.cpu_seconds() - before) / (time.monotonic() - began),
        "gap_p50_ms": result["gap_ms"]["p50"],
        "gap_p99_ms": result["gap_ms"]["p99"],
    }


def slow_client(target: Target, upstream: int) -> dict[str, float]:
    """63 streams with and without one client beside them that asks for 50 MB and reads nothing."""
    wanted: dict[str, Any] = {"scenario": "streams", "connections": 63, "times": 2, "chunks": 64, "gap": 0.01}
    alone = load(target.port, **wanted)
    before = target.memory()
    beside = load(target.port, slow=True, **wanted)
    return {
        "gap_p99_ms_alone": alone["gap_ms"]["p99"],
        "gap_p99_ms_beside": beside["gap_ms"]["p99"],
        "grown_kib": (target.memory() - before) / 1024,
        "errors": alone["errors"] + beside["errors"],
    }


Measure = Callable[[Target, int], dict[str, float]]


def rounds(running: list[Target], upstream: int, count: int, measure: Measure) -> dict[str, list[dict[str, float]]]:
    """Every target in every round, each time another one first."""
    seen: dict[str, list[dict[str, float]]] = {target.name: [] for target in running}
    for number in range(count):
        for target in running[number % len(running) :] + running[: number % len(running)]:
            seen[target.name].append(measure(target, upstream))
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
    parser.add_argument("--stream-times", type=int, default=2)
    parser.add_argument("--many", type=int, default=2000)
    parser.add_argument("--only", default="", help="names of targets, comma separated")
    parser.add_argument("--scenarios", default="small,streams,many,slow")
    parser.add_argument("--routers", type=Path, default=Path(".venv-routers"), help="venv with the Rust routers")
    parser.add_argument("--out", type=Path, default=None, help="folder for performance.json and performance.svg")
    options = parser.parse_args()
    starts: dict[str, Any] = {"direct": targets.direct}
    for name in ("nginx", "haproxy"):
        if targets.installed(name):
            starts[name] = getattr(targets, name)
    starts |= targets.routers(options.routers.absolute())
    starts |= {"clusterctl": targets.clusterctl(), "clusterctl again": targets.clusterctl("clusterctl again")}
    if options.only:
        starts = {name: starts[name] for name in options.only.split(",")}
    results: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(targets.stub(folder))
        running = [stack.enter_context(start(folder, upstream)) for start in starts.values()]
        wanted = options.scenarios.split(",")
        if "small" in wanted:
            results["small"] = rounds(running, upstream, options.rounds, lambda t, u: small(t, u, options.requests))
        if "streams" in wanted:
            results["streams"] = rounds(
                running, upstream, options.rounds, lambda t, u: streams(t, u, options.stream_times)
            )
        proxies = [target for target in running if target.process is not None]
        if "many" in wanted:
            results["many"] = rounds(proxies, upstream, 1, lambda t, u: many(t, u, options.many, 10))
        if "slow" in wanted:
            results["slow"] = rounds(proxies, upstream, options.rounds, slow_client)
    print(file=sys.stderr)
    summary = {scenario: medians(seen) for scenario, seen in results.items()}
    print(report.table(summary))
    print(report.verdicts(summary))
    if options.out is not None:
        report.write(options.out, results, summary)


if __name__ == "__main__":
    main()
