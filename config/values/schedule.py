"""How few workers there may be, by the time of the week: ``1`` or ``1, 4@mon-fri 08:00-19:00``. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

#: Minutes of a day, and the most workers and windows that may be asked for.
_DAY, _MOST, _MOST_WINDOWS = 24 * 60, 1024, 64

_WINDOW = re.compile(r"(\d{1,4})@(?:([a-z+-]{3,31})\s+)?(\d{1,2}):(\d\d)-(\d{1,2}):(\d\d)")


@dataclass(frozen=True, slots=True)
class WeeklyWindow:
    """``count`` workers on ``days`` (0: Monday) from ``start`` to ``end``, in minutes of the day by the clock on the
    wall. With an end that is not after the start it lasts into the next day."""

    count: int
    days: frozenset[int]
    start: int
    end: int

    def holds(self, local: datetime) -> bool:
        minute, day = local.hour * 60 + local.minute, local.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        begun, lasts = minute >= self.start, minute < self.end
        return (begun and day in self.days) or (lasts and (day - 1) % 7 in self.days)


@dataclass(frozen=True, slots=True)
class Minimum:
    """``usual`` workers at least, and more in ``windows``."""

    usual: int
    windows: tuple[WeeklyWindow, ...] = ()

    def at(self, local: datetime) -> int:
        """``local`` is what the clocks on the wall show: an hour that is skipped in spring is in no window, and one
        that comes twice in autumn is in it twice."""
        return max([self.usual, *(window.count for window in self.windows if window.holds(local))])

    @property
    def most(self) -> int:
        """The largest that it ever is."""
        return max([self.usual, *(window.count for window in self.windows)])


def parse(text: int | str) -> Minimum:
    """Raises ValueError. Without a plain number among them it is 1 at other times."""
    usual: int | None = None
    windows = []
    for part in str(text).lower().split(","):
        part = part.strip()
        if re.fullmatch(r"\d{1,4}", part) and usual is None:
            usual = _count(part)
        else:
            windows.append(_window(part))
    if len(windows) > _MOST_WINDOWS:
        raise ValueError(f"{len(windows)} times are given, {_MOST_WINDOWS} may be")
    return Minimum(1 if usual is None else usual, tuple(windows))


def normal(value: Any) -> Any:
    """As it is kept: a number where it is one, else its parts in order, separated by commas. Raises ValueError."""
    parts = [str(part) for part in value] if isinstance(value, list | tuple) else [value]
    if any(isinstance(part, bool | float) for part in [value, *parts]) or not parts:
        raise ValueError(f"a number of workers is needed, not {value!r}")
    text = ", ".join(part.strip() for one in parts for part in str(one).split(","))
    parse(text)
    return int(text) if text.isdecimal() else text.lower()


def _window(part: str) -> WeeklyWindow:
    found = _WINDOW.fullmatch(part)
    if found is None:
        raise ValueError(f"N or N@DAYS HH:MM-HH:MM is needed, as 4@mon-fri 08:00-19:00, not {part!r}")
    count, days, *times = found.groups()
    start, end = _minute(times[0], times[1]), _minute(times[2], times[3])
    if start in (end, _DAY):
        raise ValueError(f"{part!r} lasts for no time: the whole day is 00:00-24:00")
    return WeeklyWindow(_count(count), _days(days), start, end)


def _count(text: str) -> int:
    if int(text) > _MOST:
        raise ValueError(f"{text} workers are more than {_MOST}")
    return int(text)


def _minute(hours: str, minutes: str) -> int:
    minute = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or minute > _DAY:
        raise ValueError(f"{hours}:{minutes} is no time of day")
    return minute


def _days(text: str | None) -> frozenset[int]:
    """``mon-fri``, ``sat+sun``, ``fri-mon``; every day where nothing is said."""
    found: set[int] = set()
    for part in (text or "mon-sun").split("+"):
        first, _, last = part.partition("-")
        if first not in _DAYS or (last or first) not in _DAYS:
            raise ValueError(f"{part!r} are no days: {', '.join(_DAYS)}, as mon-fri or sat+sun")
        day, until = _DAYS.index(first), _DAYS.index(last or first)
        found.add(day)
        while day != until:
            day = (day + 1) % 7
            found.add(day)
    return frozenset(found)
