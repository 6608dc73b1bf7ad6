"""Does one fault after the other, or several at once, and writes down what became of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

from chaos.arena import Arena
from chaos.faults import Fault
from chaos.load import Load
from chaos.score import Score, Struck

#: Between two faults, for the streams that were moved to be seen to go on; s.
_BREATH = 0.5
#: After a lull the load runs again for so long (s) before the next fault: streams are hit in their middle.
_WARM = 1.5


async def drive(
    arena: Arena, score: Score, rounds: Iterable[Sequence[type[Fault]]], *, every: float, overlap: bool,
    tell: Callable[[str], None], traffic: Load | None = None,
) -> None:
    """Returns when everything that was begun is over. ``every``: seconds from one beginning to the next, at least
    (with ``overlap`` exactly). ``traffic``: rests between a fault and its end."""
    async with asyncio.TaskGroup() as group:
        for kinds in rounds:
            began = time.monotonic()
            if overlap:
                group.create_task(_round(arena, score, kinds, tell, alone=False))
            else:
                await _round(arena, score, kinds, tell, alone=len(kinds) == 1, traffic=traffic)
                await asyncio.sleep(_BREATH if traffic is None else _WARM)
            await asyncio.sleep(max(0.0, began + every - time.monotonic()))


async def _round(
    arena: Arena, score: Score, kinds: Sequence[type[Fault]], tell: Callable[[str], None], *, alone: bool,
    traffic: Load | None = None,
) -> None:
    """``alone``: whatever moves meanwhile moves because of it."""
    before = await arena.moved() if alone else None
    faults = [kind(arena) for kind in kinds]
    async with asyncio.TaskGroup() as group:
        for fault in faults:
            group.create_task(_one(fault, traffic))
    after = await arena.moved() if alone else None
    for fault in faults:
        moved = None if before is None or after is None else after - before
        struck = Struck(
            fault.name, fault.began, fault.ended or time.monotonic(), fault.detected, fault.restored, moved,
            fault.problem, fault.note,
        )  # fmt: skip
        score.struck.append(struck)
        tell(_line(struck))


async def _one(fault: Fault, traffic: Load | None) -> None:
    try:
        await fault.start()
        if traffic is not None:
            traffic.rest()
        await fault.finish()
    except Exception as error:
        fault.blame(f"{type(error).__name__}: {error}")
    finally:
        fault.began = fault.began or time.monotonic()
        await fault.clear()
    if fault.problem:
        await fault.arena.repair(fault.patience)
    if traffic is not None:
        await traffic.idle()
        traffic.go()


def _line(struck: Struck) -> str:
    parts = [f"{struck.name}: {struck.problem or 'over'} after {struck.ended - struck.began:.1f} s"]
    if struck.detected is not None:
        parts.append(f"noticed after {struck.detected - struck.began:.2f} s")
    if struck.restored is not None:
        parts.append(f"whole after {struck.restored - struck.began:.2f} s")
    return ", ".join([*parts, *([struck.note] if struck.note else [])])
