"""Counts of requests and errors by backend that survive the balancer: a file in the state directory, mapped.

What was counted is in the kernel's page cache the moment it is written, so that even SIGKILL loses nothing, and the
numbers in status never go back. One writer.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_MAGIC = b"clusterctl counters 2\n".ljust(32, b"\0")
_ROW = struct.Struct("<144sQQQ")
_NAME_BYTES = 144
_ROWS = 2048

#: What an adapter's name is counted under.
ADAPTER = "adapter:"


class Counters:
    """Requests, errors and last use (milliseconds since the epoch) by name: a backend's id, or an adapter's name
    behind `ADAPTER` (at most 144 bytes of it)."""

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
        self._cells = memoryview(self._map).cast("Q")
        self._offsets: dict[str, int] = {}
        self._recent: dict[str, float] = {}
        self._next = len(_MAGIC)
        self._read_rows()

    def _read_rows(self) -> None:
        while self._next < len(self._map):
            name = _ROW.unpack_from(self._map, self._next)[0].rstrip(b"\0")
            if not name:
                return
            self._offsets[name.decode(errors="replace")] = self._next + _NAME_BYTES
            self._next += _ROW.size

    def add(self, backend: str, *, requests: int = 0, errors: int = 0, used_ms: int = 0) -> None:
        offset = self._offsets.get(backend)
        if offset is None:
            if self._next >= len(self._map):
                return  # 2,048 names in one state directory: the 2,049th goes uncounted
            _ROW.pack_into(self._map, self._next, backend.encode()[:_NAME_BYTES], 0, 0, 0)
            offset = self._offsets[backend] = self._next + _NAME_BYTES
            self._next += _ROW.size
        if used_ms:
            self._recent[backend] = used_ms / 1000
        cells, at = self._cells, offset // 8
        cells[at] += requests
        if errors:
            cells[at + 1] += errors
        if used_ms > cells[at + 2]:
            cells[at + 2] = used_ms

    def hit(self, backend: str) -> None:
        """One request that went well."""
        offset = self._offsets.get(backend)
        if offset is None:
            self.add(backend, requests=1)
        else:
            self._cells[offset >> 3] += 1

    def get(self, backend: str) -> tuple[int, int]:
        """(requests, errors) so far."""
        offset = self._offsets.get(backend)
        if offset is None:
            return (0, 0)
        return self._cells[offset // 8], self._cells[offset // 8 + 1]

    def last_used(self, name: str) -> float | None:
        """Seconds since the epoch; None for never."""
        offset = self._offsets.get(name)
        used = self._cells[offset // 8 + 2] if offset is not None else 0
        return used / 1000 if used else None

    def recently_used(self) -> dict[str, float]:
        """When (s since the epoch) each adapter was last used, of those used since this was last asked."""
        recent, self._recent = self._recent, {}
        return {name.removeprefix(ADAPTER): at for name, at in recent.items()}

    def names(self) -> list[str]:
        """Of backends."""
        return [name for name in self._offsets if not name.startswith(ADAPTER)]

    def close(self) -> None:
        self._cells.release()
        self._map.close()
