"""What files are known by."""

from __future__ import annotations

import hashlib
from pathlib import Path


def measured(path: Path) -> tuple[int, str]:
    """Bytes, and SHA-256 in hex. Raises OSError."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def git_blob(path: Path) -> str:
    """The id that git gives the content. Raises OSError."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
