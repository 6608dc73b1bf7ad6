"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["ok", "warning", "problem"]

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Finding:
    """``check`` names it for programs and people; ``remedy`` is a command or a sentence, '' where none is needed."""

    check: str
    level: Level
    text: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"check": self.check, "level": self.level, "text": self.text, "remedy": self.remedy}


def ok(check: str, text: str, remedy: str = "") -> Finding:
    return Finding(check, "ok", text, remedy)


def warning(check: str, text: str, remedy: str) -> Finding:
    return Finding(check, "warning", text, remedy)


def problem(check: str, text: str, remedy: str) -> Finding:
    return Finding(check, "problem", text, remedy)


def gib(number: int) -> str:
    if 0 < number < GIB // 10:
        return f"{number / 1024**2:.1f} MiB"
    return f"{number / GIB:.1f} GiB"


def listed(items: list[str]) -> str:
    """A sentence's list: a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
