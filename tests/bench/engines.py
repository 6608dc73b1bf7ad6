"""What an engine costs on this machine: `python tests/bench/engines.py [ENGINE ...]` starts one worker of each with the
demo model, without a cluster, and prints when it answered first, its memory and how many tokens it makes."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from enginecases import EngineWorker, chat
from fakes import Processes

_AT_A_TIME = (1, 4, 8)
_TOKENS = 100


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engines", nargs="*", default=["transformers", "mlx"])
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args(argv)
    columns = "".join(f" | tokens/s at {number}" for number in _AT_A_TIME)
    print(f"| engine | first answer (s) | memory (PSS, MiB){columns} |")
    print("|---|---" + "|---" * (1 + len(_AT_A_TIME)) + "|")
    for name in given.engines:
        runs = [_measure(name) for _ in range(given.runs)]
        medians = [statistics.median(values) for values in zip(*runs, strict=True)]
        told = [f"{medians[0]:.1f}", *(f"{value:.0f}" for value in medians[1:])]
        print(f"| {name} | {' | '.join(told)} |", flush=True)


def _measure(name: str) -> list[float]:
    """Seconds, MiB, and tokens a second for each of `_AT_A_TIME`."""
    folder = Path(tempfile.mkdtemp())
    processes = Processes(folder)
    began = time.monotonic()
    worker = EngineWorker(name, processes, folder)
    try:
        worker.wait(240)
        found = [time.monotonic() - began]
        speeds = [_speed(worker, number) for number in _AT_A_TIME]
        members = psutil.Process(worker.process.pid)
        pss = sum(one.memory_full_info().pss for one in (members, *members.children(recursive=True)))
        return [*found, pss / 1024**2, *speeds]
    finally:
        worker.close()
        processes.end()


def _speed(worker: EngineWorker, at_a_time: int) -> float:
    body = {**chat("Tell me of the sea.", max_tokens=_TOKENS), **worker.case.endless}
    with ThreadPoolExecutor(at_a_time) as pool:
        list(pool.map(lambda _: worker.ask("chat/completions", **body), range(at_a_time)))  # compiles what it does
        began = time.monotonic()
        answers = list(pool.map(lambda _: worker.ask("chat/completions", **body), range(2 * at_a_time)))
        seconds = time.monotonic() - began
    return sum(answer.json()["usage"]["completion_tokens"] for answer in answers) / seconds


if __name__ == "__main__":
    main(sys.argv[1:])
