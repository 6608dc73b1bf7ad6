"""What it costs a worker of vLLM that answers can be made again in it, while none is: tokens a second with and without.

Two workers of the demo model, measured by turns: one as the cluster starts it, and one whose engine finds no logits
processor of ours. The streams of each round are asked for once plainly and once with their tokens told.

    python tests/bench/replay.py [--rounds 8]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from config import replay  # noqa: E402
from harness import AS_CLUSTER  # noqa: E402
from oneworker import one_worker  # noqa: E402
from worker.demo import model_path  # noqa: E402

TOKENS, STREAMS = 100, 8


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
            kinds = {"without": (plain, False), "unused": (ours, False), "told": (ours, True)}
            seen: dict[str, list[float]] = {kind: [] for kind in kinds}
            for number in range(rounds + 1):
                for kind, (url, tell) in kinds.items():
                    found = asyncio.run(speed(url, tell))
                    if number:  # the first one warms up
                        seen[kind].append(found)
    base = statistics.median(seen["without"])
    for kind, values in seen.items():
        print(f"{kind}: {statistics.median(values):.0f} tokens/s ({min(values):.0f} to {max(values):.0f}), "
              f"{statistics.median(values) / base:.3f} of without")  # fmt: skip


if __name__ == "__main__":
    main()
