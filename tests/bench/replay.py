"""What it costs a worker of vLLM that answers can be made again in it, while none is: processor time a token, with and
without, and tokens a second, which other work on the machine disturbs.

Two workers of the demo model, measured by turns: one as the cluster starts it, and one whose engine finds no logits
processor of ours. The streams of each round are asked for once plainly and once with their tokens told.

    python tests/bench/replay.py [--rounds 8]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from config import replay  # noqa: E402
from harness import AS_CLUSTER  # noqa: E402
from oneworker import one_worker  # noqa: E402
from worker.demo import model_path  # noqa: E402

TOKENS, STREAMS = 100, 8


def processor_seconds(folder: Path) -> float:
    """Of all processes of the worker that was started in ``folder``, since their starts."""
    log = folder / "log"
    (leader,) = [pid for pid in psutil.pids() if _writes(pid, log) and _session(pid) == pid]
    times = [psutil.Process(pid).cpu_times() for pid in psutil.pids() if _session(pid) == leader]
    return sum(each.user + each.system for each in times)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _writes(pid: int, log: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/fd/1").samefile(log)
    except OSError:
        return False


async def speed(url: str, tell: bool) -> float:
    """Tokens a second of `STREAMS` streams at a time."""
    headers = {**AS_CLUSTER, **({replay.TELL: "1"} if tell else {})}

    async def stream(client: httpx.AsyncClient, number: int) -> None:
        body = {"model": "demo", "prompt": f"The sea {number}", "max_tokens": TOKENS, "temperature": 0,
                "ignore_eos": True, "stream": True}  # fmt: skip
        answer = await client.post(f"{url}/v1/completions", json=body, headers=headers)
        assert answer.status_code == 200 and answer.headers.get(replay.TELL) in (None, "1")

    async with httpx.AsyncClient(timeout=120) as client:
        begun = time.perf_counter()
        await asyncio.gather(*(stream(client, number) for number in range(STREAMS)))
        return TOKENS * STREAMS / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for made in (folder / "with", folder / "without"):
            made.mkdir()
        with one_worker(folder / "with", model_path(), {}) as ours, one_worker(
            folder / "without", model_path(), {}, PYTHONPATH=""
        ) as plain:  # fmt: skip
            kinds = {"without": (plain, False, folder / "without"), "unused": (ours, False, folder / "with"),
                     "told": (ours, True, folder / "with")}  # fmt: skip
            speeds: dict[str, list[float]] = {kind: [] for kind in kinds}
            costs: dict[str, list[float]] = {kind: [] for kind in kinds}
            for number in range(rounds + 1):
                for kind, (url, tell, where) in kinds.items():
                    before = processor_seconds(where)
                    found = asyncio.run(speed(url, tell))
                    if number:  # the first one warms up
                        speeds[kind].append(found)
                        costs[kind].append((processor_seconds(where) - before) * 1e6 / TOKENS / STREAMS)
    for kind in kinds:
        cost, base = statistics.median(costs[kind]), statistics.median(costs["without"])
        print(f"{kind}: {cost:.0f} µs of a processor a token ({min(costs[kind]):.0f} to {max(costs[kind]):.0f}), "
              f"{cost / base:.3f} of without; {statistics.median(speeds[kind]):.0f} tokens/s")  # fmt: skip


if __name__ == "__main__":
    main()
