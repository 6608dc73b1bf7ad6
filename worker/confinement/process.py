"""`confine`: this process from now on reads and writes a few folders, computes within bounds, and can do nothing else.

Three walls, of which each is enough against what it stands for: Landlock for files, a seccomp filter for sockets,
programs and other processes, and an empty network namespace behind the filter. A kernel or a container may lack any;
without Landlock or without the filter nothing is confined that was not said to be acceptable.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from worker.confinement import landlock, seccomp
from worker.confinement.libc import PR_SET_NO_NEW_PRIVS, prctl, unshare

_NEW_USER, _NEW_NETWORK, _NEW_IPC = 0x10000000, 0x40000000, 0x08000000

#: Seconds of a processor after which a process that goes on in spite of the first warning is killed.
_GRACE = 5


@dataclass(frozen=True, slots=True)
class ProcessBounds:
    """``memory``: bytes of address space more than the process has now; ``file``: bytes of a file that it writes;
    ``seconds`` of a processor."""

    memory: int
    file: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Confinement:
    """The walls that stand, and sentences on those that this kernel does not have."""

    walls: tuple[str, ...]
    missing: tuple[str, ...]


class NotConfined(Exception):
    """The text says what is missing and what to do."""


class OutOfTime(Exception):
    """The bound of processor seconds is reached."""


def confine(
    readable: Sequence[Path], writable: Sequence[Path], bounds: ProcessBounds, *, unconfined: bool = False
) -> Confinement:
    """Confines this process to these files and folders, for good. Everything that is needed should have been imported.

    Raises NotConfined where a wall that is needed cannot be had, unless ``unconfined`` says to go on without; OSError
    for a path that is not there."""
    walls, missing = ["no new privileges", "limits"], []
    threads = _threads()
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    _limit(bounds)
    with contextlib.suppress(OSError):  # a container may not allow it; the filter below denies all sockets
        _leave_network()
        walls.append("an empty network namespace")
    if threads > 1:
        missing.append(f"it has {threads} threads already, and Landlock confines one")
    elif not (there := landlock.version()):
        missing.append("this kernel has no Landlock (it is in Linux 5.13 and later, and may be left out of lsm=)")
    else:
        landlock.restrict(readable, writable)
        walls.append(f"Landlock {there}")
    try:
        seccomp.restrict()
        walls.append("seccomp")
    except OSError as error:
        missing.append(f"this kernel takes no seccomp filter ({error.strerror})")
    if missing and not unconfined:
        raise NotConfined(f"{'; '.join(missing)}: strangers' pickles are not read without")
    return Confinement(tuple(walls), tuple(missing))


def _leave_network() -> None:
    """To namespaces of its own, with the same user in them. Raises OSError."""
    user, group = os.getuid(), os.getgid()
    unshare(_NEW_USER | _NEW_NETWORK | _NEW_IPC)
    # Best effort: unmapped it is shown as nobody and has the same rights.
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _threads() -> int:
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def _limit(bounds: ProcessBounds) -> None:
    signal.signal(signal.SIGXCPU, _out_of_time)
    seconds = bounds.seconds + int(sum(os.times()[:2])) + 1
    wanted = {
        resource.RLIMIT_AS: (_address_space() + bounds.memory,) * 2,
        resource.RLIMIT_FSIZE: (bounds.file,) * 2,
        resource.RLIMIT_CPU: (seconds, seconds + _GRACE),
        resource.RLIMIT_CORE: (0, 0),
    }
    for limit, (soft, hard) in wanted.items():
        highest = resource.getrlimit(limit)[1]
        if highest != resource.RLIM_INFINITY:
            soft, hard = min(soft, highest), min(hard, highest)
        resource.setrlimit(limit, (soft, hard))


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _out_of_time(number: int, frame: FrameType | None) -> None:
    raise OutOfTime
