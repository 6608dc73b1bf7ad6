"""Counts of requests and errors by backend that survive the balancer, and what is in flight now by each of several
balancers: files in the state directory, mapped, one for each process.

What was counted is in the kernel's page cache the moment it is written, so that even SIGKILL loses nothing, and the
numbers in status never go back. A file has one writer, the process that holds its lock; everybody reads all of them.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import re
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from config.disk import private
from config.disk.files import allocate
from lb.telemetry.in_flight import InFlightCell, RemoteLoads

log = logging.getLogger(__name__)

#: Then, in the last 8 of these 32 bytes, the writer's pid: 0 if there is none and nothing is in flight.
_MAGIC = b"clusterctl counters 3\n".ljust(24, b"\0")
_HEADER_BYTES = 32
#: The same without owner and without what is in flight.
_BEFORE = b"clusterctl counters 2\n".ljust(32, b"\0")
_ROW = struct.Struct("<144sQQQ")
_NAME_BYTES = 144
_ROWS = 2048
_BEFORE_BYTES = _HEADER_BYTES + _ROWS * _ROW.size

#: Behind the rows, for each of them: an incarnation, and what is in flight on it.
_LIVE_BYTES = _ROWS * 16
_BYTES = _BEFORE_BYTES + _LIVE_BYTES

_OWNER, _LIVE = 24 // 8, _BEFORE_BYTES // 8

#: What an adapter's name is counted under, and what runs of something that is limited.
ADAPTER, _LIMIT = "adapter:", "limit:"


class Counters:
    """Requests, errors and last use (milliseconds since the epoch) by name: a backend's id, or an adapter's name
    behind `ADAPTER` (at most 144 bytes of it). What is read is the sum over all processes there are or were."""

    def __init__(self, path: Path) -> None:
        """Takes the first file of ``path``, ``path``-1, … that no living process has; one that is not ours is made
        anew, one of the format before goes on. Where the disk has no room for one, it counts in memory until it ends:
        requests are served all the same."""
        self._base = path
        try:
            self._file = _take(path)
        except OSError as error:
            log.warning("%s: %s; requests are counted in memory until this process ends", path, error.strerror)
            self._file = os.fdopen(os.memfd_create(path.name), "r+b")
            _prepare(self._file)
        self._own = _Table(self._file)
        self._own.clear_live()
        self._own.cells[_OWNER] = os.getpid()
        self._peers: dict[str, _PeerFile] = {}
        self._recent: dict[str, float] = {}
        self._remote = RemoteLoads()
        #: Where the other processes count what is in flight on a backend: (cells, index of the incarnation).
        self._elsewhere: dict[str, list[tuple[memoryview, int]]] = {}
        self.refresh()

    @property
    def path(self) -> Path | None:
        """Of this process' own file: as long as it lives nobody else takes that name. None where it counts in
        memory."""
        return Path(self._file.name) if isinstance(self._file.name, str) else None

    def peers(self) -> list[Path]:
        """The files of the other processes that lived when it last looked."""
        return [self._base.with_name(name) for name, peer in self._peers.items() if peer.table.cells[_OWNER]]

    def add(self, backend: str, *, requests: int = 0, errors: int = 0, used_ms: int = 0) -> None:
        own = self._own
        at = own.rows.get(backend)
        if at is None and (at := own.new_row(backend)) is None:
            return  # 2,048 names in one state directory: the 2,049th goes uncounted
        if used_ms:
            self._recent[backend] = used_ms / 1000
        cells, at = own.cells, at + _NAME_BYTES // 8
        cells[at] += requests
        if errors:
            cells[at + 1] += errors
        if used_ms > cells[at + 2]:
            cells[at + 2] = used_ms

    def hit(self, backend: str) -> None:
        """One request that went well."""
        own = self._own
        at = own.rows.get(backend)
        if at is None:
            self.add(backend, requests=1)
        else:
            own.cells[at + _NAME_BYTES // 8] += 1

    def get(self, backend: str) -> tuple[int, int]:
        """(requests, errors) so far."""
        found = [table.totals(backend) for table in self._tables()]
        return sum(requests for requests, _, _ in found), sum(errors for _, errors, _ in found)

    def last_used(self, name: str) -> float | None:
        """Seconds since the epoch; None for never."""
        used = max(table.totals(name)[2] for table in self._tables())
        return used / 1000 if used else None

    def recently_used(self) -> dict[str, float]:
        """When (s since the epoch) each adapter was last used here, of those used since this was last asked."""
        recent, self._recent = self._recent, {}
        return {name.removeprefix(ADAPTER): at for name, at in recent.items()}

    def names(self) -> list[str]:
        """Of backends."""
        every = dict.fromkeys(name for table in self._tables() for name in table.rows)
        return [name for name in every if not name.startswith((ADAPTER, _LIMIT))]

    def share(self, backend: str, incarnation: int) -> InFlightCell | None:
        """Where one incarnation's in-flight count is written, and those of the other processes are read. Whoever
        had the one before must not write to it any more. None where there is no room for another name."""
        own = self._own
        at = own.rows.get(backend)
        if at is None and (at := own.new_row(backend)) is None:
            return None
        live = own.live(at)
        own.cells[live + 1] = 0  # first: for a moment the old incarnation is idle, never the new one busy
        own.cells[live] = incarnation
        return InFlightCell(own.cells, live + 1, incarnation, self._elsewhere.setdefault(backend, []))

    def share_limit(self, name: str) -> InFlightCell | None:
        """Where it is counted what runs under the ``name`` of a limit."""
        return self.share(f"{_LIMIT}{name}", 1)

    def refresh(self) -> None:
        """Looks for new processes, new backends of theirs, and dead ones, whose requests are in flight no more."""
        for path in _files(self._base):
            if path.name in self._peers or _same(self._file, path):
                continue
            if (peer := _PeerFile.open(path)) is not None:
                self._peers[path.name] = peer
        elsewhere: dict[str, list[tuple[memoryview, int]]] = {}
        for peer in self._peers.values():
            peer.bury()
            table = peer.table
            table.read_rows()
            if table.cells[_OWNER]:
                for name, at in table.rows.items():
                    elsewhere.setdefault(name, []).append((table.cells, table.live(at)))
        self._remote.expire(time.monotonic())
        for name, place in self._remote.places().items():
            elsewhere.setdefault(name, []).append(place)
        for name, places in self._elsewhere.items():
            places[:] = elsewhere.pop(name, ())  # in place: `Share` holds on to the list
        self._elsewhere |= elsewhere

    def hear(self, loads: Mapping[str, int]) -> None:
        """``loads`` are in flight on other machines, by backend; it is told again as long as that is so."""
        live, rows = self._own.live, self._own.rows
        there = {name: self._own.cells[live(rows[name])] for name in loads if name in rows}
        if self._remote.put(loads, there, time.monotonic()):
            self.refresh()

    def _tables(self) -> Iterator[_Table]:
        yield self._own
        for peer in self._peers.values():
            peer.table.read_rows()
            yield peer.table

    def close(self) -> None:
        """Its requests are over, its file is the next one's."""
        for places in self._elsewhere.values():
            places.clear()
        for peer in self._peers.values():
            peer.close()
        self._peers.clear()
        self._own.clear_live()
        self._own.cells[_OWNER] = 0
        self._own.close()
        self._file.close()


class _Table:
    """One mapped file. ``rows``: where (in cells of 8 bytes) each name's row begins."""

    def __init__(self, file: IO[bytes]) -> None:
        self._map = mmap.mmap(file.fileno(), _BYTES)
        self.cells = memoryview(self._map).cast("Q")
        self.rows: dict[str, int] = {}
        self._next = _HEADER_BYTES
        self.read_rows()

    def read_rows(self) -> None:
        """Those that have come since."""
        while self._next < _BEFORE_BYTES and self.cells[self._next // 8]:
            name = _ROW.unpack_from(self._map, self._next)[0].rstrip(b"\0")
            self.rows[name.decode(errors="replace")] = self._next // 8
            self._next += _ROW.size

    def new_row(self, name: str) -> int | None:
        """None if there is no room."""
        if self._next >= _BEFORE_BYTES:
            return None
        written, start = name.encode()[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0"), self._next
        self._map[start + 8 : start + _NAME_BYTES] = written[8:]
        # Its first eight bytes last, in one store: another process sees the whole name or none.
        self.cells[start // 8] = int.from_bytes(written[:8], "little")
        self.rows[name] = start // 8
        self._next += _ROW.size
        return start // 8

    def totals(self, name: str) -> tuple[int, int, int]:
        """(requests, errors, last use)."""
        row = self.rows.get(name)
        if row is None:
            return (0, 0, 0)
        at = row + _NAME_BYTES // 8
        return self.cells[at], self.cells[at + 1], self.cells[at + 2]

    def live(self, row: int) -> int:
        """The cell of the incarnation of a row; what is in flight on it is in the next one."""
        return _LIVE + 2 * ((row * 8 - _HEADER_BYTES) // _ROW.size)

    def clear_live(self) -> None:
        """Only for who holds the file's lock."""
        self._map[_BEFORE_BYTES:_BYTES] = bytes(_LIVE_BYTES)

    def close(self) -> None:
        self.cells.release()
        self._map.close()


class _PeerFile:
    """Another process' file, whether that process lives or not."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.table = _Table(file)

    @classmethod
    def open(cls, path: Path) -> _PeerFile | None:
        """None for a file that is not ready, or no longer there."""
        try:
            file = private.open_file(path, "r+b")
        except OSError:
            return None
        try:
            if os.fstat(file.fileno()).st_size == _BYTES and file.read(len(_MAGIC)) == _MAGIC:
                return cls(file)
        except OSError as error:
            log.warning("%s is not counted: %s", path, error)
        file.close()
        return None

    def bury(self) -> None:
        """Says that nothing is in flight in a process that has died. Only a file that has an owner is looked at:
        its lock is taken for a moment, and a process that starts just then would pass by a file that is free."""
        if not self.table.cells[_OWNER]:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return  # it lives
        try:
            self.table.clear_live()
            self.table.cells[_OWNER] = 0
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        self.table.close()
        self._file.close()


def _take(base: Path) -> IO[bytes]:
    """The first file that is free, locked and ready to be mapped. The lock goes with the process: nobody has to
    take it back, and a replacement may overlap with its predecessor."""
    number = 0
    while True:
        path = base.with_name(f"{base.stem}-{number}{base.suffix}") if number else base
        file = private.open_file(path, "a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            number += 1
            continue
        except OSError:
            file.close()
            raise
        try:
            os.fchmod(file.fileno(), 0o600)
            _prepare(file)
        except OSError:
            file.close()
            raise
        return file


def _prepare(file: IO[bytes]) -> None:
    file.seek(0)
    head, size = file.read(_HEADER_BYTES), os.fstat(file.fileno()).st_size
    if head[: len(_MAGIC)] == _MAGIC and size == _BYTES:
        allocate(file.fileno(), _BYTES)  # it may be of a release that left holes in it
        return
    # The format before grows where it lies: its counts are never anywhere else. Killed on the way, it is grown and
    # still of the format before.
    if not (head == _BEFORE and size in (_BEFORE_BYTES, _BYTES)):
        os.ftruncate(file.fileno(), 0)
    allocate(file.fileno(), _BYTES)
    os.ftruncate(file.fileno(), _BYTES)
    # Not `pwrite`: with O_APPEND, Linux appends.
    with mmap.mmap(file.fileno(), _BYTES) as mapped:
        mapped[: len(_MAGIC)] = _MAGIC  # last: a file with it is whole


def _files(base: Path) -> list[Path]:
    ours = re.compile(rf"{re.escape(base.stem)}(-\d+)?{re.escape(base.suffix)}")
    return sorted(path for path in base.parent.iterdir() if ours.fullmatch(path.name))


def _same(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return True  # gone again
