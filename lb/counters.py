"""Counts of requests and errors by backend that survive the balancer: a file in the state directory, mapped.

What was counted is in the kernel's page cache the moment it is written, so that even SIGKILL loses nothing, and the
numbers in status never go back. One writer.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_MAGIC = b"clusterctl counters 1\n".ljust(32, b"\0")
_ROW = struct.Struct("<48sQQ")
_COUNTS = struct.Struct("<QQ")
_NAME_BYTES = 48
_ROWS = 2048


class Counters:
    """``requests`` and ``errors`` by backend id (at most 48 bytes of it)."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file; one that is not ours is made anew. Raises OSError."""
        size = len(_MAGIC) + _ROWS * _ROW.size
        with path.open("a+b") as file:
            path.chmod(0o600)
            file.seek(0)
            if file.read(len(_MAGIC)) != _MAGIC or path.stat().st_size != size:
                file.truncate(0)
                file.write(_MAGIC)
                file.truncate(size)
            file.flush()
            self._map = mmap.mmap(file.fileno(), size)
        self._offsets: dict[str, int] = {}
        self._next = len(_MAGIC)
        self._read_rows()

    def _read_rows(self) -> None:
        while self._next < len(self._map):
            name = _ROW.unpack_from(self._map, self._next)[0].rstrip(b"\0")
            if not name:
                return
            self._offsets[name.decode(errors="replace")] = self._next + _NAME_BYTES
            self._next += _ROW.size

    def add(self, backend: str, *, requests: int = 0, errors: int = 0) -> None:
        offset = self._offsets.get(backend)
        if offset is None:
            if self._next >= len(self._map):
                return  # 2,048 names in one state directory: the 2,049th goes uncounted
            _ROW.pack_into(self._map, self._next, backend.encode()[:_NAME_BYTES], 0, 0)
            offset = self._offsets[backend] = self._next + _NAME_BYTES
            self._next += _ROW.size
        now_requests, now_errors = _COUNTS.unpack_from(self._map, offset)
        _COUNTS.pack_into(self._map, offset, now_requests + requests, now_errors + errors)

    def get(self, backend: str) -> tuple[int, int]:
        """(requests, errors) so far."""
        offset = self._offsets.get(backend)
        return _COUNTS.unpack_from(self._map, offset) if offset is not None else (0, 0)

    def names(self) -> list[str]:
        return list(self._offsets)

    def close(self) -> None:
        self._map.close()
