"""Adapters' content, in the state directory and on other machines: one immutable folder each, named by its hash.

A folder is filled beside, synced and renamed, and renamed away before it is deleted: under its name it is whole or not
there. What a crash leaves beside goes with `sweep_temporary`.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from config.disk.files import sync_folder
from worker.adapters.content import FILES, chunks, content_hash, source
from worker.adapters.tensors import AdapterRejected

CONVERTED = ".converted-"
"""How the folders begin in which adapters are converted (`cluster.adapters.conversion`)."""

INCOMING, _REMOVED = ".incoming-", ".removed-"
_HASH = re.compile(r"[0-9a-f]{64}")


def take_in(path: Path, store: Path, expected_hash: str) -> Path:
    """Copies the adapter in ``path`` into ``store``, read-only and synced, and returns its folder there.

    What is there already, and whole, stays. Raises AdapterRejected 409 where the source no longer has the content that
    was inspected; OSError, for instance on a full disk. Either way nothing is left.
    """
    final = folder_of(store, expected_hash)
    _make(store)
    if is_whole(final, expected_hash):
        return final
    remove(store, expected_hash)
    temporary = Path(tempfile.mkdtemp(prefix=INCOMING, dir=store))
    try:
        for name in FILES:
            _copy(path / name, temporary / name)
        if not place(temporary, store, expected_hash):
            raise AdapterRejected(409, f"the adapter in {path} changed while it was taken in: try again")
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def place(temporary: Path, store: Path, content: str) -> bool:
    """Makes the folder ``temporary``, whose files are synced, that of the hash ``content`` in ``store``; False where
    that is not what it holds. Raises AdapterRejected, OSError."""
    if content_hash(temporary) != content:
        return False
    sync_folder(temporary)
    _put(temporary, folder_of(store, content), content)
    sync_folder(store)
    return True


def remove(store: Path, content: str) -> bool:
    """Deletes the folder of the hash ``content``; False where there was none, or it could not be moved away."""
    away = store / f"{_REMOVED}{content[:16]}-{os.urandom(8).hex()}"
    try:
        folder_of(store, content).rename(away)
        sync_folder(store)
    except OSError:
        return False
    shutil.rmtree(away, ignore_errors=True)
    return True


def sweep_temporary(store: Path) -> int:
    """Deletes what a crash left in ``store`` and returns how much it was. Not while `take_in` or `remove` runs."""
    left = [folder for begin in (INCOMING, _REMOVED, CONVERTED) for folder in store.glob(f"{begin}*")]
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
    return len(left)


def folder_of(store: Path, content: str) -> Path:
    """Where ``content`` is, or would be. Raises ValueError for what is no hash."""
    if not _HASH.fullmatch(content):
        raise ValueError(f"{content!r} is no content hash")
    return store / content


def _make(store: Path) -> None:
    if not store.is_dir():
        store.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(store.parent)


def is_whole(folder: Path, content: str) -> bool:
    """Renamed into place it was whole; asked again, since what a worker loads from a damaged one is anyone's guess."""
    try:
        return content_hash(folder) == content
    except (AdapterRejected, OSError):
        return False


def _put(temporary: Path, final: Path, content: str) -> None:
    try:
        temporary.rename(final)
    except OSError:
        # Two took in the same content at once: the first one's is as good.
        if not is_whole(final, content):
            raise
        shutil.rmtree(temporary, ignore_errors=True)


def _copy(origin: Path, target: Path) -> None:
    with source(origin, 409) as reader, target.open("xb") as writer:
        for chunk in chunks(reader, os.fstat(reader.fileno()).st_size, origin.name):
            writer.write(chunk)
        writer.flush()
        os.fchmod(writer.fileno(), 0o444)
        os.fsync(writer.fileno())
