"""Streams for adapters by Zipf's law, at random moments whatever becomes of the others, and how long their first token
took: over HTTP, or in the simulation."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from random import Random
from typing import Any

from chaos.wire import request
from lb.routing.strategies.registry import STRATEGIES
from sim.simulation import Request, Setting, run
from worker.sim.engine.costs import H100_8B

WORKERS, SLOTS, ADAPTERS, RANKS = 4, 4, 64, (8, 16, 32, 64)
#: Each is a token of four bytes, with the blank before it.
_WORDS = ("the", "and", "you", "was", "for", "are", "his", "her")


def rank_of(number: int) -> int:
    """Of the adapter ``a{number}``."""
    return RANKS[number % len(RANKS)]


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of some requests. ``ttft``: of each that was answered, s of the machine."""

    ttft: list[float]
    failed: int
    late: float = 0.0

    def percentile(self, share: float) -> float:
        values = sorted(self.ttft)
        return values[min(len(values) - 1, math.ceil(share * len(values)) - 1)] if values else math.nan


def requests(count: int, rate: float, seed: int) -> list[Request]:
    """``count`` of them, ``rate`` a second: prompts of 100 to 1500 tokens, answers of 20 to 120."""
    random, at, made = Random(seed), 0.0, []
    weights = list(accumulate(1 / (i + 1) for i in range(ADAPTERS)))
    for _ in range(count):
        at += random.expovariate(rate)
        number = random.choices(range(ADAPTERS), cum_weights=weights)[0]
        prompt, output = random.randint(100, 1500), random.randint(20, 120)
        made.append(Request(at, prompt, output, f"a{number}", rank_of(number)))
    return made


def _body(each: Request, random: Random) -> dict[str, Any]:
    """Of so many bytes that the balancer, which takes four for a token, knows the prompt's length as the simulation
    does: some tokens are one byte, for the rest of the body."""
    body = {"model": each.adapter, "prompt": "", "max_tokens": each.output, "ignore_eos": True, "stream": True}
    tokens = each.prompt - 1  # the first stands for the beginning of the text
    words = (4 * tokens + 3 - len(json.dumps(body)) - tokens) // 3
    text = "".join(f" {word}" for word in random.choices(_WORDS, k=words))
    return {**body, "prompt": text + "0" * (tokens - words)}


async def stream(port: int, each: Request, random: Random) -> tuple[float, bool]:
    """Seconds to the first event, and whether the whole answer came."""
    body = _body(each, random)
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request("POST", "/v1/completions", body).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        head = await reader.readuntil(b"\r\n\r\n")
        first = await reader.readuntil(b"data: ")
        ttft = time.monotonic() - began
        rest = await reader.read()
        whole = b" 200 " in head.split(b"\r\n")[0] and b"[DONE]" in rest and b'"error"' not in first + rest
        return ttft, whole
    except (OSError, asyncio.IncompleteReadError):
        return math.inf, False
    finally:
        writer.close()


async def drive(
    port: int, load: Sequence[Request], pace: float, events: Sequence[tuple[float, Callable[[], object]]] = ()
) -> Seen:
    """All of ``load``, each at its time whatever becomes of the others; ``events`` at theirs."""
    begun, tasks, late = time.monotonic(), [], 0.0
    loop = asyncio.get_running_loop()
    upheavals = [loop.call_later(at / pace, event) for at, event in events]
    for number, each in enumerate(load):
        wait = begun + each.at / pace - time.monotonic()
        late = max(late, -wait)
        await asyncio.sleep(max(0.0, wait))
        tasks.append(asyncio.create_task(stream(port, each, Random(f"{begun} {number}"))))
    ended = await asyncio.gather(*tasks)
    for handle in upheavals:
        handle.cancel()
    return Seen([ttft * pace for ttft, whole in ended if whole], sum(not whole for _, whole in ended), late)


def simulated(load: Sequence[Request], strategy: str) -> Seen:
    costs = replace(H100_8B, disk_load=0.0, disk_bandwidth=math.inf)  # they are in host memory before the first request
    setting = Setting(costs, workers=WORKERS, slots=SLOTS, host_adapters=ADAPTERS)
    result = run(load, STRATEGIES[strategy], setting)
    return Seen(list(result.ttft), 0)
