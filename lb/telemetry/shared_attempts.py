"""What each of several balancer processes has under way, as it tells the others: a mapped ring of records beside its
counters (``attempts.bin``, ``attempts-1.bin`` …). Who holds the lock of the counters is its only writer; everybody
reads all of the others', each from where it was. A reader that is late by more than a ring is told so, and begins anew.
"""

from __future__ import annotations

import logging
import mmap
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from config.disk import private
from config.disk.files import allocate

log = logging.getLogger(__name__)

_MAGIC = int.from_bytes(b"clattem1", "little")
#: Cells of 8 bytes: a mark, who writes (anew with each process), and how many cells were written in all.
_OWNER, _HEAD, _FIRST = 1, 2, 8
#: Those of the ring: some thousand requests.
_CELLS = 1 << 16
_BYTES = 8 * (_FIRST + _CELLS)

#: The longest record.
MOST = 64

#: A record, and who wrote it. None: whatever that one said before counts no more.
News = tuple[int, Sequence[int] | None]


class SharedAttempts:
    """``counters``: this process' own file of counters, None where it has none; ``peers``: those of the others that
    live. Where there is no file to be had, nothing is told, which is said once."""

    def __init__(self, counters: Path | None, peers: Callable[[], Sequence[Path]]) -> None:
        self._peers = peers
        self._cells: memoryview | None = None
        self._rings: dict[Path, _PeerRing] = {}
        self._gone: list[int] = []
        if counters is not None:
            try:
                self._cells = _own(_beside(counters))
            except OSError as error:
                log.warning("%s: %s; other balancers are not told of requests", _beside(counters), error.strerror)
        self._head = 0 if self._cells is None else self._cells[_HEAD]
        self.look()

    def tell(self, record: Sequence[int]) -> None:
        """At most `MOST` - 1 values of 64 bits."""
        cells, head = self._cells, self._head
        if cells is None:
            return
        for value in (len(record), *record):
            cells[_FIRST + head % _CELLS] = value
            head += 1
        self._head = cells[_HEAD] = head  # last: whoever sees it sees the record

    def news(self) -> Iterator[News]:
        """What the others have told since."""
        while self._gone:
            yield self._gone.pop(), None
        for ring in self._rings.values():
            if ring.cells[_HEAD] != ring.at:
                yield from ring.read()

    def look(self) -> None:
        """For processes that have come, and that are gone."""
        there = {_beside(path) for path in self._peers()}
        for path in self._rings.keys() - there:
            self._gone.append(self._rings.pop(path).owner)
        for path in there - self._rings.keys():
            if (ring := _PeerRing.open(path)) is not None:
                self._rings[path] = ring

    def close(self) -> None:
        """Nothing is told any more."""
        self._cells = None
        self._rings.clear()


class _PeerRing:
    """Another process', read from now on."""

    def __init__(self, cells: memoryview) -> None:
        self.cells, self.owner, self.at = cells, cells[_OWNER], cells[_HEAD]

    @classmethod
    def open(cls, path: Path) -> _PeerRing | None:
        """None for one that is not ready."""
        try:
            with private.open_file(path) as file:
                if os.fstat(file.fileno()).st_size != _BYTES:
                    return None
                cells = memoryview(mmap.mmap(file.fileno(), _BYTES, prot=mmap.PROT_READ)).cast("Q")
        except OSError:
            return None
        return cls(cells) if cells[0] == _MAGIC and cells[_OWNER] else None

    def read(self) -> Iterator[News]:
        cells, owner = self.cells, self.owner
        if cells[_OWNER] != owner:  # another process has taken the file
            self.owner, self.at = cells[_OWNER], cells[_HEAD]
            yield owner, None
            return
        values = self._values(self.at, head := cells[_HEAD])
        # What the writer has begun since may lie over what was read.
        if values is None or cells[_HEAD] - self.at > _CELLS - MOST:
            self.at = cells[_HEAD]
            yield owner, None
            return
        self.at, at = head, 0
        while at < len(values):
            size = values[at]
            yield owner, values[at + 1 : at + 1 + size]
            at += 1 + size

    def _values(self, begin: int, end: int) -> list[int] | None:
        """Those between, which were written one after the other; None where that was too long ago."""
        if not 0 < end - begin <= _CELLS:
            return None
        begin, end = begin % _CELLS, end % _CELLS
        ring = self.cells[_FIRST:]
        return ring[begin:end].tolist() if begin < end else ring[begin:].tolist() + ring[:end].tolist()


def _beside(counters: Path) -> Path:
    return counters.with_name(counters.name.replace("counters", "attempts", 1))


def _own(path: Path) -> memoryview:
    """Where the one before ended, as readers may have it mapped."""
    with private.open_file(path, "a+b") as file:
        os.fchmod(file.fileno(), 0o600)
        if os.fstat(file.fileno()).st_size != _BYTES:
            os.ftruncate(file.fileno(), 0)
        allocate(file.fileno(), _BYTES)
        os.ftruncate(file.fileno(), _BYTES)
        cells = memoryview(mmap.mmap(file.fileno(), _BYTES)).cast("Q")
    if cells[0] != _MAGIC:
        cells[_HEAD] = 0
    cells[_OWNER] = 1 + secrets.randbits(62)
    cells[0] = _MAGIC
    return cells


