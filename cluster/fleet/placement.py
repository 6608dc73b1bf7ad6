"""Which worker is pinned to what: GPU slots, or core lists on a machine without GPUs. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from config.errors import UsageError
from worker.spec import Slot

#: Without GPUs: never more workers than this, however much memory there is.
CPU_MOST = 16

#: Without GPUs what somebody asks for is taken at his word, up to so many times the machine's memory: what a worker
#: takes is an estimate, but beyond that a machine is so busy with starting and killing them that it answers nobody.
OVERBOOKED = 2

#: Where each has a machine of its own: as many as can be asked for.
APART_MOST = 1024


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to place on. ``gpus`` are the usable GPUs as (index, description); ``cores`` the usable CPUs;
    ``memory`` bytes of main memory."""

    gpus: tuple[tuple[int, str], ...]
    cores: tuple[int, ...]
    memory: int


@dataclass(frozen=True, slots=True)
class Placement:
    """How the workers of one group are laid over a machine. ``ranks`` is the number of GPUs (or core lists) a worker
    spans; ``planned`` and ``spares``: those that are to serve, and to stand by. ``crowd``: how many workers of all
    groups may be up at the same time, where there are several groups. ``apart``: each has a machine of its own."""

    machine: Machine
    ranks: int = 1
    per_gpu: int = 1
    on_gpu: bool = True
    memory_each: int = 0
    planned: int = 1
    spares: int = 0
    crowd: int = 0
    apart: bool = False

    @property
    def capacity(self) -> int:
        """The most workers that fit."""
        if self.apart:
            return APART_MOST
        if self.on_gpu:
            return len(self.machine.gpus) // self.ranks * self.per_gpu
        by_memory = self.machine.memory * 9 // 10 // self.memory_each if self.memory_each else CPU_MOST
        return max(1, min(CPU_MOST, by_memory))

    def room_beside(self, spares: int) -> int:
        """The most workers and spares together. What somebody asks for is taken at his word where the capacity is an
        estimate, as it is for those that serve."""
        return self.capacity if self.on_gpu else max(self.capacity, self.planned + spares)

    @property
    def _together(self) -> int:
        return self.planned + self.spares

    def slot(self, number: int) -> Slot:
        """What worker ``number`` (from 0) is pinned to. Neighbours go to different GPUs first: with two a GPU on
        GPUs 0 and 1, workers 0 and 2 share GPU 0."""
        if self.apart:
            return Slot(gpus=tuple(range(self.ranks))) if self.on_gpu else Slot()
        if self.on_gpu:
            groups = len(self.machine.gpus) // self.ranks
            start = number % groups * self.ranks
            chosen = self.machine.gpus[start : start + self.ranks]
            return Slot(gpus=tuple(index for index, _ in chosen), share=self.per_gpu)
        return Slot(cores=self._cores(number))

    def slot_beside(self, own: Iterable[Slot], others: Iterable[Slot]) -> Slot | None:
        """What one more worker is pinned to where those of its group have ``own`` and those of other groups ``others``,
        which are left to them. None: there is no room just now."""
        own, others = list(own), list(others)
        if self.apart:
            return self.slot(0)
        if not self.on_gpu:
            return Slot(cores=self._cores_beside({c for slot in (*own, *others) for rank in slot.cores for c in rank}))
        used, foreign = [frozenset(slot.gpus) for slot in own], {gpu for slot in others for gpu in slot.gpus}
        firsts = range(0, len(self.machine.gpus) - self.ranks + 1, self.ranks)
        blocks = [tuple(i for i, _ in self.machine.gpus[first : first + self.ranks]) for first in firsts]
        sharing = {block: sum(not one.isdisjoint(block) for one in used) for block in blocks}
        free = [b for b in blocks if foreign.isdisjoint(b) and sharing[b] < self.per_gpu]
        return Slot(gpus=min(free, key=lambda block: sharing[block]), share=self.per_gpu) if free else None

    def _cores_beside(self, taken: Container[int]) -> tuple[tuple[int, ...], ...]:
        """Of the cores that nobody has, as many as each of the crowd can have; nothing where too few are left."""
        share = len(self.machine.cores) // (max(1, self._together, self.crowd) * self.ranks)
        free = [core for core in self.machine.cores if core not in taken]
        if share < 1 or len(free) < share * self.ranks:
            return ()
        return tuple(tuple(free[rank * share : (rank + 1) * share]) for rank in range(self.ranks))

    def _cores(self, number: int) -> tuple[tuple[int, ...], ...]:
        """Disjoint lists of equal length while there are at least as many cores as ranks of all planned workers;
        nothing (unbound, one thread each) for more."""
        share = len(self.machine.cores) // (max(1, self._together, self.crowd) * self.ranks)
        if share < 1 or number >= self._together:
            return ()
        first = number * self.ranks * share
        return tuple(
            self.machine.cores[first + rank * share : first + (rank + 1) * share] for rank in range(self.ranks)
        )

    def require(self, instances: int, spares: int = 0) -> None:
        """Raises UsageError, saying what is there and what is needed, where ``instances`` and ``spares`` do not fit."""
        if instances + spares <= self.capacity or not self.on_gpu:
            return
        needed = -(-(instances + spares) // self.per_gpu) * self.ranks
        there = "; ".join(text for _, text in self.machine.gpus) or "none"
        beside = f" and {spares} spare{'s' * (spares != 1)}" if spares else ""
        sharing = f", {self.per_gpu} a GPU" if self.per_gpu > 1 else ""
        raise UsageError(
            f"not enough GPUs: {instances} instance{'s' * (instances != 1)}{beside} x {self.ranks} GPU"
            f"{'s' * (self.ranks != 1)} each{sharing} need {needed}, there "
            f"{'is' if len(self.machine.gpus) == 1 else 'are'} {len(self.machine.gpus)} ({there})"
        )


    def require_memory(self) -> None:
        """Raises UsageError where several that are planned would need far more memory than there is, see
        `OVERBOOKED`."""
        needed, there = self._together * self.memory_each, self.machine.memory
        if self._together > 1 and not self.on_gpu and not self.apart and needed > OVERBOOKED * there:
            raise UsageError(
                f"not enough memory: {self._together} workers of about {_gib(self.memory_each)} each need "
                f"{_gib(needed)}, and this machine has {_gib(there)}: {self.capacity} fit"
            )


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def choose_gpus(gpus: Sequence[tuple[int, str]], wanted: tuple[int, ...] | None) -> tuple[tuple[int, str], ...]:
    """The GPUs to use, in the order asked for. Raises UsageError for one that is not there."""
    if wanted is None:
        return tuple(gpus)
    there = dict(gpus)
    for index in wanted:
        if index not in there:
            known = "; ".join(there.values()) or "none"
            raise UsageError(f"--gpus {index}: there is no such GPU; there are: {known}")
    return tuple((index, there[index]) for index in wanted)
