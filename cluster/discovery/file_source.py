"""A list of servers in a file that others write: read again when it has changed."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

from cluster.discovery.listing import Listing, SourceFailed, of_file
from config import bounded
from config.disk import private
from config.errors import UsageError
from config.sources.yaml_file import read_document

#: Seconds between two looks, and the most bytes: of 512 servers it has some 30,000.
_EVERY_S, _MOST = 0.5, 256 * 1024

#: What a file is known by: inode, size, time of change.
_Signature = tuple[int, int, int]


class FileSource:
    """One that somebody else could change is not taken: it says where requests and their key go."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun = False
        self._seen: _Signature | None = None
        self._held: Listing | None = None

    async def listed(self, within: float) -> Listing:
        if self._begun:
            await self._changed(within)
        self._begun = True
        signature = await asyncio.to_thread(self._look)
        if signature != self._seen or self._held is None:
            self._held = None  # until it is read well: whatever was in its way may end without a change of it
            self._held, self._seen = await asyncio.to_thread(self._read), signature
        return self._held

    async def close(self) -> None:
        """Nothing is open."""

    async def _changed(self, within: float) -> None:
        """Returns once it has, or after so many seconds."""
        deadline = asyncio.get_running_loop().time() + within
        while (left := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(left, _EVERY_S))
            if await asyncio.to_thread(self._look) != self._seen:
                return

    def _look(self) -> _Signature | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _read(self) -> Listing:
        try:
            if not stat.S_ISREG(private.require_unchanged(self._path).st_mode):
                raise SourceFailed("it is no regular file")
            return of_file(self._parse())
        except OSError as error:
            raise SourceFailed(f"it cannot be read: {error.strerror}") from None
        except (UsageError, ValueError) as error:
            raise SourceFailed(str(error).removeprefix(f"{self._path}").lstrip(":, ")) from None

    def _parse(self) -> object:
        if self._path.suffix == ".json":
            return bounded.parse_json(bounded.read_given(self._path, _MOST).encode())
        return read_document(self._path, _MOST)
