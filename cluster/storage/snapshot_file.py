"""Looks at a state file without touching it: SQLite itself would replay the write-ahead log of a file that it then
turns out not to know. The log is replayed in memory instead.

https://www.sqlite.org/fileformat2.html has both formats.
"""

from __future__ import annotations

import sqlite3
import struct
from pathlib import Path

from cluster.storage.schema import SCHEMA
from config.disk import private
from config.errors import UsageError

_MAGIC = b"SQLite format 3\0"
_WAL_HEADER = struct.Struct(">8I")
_FRAME_HEADER = struct.Struct(">6I")


def companion(path: Path, suffix: str) -> Path:
    """SQLite's file beside it: ``-wal``, ``-shm``, ``-journal``."""
    return path.with_name(path.name + suffix)


def refuse_links(path: Path) -> None:
    """SQLite follows symbolic links, and cannot be told not to. Raises UsageError for one."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        if (file := companion(path, suffix)).is_symlink():
            raise UsageError(f"{file}: a symbolic link, and none is followed here; it is left as it is")


def check(path: Path) -> int:
    """The version of the state in ``path``. Raises UsageError, one sentence, for what is no state that can be read:
    unreadable, damaged, of a later release, or somebody else's."""
    with _look(path) as db:
        return _version(path, db)


def copy(path: Path) -> sqlite3.Connection:
    """What is in ``path``, in memory. Not while somebody writes to it. Raises UsageError as `check`."""
    db = _look(path)
    try:
        _version(path, db)
    except BaseException:
        db.close()
        raise
    return db


def _version(path: Path, db: sqlite3.Connection) -> int:
    try:
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA or version < 0:
            raise UsageError(
                f"{path}: state of version {version}, this clusterctl reads version {SCHEMA}; it is left as it is"
            )
        if version == 0 and db.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise UsageError(
                f"{path}: state of version 0, this clusterctl reads version {SCHEMA}; it is left as it is"
            )
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        raise _unreadable(path, error) from None
    if found != "ok":
        raise _unreadable(path, " ".join(str(found).split()))
    return version


def _look(path: Path) -> sqlite3.Connection:
    try:
        image = _image(path)
    except OSError as error:
        raise _unreadable(path, error.strerror or error) from None
    if not image:
        raise _unreadable(path, "it is empty")
    if image[: len(_MAGIC)] != _MAGIC:
        raise _unreadable(path, "file is not a database")
    image[18:20] = b"\1\1"  # no write-ahead log any more: it is in here
    db = sqlite3.connect(":memory:")
    try:
        db.deserialize(bytes(image))
    except sqlite3.DatabaseError as error:
        db.close()
        raise _unreadable(path, error) from None
    return db


def _unreadable(path: Path, why: object) -> UsageError:
    return UsageError(f"{path}: not a readable state file ({why}); it is left as it is")


def _image(path: Path) -> bytearray:
    """The database with what its write-ahead log has beyond it."""
    image = bytearray(private.read(path))
    try:
        log = private.read(companion(path, "-wal"))
    except FileNotFoundError:
        return image
    for size, pages in _commits(log):
        page_size = len(next(iter(pages.values())))
        for number, page in pages.items():
            at = (number - 1) * page_size
            if len(image) < at + page_size:
                image.extend(bytes(at + page_size - len(image)))
            image[at : at + page_size] = page
        del image[size * page_size :]
    return image


def _commits(log: bytes) -> list[tuple[int, dict[int, bytes]]]:
    """Of each transaction in the log that is whole: the database's size in pages, and the pages it wrote. What comes
    behind the first frame that is not valid was never committed, or is of an earlier round."""
    if len(log) < _WAL_HEADER.size:
        return []
    magic, _, page_size, _, salt1, salt2, *expected = _WAL_HEADER.unpack_from(log)
    if magic not in (0x377F0682, 0x377F0683):
        return []
    order = ">" if magic & 1 else "<"
    sums = _checksum(log[:24], order, (0, 0))
    if sums != tuple(expected) or not 512 <= page_size <= 65536:
        return []
    found: list[tuple[int, dict[int, bytes]]] = []
    pages: dict[int, bytes] = {}
    step = _FRAME_HEADER.size + page_size
    for at in range(_WAL_HEADER.size, len(log) - step + 1, step):
        number, size, one, two, *expected = _FRAME_HEADER.unpack_from(log, at)
        page = log[at + _FRAME_HEADER.size : at + step]
        sums = _checksum(page, order, _checksum(log[at : at + 8], order, sums))
        if (one, two) != (salt1, salt2) or sums != tuple(expected) or not number:
            break
        pages[number] = page
        if size:
            found.append((size, pages))
            pages = {}
    return found


def _checksum(data: bytes, order: str, start: tuple[int, int]) -> tuple[int, int]:
    first, second = start
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
