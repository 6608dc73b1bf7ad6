"""Prints an answer as it is made, and ends it in the middle: the engine stops computing it at once.

    python docs/examples/offline_stream.py
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from worker.offline import OfflineEngine


async def stream(engine: OfflineEngine, most: int) -> int:
    """Ends after ``most`` tokens and returns how many came."""
    tokens = 0
    async with aclosing(engine.stream("Once upon a time", {"max_tokens": 200, "temperature": 0}, "pirate")) as pieces:
        async for piece in pieces:
            print(piece.text, end="", flush=True)
            tokens += len(piece.token_ids)
            if tokens >= most:
                break
    print()
    return tokens


def main(engine: OfflineEngine) -> None:
    print(f"({asyncio.run(stream(engine, 12))} tokens)")


if __name__ == "__main__":
    with OfflineEngine() as engine:
        main(engine)
