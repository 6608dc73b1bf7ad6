"""The adapters that a node keeps for its workers, by content: within a bound, and nothing that a worker holds is given
up (`eviction.py`). Engines read the folder of an adapter again whenever they need its weights, so it has to stay for as
long as the worker knows it."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path

from config.disk.files import free_bytes
from worker.adapters import store
from worker.adapters.content import FILES, MAX_BYTES
from worker.adapters.tensors import AdapterRejected
from worker.agent.eviction import CachedAdapter, NoRoom, evicted
from worker.drivers.remote.offers import CONTENT, AdapterOffer, OfferAnswer

#: Bytes of the disk that are left to others.
_RESERVE = 256 * 1024 * 1024

#: How the files begin that say what a start holds: a line for each.
_HELD = ".held-"


class AdapterCache:
    """Below ``folder``. ``free``: bytes that may be written there. Blocks. Calls for one content have to come one after
    the other."""

    def __init__(
        self, folder: Path, free: Callable[[Path], int] = free_bytes, wall: Callable[[], float] = time.time
    ) -> None:
        self.folder, self._free, self._wall = folder, free, wall
        self._lock = threading.Lock()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        store.sweep_temporary(folder)
        self._kept = {one.name: _found(one) for one in folder.iterdir() if CONTENT.fullmatch(one.name)}
        self._incoming: dict[str, Mapping[str, int]] = {}
        self._verified: set[str] = set()
        self._held = {
            file.name.removeprefix(_HELD): frozenset(file.read_text().split()) for file in folder.glob(f"{_HELD}*")
        }

    def offer(self, offer: AdapterOffer, living: Collection[str]) -> OfferAnswer:
        """``living``: the starts of which something runs. Raises ValueError for what is no adapter, OSError where there
        is no room."""
        if set(offer.files) != set(FILES) or offer.size > MAX_BYTES:
            raise ValueError(f"an adapter has {' and '.join(FILES)}, and at most {MAX_BYTES} bytes")
        with self._lock:
            self._hold(offer.start, frozenset({offer.content, *offer.held}))
        if self._is_whole(offer.content):
            return OfferAnswer(str(self._used(offer.content)), {})
        with self._lock:
            if self._incoming.get(offer.content) != offer.files:
                self._begin(offer, living)
        return OfferAnswer(None, {name: _size(self._part(offer.content, name)) for name in offer.files})

    def append(self, content: str, name: str, offset: int, data: bytes) -> None:
        """Raises ValueError for what is not the next of a file that was offered, OSError."""
        size = self._incoming.get(content, {}).get(name)
        if size is None or offset + len(data) > size:
            raise ValueError(f"{name} of {content[:12]} was not offered, or with fewer bytes")
        with self._part(content, name).open("ab") as file:
            if file.tell() != offset:
                raise ValueError(f"{name} of {content[:12]}: {file.tell()} bytes have arrived, not {offset}")
            file.write(data)

    def finish(self, content: str) -> bool:
        """Whether all has arrived and it is kept now. Raises ValueError where it is something else, OSError."""
        files = self._incoming.get(content)
        if files is None or any(_size(self._part(content, name)) != size for name, size in files.items()):
            return False
        for name in files:
            _seal(self._part(content, name))
        try:
            same = store.place(self._folder_of_parts(content), self.folder, content)
        except AdapterRejected:
            same = False
        with self._lock:
            if same:
                del self._incoming[content]
                self._verified.add(content)
                return True
            self._drop(content)
        raise ValueError(f"what arrived as {content[:12]} has other content")

    def _is_whole(self, content: str) -> bool:
        """One that an agent before this one kept is read once: much may have happened to it."""
        if content not in self._kept or content in self._incoming:
            return False
        folder = store.folder_of(self.folder, content)
        known = content in self._verified and all((folder / name).is_file() for name in FILES)
        if known or store.is_whole(folder, content):
            self._verified.add(content)
            return True
        with self._lock:
            self._drop(content)
        return False

    def _used(self, content: str) -> Path:
        folder, now = store.folder_of(self.folder, content), self._wall()
        with self._lock:
            self._kept[content] = CachedAdapter(self._kept[content].size, now)
        with suppress(OSError):
            os.utime(folder, (now, now))  # for an agent that comes after this one
        return folder

    def _begin(self, offer: AdapterOffer, living: Collection[str]) -> None:
        self._drop(offer.content)
        for start in set(self._held) - set(living):
            del self._held[start]
            (self.folder / f"{_HELD}{start}").unlink(missing_ok=True)
        held = frozenset[str]().union(*self._held.values())
        there = sum(one.size for one in self._kept.values())
        try:
            gone = evicted(
                self._kept, held, offer.size, min(offer.most, there + self._free(self.folder) - _RESERVE)
            )
        except NoRoom as error:
            raise OSError(errno.ENOSPC, str(error)) from None
        for content in gone:
            self._drop(content)
        self._folder_of_parts(offer.content).mkdir(mode=0o700)
        self._incoming[offer.content] = dict(offer.files)
        self._kept[offer.content] = CachedAdapter(offer.size, self._wall())

    def _hold(self, start: str, held: frozenset[str]) -> None:
        if self._held.get(start) != held:
            (self.folder / f"{_HELD}{start}").write_text("\n".join(sorted(held)))
            self._held[start] = held

    def _drop(self, content: str) -> None:
        self._verified.discard(content)
        self._kept.pop(content, None)
        self._incoming.pop(content, None)
        shutil.rmtree(self._folder_of_parts(content), ignore_errors=True)
        store.remove(self.folder, content)

    def _folder_of_parts(self, content: str) -> Path:
        return self.folder / f"{store.INCOMING}{content}"

    def _part(self, content: str, name: str) -> Path:
        return self._folder_of_parts(content) / name


def _found(folder: Path) -> CachedAdapter:
    return CachedAdapter(sum(file.stat().st_size for file in folder.iterdir()), folder.stat().st_mtime)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _seal(file: Path) -> None:
    """Synced, and to be read only."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fsync(descriptor)
        os.fchmod(descriptor, 0o444)
    finally:
        os.close(descriptor)
