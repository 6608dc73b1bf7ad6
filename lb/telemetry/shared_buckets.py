"""What all balancers of one machine have taken of each token bucket (`lb.admission.rate_limits`): one mapped file, in
which every process has a column that it alone writes. It keeps what a process that has died took; whoever gets that
column next goes on with it. Times in it are those since the machine was started, so it is made anew after that."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import mmap
import os
import struct
from pathlib import Path

from config.disk import private
from config.disk.files import allocate

log = logging.getLogger(__name__)

#: Processes at once: twice the most that one cluster has, as those of before may be ending.
_COLUMNS = 128
#: Of two for each of the most keys there are, and some that limits were changed of.
_ROWS = 24_576
#: A mark, and how many columns there have ever been.
_HEADER, _USED = 64, 7
#: Two cells of a name's digest; then, for each column, what it has taken, and the most that it has seen saved up.
_ROW_CELLS = 2 + 2 * _COLUMNS
_ROW = 8 * _ROW_CELLS
_BYTES = _HEADER + _ROWS * _ROW

#: Of nothing: below all that is saved.
_NEVER = -(2**62)

#: The byte whose lock is for what all share; those of the columns are before it.
_WHOLE = 2**32

_BOOT = Path("/proc/sys/kernel/random/boot_id")


class SharedBuckets:
    """Where there is no file to be had, each process counts for itself, which is said once."""

    def __init__(self, path: Path) -> None:
        self._path, self._rows, self._next = path, dict[bytes, int](), 0
        self._file: int | None = None
        self._tried = self._full = False

    def share(self, name: str) -> SharedCells | None:
        """The cells of the bucket of that name; None where each process has its own. The file is opened with the
        first."""
        try:
            if not self._tried:
                self._tried = True
                self._open()
            if self._file is None or self._full:
                return None
            row = self._row(hashlib.sha256(name.encode(errors="surrogatepass")).digest()[:16])
        except OSError as error:
            log.warning("%s: %s; each balancer process keeps to new limits of keys by itself", self._path, error)
            self._full = True
            return None
        return SharedCells(self._cells, row + 2, self._column)

    def close(self) -> None:
        """Its column is another's."""
        if self._file is not None:
            _unlock(self._file, self._column)  # the mapping keeps the open file
            os.close(self._file)
            self._file = None

    def _open(self) -> None:
        file = private.descriptor(self._path, os.O_RDWR | os.O_CREAT)
        try:
            _lock(file, _WHOLE, wait=True)  # for a moment, as all that is done with it
            mark = b"clusterctl buckets 1\n" + hashlib.sha256(_BOOT.read_bytes()).digest()[:16]
            if os.pread(file, len(mark), 0) != mark or os.fstat(file).st_size != _BYTES:
                os.ftruncate(file, 0)
                os.ftruncate(file, _BYTES)
                allocate(file, _HEADER)
                os.pwrite(file, mark, 0)
            self._column = _free_column(file)
            self._cells = memoryview(mmap.mmap(file, _BYTES)).cast("q")
            self._cells[_USED] = max(self._cells[_USED], self._column + 1)
            _unlock(file, _WHOLE)
        except BaseException:
            os.close(file)
            raise
        self._file = file

    def _row(self, name: bytes) -> int:
        """Where its row begins, in cells. Raises OSError where there is no room for one."""
        if (row := self._read_rows(name)) is not None:
            return row
        assert self._file is not None
        _lock(self._file, _WHOLE, wait=True)
        try:
            if (row := self._read_rows(name)) is not None:  # meanwhile
                return row
            if self._next >= _ROWS:
                raise OSError("there are too many of them")
            row, end = _HEADER // 8 + self._next * _ROW_CELLS, _HEADER + (self._next + 1) * _ROW
            allocate(self._file, end)
            for at in range(row + 2 + _COLUMNS, row + _ROW_CELLS):
                self._cells[at] = _NEVER
            self._cells[row], self._cells[row + 1] = struct.unpack("qq", name)
        finally:
            _unlock(self._file, _WHOLE)
        found = self._read_rows(name)
        assert found is not None
        return found

    def _read_rows(self, name: bytes) -> int | None:
        """Those that have come since; the one of ``name``. A row is there with its second cell."""
        while self._next < _ROWS:
            at = _HEADER // 8 + self._next * _ROW_CELLS
            if not self._cells[at + 1]:
                break
            self._rows[struct.pack("qq", self._cells[at], self._cells[at + 1])] = at
            self._next += 1
        return self._rows.get(name)


class SharedCells:
    """Of one bucket; ``at``: its first cell. Implements `lb.admission.rate_limits.Cells`."""

    __slots__ = ("_all", "_at", "_own", "_own_saved", "_saved", "_taken", "_used")

    def __init__(self, cells: memoryview, at: int, column: int) -> None:
        self._all, self._at, self._own, self._own_saved = cells, at, at + column, at + _COLUMNS + column
        self._used = 0
        self._look()

    def _look(self) -> None:
        """How many columns there are by now."""
        cells, taken, saved = self._all, self._at, self._at + _COLUMNS
        if (used := cells[_USED]) == self._used:
            return
        self._used = used
        self._taken, self._saved = cells[taken : taken + used], cells[saved : saved + used]

    def gone(self) -> int:
        self._look()
        return sum(self._taken) + max(self._saved)

    def flow(self, filled: int, change: int) -> int:
        cells, own, saves = self._all, self._own, self._own_saved
        if cells[_USED] == 1:
            taken, saved = cells[own], cells[saves]
        else:
            self._look()
            taken, saved = sum(self._taken), max(self._saved)
        if filled > taken + saved:
            cells[saves] = saved = filled - taken
        cells[own] += change
        # Asked again: whoever comes says so before it takes anything.
        return taken + change + saved if cells[_USED] == 1 else self.gone()


def _free_column(file: int) -> int:
    """Nobody else's until ``file`` is closed. Raises OSError where there is none."""
    for column in range(_COLUMNS):
        with contextlib.suppress(BlockingIOError):
            _lock(file, column)
            return column
    raise OSError("too many processes share it")


def _lock(file: int, byte: int, *, wait: bool = False) -> None:
    """The lock is of the open file, so that it ends with its process, and holds inside one too. Raises OSError."""
    fcntl.fcntl(file, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, byte))


def _unlock(file: int, byte: int) -> None:
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, byte))


def _flock(kind: int, byte: int) -> bytes:
    """`struct flock` of fcntl(2)."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0)
