"""One reference: what it means is looked up, fetched, checked, and kept in the store, or nothing of it is."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from config.disk.files import NO_ROOM, free_bytes
from config.values.references import Reference
from worker.jobs.job import Job, JobFailed
from worker.sources import archive, selection
from worker.sources.checksums import git_blob, measured
from worker.sources.discreet import discreet
from worker.sources.remote import RemoteContent, RemoteFile, RemoteSource, retried
from worker.sources.store import Fetched, SourceStore

#: Files at a time.
_AT_ONCE = 4

#: Bytes that stay free on the disk: a cluster has to write its state there.
_SPARE = 64 << 20

T = TypeVar("T")


class Pull:
    """One reference, an adapter or a model (``what``). ``source()``: the place that it names; ``sleep`` is waited with
    between two attempts."""

    def __init__(
        self, reference: Reference, what: str, store: SourceStore, source: Callable[[], RemoteSource], job: Job,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._reference, self._what, self._store, self._source = reference, what, store, source
        self._job, self._sleep = job, sleep

    def run(self, refresh: bool = False, kept: str = "") -> Fetched:
        """``refresh``: the place is asked again what a branch means by now; ``kept``: by which list it is to be kept.
        Raises JobFailed."""
        try:
            with self._store.held(self._reference):
                found = self._found(refresh)
                found = replace(found, kept=kept or found.kept)
                self._store.use(self._reference, found)
                return found
        except OSError as error:
            if error.errno in NO_ROOM:
                self._store.drop_partial(self._reference)
                raise self._no_room() from None
            raise JobFailed(f"{self._reference}: {error}", 500) from None

    def _found(self, refresh: bool) -> Fetched:
        reference, what = self._reference, self._what
        known = self._store.find(reference, what)
        if known is not None and (not refresh or reference.is_pinned or _is_offline()):
            return known
        source = self._source()
        snapshot = self._retried(source.look)
        here = self._store.revision(reference, snapshot.revision, what)
        if here is not None:
            return here
        return self._fetch(source, snapshot)

    def _fetch(self, source: RemoteSource, snapshot: RemoteContent) -> Fetched:
        what, where = self._what, str(self._reference)
        files = list(snapshot.files) if snapshot.archive else selection.chosen(what, snapshot.files, where)
        folder = self._store.partial(self._reference, snapshot.revision)
        self._check_size(files, folder)
        with self._watched(folder, sum(file.size or 0 for file in files)):
            self._all(source, files, folder)
        for file in files:
            self._check(file, folder / file.name)
        if snapshot.archive:
            files = self._unpacked(folder, files[0])
        self._job.progress(f"check {where}", 0, None)
        hashes = {file.name: measured(folder / file.name) for file in files}
        return self._store.keep(self._reference, snapshot.revision, what, hashes)

    def _all(self, source: RemoteSource, files: Sequence[RemoteFile], folder: Path) -> None:
        def one(file: RemoteFile) -> None:
            target = folder / file.name
            if target.is_file():
                return  # it was fetched whole by an attempt that broke off later
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._retried(lambda: source.fetch(file, target))

        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch") as pool:
            futures = [pool.submit(one, file) for file in files]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _check_size(self, files: Sequence[RemoteFile], folder: Path) -> None:
        """Raises JobFailed 507 where there is no room for what is to come."""
        needed = sum(file.size or 0 for file in files) - _taken(folder)
        if needed + _SPARE > free_bytes(folder):
            self._store.drop_partial(self._reference)
            raise self._no_room(needed)

    def _no_room(self, needed: int | None = None) -> JobFailed:
        size = "" if needed is None else f" for {needed / 2**20:,.1f} MiB"
        return JobFailed(f"{self._reference}: no room{size} in {self._store.root}, where nothing of it was left", 507)

    def _check(self, file: RemoteFile, path: Path) -> None:
        """Raises JobFailed 502, and leaves no such file, where the content is not what the place said."""
        right = file.size is None or path.stat().st_size == file.size
        if right and file.sha256 is not None:
            right = measured(path)[1] == file.sha256
        elif right and file.git_blob is not None:
            right = git_blob(path) == file.git_blob
        if not right:
            path.unlink()
            raise JobFailed(f"{self._reference}: {file.name} does not have the checksum that was to be expected", 502)

    def _unpacked(self, folder: Path, packed: RemoteFile) -> list[RemoteFile]:
        inside = folder / "unpacked"
        inside.mkdir(mode=0o700)
        try:
            archive.unpack(folder / packed.name, inside, selection.may_be_wanted, selection.MOST_BYTES[self._what])
            there = [RemoteFile(str(one.relative_to(inside)), one.stat().st_size)
                     for one in inside.rglob("*") if one.is_file()]  # fmt: skip
            files = selection.chosen(self._what, there, str(self._reference))
            for file in files:
                (folder / file.name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                (inside / file.name).rename(folder / file.name)
            return files
        except JobFailed:
            self._store.drop_partial(self._reference)  # it will be no better the next time
            raise
        finally:
            shutil.rmtree(inside, ignore_errors=True)

    @contextmanager
    def _watched(self, folder: Path, total: int) -> Iterator[None]:
        """Says how much of it is on the disk, whoever puts it there."""
        done, stage = threading.Event(), f"fetch {self._reference}"

        def watch() -> None:
            while not done.wait(0.25):
                self._job.progress(stage, min(_taken(folder), total or 1 << 62), total or None, "bytes")

        self._job.progress(stage, min(_taken(folder), total), total or None, "bytes")
        thread = threading.Thread(target=watch, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
        self._job.progress(stage, total, total or None, "bytes")

    def _retried(self, work: Callable[[], T]) -> T:
        return retried(work, self._sleep, lambda text: self._job.note(discreet(text)))


def _is_offline() -> bool:
    return (os.environ.get("HF_HUB_OFFLINE") or "0").lower() in ("1", "true", "yes", "on")


def _taken(folder: Path) -> int:
    """Bytes of the disk that are in use below it: files that come in parts have holes."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except OSError:
            continue  # it was renamed meanwhile
    return total
