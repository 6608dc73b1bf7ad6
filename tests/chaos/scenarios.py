"""What is done to a cluster, and how often: the mix, and the long forms with a promise each."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chaos import disk, faults, foreign, upheavals
from chaos.faults import Fault

FAULTS: tuple[type[Fault], ...] = (
    faults.Kill, faults.KillEngine, faults.Stop, faults.Exit0, faults.Hang, faults.Stall, faults.ErrorEvent,
    faults.Abort, faults.Reset, faults.Garbage, faults.GarbageFirst, faults.Error500, faults.Slow, faults.Refused,
    upheavals.KillBalancer, upheavals.KillSupervisor, disk.DiskFull, upheavals.Scale, upheavals.Strategy,
    upheavals.Rolling, upheavals.Handover, upheavals.Poison,
    upheavals.PoisonEngine,
)  # fmt: skip
BY_NAME = {kind.name.replace(" ", "-"): kind for kind in FAULTS}
#: Say of the cluster what holds only as long as nothing else happens to it.
_ALONE = (upheavals.Rolling, upheavals.Poison, upheavals.PoisonEngine, disk.DiskFull, upheavals.Handover)


@dataclass(frozen=True)
class Scenario:
    """``count`` faults (or rounds, of several kinds), each begun ``every`` seconds (0: as soon as all is whole again).
    With ``overlap`` the next is begun whether the last is over or not. Tokens come every ``itl_ms``; streams are
    ``lengths`` tokens long, least and most. ``full``: the share of all places of the simulated workers that the load
    takes, None for as many places as there may be. ``drain``: the grace of a worker that is to go. ``strict``: promises
    of time count. ``lull``: from a fault until all is whole again the clients finish what they have begun, and begin
    nothing new: several real engines on few cores take minutes to start beside a load. ``kinds``: the requests are
    those of `chaos.kinds`; ``attached``: the workers are servers that were not started by the cluster."""

    about: str
    faults: tuple[type[Fault], ...]
    count: int
    engine: str = "sim"
    streams: int = 50
    plain: int = 4
    every: float = 0.0
    overlap: bool = False
    itl_ms: float = 25.0
    lengths: tuple[int, int] = (40, 280)
    full: float | None = None
    drain: float = 30.0
    stall_timeout: float = 10.0
    strict: bool = True
    lull: bool = False
    kinds: bool = False
    attached: bool = False


SCENARIOS = {
    "mix": Scenario("every fault, one at a time", FAULTS, 1, stall_timeout=5.0),
    "short": Scenario(
        "some faults in half a minute",
        (
            faults.Kill, faults.KillEngine, faults.ErrorEvent, faults.Abort, faults.Reset, faults.Garbage, faults.Hang,
            upheavals.KillBalancer, upheavals.Scale,
        ),
        1, streams=24, plain=3, itl_ms=20, lengths=(20, 90), drain=1.0, stall_timeout=2.0, strict=False,
    ),
    "kills": Scenario("SIGKILL of a worker", (faults.Kill,), 60, every=5.0, overlap=True),
    "vllm-kills": Scenario(
        "SIGKILL of a worker on the real engine", (faults.Kill,), 20, engine="vllm", streams=8, plain=1,
        lengths=(80, 300), lull=True,
    ),
    "kinds": Scenario(
        "SIGKILL of a worker under guided output, tools, reasoning, seeds and other APIs", (faults.Kill,), 300,
        every=2.0, overlap=True, streams=24, plain=0, itl_ms=6.0, kinds=True,
    ),
    "vllm-kinds": Scenario(
        "SIGKILL of a worker on the real engine under guided output, tools, reasoning, seeds and other APIs",
        (faults.Kill,), 20, engine="vllm", streams=8, plain=0, lull=True, kinds=True,
    ),
    "foreign-kinds": Scenario(
        "SIGKILL of one of two attached vLLM servers under greedy and seeded requests of all kinds",
        (foreign.KillForeign,), 10, engine="vllm", streams=4, plain=0, lull=True, kinds=True, attached=True,
    ),
    "stop": Scenario("SIGSTOP of a worker", (faults.Stop,), 10),
    "engine-child": Scenario("SIGKILL of the engine below a worker", (faults.KillEngine,), 20),
    "rolling": Scenario("rolling restart at 70 % load", (upheavals.Rolling,), 3, full=0.7, drain=1.0),
    "scale": Scenario("3 -> 1 -> 3 workers at 70 % load", (upheavals.Scale,), 5, full=0.7, drain=1.0),
    "handover": Scenario("replacing the balancer", (upheavals.Handover,), 100),
    "supervisor": Scenario("SIGKILL of the supervisor, and up again", (upheavals.KillSupervisor,), 20),
    "poison": Scenario("a request that kills who takes it", (upheavals.Poison,), 5),
    "poison-engine": Scenario("a request that kills the engine of who takes it", (upheavals.PoisonEngine,), 5),
}  # fmt: skip


def rounds(kinds: Sequence[type[Fault]], seed: int, together: bool) -> Iterator[list[type[Fault]]]:
    """What is begun at the same time, for ever: each kind once in a new order every time, or several at once."""
    chooser = random.Random(f"{seed} rounds")
    while True:
        if not together:
            for kind in chooser.sample(kinds, len(kinds)):
                yield [kind]
            continue
        on_workers = [kind for kind in kinds if kind.group == "worker" and kind not in _ALONE]
        others = [kind for kind in kinds if kind.group != "worker" and kind not in _ALONE]
        chosen = chooser.sample(on_workers, min(2, len(on_workers)))
        yield chosen + (chooser.sample(others, 1) if others else [])
