"""The files of a batch: what of the output is there already, and what is left to do.

The output is in the order of the input, one line for each, and only ever grows; a run that is killed leaves whole
lines and perhaps a part of one, which the next run cuts off. To ask failed lines again a second file grows beside it
and takes its place at the end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cluster.tools.batch.lines import LONGEST, BatchRequest, written
from config.disk.files import sync_folder
from config.errors import UsageError

#: What an output that is no file is called.
STDOUT = "standard output"

#: Lines that are there already are told of so many at a time.
_TOLD = 500


@dataclass(frozen=True, slots=True)
class BatchStep:
    """What comes next: ``kept`` lines, ``failed`` of them errors, are there already; or a line is copied; or asked.
    ``offset``: bytes of the input that are behind it."""

    offset: int
    kept: int = 0
    failed: int = 0
    copied: bytes = b""
    ask: BatchRequest | None = None


#: How a JSON list of requests begins; no line that asks something does.
_LIST = re.compile(rb"\s*\[\s*($|[{\"])")


def lines(file: IO[bytes], plain: bool = False) -> Iterator[tuple[int, bytes, int]]:
    """(number from 1, line, offset behind it) of each line that is not empty; of too long a one its beginning.
    ``plain``: they are prompts. Raises UsageError for a file that is one JSON list: a line of it is no request."""
    offset = number = 0
    while line := file.readline(LONGEST + 1):
        number, offset, end = number + 1, offset + len(line), line
        while len(end) > LONGEST and not end.endswith(b"\n"):
            end = file.readline(LONGEST + 1)
            offset += len(end)
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
            if not plain and _LIST.match(line.rstrip()):
                raise UsageError("the input is one JSON list; one request a line is needed: jq -c '.[]' FILE", 2)
        if line.strip():
            yield number, line.strip(b"\r\n"), offset


def steps(
    source: Iterable[tuple[int, bytes, int]], parse: Callable[[int, bytes], BatchRequest], out: str,
    kept: Iterator[bytes], earlier: Iterator[bytes],
) -> Iterator[BatchStep]:
    """``kept``: the lines of the file that grows; ``earlier``: those of one that it will replace, of which failed ones
    are asked again. ``out``: its name, for messages. Raises UsageError where they are not answers to ``source``."""
    count = errors = offset = 0
    for number, line, offset in source:
        ask = parse(number, line)
        mine, before = next(kept, None), next(earlier, None)
        if mine is not None:
            count += 1
            errors += _checked(mine, ask, out)
            if count >= _TOLD:
                yield BatchStep(offset, count, errors)
                count = errors = 0
            continue
        if count:
            yield BatchStep(offset, count, errors)
            count = errors = 0
        if before is not None and not _checked(before, ask, out):
            yield BatchStep(offset, copied=before)
        else:
            yield BatchStep(offset, ask=ask)
    if count:
        yield BatchStep(offset, count, errors)
    if next(kept, None) is not None or next(earlier, None) is not None:
        raise UsageError(f"{out} has more lines than the input: not its output; --overwrite begins anew")


def _checked(line: bytes, ask: BatchRequest, out: str) -> bool:
    """Whether it is an error. Raises UsageError where it is no answer to ``ask``."""
    found = written(line)
    if found is None:
        raise UsageError(f"{out}: not the output of a run; name another file, or --overwrite it")
    if found.hash != ask.hash:
        raise UsageError(
            f"{out} holds the answer to something else than line {ask.number} of the input asks now: the input or the "
            "options have changed; name another file, or --overwrite it"
        )
    return found.failed


class Output:
    """The file that grows. Nobody else writes to it meanwhile. Raises UsageError."""

    def __init__(self, path: Path | None, overwrite: bool = False, retry: bool = False) -> None:
        """``path``: None for standard output. ``retry``: failed lines are to be asked again."""
        self.name = str(path or STDOUT)
        self._earlier: IO[bytes] | None = None
        self._lock: int | None = None
        try:
            # A pipe or a device: nothing of it can be read again.
            self.plain = path is None or (path.exists() and not stat.S_ISREG(path.stat().st_mode))
            if path is None or self.plain:
                self._fd = os.dup(1) if path is None else os.open(path, os.O_WRONLY | os.O_CLOEXEC)
                return
            self.path = self._grows = path
            self._lock = _open(path)
            _lock(self._lock, self.name)
            _repair(self._lock)
            beside = path.with_name(f"{path.name}.retry")
            if overwrite:
                beside.unlink(missing_ok=True)  # of a run that was broken off: those answers are older
            elif retry:
                self._earlier = path.open("rb")
                self._grows = beside
            self._fd = _open(self._grows)
            if overwrite:
                os.ftruncate(self._fd, 0)
            _repair(self._fd)
        except OSError as error:
            raise UsageError(f"{self.name}: {error.strerror or error}") from None

    def kept(self) -> Iterator[bytes]:
        if self.plain:
            return
        with self._grows.open("rb") as file:
            yield from file

    def earlier(self) -> Iterator[bytes]:
        yield from self._earlier or ()

    def write(self, data: bytes) -> None:
        """Raises OSError."""
        while data:
            data = data[os.write(self._fd, data) :]

    def complete(self) -> None:
        """All is written. Raises OSError."""
        if self.plain:
            return
        os.fsync(self._fd)
        if self._earlier is not None:
            self._grows.replace(self.path)
            sync_folder(self.path.absolute().parent)

    def close(self) -> None:
        for descriptor in (self._fd, self._lock):
            if descriptor is not None:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        if self._earlier is not None:
            self._earlier.close()


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _lock(descriptor: int, name: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UsageError(f"{name}: another run is writing to it") from None


def _repair(descriptor: int) -> None:
    """Cuts off what follows the last whole line."""
    size = end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - 65536)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        os.ftruncate(descriptor, end)
