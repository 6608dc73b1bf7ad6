"""How far one has to read to follow a streamed chat request through the balancer. ``python tests/bench/walk.py [-v]``

One request goes through the balancer's own objects as in `inside.py`, on connections that have served one before.
Counted are the files of ``lb/`` that are entered and the calls from a function in one of them to one in another, the
nearest of ours on the stack. ``-v`` lists them.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import inside

_LB = f"{Path(__file__).resolve().parents[2] / 'lb'}/"

#: Of the stream: the first with the answer's head, one in the middle, the last one.
_CHUNKS = 3


class Tracer:
    """``crossings``: how often a file and its function called those of another file."""

    def __init__(self) -> None:
        self.crossings: Counter[tuple[str, str, str, str]] = Counter()
        self.files: set[str] = set()

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        if event != "call" or not (callee := _file(frame)):
            return
        self.files.add(callee)
        back = frame.f_back
        while back is not None and not _file(back):
            back = back.f_back
        if back is not None and (caller := _file(back)) != callee:
            self.crossings[caller, back.f_code.co_name, callee, frame.f_code.co_name] += 1


def _file(frame: FrameType) -> str:
    """Relative to ``lb/``; empty if it is not in there."""
    name = frame.f_code.co_filename
    return name[len(_LB) :] if name.startswith(_LB) else ""


async def main(listed: bool) -> None:
    tracer = Tracer()
    with tempfile.TemporaryDirectory() as folder:
        one = inside.Inside(True, 1, Path(folder), connections=1)
        one.stream(_CHUNKS)
        sys.setprofile(tracer)
        one.stream(_CHUNKS)
        sys.setprofile(None)
        await one.close()
    print(f"a streamed chat request: {len(tracer.files)} files, crossed {tracer.crossings.total()} times")
    if listed:
        for file in sorted(tracer.files):
            print(f"  {file}")
        for (caller, by, callee, function), count in sorted(tracer.crossings.items()):
            print(f"  {count:3} {caller}:{by} -> {callee}:{function}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-v", action="store_true", help="list files and crossings")
    asyncio.run(main(parser.parse_args().v))
