"""What a job that computes costs those who are served beside it on the same processors:
``python tests/bench/beside.py [--minutes 20]``.

A cluster (llama.cpp, or simulated workers) answers streams at a steady rate. Each round has a part in which nothing
else happens, one beside a training of `clusterctl` in the background, as a job is by default where workers compute on
processors, one beside the same training in the foreground, and one of the first kind once more, whose difference says
how far to believe the figures. With ``--minutes`` there is one round, whose quiet parts are two minutes each, and whose
training in the background takes so long. The share is that of the machine's processors which the training got.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import aiohttp
from models import _LOADS, Bench, Part, _row

from harness import Cluster, free_port, poll
from worker.demo import model_path
from worker.drivers import proc

#: By part: whether a training runs, and in the background.
_PARTS: dict[str, bool | None] = {"quiet": None, "background": True, "foreground": False, "quiet again": None}


class Training:
    """A job of ``cluster`` that goes on until it is cancelled."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster, self._out, self._data = cluster, folder / "adapter", folder / "data.jsonl"
        said = {"user": "hello " * 40, "assistant": "well " * 40}
        chat = {"messages": [{"role": role, "content": text} for role, text in said.items()]}
        self._data.write_text((json.dumps(chat) + "\n") * 64)

    def start(self, background: bool) -> str:
        arguments = {
            "name": "beside", "data": str(self._data), "model": str(model_path()), "out": str(self._out),
            "epochs": 10_000, "overwrite": True,
        }  # fmt: skip
        body = {"kind": "train", "arguments": arguments, "background": background, "gpus": []}
        answer = self._cluster.post("/v1/cluster/jobs", body)
        assert answer.status_code == 202, answer.text
        name = str(answer.json()["id"])
        poll(lambda: (self._job(name)["progress"] or {}).get("stage") == "train", 300, f"it trains: {self._job(name)}")
        return name

    def used(self, name: str) -> float:
        """Seconds of a processor that its process has used so far."""
        found = proc.stat(self._job(name)["pid"])
        return 0.0 if found is None else found.cpu

    def end(self, name: str) -> None:
        assert self._job(name)["state"] == "running", self._job(name)
        assert self._cluster.ask("DELETE", f"/v1/cluster/jobs/{name}").status_code == 202
        poll(lambda: self._job(name)["state"] == "cancelled", 60)

    def _job(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._cluster.ask("GET", f"/v1/cluster/jobs/{name}").json()
        return found


async def measure(
    cluster: Cluster, engine: str, training: Training, rounds: int, seconds: dict[str, float]
) -> tuple[dict[str, list[Part]], dict[str, float]]:
    """By part, a `Part` a round, and the share of the machine's processors that the training had."""
    found: dict[str, list[Part]] = {name: [] for name in seconds}
    used = dict.fromkeys(seconds, 0.0)
    async with aiohttp.ClientSession(cluster.url) as session:
        bench = Bench(session, engine, "")
        await bench.part(Part(), 3.0, changing=False)  # warm
        for _ in range(rounds):
            for name, parts in found.items():
                background = _PARTS[name]
                job = None if background is None else await asyncio.to_thread(training.start, background)
                before = 0.0 if job is None else training.used(job)
                parts.append(Part())
                await bench.part(parts[-1], seconds[name], changing=False)
                if job is not None:
                    used[name] += training.used(job) - before
                    await asyncio.to_thread(training.end, job)
    cores = os.cpu_count() or 1
    return found, {name: spent / (rounds * seconds[name] * cores) for name, spent in used.items()}


def compare(engine: str, rounds: int, seconds: dict[str, float]) -> tuple[dict[str, list[Part]], dict[str, float]]:
    """On a cluster of its own."""
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder), free_port())
        models = {"served": {"path": _LOADS[engine][0], "on_demand": False}}
        try:
            up = cluster.up("--engine", engine, CLUSTERCTL_MODELS=json.dumps(models))
            assert up.returncode == 0, up.stderr
            return asyncio.run(measure(cluster, engine, Training(cluster, Path(folder)), rounds, seconds))
        finally:
            cluster.close()


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engines", nargs="*", default=["sim", "llamacpp"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each part of a round")
    parser.add_argument("--minutes", type=float, help="one round, with a training in the background of so many")
    given = parser.parse_args(argv)
    rounds, seconds = given.rounds, dict.fromkeys(_PARTS, given.seconds)
    if given.minutes:
        rounds, seconds = 1, {"quiet": 120.0, "background": 60 * given.minutes, "quiet again": 120.0}
    print("| engine | part | answers | failed | p50 (ms) | p99 (ms) | p99 beside quiet | share of the training |")
    print("|---" * 8 + "|")
    for engine in given.engines:
        found, shares = compare(engine, rounds, seconds)
        for name, parts in found.items():
            answers, failed, _, *figures = _row(parts, found["quiet"])
            print(f"| {engine} | {name} | {' | '.join([answers, failed, *figures])} | {shares[name]:.0%} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
