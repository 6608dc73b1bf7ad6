"""The files of a job."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from config import bounded
from config.jobs.said import MOST_OF_A_LINE, JobFailure, JobResult, Said, decode

SPEC, LINES, LOG = "spec.json", "lines.jsonl", "log"

#: Bytes of all lines of a job: more is not read.
MOST_OF_ALL = 1 << 26

#: Bytes and values of a `SPEC`.
MOST_OF_A_SPEC, _NODES = 1 << 20, 10_000


@dataclass(frozen=True, slots=True)
class JobSpec:
    """``kind``: one of `worker.jobs.kinds`; ``arguments``: JSON, without secrets: those are in environment or files.
    ``background``: it takes the processor only where nobody else wants it."""

    kind: str
    arguments: Mapping[str, Any]
    background: bool = False


class JobFollower:
    """What a job says, as it comes. Reads at most a megabyte at a time."""

    def __init__(self, folder: Path) -> None:
        self._path, self._offset, self._rest = folder / LINES, 0, b""

    def read(self) -> Iterator[Said]:
        """What was said since the last call. Raises OSError, but not for a file that is not there yet."""
        while data := self._next():
            *lines, self._rest = (self._rest + data).split(b"\n")
            if len(self._rest) > MOST_OF_A_LINE:
                self._rest = b""
            for line in lines:
                if (said := decode(line)) is not None:
                    yield said

    def _next(self) -> bytes:
        if self._offset >= MOST_OF_ALL:
            return b""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(1 << 20)
        except FileNotFoundError:
            return b""
        self._offset += len(data)
        return data


def last_word(folder: Path) -> JobResult | JobFailure | None:
    """The end that a job has said of itself, however much it said before. Raises OSError, but not for a file that is
    not there."""
    try:
        with (folder / LINES).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2 * MOST_OF_A_LINE))
            lines = file.read(2 * MOST_OF_A_LINE).splitlines()
    except FileNotFoundError:
        return None
    last = decode(lines[-1]) if lines else None
    return last if isinstance(last, JobResult | JobFailure) else None


def write_spec(folder: Path, spec: JobSpec) -> None:
    """Makes ``folder``, readable by its user alone, a job that can be started. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / SPEC).write_text(json.dumps(asdict(spec)))


def read_spec(folder: Path) -> JobSpec:
    """Raises OSError, ValueError."""
    with (folder / SPEC).open("rb") as file:
        values = bounded.parse_json(bounded.read(file, MOST_OF_A_SPEC), _NODES)
    try:
        return JobSpec(**values)
    except TypeError:
        raise ValueError(f"{folder / SPEC}: no job") from None
