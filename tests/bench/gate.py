"""What the gate costs: CPU of a small request and of a chunk beside all of it off, in one run.
``python tests/bench/gate.py``; ``--rounds N`` for more certainty, ``--profile`` for where it goes.

Each row has what the rows above it have: a key; bound to models, with rpm and tpm; with a budget, a limit of requests
at the same time for it, for all, and for each model; with all caps; it asks an alias that is split, beside a route.
The ledger is on with the first key. Measured as `inside` does; the difference of two that are equal (off, off again)
says how far to believe it. What the ledger writes, twice a second in a thread, is not in it, nor is TLS.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import functools
import gc
import pstats
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import inside
import uvloop

from config.identity import api_keys
from config.identity.api_keys import ApiKey, Budget, Digest, Period

_SECRET = api_keys.PREFIX + "x" * 43
_KEY = ApiKey("team-a", digests=(Digest(api_keys.digest(_SECRET)),))
_RATED = replace(_KEY, models=("base", "split"), rpm=10**9, tpm=10**9)
_LIMITED = replace(_RATED, max_concurrent=10**6, budget=Budget(10**14, Period.MONTH))

_LIMITS = {"max_concurrent": 10**6, "per_adapter_limit": 10**6}
_CAPS = {
    "cap_tokens": 4096, "cap_logprobs": 20, "cap_n": 4, "cap_best_of": 4, "cap_prompts": 128, "cap_depth": 32,
    "allow_chat_template_kwargs": False,
}  # fmt: skip
_NAMES = {
    "split": {"sides": {"base": 90.0, "other": 10.0}},
    "finance": {"rules": [{"keywords": ["bill"], "model": "base"}], "default": "base"},
}


def keyed(folder: Path, key: ApiKey, model: str = "base", **settings: Any) -> inside.Inside:
    """Clients show that key and ask that model; of ``split`` theirs is the side that there is."""
    names = _NAMES if model == "split" else {}
    one = inside.Inside(True, 1, folder, settings=settings, names=names, key=_SECRET, model=model)
    one.apply_keys({"version": [1, 1], "keyed": True, "keys": [key.to_json()]})
    return one


def everything(folder: Path, **settings: Any) -> inside.Inside:
    return keyed(folder, _LIMITED, "split", **_LIMITS, **_CAPS, **settings)


def _steps(name: str, one: inside.Inside) -> dict[str, Callable[[], None]]:
    return {
        f"small {name}": one.small, f"short {name}": functools.partial(one.stream, inside.SHORT),
        f"long {name}": functools.partial(one.stream, inside.LONG),
    }  # fmt: skip


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        def folder() -> Path:
            return Path(stack.enter_context(tempfile.TemporaryDirectory()))

        variants = {
            "off": inside.Inside(True, 1, folder()), "off again": inside.Inside(True, 1, folder()),
            "a key": keyed(folder(), _KEY), "rates": keyed(folder(), _RATED),
            "limits": keyed(folder(), _LIMITED, **_LIMITS), "caps": keyed(folder(), _LIMITED, **_LIMITS, **_CAPS),
            "an alias": everything(folder()),
            "`--limits-store`": everything(folder(), limits_store="unix:///nowhere"),
        }  # fmt: skip
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)  # as the balancer does
        if options.profile:
            _profile(variants["an alias"])
        else:
            steps = {key: step for name, one in variants.items() for key, step in _steps(name, one).items()}
            _print(variants, inside.measure(steps, options.rounds))
        for one in variants.values():
            await one.close()


def _print(variants: dict[str, inside.Inside], found: dict[str, float]) -> None:
    print("| µs | a small request | | begin and end a stream | | a chunk | |\n|---|---|---|---|---|---|---|")
    base: list[float] = []
    for name in variants:
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


if __name__ == "__main__":
    uvloop.run(main())
