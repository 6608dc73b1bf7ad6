"""What a process would import now: another answer means that one which has imported it already is out of date."""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from pathlib import Path


def installed() -> str:
    """Of the interpreter and of the packages beside it: by the folders in which installers write down what they put
    there, which another version changes. Some 2 ms."""
    digest = hashlib.sha256()
    for place in (sys.executable, *sorted({sysconfig.get_path(name) for name in ("purelib", "platlib")})):
        digest.update(_stamp(Path(place)))
        if not Path(place).is_dir():
            continue
        with os.scandir(place) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.endswith((".dist-info", ".egg-info", ".pth")):
                    digest.update(entry.name.encode() + _stamp(Path(entry.path)))
    return digest.hexdigest()[:16]


def _stamp(path: Path) -> bytes:
    try:
        found = path.stat()
    except OSError:
        return b"-"
    # Not of a folder that all packages lie in: whatever compiles or caches there changes it.
    return f"{found.st_mtime_ns if path.suffix or path.is_file() else 0} {found.st_ino}\n".encode()
