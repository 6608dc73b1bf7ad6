"""Bytecodes and calls into C that one small request takes in the balancer, and one more chunk of a stream: what a
change adds is seen exactly, which times on a busy machine do not show. ``python tests/bench/count.py``; ``--gate``:
with everything of `gated` on; ``--by function``: where they are, ``--by variant``: of the request, with each step of
`gated`. Figures of one interpreter: another version compiles otherwise.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import gate
import gated
import inside
import uvloop

#: Requests after which nothing is new any more.
_WARM_UP = 20

#: Of `inside`'s requests so many make the queue settle what they took.
_TOGETHER = 2


def count(step: Callable[[], None]) -> tuple[Counter[str], Counter[str]]:
    """By function, of ``step``: bytecodes, and calls of what is written in C."""
    for _ in range(_WARM_UP):
        step()
    bytecodes, calls = Counter[str](), Counter[str]()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            bytecodes[_name(frame)] += 1
        return trace

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call":
            calls[getattr(argument, "__qualname__", str(argument))] += 1

    sys.settrace(trace)
    step()
    sys.settrace(None)
    sys.setprofile(profile)
    step()
    sys.setprofile(None)
    return bytecodes, calls


def _name(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    return f"{path.parent.name}/{path.name} {frame.f_code.co_qualname}"


def _print(found: Counter[str], what: str, *, each: bool, requests: int) -> None:
    print(f"{found.total() / requests:8.1f} {what}")
    if each:
        for name, number in found.most_common():
            if number >= requests / 8:
                print(f"{number / requests:8.1f}   {name}")


def _small(one: inside.Inside) -> None:
    for _ in range(_TOGETHER):
        one.small()


async def _by_variant() -> None:
    print("| | bytecodes | | calls into C |\n|---|---|---|---|")
    off, requests = 0.0, _TOGETHER * inside.CONNECTIONS
    for name, variant in gated.VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            one = gate.make(variant, Path(folder))
            bytecodes, calls = (found.total() / requests for found in count(functools.partial(_small, one)))
            await one.close()
        off = off or bytecodes
        print(f"| {name} | {bytecodes:.0f} | {bytecodes / off - 1:+.0%} | {calls:.0f} |")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gate", action="store_true")
    parser.add_argument("--by", choices=("function", "variant"))
    options = parser.parse_args()
    if options.by == "variant":
        await _by_variant()
        return
    with tempfile.TemporaryDirectory() as folder:
        one = gate.everything(Path(folder)) if options.gate else inside.Inside(True, 1, Path(folder))
        small = count(functools.partial(_small, one))
        short, long = (count(functools.partial(one.stream, chunks)) for chunks in (inside.SHORT, inside.LONG))
        await one.close()
    for kind, found in zip(("bytecodes", "calls into C"), small, strict=True):
        _print(found, kind, each=options.by is not None, requests=_TOGETHER * inside.CONNECTIONS)
    for kind, few, many in zip(("bytecodes", "calls into C"), short, long, strict=True):
        more = (many.total() - few.total()) / inside.CONNECTIONS / (inside.LONG - inside.SHORT)
        print(f"{more:8.1f} {kind} of a chunk")


if __name__ == "__main__":
    uvloop.run(main())
