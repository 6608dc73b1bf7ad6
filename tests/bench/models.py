"""What a model costs the others when it comes and goes: ``python tests/bench/models.py [sim] [llamacpp]``.

A cluster serves one model at a steady rate of streams; every round has a part in which nothing else happens, one in
which a second model is loaded, asked once and unloaded again and again, and one of the first kind once more, whose
difference says how far to believe the figures. Milliseconds from sending a request to the end of its answer: medians
over the rounds, and of what each part was beside the first of the same round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import aiohttp

from harness import Cluster, free_port
from worker.demo import gguf_path

#: By engine: the model's path, tokens of an answer, and streams a second. Both cores are about half busy with them.
_LOADS = {"sim": ("demo", 20, 40.0), "llamacpp": (str(gguf_path()), 60, 8.0)}
_PARTS = ("quiet", "loads", "quiet again")


@dataclass
class Part:
    """One round of one. ``took``: ms of each answer; ``changes``: how often the other model came and went."""

    took: list[float] = field(default_factory=list)
    failed: int = 0
    changes: int = 0

    def at(self, share: float) -> float:
        ordered = sorted(self.took)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Bench:
    def __init__(self, session: aiohttp.ClientSession, engine: str, args: str) -> None:
        self._session, self._args = session, args
        self._path, self._tokens, self._rate = _LOADS[engine]

    async def part(self, part: Part, seconds: float, changing: bool) -> None:
        """Adds to ``part`` what is seen in so many ``seconds``."""
        tasks, began = list[asyncio.Task[None]](), time.monotonic()
        async with asyncio.TaskGroup() as group:
            until = began + seconds
            if changing:
                group.create_task(self._change(part, until))
            while (now := time.monotonic()) < until:
                tasks.append(group.create_task(self._stream(part)))
                await asyncio.sleep(began + len(tasks) / self._rate - now)

    async def _stream(self, part: Part) -> None:
        began = time.perf_counter()
        body = {
            "model": "served", "prompt": "hello", "max_tokens": self._tokens, "ignore_eos": True, "temperature": 0,
            "stream": True,
        }  # fmt: skip
        try:
            async with self._session.post("/v1/completions", json=body) as answer:
                text = await answer.read()
            whole = answer.status == 200 and text.rstrip().endswith(b"data: [DONE]") and b'"error"' not in text
        except aiohttp.ClientError:
            whole = False
        part.took.append((time.perf_counter() - began) * 1e3)
        part.failed += not whole

    async def _change(self, part: Part, until: float) -> None:
        body = {"model_name": "other", "model_path": self._path, "args": self._args}
        while time.monotonic() < until:
            while await self._ask("POST", "/v1/models/load", body) == 409:  # what is left of it goes
                await asyncio.sleep(0.02)
            asked = {"model": "other", "prompt": "hello", "max_tokens": 4}
            assert await self._ask("POST", "/v1/completions", asked) == 200
            assert await self._ask("DELETE", "/v1/models/other") == 202
            part.changes += 1

    async def _ask(self, method: str, path: str, body: Any = None) -> int:
        async with self._session.request(method, path, json=body) as answer:
            return answer.status


async def measure(cluster: Cluster, engine: str, args: str, rounds: int, seconds: float) -> dict[str, list[Part]]:
    """By part, a `Part` a round."""
    found: dict[str, list[Part]] = {name: [] for name in _PARTS}
    async with aiohttp.ClientSession(cluster.url) as session:
        bench = Bench(session, engine, args)
        await bench.part(Part(), 3.0, changing=True)  # warm
        for _ in range(rounds):
            for name, parts in found.items():
                parts.append(Part())
                await bench.part(parts[-1], seconds, changing=name == "loads")
    return found


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engines", nargs="*", default=list(_LOADS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each part of a round")
    parser.add_argument("--args", default="", help="flags of the engine, for both models")
    given = parser.parse_args(argv)
    print("| engine | part | answers | failed | came and went | p50 (ms) | p99 (ms) | p99 beside quiet |")
    print("|---" * 8 + "|")
    for engine in given.engines:
        with tempfile.TemporaryDirectory() as folder:
            cluster = Cluster(Path(folder), free_port())
            models = {"served": {"path": _LOADS[engine][0], "on_demand": False, "args": given.args}}
            try:
                up = cluster.up("--engine", engine, CLUSTERCTL_MODELS=json.dumps(models))
                assert up.returncode == 0, up.stderr
                found = asyncio.run(measure(cluster, engine, given.args, given.rounds, given.seconds))
            finally:
                cluster.close()
        for name, parts in found.items():
            print(f"| {engine} | {name} | {' | '.join(_row(parts, found['quiet']))} |", flush=True)


def _row(parts: Sequence[Part], quiet: Sequence[Part]) -> list[str]:
    answers, failed, changes = (sum(n) for n in zip(*((len(p.took), p.failed, p.changes) for p in parts), strict=True))
    beside = statistics.median(one.at(0.99) / other.at(0.99) for one, other in zip(parts, quiet, strict=True))
    took = (statistics.median(part.at(share) for part in parts) for share in (0.5, 0.99))
    return [str(answers), str(failed), str(changes), *(f"{ms:.1f}" for ms in took), f"{beside:.2f}"]


if __name__ == "__main__":
    main(sys.argv[1:])
