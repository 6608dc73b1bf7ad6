"""What was fetched: in the state directory, a folder a reference, in it one a revision.

A revision is filled in a folder beside, checked, synced and renamed: under its name it is whole or not there. What an
attempt that broke off has left stays, and the next goes on with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from config import bounded
from config.disk import private
from config.disk.files import replacing, sync, sync_folder
from config.values.references import Reference

_CURRENT, _RECORD, _FILES, _LOCK, _PARTIAL = "current.json", "record.json", "files", "lock", "partial-"

_MOST_OF_A_RECORD = 1 << 20


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a reference (as people may see it) was when it was fetched. ``files``: size in bytes and SHA-256 by name;
    ``folder``: where they are; ``fetched``: s since the epoch; ``kept``: a list that somebody fetches has it."""

    reference: str
    revision: str
    folder: str
    files: Mapping[str, tuple[int, str]]
    fetched: float
    what: str
    kept: str = ""

    @property
    def size(self) -> int:
        return sum(size for size, _ in self.files.values())

    @property
    def content(self) -> str:
        """SHA-256 of names and contents."""
        text = "".join(f"{name}\0{size}\0{digest}\n" for name, (size, digest) in sorted(self.files.items()))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def origin(self) -> str:
        """For people: where it came from, and which of it."""
        at = "" if f"@{self.revision}" in self.reference else f" ({self.revision[:12]})"
        return self.reference + at


class SourceStore:
    """``root`` need not be there yet."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, reference: Reference, what: str) -> Fetched | None:
        """The newest that is here whole; None: it has to be fetched."""
        found = _read(self.root / reference.key / _CURRENT)
        return found if found is not None and found.what == what and _is_whole(found) else None

    def origin_of(self, folder: Path) -> str | None:
        """Of a `Fetched.folder` of this store: where it came from; None of any other."""
        ours = folder.name == _FILES and folder.parent.parent.parent == self.root
        found = _read(folder.parent / _RECORD) if ours else None
        return found.origin if found is not None else None

    @contextlib.contextmanager
    def held(self, reference: Reference) -> Iterator[None]:
        """For the only one who fetches ``reference`` now; waits for another."""
        folder = self.root / reference.key
        private.make(self.root)
        private.make(folder)
        with private.open_file(folder / _LOCK, "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def partial(self, reference: Reference, revision: str) -> Path:
        """Where it is being filled; what other revisions have left goes."""
        folder = self.root / reference.key
        own = folder / f"{_PARTIAL}{_short(revision)}"
        for other in folder.glob(f"{_PARTIAL}*"):
            if other != own:
                shutil.rmtree(other, ignore_errors=True)
        own.mkdir(mode=0o700, exist_ok=True)
        return own

    def revision(self, reference: Reference, revision: str, what: str) -> Fetched | None:
        """One that is here whole, whether or not it is the newest."""
        found = _read(self.root / reference.key / _short(revision) / _RECORD)
        return found if found is not None and found.what == what and _is_whole(found) else None

    def keep(self, reference: Reference, revision: str, what: str, hashes: Mapping[str, tuple[int, str]]) -> Fetched:
        """The files that are in `partial` are whole: under their name from now on. Raises OSError."""
        partial, final = self.partial(reference, revision), self.root / reference.key / _short(revision)
        files = final / _FILES
        found = Fetched(str(reference), revision, str(files), dict(hashes), time.time(), what)
        staging = final.with_name(f"{_PARTIAL}whole-{_short(revision)}")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        for name in hashes:
            target = staging / _FILES / name
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            (partial / name).rename(target)
            target.chmod(0o444)
            sync(target)
        _write(staging / _RECORD, found)
        for folder in (*{(staging / _FILES / name).parent for name in hashes}, staging):
            sync_folder(folder)
        shutil.rmtree(final, ignore_errors=True)
        staging.rename(final)
        sync_folder(final.parent)
        shutil.rmtree(partial, ignore_errors=True)
        return found

    def use(self, reference: Reference, found: Fetched) -> None:
        """``found`` is what ``reference`` means from now on. Raises OSError."""
        _write(self.root / reference.key / _CURRENT, found)

    def keep_only(self, kept: str, keys: Collection[str]) -> None:
        """The list ``kept`` holds no others than these (`Reference.key`) any more. Raises OSError."""
        for path in self.root.glob(f"*/{_CURRENT}"):
            found = _read(path)
            if found is not None and found.kept == kept and path.parent.name not in keys:
                _write(path, replace(found, kept=""))

    def drop_partial(self, reference: Reference) -> None:
        for folder in (self.root / reference.key).glob(f"{_PARTIAL}*"):
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self, needed: Collection[str]) -> list[str]:
        """Removes what none of those references (`Reference.key`) is, and no list keeps, and revisions that are not
        the newest; returns what went. Only while no worker reads any of it: at the start of a cluster."""
        gone = []
        for folder in self.root.iterdir() if self.root.is_dir() else ():
            found = _read(folder / _CURRENT)
            if folder.name in needed or (found is not None and found.kept):
                newest = Path(found.folder).parent.name if found is not None else ""
                old = [one for one in folder.iterdir() if one.is_dir() and one.name != newest]
                gone += [str(one) for one in old if not one.name.startswith(_PARTIAL) and _removed(one)]
            elif _is_free(folder) and _removed(folder):
                gone.append(str(folder))
        return gone


def _short(revision: str) -> str:
    return hashlib.sha256(revision.encode()).hexdigest()[:24]


def _read(path: Path) -> Fetched | None:
    """None for what is not there, or no record."""
    try:
        with private.open_file(path) as file:
            values = bounded.parse_json(bounded.read(file, _MOST_OF_A_RECORD))
        files = {str(name): (int(size), str(digest)) for name, (size, digest) in values["files"].items()}
        revision = path.parent if path.name == _RECORD else path.parent / _short(values["revision"])
        return Fetched(**{**values, "files": files, "folder": str(revision / _FILES)})  # wherever it lies by now
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _write(path: Path, found: Fetched) -> None:
    with replacing(path) as file:
        file.write(json.dumps(asdict(found)).encode())


def _is_whole(found: Fetched) -> bool:
    """By the sizes: contents were hashed when they came, and are read-only since."""
    try:
        return all((Path(found.folder) / name).stat().st_size == size for name, (size, _) in found.files.items())
    except OSError:
        return False


def _is_free(folder: Path) -> bool:
    """Whether nobody fetches it now."""
    try:
        with private.open_file(folder / _LOCK, "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:
        return False


def _removed(folder: Path) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()
