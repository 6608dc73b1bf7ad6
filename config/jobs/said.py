"""What a job says, and its form as a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

#: Bytes of a line: what would be longer is left out by its writer.
MOST_OF_A_LINE = 1 << 16


@dataclass(frozen=True, slots=True)
class JobProgress:
    """``done`` of ``total`` (None: not known) in ``unit``, within one ``stage``; ``figures``: what else can be shown,
    such as a loss or tokens a second."""

    stage: str
    done: float
    total: float | None = None
    unit: str = ""
    figures: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobNote:
    """A sentence for people, in passing."""

    text: str


@dataclass(frozen=True, slots=True)
class JobResult:
    """The job has done what it was to do; ``values`` are its kind's."""

    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class JobFailure:
    """The job has ended without; ``status`` is the HTTP status that says why (400: what was asked for, 403: not
    allowed, 404: not there, 409: changed meanwhile, 499: cancelled, 502: the other side, 507: no room, 500: ours)."""

    message: str
    status: int = 500


Said = JobProgress | JobNote | JobResult | JobFailure

_KEYS: dict[str, type[Said]] = {"progress": JobProgress, "note": JobNote, "result": JobResult, "error": JobFailure}
_NAMES = {kind: key for key, kind in _KEYS.items()}


def to_json(said: Said) -> dict[str, Any]:
    return {_NAMES[type(said)]: asdict(said)}


def from_json(values: Any) -> Said | None:
    """Inverse of `to_json`; None for what says nothing."""
    try:
        ((key, fields),) = values.items()
        return _KEYS[key](**fields)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def encode(said: Said) -> bytes:
    """As a line, its end included. Raises ValueError for what is longer than `MOST_OF_A_LINE`."""
    line = json.dumps(to_json(said), separators=(",", ":"), default=str).encode() + b"\n"
    if len(line) > MOST_OF_A_LINE:
        raise ValueError(f"a line of {len(line)} bytes: at most {MOST_OF_A_LINE}")
    return line


def decode(line: bytes) -> Said | None:
    """None for what is no such line: a process that was killed may have left half of one."""
    try:
        return from_json(json.loads(line))
    except ValueError:
        return None
