"""Recorded traffic, read from files. Adapters are not in the recordings: they are drawn (`with_adapters`)."""

from __future__ import annotations

import csv
import gzip
import json
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import IO, cast


@dataclass(frozen=True, slots=True)
class TraceRow:
    """``at``: s after the first; ``prompt``, ``output``: tokens; ``blocks``: of 512 tokens each, equal ids have
    equal text and equal text before it."""

    at: float
    prompt: int
    output: int
    blocks: tuple[int, ...] = ()


#: Blocks that most conversations begin with: what comes after them tells one from another.
_COMMON = 0.02


def read(path: Path) -> list[TraceRow]:
    """A trace of Mooncake (JSON lines) or Azure (CSV), packed or not. Raises OSError, ValueError, KeyError."""
    with cast("IO[str]", gzip.open(path, "rt") if path.suffix == ".gz" else path.open()) as file:
        rows = list(_azure(file) if ".csv" in path.name else _mooncake(file))
    rows.sort(key=lambda row: row.at)
    return rows


def _mooncake(lines: IO[str]) -> Iterator[TraceRow]:
    """Fields as in the release of Mooncake (FAST '25): timestamp (ms), input_length, output_length, hash_ids."""
    for line in lines:
        row = json.loads(line)
        yield TraceRow(
            row["timestamp"] / 1000, row["input_length"], max(1, row["output_length"]), tuple(row["hash_ids"])
        )


def _azure(lines: IO[str]) -> Iterator[TraceRow]:
    """Fields as in the Azure Public Dataset's LLM traces of 2023: TIMESTAMP, ContextTokens, GeneratedTokens."""
    first: datetime | None = None
    for row in csv.DictReader(lines):
        at = datetime.fromisoformat(row["TIMESTAMP"][:26])
        first = first or at
        yield TraceRow((at - first).total_seconds(), int(row["ContextTokens"]), max(1, int(row["GeneratedTokens"])))


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    name: str
    rank: int


def adapters(count: int, ranks: Sequence[int]) -> list[AdapterSpec]:
    """``count`` of them, most popular first, their ranks in turn."""
    return [AdapterSpec(f"adapter-{i}", ranks[i % len(ranks)]) for i in range(count)]


def with_adapters(rows: Sequence[TraceRow], count: int, zipf: float, seed: int) -> list[int]:
    """The number of each row's adapter: one a conversation where the trace tells conversations (the first block that is
    not common to many), else one a request; the n-th most popular with probability ~ n^-zipf."""
    if not count:
        return [0] * len(rows)
    random, weights = Random(seed), list(accumulate((i + 1) ** -zipf for i in range(count)))

    def draw() -> int:
        return min(count - 1, bisect(weights, random.random() * weights[-1]))

    seen: dict[int, int] = {}
    for row in rows:
        for block in row.blocks[:2]:
            seen[block] = seen.get(block, 0) + 1
    of: dict[int, int] = {}
    drawn = []
    for row in rows:
        own = next((b for b in row.blocks[:2] if seen[b] < _COMMON * len(rows)), None)
        if own is None:
            drawn.append(draw())
            continue
        if own not in of:
            of[own] = draw()
        drawn.append(of[own])
    return drawn
