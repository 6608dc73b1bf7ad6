"""What a job is given of the machine: GPUs that nobody uses, or processors where nobody wants them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cluster.errors import Refused
from cluster.jobs.record import GpuWish, JobRecord


@dataclass(frozen=True, slots=True)
class MachineUse:
    """``gpus``: all that there are; ``used``: those that workers have; ``taken``: those that other jobs have;
    ``on_cpu``: whether workers compute without a GPU; ``cores``: how many there are to use."""

    gpus: Sequence[int]
    used: Collection[int]
    on_cpu: bool
    cores: int
    taken: Collection[int] = ()


@dataclass(frozen=True, slots=True)
class JobShare:
    """``threads`` None: as many as its libraries like."""

    gpus: tuple[int, ...]
    background: bool
    threads: int | None


def share(job: JobRecord, use: MachineUse) -> JobShare | None:
    """What ``job`` is given now; None: what it needs another job has, so it waits. It gets the GPUs that it names, else
    one that nobody uses. Without any, beside workers that compute on processors, it gets what those leave and half of
    the threads: an idle thread costs nothing, but caches and memory are shared. Raises Refused (409) as `check_wish`
    does."""
    if not job.computes:
        return JobShare((), bool(job.background), None)
    check_wish(job.wish, use)
    idle = [gpu for gpu in use.gpus if gpu not in use.used]
    free = [gpu for gpu in idle if gpu not in use.taken]
    if job.wish.named is None and idle and not free:
        return None
    if not job.wish.share and not set(use.taken).isdisjoint(job.wish.named or ()):
        return None
    gpus = tuple(free[:1]) if job.wish.named is None else job.wish.named
    beside = not gpus and use.on_cpu
    background = beside if job.background is None else job.background
    threads = None if gpus else max(1, use.cores // (2 if beside else 1))
    return JobShare(gpus, background, threads)


def check_wish(wish: GpuWish, use: MachineUse) -> None:
    """Raises Refused (409) for GPUs that there are not, or that serve and are not to be shared."""
    for gpu in wish.named or ():
        if gpu not in use.gpus:
            there = ", ".join(map(str, use.gpus)) or "none"
            raise Refused(409, f"there is no GPU {gpu} for jobs; there are: {there}", "gpus")
        if gpu in use.used and not wish.share:
            raise Refused(409, f'GPU {gpu} serves; --share-gpus, or "share_gpus": true, shares it', "gpus")
