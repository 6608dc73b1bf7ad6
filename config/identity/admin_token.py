"""The token of a cluster: whoever can read the file may manage the cluster, where the kernel cannot say who asks."""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path

from config.disk.files import replacing

#: 256 random bits, URL-safe.
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


def ensure(path: Path) -> None:
    """Makes a token where there is none that counts; one that is there is kept. Raises OSError."""
    if read(path) is None:
        keep(path, secrets.token_urlsafe(32))


def keep(path: Path, token: str) -> None:
    """In place of what is there, readable by its user alone. Raises OSError."""
    with replacing(path) as file:  # made anew (O_EXCL), mode 0600: whatever was there is not written to
        file.write(f"{token}\n".encode())


def is_token(text: str) -> bool:
    return _TOKEN.fullmatch(text) is not None


def read(path: Path) -> str | None:
    """None for a file that is not there, is a link, belongs to another user, can be read by others, or holds no
    token. Root reads everybody's."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        found = os.fstat(descriptor)
        private = stat.S_ISREG(found.st_mode) and not found.st_mode & 0o077
        if not private or os.geteuid() not in (0, found.st_uid):
            return None
        text = os.read(descriptor, 100).decode("ascii", errors="replace").strip()
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return text if is_token(text) else None
