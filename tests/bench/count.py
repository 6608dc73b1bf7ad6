"""Bytecodes and calls into C that one small request takes in the balancer: what a change adds is seen exactly, which
times on a busy machine do not show. ``python tests/bench/count.py``; ``--gate``: with everything of `gate` on; ``--by
function``: where they are. Figures of one interpreter: another version compiles otherwise.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import gate
import inside
import uvloop

#: Requests after which nothing is new any more.
_WARM_UP = 20


def count(one: inside.Inside) -> tuple[Counter[str], Counter[str]]:
    """By function, of one request: bytecodes, and calls of what is written in C."""
    for _ in range(_WARM_UP):
        one.small()
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
    one.small()
    sys.settrace(None)
    sys.setprofile(profile)
    one.small()
    sys.setprofile(None)
    return bytecodes, calls


def _name(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    return f"{path.parent.name}/{path.name} {frame.f_code.co_qualname}"


def _print(found: Counter[str], what: str, *, each: bool) -> None:
    print(f"{found.total() / inside.CONNECTIONS:8.1f} {what}")
    if each:
        for name, number in found.most_common():
            if number >= inside.CONNECTIONS / 8:
                print(f"{number / inside.CONNECTIONS:8.1f}   {name}")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gate", action="store_true")
    parser.add_argument("--by", choices=("function",))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        one = gate.everything(Path(folder)) if options.gate else inside.Inside(True, 1, Path(folder))
        bytecodes, calls = count(one)
        await one.close()
    _print(bytecodes, "bytecodes", each=options.by is not None)
    _print(calls, "calls into C", each=options.by is not None)


if __name__ == "__main__":
    uvloop.run(main())
