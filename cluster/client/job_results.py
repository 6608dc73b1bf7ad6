"""What the API says of jobs (`cluster.client.results` has its other answers)."""

from typing import Any, TypedDict


class JobProgress(TypedDict):
    """``done`` of ``total`` (None: not known) in ``unit``."""

    stage: str
    done: float
    total: float | None
    unit: str
    figures: dict[str, float | str]


class Job(TypedDict):
    """``state``: queued, running, done, failed or cancelled. Times in seconds since 1970. ``status``: the HTTP status
    that says why it failed."""

    id: str
    kind: str
    state: str
    by: str
    created_at: float
    started_at: float | None
    ended_at: float | None
    background: bool | None
    gpus: list[int]
    cancelling: bool
    error: str | None
    status: int | None
    pid: int | None
    progress: JobProgress | None


class JobDetails(Job):
    """``arguments`` None: its folder is gone."""

    arguments: dict[str, Any] | None
    result: dict[str, Any] | None


class JobEvents(TypedDict):
    """``over``: there is nothing more to come."""

    events: list[dict[str, Any]]
    next: int
    over: bool
    job: Job


class JobCount(TypedDict):
    kind: str
    state: str
    count: int


class JobsSeen(TypedDict):
    """Of status. ``ended`` since the supervisor was started; ``seconds`` that those took, by kind."""

    latest: list[Job]
    open: list[JobCount]
    ended: list[JobCount]
    seconds: dict[str, float]
