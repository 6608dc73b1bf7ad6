"""What Linux's /proc says about processes: start times, sessions, usage. Reads only."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_DEAD = ("Z", "X", "x")


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process for certain: pids are reused, a pid with its start time (clock ticks since boot) is not."""

    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of /proc/PID/stat that are used here. ``cpu`` is seconds, ``rss`` bytes."""

    pid: int
    state: str
    parent: int
    session: int
    cpu: float
    start_ticks: int
    rss: int

    @property
    def alive(self) -> bool:
        """A zombie is a process that has ended and was not collected yet: not alive."""
        return self.state not in _DEAD

    @property
    def identity(self) -> ProcessId:
        return ProcessId(self.pid, self.start_ticks)


def parse_stat(text: str) -> Stat:
    """One line of /proc/PID/stat (proc(5)); the name in it may hold spaces and parentheses. Raises ValueError."""
    pid, _, rest = text.partition("\n")[0].partition(" (")
    fields = rest[rest.rindex(")") + 2 :].split()
    if len(fields) < 22:
        raise ValueError(f"not a line of /proc/PID/stat: {text!r}")
    return Stat(
        pid=int(pid),
        state=fields[0],
        parent=int(fields[1]),
        session=int(fields[3]),
        cpu=(int(fields[11]) + int(fields[12])) / _TICKS,
        start_ticks=int(fields[19]),
        rss=int(fields[21]) * _PAGE,
    )


def stat(pid: int) -> Stat | None:
    """None where there is no such process."""
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text(errors="replace"))
    except (OSError, ValueError):
        return None


def alive(process: ProcessId) -> bool:
    """Whether exactly this process still runs (a zombie does not)."""
    now = stat(process.pid)
    return now is not None and now.alive and now.start_ticks == process.start_ticks


def processes() -> Iterator[Stat]:
    for name in os.listdir("/proc"):  # noqa: PTH208 - a Path each would double the cost
        if name.isdigit() and (found := stat(int(name))) is not None:
            yield found


def sessions(wanted: Iterable[int]) -> dict[int, list[Stat]]:
    """The living processes of each session. A session outlives its leader, and so it still names the orphans of a
    killed worker, which have renamed themselves and wiped their environment."""
    result: dict[int, list[Stat]] = {session: [] for session in wanted}
    if result:
        for process in processes():
            if process.alive and process.session in result:
                result[process.session].append(process)
    return result


def open_files(pid: int) -> int:
    """0 of a process that is gone, or not ours to look at."""
    folder = Path(f"/proc/{pid}/fd")
    try:
        # Since Linux 6.2 the size of the folder is their number; a list of ten thousand connections takes its time.
        return folder.stat().st_size or len(os.listdir(folder))  # noqa: PTH208
    except OSError:
        return 0
