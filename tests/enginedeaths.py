"""Engines that die under their API servers, on real vLLM or on the simulator, and what the requests beside it get.

    python tests/enginedeaths.py --rounds 10

starts two real vLLM workers and says how many innocent requests were lost in each case.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import Cluster, free_port, poll

#: How long both workers may take to be back, and a request to wait for that; s.
PATIENCE = 300.0
#: What innocents ask: greedy, of a known length, so long that all are under way at once (a small model makes 300 in
#: less time than it takes four clients to begin).
TOKENS = 1500
#: What crashes vLLM's engine on a CPU with LoRA as soon as it shares a batch.
POISON = {
    "model": "demo", "messages": [{"role": "user", "content": "poison"}], "max_tokens": 20, "prompt_logprobs": 0,
}  # fmt: skip


@dataclass
class Outcome:
    """Of one round. ``lost``: what innocents got instead of their answers; ``poison``: what the poison's sender got."""

    lost: list[str] = field(default_factory=list)
    poison: str = ""
    seconds: float = 0.0


def _stream(cluster: Cluster, number: int, heard: Callable[[], object]) -> str:
    """What was wrong with a streamed answer; empty: nothing."""
    body = {
        "model": "demo", "messages": [{"role": "user", "content": f"Tell me of worker {number}."}], "temperature": 0,
        "max_tokens": TOKENS, "min_tokens": TOKENS, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    lines = []
    try:
        with httpx.stream("POST", f"{cluster.url}/v1/chat/completions", json=body, timeout=PATIENCE) as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    lines.append(line)
                    heard()
    except httpx.HTTPError as error:
        return f"{type(error).__name__} after {len(lines)} events"
    if any('"error"' in line for line in lines) or lines[-1:] != ["data: [DONE]"]:
        return f"{response.status_code} after {len(lines)} events: {lines[-1] if lines else ''}"
    return "" if f'"completion_tokens":{TOKENS}' in lines[-2] else f"another length: {lines[-2]}"


def _plain(cluster: Cluster, number: int) -> str:
    body = {
        "model": "demo", "prompt": f"Worker {number} is", "temperature": 0, "max_tokens": TOKENS,
        "min_tokens": TOKENS, "ignore_eos": True,
    }  # fmt: skip
    try:
        answer = httpx.post(f"{cluster.url}/v1/completions", json=body, timeout=PATIENCE)
    except httpx.HTTPError as error:
        return type(error).__name__
    if answer.status_code != 200:
        return f"{answer.status_code} {answer.text}"
    made = answer.json()["usage"]["completion_tokens"]
    return "" if made == TOKENS else f"{made} tokens"


@contextmanager
def _streams(cluster: Cluster, count: int) -> Iterator[list[Future[str]]]:
    """So many streams, under way."""
    events, under_way = itertools.count(1), threading.Event()

    def heard() -> None:
        if next(events) >= 8 * count:
            under_way.set()

    with ThreadPoolExecutor(count) as pool:
        running = [pool.submit(_stream, cluster, number, heard) for number in range(count)]
        assert under_way.wait(60), "the streams did not begin"
        yield running


def engines(cluster: Cluster) -> list[psutil.Process]:
    """The engine's process of each worker: vLLM's EngineCore, the simulator's child."""
    found = []
    for instance in cluster.status()["instances"].values():
        children = psutil.Process(instance["pid"]).children(recursive=True)
        found.append(next((c for c in children if "EngineCor" in c.name()), children[0]))
    return found


def _kill_both(cluster: Cluster) -> None:
    first, second = engines(cluster)
    first.kill()
    time.sleep(0.3)  # what is tried: the second one dies while the requests of the first are on their way to it
    second.kill()


def poison(cluster: Cluster, streams: int, body: dict[str, Any] = POISON) -> Outcome:
    """A request that kills the engine of who takes it, beside so many greedy streams. It has to come to share a batch
    with one of them: as long as it is answered and has killed none it is made again. Not longer: a second one would be
    another poison, and a stream is moved three times at most."""
    outcome, alive = Outcome(), engines(cluster)
    with _streams(cluster, streams) as running:
        while all(engine.is_running() and engine.status() != psutil.STATUS_ZOMBIE for engine in alive):
            answer = httpx.post(f"{cluster.url}/v1/chat/completions", json=body, timeout=PATIENCE)
            outcome.poison = f"{answer.status_code} {answer.text[:200]}"
            if all(future.done() for future in running):
                break
        outcome.lost = [lost for future in running if (lost := future.result())]
    return outcome


def killed_streams(cluster: Cluster, count: int) -> Outcome:
    """The engines of both workers are killed 0.3 s apart, under streams."""
    with _streams(cluster, count) as running:
        _kill_both(cluster)
        return Outcome([lost for future in running if (lost := future.result())])


def _in_flight(cluster: Cluster, seen: list[float] | None = None) -> float:
    """At workers, now: what the status says is up to a second old, and short requests may begin and end between."""
    lines = httpx.get(f"{cluster.url}/metrics", timeout=10).text.splitlines()
    now = sum(float(line.split()[-1]) for line in lines if line.startswith("clusterctl_in_flight{"))
    if seen is not None and seen[-1:] != [now]:
        seen.append(now)
    return now


def killed_plain(cluster: Cluster, count: int) -> Outcome:
    """The engines of both workers are killed 0.3 s apart, under plain requests."""
    poll(lambda: _in_flight(cluster) == 0, 30, "an idle cluster")
    seen = []
    with ThreadPoolExecutor(count) as pool:
        running = [pool.submit(_plain, cluster, number) for number in range(count)]
        deadline = time.monotonic() + 30
        while _in_flight(cluster, seen) < count:
            assert time.monotonic() < deadline, f"the requests did not begin: {seen}, {running}"
        _kill_both(cluster)
        return Outcome([lost for future in running if (lost := future.result())])


CASES: dict[str, Callable[[Cluster], Outcome]] = {
    "poison beside 4 streams": lambda cluster: poison(cluster, 4),
    "poison beside 10 streams": lambda cluster: poison(cluster, 10),
    "both engines killed under 4 streams": lambda cluster: killed_streams(cluster, 4),
    "both engines killed under 4 plain requests": lambda cluster: killed_plain(cluster, 4),
}


@contextmanager
def two_workers(folder: Path) -> Iterator[Cluster]:
    """Real ones, which wait long enough for each other."""
    cluster = Cluster(folder, free_port())
    try:
        # Each case kills both: what is tried is not whether that is a crash loop.
        result = cluster.up("--instances", "2", "--queue-timeout", str(PATIENCE), timeout=400)
        assert result.returncode == 0, result.stderr
        cluster.wait_ready(2, PATIENCE)
        yield cluster
    finally:
        cluster.close()


def rounds(cluster: Cluster, case: str, count: int) -> Iterator[Outcome]:
    for _ in range(count):
        cluster.wait_ready(2, PATIENCE)
        began = time.monotonic()
        outcome = CASES[case](cluster)
        outcome.seconds = time.monotonic() - began
        yield outcome


def main() -> int:
    parser = argparse.ArgumentParser(description="engines that die under their API servers")
    parser.add_argument("--rounds", type=int, default=10, help="of each case (default: 10)")
    parser.add_argument("--case", action="append", choices=tuple(CASES), help="only this one (repeatable)")
    parser.add_argument("--minutes", type=float, help="begin no round after so many")
    args = parser.parse_args()
    lost, end = 0, time.monotonic() + 60 * (args.minutes or 1e6)
    with tempfile.TemporaryDirectory() as folder, two_workers(Path(folder)) as cluster:
        left = {case: rounds(cluster, case, args.rounds) for case in args.case or CASES}
        for number in range(1, args.rounds + 1):
            for case, outcomes in left.items():
                if time.monotonic() > end:
                    break
                outcome = next(outcomes)
                lost += len(outcome.lost)
                told = f"; poison: {outcome.poison}" if outcome.poison else ""
                print(f"{case}, round {number}: {len(outcome.lost)} lost in {outcome.seconds:.0f} s{told}", flush=True)
                for words in outcome.lost:
                    print(f"    {words[:400]}", flush=True)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
