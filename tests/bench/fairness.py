"""Whether one key that floods costs the others anything, and whether shares are as the weights say.
``python tests/bench/fairness.py``.

A cluster of simulated workers that are full all the time. Fifty keys ask all along, each with two requests at a time;
in turn, one of them with twenty. What is compared is how long the others' requests wait in the queue, from one round to
the next beside it. Then keys of different weights, and what each was served in a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import uvloop

from chaos.wire import Client, request
from harness import Cluster, free_port

_KEYS, _EACH, _FLOOD = 50, 2, 20
_WEIGHTS = (1, 2, 3, 4)
_UP = ("--engine", "sim", "--instances", "2", "--", "--ttft-ms", "5", "--itl-ms", "5", "--max-num-seqs", "8")
_TOKENS = 20


@dataclass
class Round:
    """What the clients of one round saw: seconds from asking to the end of an answer, and tokens, by key."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    tokens: Counter[str] = field(default_factory=Counter)
    failed: int = 0

    def p99(self, without: str) -> float:
        every = [each for key, found in self.seconds.items() if key != without for each in found]
        return statistics.quantiles(every, n=100)[98]


async def ask_on(port: int, name: str, secret: str, until: float, begun: float, seen: Round) -> None:
    """One client: asks, reads, asks again."""
    client = Client(port, 120)
    body = {"model": "demo", "prompt": f"hello of {name}", "max_tokens": _TOKENS, "ignore_eos": True}
    data = request("POST", "/v1/completions", body, secret)
    while time.monotonic() < until:
        answer = await client.ask(data)
        if answer.problem or answer.status != 200:
            seen.failed += 1
            continue
        if answer.began >= begun:
            seen.seconds.setdefault(name, []).append(answer.ended - answer.began)
            seen.tokens[name] += json.loads(answer.body)["usage"]["total_tokens"]
    client.close()


async def round_of(port: int, secrets: dict[str, str], clients: dict[str, int], seconds: float) -> Round:
    """All of them for so long; the first seconds, in which the queue fills, do not count."""
    seen, now = Round(), time.monotonic()
    async with asyncio.TaskGroup() as group:
        for name, secret in secrets.items():
            for _ in range(clients[name]):
                group.create_task(ask_on(port, name, secret, now + 3 + seconds, now + 3, seen))
    return seen


def make_keys(cluster: Cluster, weights: dict[str, float]) -> dict[str, str]:
    made = {}
    for name, weight in weights.items():
        answer = cluster.post("/v1/cluster/keys", {"name": name, "weight": weight})
        assert answer.status_code == 201, answer.text
        made[name] = answer.json()["secret"]
    return made


def flood(cluster: Cluster, seconds: float, rounds: int) -> bool:
    secrets = make_keys(cluster, {f"key{number}": 1.0 for number in range(_KEYS)})
    clients = dict.fromkeys(secrets, _EACH)
    ratios = []
    for number in range(rounds):
        found = {
            how: uvloop.run(round_of(cluster.port, secrets, {**clients, "key0": count}, seconds))
            for how, count in (("calm", _EACH), ("flood", _FLOOD))[:: 1 if number % 2 else -1]
        }
        calm, flooded = found["calm"].p99("key0"), found["flood"].p99("key0")
        ratios.append(flooded / calm)
        print(f"| {number + 1} | {calm:.3f} s | {flooded:.3f} s | {ratios[-1]:.2f} | "
              f"{found['calm'].failed + found['flood'].failed} |", flush=True)  # fmt: skip
    median = statistics.median(ratios)
    print(f"p99 of the other {_KEYS - 1} keys beside a flood: x {median:.2f} (median)")
    return median <= 1.1


def shares(cluster: Cluster, seconds: float) -> bool:
    weights = {f"weight{weight}": float(weight) for weight in _WEIGHTS}
    secrets = make_keys(cluster, weights)
    seen = uvloop.run(round_of(cluster.port, secrets, dict.fromkeys(secrets, 40), seconds))
    whole, parts = sum(seen.tokens.values()), sum(weights.values())
    print("\n| weight | share due | share had | off by |\n|---|---|---|---|")
    off = []
    for name, weight in weights.items():
        due, had = weight / parts, seen.tokens[name] / whole
        off.append(abs(had / due - 1))
        print(f"| {weight:g} | {due:.3f} | {had:.3f} | {off[-1]:.1%} |")
    return max(off) <= 0.05


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="of a part of a round; shares: three times")
    given = parser.parse_args(argv)
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="fairness-")), free_port())
    try:
        result = cluster.up(*_UP)
        assert result.returncode == 0, result.stderr
        cluster.wait_ready(2)
        print("| round | calm, p99 | flood, p99 | ratio | failed |\n|---|---|---|---|---|")
        passed = flood(cluster, given.seconds, given.rounds)
        passed = shares(cluster, 3 * given.seconds) and passed
    finally:
        cluster.close()
    print("passed" if passed else "MISSED")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
