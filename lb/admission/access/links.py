"""Codes that work once and for a minute, over all balancer processes: a file each, used by whoever unlinks it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

#: How long (s) a code is good for.
LINK_S = 60.0


class Links:
    """``folder``: of the state directory; made when it is needed. A file is named by the hash of its code, so that who
    can list the folder (a backup) learns none. Times are seconds since the epoch."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def new(self, now: float) -> str:
        """Raises OSError."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._sweep(now)
        code = secrets.token_urlsafe(32)
        os.close(os.open(self._file(code), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        return code

    def use(self, code: str, now: float) -> bool:
        """Whether it was good; it is not any more."""
        file = self._file(code)
        try:
            made = file.lstat().st_mtime
            file.unlink()
        except OSError:
            return False
        return abs(now - made) <= LINK_S

    def _file(self, code: str) -> Path:
        return self._folder / hashlib.sha256(code.encode(errors="surrogatepass")).hexdigest()

    def _sweep(self, now: float) -> None:
        for file in list(self._folder.iterdir()):
            with contextlib.suppress(OSError):
                if abs(now - file.lstat().st_mtime) > LINK_S:
                    file.unlink()
