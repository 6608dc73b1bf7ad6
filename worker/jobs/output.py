"""The folder that a job makes: beside its place, and there once it is whole."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from config.disk.files import free_bytes, sync_folder
from worker.jobs.job import JobFailed


def unfinished(out: Path) -> Path:
    """The folder in which what becomes ``out`` is made."""
    return out.parent / f".{out.name}.unfinished"


def check(out: Path, overwrite: bool, mark: str) -> None:
    """Makes the parent of ``out``. Raises JobFailed where ``out`` is there and may not be replaced: only what is empty
    or has the file ``mark`` is, as a path mistyped is somebody's home."""
    if out.exists() and not overwrite:
        raise JobFailed(f"{out} is there already: --overwrite replaces it", 409)
    if out.exists() and not (out.is_dir() and ((out / mark).is_file() or not any(out.iterdir()))):
        raise JobFailed(f"{out} holds something else than a folder with {mark}: it is not replaced", 409)
    out.parent.mkdir(parents=True, exist_ok=True)


def need_room(out: Path, size: int) -> None:
    """Raises JobFailed 507 where the disk of ``out`` has no room for so many bytes."""
    if (free := free_bytes(out.parent)) < size:
        raise JobFailed(f"{out.parent} has {free >> 20} MiB free, and {size >> 20} MiB are needed", 507)


def empty(folder: Path) -> Path:
    """A new folder in the place of what may be there, for its user alone. Raises OSError."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    return folder


@contextlib.contextmanager
def making(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``out`` at the end; after an exception nothing is left of it."""
    made = empty(unfinished(out))
    try:
        yield made
        publish(made, out)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def publish(made: Path, out: Path) -> None:
    """Gives the folder ``made``, of files alone and on the same disk, the name ``out``; what had it goes. Raises
    OSError."""
    for file in made.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    sync_folder(made)
    old = out.with_name(f".{out.name}.replaced")
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    made.rename(out)
    sync_folder(out.parent)
    shutil.rmtree(old, ignore_errors=True)
