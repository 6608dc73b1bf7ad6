"""What is known of one job, as it is stored and as it is shown. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from config.jobs.said import JobProgress


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED})


@dataclass(frozen=True, slots=True)
class GpuWish:
    """Which GPUs a job may use: ``named``, by the numbers of ``nvidia-smi``, or (None) one that nobody uses when it
    starts. ``share``: also such as serve."""

    named: tuple[int, ...] | None = None
    share: bool = False


@dataclass(slots=True)
class JobRecord:
    """Times in seconds since the epoch. ``computes``: it is no mere transfer. ``background`` None: as suits the machine
    when it starts. ``gpus``: those that it was given. ``cancelling``: it was
    asked to end. ``error``: why it came to no result, with the HTTP status that says so (`JobFailure`)."""

    id: str
    kind: str
    by: str
    created_at: float
    computes: bool = True
    background: bool | None = None
    wish: GpuWish = GpuWish()
    state: JobState = JobState.QUEUED
    started_at: float | None = None
    ended_at: float | None = None
    gpus: tuple[int, ...] = ()
    pid: int | None = None
    cancelling: bool = False
    error: str | None = None
    status: int | None = None

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def shown(self, progress: JobProgress | None = None) -> dict[str, Any]:
        """For clients. ``progress``: how far it was when it was last heard of."""
        return {
            "id": self.id, "kind": self.kind, "state": str(self.state), "by": self.by, "created_at": self.created_at,
            "started_at": self.started_at, "ended_at": self.ended_at, "background": self.background,
            "gpus": list(self.gpus), "cancelling": self.cancelling, "error": self.error, "status": self.status,
            "pid": None if self.ended else self.pid,
            "progress": None if progress is None else asdict(progress),
        }  # fmt: skip


_KNOWN = frozenset(field.name for field in fields(JobRecord))


def from_json(values: Mapping[str, Any]) -> JobRecord:
    """Inverse of `JobRecord.to_json`; what another version wrote besides is left out. Raises ValueError, TypeError,
    KeyError."""
    record = JobRecord(**{name: value for name, value in values.items() if name in _KNOWN})
    record.state, record.gpus = JobState(record.state), tuple(record.gpus)
    wish: Any = record.wish
    record.wish = GpuWish(None if wish["named"] is None else tuple(wish["named"]), wish["share"])
    return record
