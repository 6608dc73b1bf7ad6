"""The last hour in steps of `STEP` seconds: what the balancer counts, added up as it goes, in a ring of fixed size.
Pure: the memory and the time are arguments.

Each balancer process writes a ring of its own; what is shown is made of all of them (`merged`), those of processes that
have ended too, and so an hour is an hour whatever happened to balancers in it.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import add
from typing import Any

from lb.telemetry.instruments import FINE
from lb.telemetry.metrics import TrafficTotals

#: Seconds.
STEP = 10
#: An hour, and the step that is under way.
SLOTS = 3600 // STEP + 1
#: Instances whose tokens are kept; more are left out.
INSTANCES = 64

#: What was counted by other bounds is no use.
_SHAPE = zlib.crc32(repr(FINE).encode())
_MAGIC = f"clusterctl history 1 {_SHAPE:08x}\n".encode().ljust(32, b"\0")
_NAME = 96
_NAMES = len(_MAGIC)
_CELLS_AT = _NAMES + INSTANCES * _NAME

#: Cells of a slot: which step it is, looks, then `Totals`, then tokens by instance.
_STEP, _LOOKS, _REQUESTS, _ERRORS, _TOKENS, _IN_FLIGHT, _QUEUED = range(7)
_TTFT = 7
_DURATION = _TTFT + len(FINE) + 1
_INSTANCE = _DURATION + len(FINE) + 1
_CELLS = _INSTANCE + INSTANCES

#: Of one ring.
BYTES = _CELLS_AT + SLOTS * _CELLS * 8


class Ring:
    """``memory``: `BYTES` of it, empty or what a ring was written to before; whoever reads it at the same time sees a
    step that is under way half written at worst."""

    def __init__(self, memory: Any) -> None:
        self._memory = memoryview(memory)
        if self._memory[: len(_MAGIC)] != _MAGIC:
            self._memory[:BYTES] = bytes(BYTES)
            self._memory[: len(_MAGIC)] = _MAGIC
        self._cells = self._memory[_CELLS_AT:BYTES].cast("d")
        self._names = _names(self._memory)
        self._before: tuple[TrafficTotals, Mapping[str, float]] | None = None

    def add(self, now: float, seen: TrafficTotals, made: Mapping[str, float]) -> None:
        """What has come since the last time; ``now`` in seconds since the epoch, ``made`` the tokens that each engine
        says it has made. The first time there is nothing to compare with."""
        known, self._before = self._before, (seen, made)
        if known is None:
            return
        before, made_before = known
        at, cells = self._slot(int(now // STEP)), self._cells
        cells[at + _LOOKS] += 1
        for cell, was, value in (
            (_REQUESTS, before.requests, seen.requests), (_ERRORS, before.errors, seen.errors),
            (_TOKENS, before.tokens, seen.tokens), (_IN_FLIGHT, 0.0, seen.in_flight), (_QUEUED, 0.0, seen.queued),
            *((_TTFT + n, *pair) for n, pair in enumerate(zip(before.ttft, seen.ttft, strict=True))),
            *((_DURATION + n, *pair) for n, pair in enumerate(zip(before.duration, seen.duration, strict=True))),
        ):  # fmt: skip
            cells[at + cell] += max(0.0, value - was)
        for name, tokens in made.items():
            # One that was started again counts from 0; of one that is new nobody knows when it made what it has.
            was = made_before.get(name, tokens)
            gained = tokens - was if tokens >= was else tokens
            if gained and (number := self._number(name)) is not None:
                cells[at + _INSTANCE + number] += gained

    def _slot(self, step: int) -> int:
        """Where the cells of ``step`` begin; whatever was there before makes room for it."""
        at = step % SLOTS * _CELLS
        if self._cells[at] != step:
            for cell in range(at + 1, at + _CELLS):
                self._cells[cell] = 0.0
            self._cells[at] = step
        return at

    def _number(self, name: str) -> int | None:
        """None if there is no room for another."""
        number = self._names.get(name)
        if number is None and len(self._names) < INSTANCES:
            number = self._names[name] = len(self._names)
            written, start = name.encode()[:_NAME], _NAMES + number * _NAME
            self._memory[start : start + len(written)] = written
        return number

    def release(self) -> None:
        """The memory may go."""
        self._cells.release()
        self._memory.release()


def merged(rings: Sequence[Any], now: float, seconds: float) -> list[dict[str, Any]]:
    """The samples of the last ``seconds``, oldest first, of all ``rings`` (their memories). Steps in which nobody
    looked are left out."""
    views = [view for ring in rings if (view := memoryview(ring))[: len(_MAGIC)] == _MAGIC and len(view) >= BYTES]
    read = [(_names(view), view[_CELLS_AT:BYTES].cast("d")) for view in views]
    current, samples = int(now // STEP), []
    for step in range(current - min(SLOTS - 1, max(0, int(seconds // STEP))), current + 1):
        at = step % SLOTS * _CELLS
        found = [(names, cells[at : at + _CELLS]) for names, cells in read if cells[at] == step and cells[at + 1]]
        if found:
            covered = min(STEP, max(1.0, now - step * STEP))
            samples.append({"at": step * STEP, **_sample(found, covered)})
    return samples


def _sample(found: Sequence[tuple[dict[str, int], Any]], covered: float) -> dict[str, Any]:
    sums = found[0][1].tolist()
    for _, cells in found[1:]:
        sums = list(map(add, sums, cells))

    def rate(cell: int) -> float:
        return float(round(sums[cell] / covered, 3))

    def level(cell: int) -> float:
        return float(round(sum(cells[cell] / cells[_LOOKS] for _, cells in found), 2))

    def spread(start: int, name: str) -> dict[str, float | None]:
        counts = sums[start : start + len(FINE) + 1]
        return {f"{name}_p{q}_ms": _ms(quantile(FINE, counts, q / 100)) for q in (50, 99)}

    tokens: dict[str, float] = {}
    for names, cells in found:
        for name, number in names.items():
            # All processes are told the same: the one that heard most is right.
            tokens[name] = max(tokens.get(name, 0.0), round(cells[_INSTANCE + number] / covered, 2))
    return {
        "requests_per_s": rate(_REQUESTS), "errors_per_s": rate(_ERRORS), "tokens_per_s": rate(_TOKENS),
        "in_flight": level(_IN_FLIGHT), "queued": level(_QUEUED),
        **spread(_TTFT, "ttft"), **spread(_DURATION, "duration"), "instances": tokens,
    }  # fmt: skip


def quantile(bounds: Sequence[float], counts: Sequence[float], part: float) -> float | None:
    """As Prometheus guesses it: values lie evenly between two bounds; beyond the last one it is that one. None of
    nothing."""
    up_to = list(accumulate(counts))
    rank = part * up_to[-1]
    if not rank:
        return None
    at = bisect_left(up_to, rank)
    if at >= len(bounds):
        return bounds[-1]
    low, below = (bounds[at - 1], up_to[at - 1]) if at else (0.0, 0.0)
    return low + (bounds[at] - low) * (rank - below) / counts[at]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)


def _names(memory: memoryview) -> dict[str, int]:
    found: dict[str, int] = {}
    for number in range(INSTANCES):
        start = _NAMES + number * _NAME
        name = bytes(memory[start : start + _NAME]).rstrip(b"\0")
        if not name:
            break
        found[name.decode(errors="replace")] = number
    return found
