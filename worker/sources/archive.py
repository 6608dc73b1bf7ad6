"""Archives of strangers, unpacked: only regular files, only below the folder, not more than was said or is allowed.

An archive with anything else in it is refused as a whole, before or while it is read; members that nobody needs are not
written at all.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from worker.jobs.job import JobFailed

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

#: Members of one, folders included; parts and characters of a name.
_MOST_MEMBERS, _MOST_PARTS, _MOST_CHARACTERS = 10_000, 16, 1024
_CHUNK, _MOST_AT_ONCE = 1 << 20, 16 << 20


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """A regular file in an archive; ``size`` in bytes, as it says."""

    name: PurePosixPath
    size: int
    open: Callable[[], IO[bytes] | None]


def is_archive(path: str) -> bool:
    return path.lower().endswith(ENDINGS)


def ending_of(path: str) -> str:
    return max((one for one in ENDINGS if path.lower().endswith(one)), key=len)


def unpack(path: Path, into: Path, is_wanted: Callable[[str], bool], most: int) -> None:
    """The files of the archive ``path`` that ``is_wanted``, by their names below the folder that all of them are in,
    where there is one. ``most``: bytes of all members together, wanted or not. Raises JobFailed 400 for an archive that
    is none, or not harmless; OSError."""
    try:
        if zipfile.is_zipfile(path):
            with path.open("rb") as stream, zipfile.ZipFile(cast(IO[bytes], _Bounded(stream))) as opened:
                _take(list(_of_zip(opened)), into, is_wanted, most)
        else:
            _take_tar(path, into, is_wanted, most)
    except OSError as error:
        if error.errno not in (None, errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            raise
        raise _damaged(error) from None  # as gzip and bz2 say it; a name that is a file and a folder
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError,
            NotImplementedError, ValueError, UnicodeError) as error:  # fmt: skip
        raise _damaged(error) from None


def _damaged(error: Exception) -> JobFailed:
    return JobFailed(f"the archive is none, or damaged: {' '.join(str(error).split()) or type(error).__name__}", 400)


def _take_tar(path: Path, into: Path, is_wanted: Callable[[str], bool], most: int) -> None:
    """Twice through it: what is in it is looked at before anything is written."""
    with _decompressed(path) as stream, tarfile.open(fileobj=cast(IO[bytes], _Bounded(stream)), mode="r:") as opened:
        _take(list(_of_tar(opened, most)), into, is_wanted, most)


def _decompressed(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        begin = file.read(6)
    for magic, open_it in ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open)):
        if begin.startswith(magic):
            return cast(IO[bytes], open_it(path, "rb"))
    return path.open("rb")


class _Bounded:
    """A file of which nobody reads more than a little at a time: the libraries read whole headers and directories,
    which are as long as their archive says."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.tell, self.seek, self.seekable = stream.tell, stream.seek, stream.seekable
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        if size > _MOST_AT_ONCE:
            raise _refused(f"a header of {size} bytes")
        return self._stream.read(size if size >= 0 else _MOST_AT_ONCE)


def _of_tar(opened: tarfile.TarFile, most: int) -> Iterator[ArchiveMember]:
    size = 0
    for number, info in enumerate(opened):
        if number >= _MOST_MEMBERS:
            raise _refused(f"more than {_MOST_MEMBERS} members")
        name = _safe(info.name, not info.isdir())
        if info.isdir():
            continue
        if not info.isreg() or info.issparse():
            kind = "a link" if info.issym() or info.islnk() else "no regular file"
            raise _refused(f"{_shown(info.name)} is {kind}")
        size += info.size
        if size > most:  # the next header comes after these bytes: compressed, they would have to be read for it
            raise _refused(f"more than {most} bytes unpacked")
        yield ArchiveMember(name, info.size, lambda info=info: opened.extractfile(info))  # type: ignore[misc]


def _of_zip(opened: zipfile.ZipFile) -> Iterator[ArchiveMember]:
    entries = opened.infolist()
    if len(entries) > _MOST_MEMBERS:
        raise _refused(f"more than {_MOST_MEMBERS} members")
    for info in entries:
        name = _safe(info.orig_filename, not info.is_dir())
        if info.is_dir():
            continue
        mode = info.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise _refused(f"{_shown(info.filename)} is {'a link' if stat.S_ISLNK(mode) else 'no regular file'}")
        if info.flag_bits & 1:
            raise _refused("it is encrypted")
        yield ArchiveMember(name, info.file_size, lambda info=info: opened.open(info))  # type: ignore[misc]


def _safe(name: str, is_file: bool) -> PurePosixPath:
    """Raises JobFailed for a name that leads out of its folder, or that is none on some system."""
    parts = name.rstrip("/").split("/")
    bad = (
        not name or name.startswith(("/", "~")) or "\\" in name or not name.isprintable() or ":" in parts[0]
        or len(name) > _MOST_CHARACTERS or len(parts) > _MOST_PARTS or ".." in parts or "" in parts
        or (is_file and not PurePosixPath(name).parts)
    )
    if bad:
        raise _refused(f"{_shown(name)} is no name of a file below it")
    return PurePosixPath(name)


def _take(members: list[ArchiveMember], into: Path, is_wanted: Callable[[str], bool], most: int) -> None:
    total = sum(member.size for member in members)
    if total > most:
        raise _refused(f"{total} bytes unpacked are more than {most}")
    top = _common(members)
    seen: set[str] = set()
    wanted = []
    for member in members:
        name = str(member.name.relative_to(top))
        if name.casefold() in seen:
            raise _refused(f"{_shown(name)} is in it twice")
        seen.add(name.casefold())
        if is_wanted(name):
            wanted.append((name, member))
    if sum(member.size for _, member in wanted) > shutil.disk_usage(into).free:
        raise JobFailed(f"no room in {into} for the {total} bytes of the archive", 507)
    for name, member in wanted:
        _write(member, into / name)


def _common(members: list[ArchiveMember]) -> PurePosixPath:
    """The folder that all are in: archives of a folder have its name before everything."""
    tops = {member.name.parts[0] for member in members}
    alone = len(tops) == 1 and all(len(member.name.parts) > 1 for member in members)
    return PurePosixPath(tops.pop()) if alone else PurePosixPath()


def _write(member: ArchiveMember, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    source, left = member.open(), member.size
    if source is None:
        raise _refused(f"{_shown(str(member.name))} cannot be read")
    with source, target.open("xb") as writer:
        while chunk := source.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise _refused(f"{_shown(str(member.name))} is larger than it says")
            writer.write(chunk)
    if left:
        raise _refused(f"{_shown(str(member.name))} is shorter than it says")


def _refused(why: str) -> JobFailed:
    return JobFailed(f"the archive is refused: {why}", 400)


def _shown(name: str) -> str:
    return repr(name[:100])
