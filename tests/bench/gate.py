"""What the gate costs: CPU of a small request and of a chunk beside all of it off, in one run, by what of it is on
(`gated`). ``python tests/bench/gate.py``: of the balancer's process, system calls and all, with the stub and the load
of ``make bench`` on the same core; ``--inside``: in the interpreter alone, as `inside` measures; ``--rounds N`` for
more certainty; ``--profile`` for where it goes.

Every variant is measured in every round, each time another one first; figures are medians, the shares are medians of
what each was beside ``off`` in the same round. What the ledger writes twice a second is in the first alone. Neither has
TLS.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import functools
import gc
import pstats
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import gated
import inside
import run
import targets
import uvloop
from gated import Variant
from targets import Target

#: Chunks of a stream.
_CHUNKS = 64


def make(variant: Variant, folder: Path) -> inside.Inside:
    one = inside.Inside(
        True, 1, folder, settings=variant.settings, names=variant.names, key=variant.secret, body=variant.body
    )
    if variant.message is not None:
        one.apply_keys(variant.message)
    return one


def everything(folder: Path) -> inside.Inside:
    return make(gated.EVERYTHING, folder)


# in the interpreter alone


async def _inside(rounds: int, *, profile: bool) -> None:
    with contextlib.ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in gated.VARIANTS]
        made = dict(zip(gated.VARIANTS, map(make, gated.VARIANTS.values(), folders), strict=True))
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)  # as the balancer does
        if profile:
            _profile(made["an alias, by conversation"])
        else:
            steps = {f"small {name}": one.small for name, one in made.items()}
            for kind, chunks in (("short", inside.SHORT), ("long", inside.LONG)):
                steps |= {f"{kind} {name}": functools.partial(one.stream, chunks) for name, one in made.items()}
            _print_inside(inside.measure(steps, rounds))
        for one in made.values():
            await one.close()


def _print_inside(found: Mapping[str, float]) -> None:
    print("| µs | a small request | | begin and end a stream | | a chunk | |\n|---|---|---|---|---|---|---|")
    base: list[float] = []
    for name in gated.VARIANTS:
        small, short, long = (found[f"{kind} {name}"] for kind in ("small", "short", "long"))
        chunk = (long - short) / (inside.LONG - inside.SHORT)
        row = [small, short - inside.SHORT * chunk, chunk]
        base = base or row
        cells = (f"{value:.2f} | {value / first - 1:+.1%}" for value, first in zip(row, base, strict=True))
        print(f"| {name} | {' | '.join(cells)} |")


def _profile(one: inside.Inside) -> None:
    one.small()
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(200):
        one.small()
    profile.disable()
    pstats.Stats(profile).sort_stats("tottime").print_stats(45)


# of a process


def _processes(rounds: int, requests: int, only: list[str]) -> None:
    variants = {name: gated.VARIANTS[name] for name in only} if only else gated.VARIANTS
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = run.Bench(*stack.enter_context(targets.stub(folder)))
        bench.share_the_core(True)
        running = []
        for name, one in variants.items():
            start = targets.clusterctl(name, settings=one.settings, names=one.names, keys=one.message)
            running.append(stack.enter_context(start(folder, bench.upstream)))

        def measure(target: Target) -> dict[str, float]:
            one = variants[target.name]
            asked = {"connections": 32, "key": one.secret, "body": one.body}
            streams = {"scenario": "streams", "times": 2, "chunks": _CHUNKS, "gap": 0.001}
            return {
                "small": _cpu(bench, target, scenario="small", times=requests // 32, **asked),
                "chunk": _cpu(bench, target, **streams, **asked) / _CHUNKS,
            }

        for target in running:
            measure(target)  # warm
        _print(run.rounds(running, rounds, measure))


def _cpu(bench: run.Bench, target: Target, **wanted: object) -> float:
    """µs of a request."""
    before = target.cpu_seconds()
    result = bench.load(target.port, **wanted)
    if result["errors"]:
        raise RuntimeError(f"{target.name}: {result['errors']} errors")
    return (target.cpu_seconds() - before) / result["requests"] * 1e6


def _print(seen: Mapping[str, list[dict[str, float]]]) -> None:
    print("\n| µs | a small request | | a stream, by chunk | |\n|---|---|---|---|---|")
    first = next(iter(seen.values()))
    for name, found in seen.items():
        cells = []
        for kind in ("small", "chunk"):
            share = statistics.median(one[kind] / off[kind] for one, off in zip(found, first, strict=True))
            cells.append(f"{statistics.median(one[kind] for one in found):.2f} | {share - 1:+.1%}")
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--requests", type=int, default=3200, help="small ones in a round")
    parser.add_argument("--only", default="", help="names of variants, comma separated")
    parser.add_argument("--inside", action="store_true")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    if options.inside or options.profile:
        uvloop.run(_inside(options.rounds, profile=options.profile))
    else:
        _processes(options.rounds, options.requests, options.only.split(",") if options.only else [])


if __name__ == "__main__":
    main()
