"""Whether models can be up at the same time on this machine: its GPUs, or its main memory. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cluster.fleet.placement import Placement
from worker.spec import Slot

#: Of main memory, as `Placement.capacity` counts.
_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Footprint:
    """What all workers of a model take. ``memory``: bytes of main memory. ``held``: the GPUs that they have; of a model
    that is not up ``blocks`` of them, of ``ranks`` neighbours each, out of ``gpus``."""

    memory: int = 0
    held: frozenset[int] = frozenset()
    blocks: int = 0
    ranks: int = 1
    gpus: tuple[int, ...] = ()


def footprint(placement: Placement, count: int, slots: Iterable[Slot], memory: bool) -> Footprint:
    """Of ``count`` workers; ``slots``: of those that there are. ``memory``: whether theirs is counted."""
    if not placement.on_gpu:
        return Footprint(memory=count * placement.memory_each if memory else 0)
    held = frozenset(gpu for slot in slots for gpu in slot.gpus)
    if held:
        return Footprint(held=held)
    gpus = tuple(index for index, _ in placement.machine.gpus)
    return Footprint(blocks=-(-count // placement.per_gpu), ranks=placement.ranks, gpus=gpus)


def fit(footprints: Iterable[Footprint], memory: int) -> bool:
    """Whether there is room for all of them; ``memory``: bytes that the machine has. Who has GPUs keeps them, the
    others get theirs in the order of ``footprints``."""
    footprints = list(footprints)
    if sum(one.memory for one in footprints) > memory * _SHARE:
        return False
    taken: set[int] = set()
    for one in footprints:
        if taken & one.held:
            return False
        taken |= one.held
    return all(_take(one, taken) for one in footprints)


def _take(one: Footprint, taken: set[int]) -> bool:
    """As `Placement.slot_beside` does."""
    left = one.blocks
    for first in range(0, len(one.gpus) - one.ranks + 1, one.ranks):
        block = one.gpus[first : first + one.ranks]
        if left and taken.isdisjoint(block):
            taken.update(block)
            left -= 1
    return not left
