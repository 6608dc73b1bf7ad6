"""Paths that people write, made absolute once, where they are read: who uses them later may run in another folder."""

from __future__ import annotations

from pathlib import Path

from config.errors import UsageError


def here() -> Path:
    """The folder that relative paths begin in. Raises UsageError where it is gone."""
    try:
        return Path.cwd()
    except OSError as error:
        raise UsageError(f"the working directory: {error.strerror}; change to one that exists", exit_code=2) from None


def absolute(path: str | Path, base: Path | None = None) -> Path:
    """``path`` with ``~`` resolved; a relative one begins at ``base``, by default where we are. Raises ValueError for
    what is no path, UsageError where we are nowhere."""
    if not str(path) or "\0" in str(path):
        raise ValueError("a path is needed, not " + ("an empty text" if not str(path) else f"{str(path)!r}"))
    try:
        found = Path(path).expanduser()
    except RuntimeError as error:  # ~nobody, or no home at all
        raise ValueError(f"{path}: {error}") from None
    return found if found.is_absolute() else (base or here()) / found


def looks_like_path(model: str, base: Path | None = None) -> bool:
    """Everything else is a hub id and the engine's business."""
    if model.startswith(("/", "./", "../", "~")) or model in (".", ".."):
        return True
    try:
        return bool(model) and ((base or Path()) / model).exists()
    except (OSError, ValueError):
        return False


def under(folder: Path | None, model: str) -> str | None:
    """Where ``model``, a relative path, is below ``folder``, if it is. What begins with a dot is meant from here."""
    if folder is None or model.startswith(("/", ".", "~")) or ".." in model.split("/"):
        return None
    try:
        return str(folder / model) if model and (folder / model).exists() else None
    except (OSError, ValueError):
        return None
