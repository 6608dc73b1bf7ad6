"""What a place that things come from looks like to the job that fetches them, and how it fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from worker.jobs.job import JobFailed

#: Of one file on its way: what is there so far has this behind its name.
PART = ".part"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """``size`` in bytes, None where only the end will tell. ``sha256`` in hex and ``git_blob`` (a git object id), where
    the place says what they are. ``tag``: what the place says of this content, such as an ETag."""

    name: str
    size: int | None
    sha256: str | None = None
    git_blob: str | None = None
    tag: str = ""


@dataclass(frozen=True, slots=True)
class RemoteContent:
    """What a reference means now. ``revision`` changes with the content. ``archive``: the one file holds all others."""

    revision: str
    files: tuple[RemoteFile, ...] = field(default=())
    archive: bool = False


class RemoteSource(Protocol):
    """One place, as one reference names it. Both methods raise `Transient`, JobFailed, OSError."""

    @property
    def host(self) -> str:
        """Who is asked, for messages and for the list of hosts that may be."""

    def look(self) -> RemoteContent:
        """What there is. Fetches no content."""

    def fetch(self, file: RemoteFile, target: Path) -> None:
        """``file`` whole at ``target``; goes on with what an earlier, broken attempt has left beside it. Called by
        several threads, each for a file of its own."""


class Transient(Exception):
    """It may work a little later. ``after``: s that the other side asks for."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


def failed_by_status(status: int, what: str, host: str, secret: str, after: float | None = None) -> Exception:
    """What an HTTP answer comes to. ``secret``: how somebody shows who they are there."""
    if status in (408, 425, 429) or status >= 500:
        return Transient(f"{what}: {host} answers {status}", after)
    if status in (401, 403):
        return JobFailed(f"{what}: {host} lets nobody in without being shown who asks, or not this one: {secret}", 403)
    if status in (404, 410):
        return JobFailed(f"{what}: {host} has nothing there, or not for whoever asks: {secret}", 404)
    return JobFailed(f"{what}: {host} answers {status}", 502)


def retried(
    work: Callable[[], T], sleep: Callable[[float], None], note: Callable[[str], None], attempts: int = 6
) -> T:
    """``work``, again after 1, 2, 4 … s, or as long as the other side asks for, where it was `Transient`. Raises
    JobFailed 502 when it was that ``attempts`` times."""
    for attempt in range(attempts):
        try:
            return work()
        except Transient as error:
            if attempt + 1 == attempts:
                raise JobFailed(f"{error}; given up after {attempts} attempts", 502) from None
            wait = min(60.0, error.after if error.after is not None else 2.0**attempt)
            note(f"{error}; again in {wait:g} s")
            sleep(wait)
    raise AssertionError("at least one attempt")
