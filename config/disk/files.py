"""Files that can be written on a full disk, as their space is theirs from the start, and files that are whole or not
there."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from config.disk import private

#: What the system says when there is no room: no space, over the quota, over the process' limit.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def allocate(descriptor: int, size: int) -> None:
    """Makes the first ``size`` bytes of a file real. A hole that is written through a mapping on a full disk is
    SIGBUS; what is allocated can be written whatever else fills the disk. Raises OSError."""
    os.posix_fallocate(descriptor, 0, size)


def rewrite(path: Path, data: bytes, size: int = 4096) -> None:
    """Makes ``data`` the content in place, padded with spaces up to ``size``, or the size it had. A file that was
    written this way before takes no more room. For readers that come after: one that reads meanwhile sees a mixture.
    Raises OSError."""
    descriptor = private.descriptor(path, os.O_RDWR | os.O_CREAT)
    try:
        size = max(size, len(data), os.fstat(descriptor).st_size)
        allocate(descriptor, size)
        os.pwrite(descriptor, data.ljust(size), 0)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file, readable by its user alone, that takes the place of ``path`` once it is whole and synced; after an
    exception nothing has changed. Raises OSError."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Makes what was renamed in it durable. Raises OSError."""
    sync(path, os.O_DIRECTORY)


def sync(path: Path, flags: int = 0) -> None:
    """Makes what was written to it durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(path: Path) -> int:
    """What an ordinary user may still write on the disk of ``path``. Raises OSError."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize
