"""Who else could change what lies in a folder. The files of a state directory name programs to run, processes to end
and keys, so that whoever may replace one of them acts as its user.

The rule is that of OpenSSH's StrictModes and systemd's "safe transitions": each folder on the way belongs to us or to
root, and nobody else may write in it, unless its sticky bit keeps them from moving what is not theirs.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from config.errors import UsageError

#: As many symbolic links as the kernel follows (path_resolution(7)).
_LINKS = 40


def require(folder: Path) -> None:
    """Raises UsageError, which says what to do, where somebody else could change what is in ``folder``, or put another
    in its place. What is not there yet is made by us. Raises OSError for a way that cannot be gone."""
    last = None
    for last, found in _way(folder):
        if not _trusted(found.st_uid):
            raise UsageError(f"{folder}: {last} belongs to {_name(found.st_uid)}; {_hint(found.st_uid)}")
        if stat.S_ISDIR(found.st_mode) and not found.st_mode & stat.S_ISVTX and (who := _writers(found)):
            raise _written(folder, last, who, found)
    if last is None or not folder.exists():
        return
    found = folder.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if found.st_uid != os.geteuid():
        raise UsageError(f"{folder} belongs to {_name(found.st_uid)}; {_hint(found.st_uid)}")
    if who := _writers(found):  # sticky or not: files that we are about to make could be there already
        raise _written(folder, folder, who, found)


def require_unchanged(file: Path) -> os.stat_result:
    """What ``file`` is. Raises UsageError, which does not name it, where another user could change it, or put another
    in its place. Unlike in a state directory, links may lead to it: those who renew certificates, or mount
    configurations, make some. Raises OSError."""
    found, resolved = file.stat(), file.resolve()
    for place, seen in (*_way(file), *_way(resolved), (resolved, found)):
        if not _trusted(seen.st_uid):
            raise UsageError(f"{place} belongs to {_name(seen.st_uid)}")
        sticky = stat.S_ISDIR(seen.st_mode) and seen.st_mode & stat.S_ISVTX
        if not stat.S_ISLNK(seen.st_mode) and not sticky and (who := _writers(seen)):
            raise UsageError(f"{who} may write in {place}: chmod go-w {place}")
    return found


def require_secret(file: Path) -> None:
    """As `require_unchanged`, and raises UsageError where everybody could read it."""
    if require_unchanged(file).st_mode & (stat.S_IROTH | stat.S_IWOTH):
        raise UsageError(f"everybody may read it: chmod o-rwx {file.resolve()}")


def make(folder: Path) -> bool:
    """Makes ``folder``, its user's alone whatever the umask; False where it is there already. Raises OSError, and
    UsageError as `require`."""
    require(folder)
    missing = [parent for parent in reversed(folder.parents) if not parent.exists()]
    for parent in missing:
        parent.mkdir(mode=0o755, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        require(folder)
        return False
    require(folder)  # a parent that was missing may have been made by somebody else meanwhile
    folder.chmod(0o700)
    return True


def descriptor(path: str | Path, flags: int) -> int:
    """A file of a state directory, opened with ``flags`` of os.open and, where it is made, its user's alone. An opener
    for `open`. Raises OSError for a symbolic link, and for what is no regular file."""
    try:
        opened = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, "a symbolic link, and none is followed here", str(path)) from None
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return opened


def open_file(path: Path, mode: str = "rb") -> IO[bytes]:
    """As `descriptor`; ``mode`` is a binary one of `open`."""
    return open(path, mode, opener=descriptor)


def read(path: Path) -> bytes:
    """As `descriptor`."""
    with open_file(path) as file:
        return file.read()


_ELSEWHERE = "name another --state-dir"


def _way(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Each folder above ``path``, and each link on the way, as far as there are any."""
    rest, at, links = deque(path.absolute().parts[1:]), Path("/"), 0
    yield at, at.lstat()
    while rest:
        part = rest.popleft()
        if part == "..":
            at = at.parent
            continue
        step = at / part
        try:
            found = step.lstat()
        except FileNotFoundError:
            return
        if stat.S_ISLNK(found.st_mode):
            yield step, found
            links += 1
            if links > _LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            target = step.readlink()
            if target.is_absolute():
                at = Path("/")
            rest.extendleft(reversed([part for part in target.parts if part != "/"]))
        else:
            if rest:
                yield step, found
            at = step


def _trusted(owner: int) -> bool:
    return owner in (0, os.geteuid()) or _unmapped(owner)


def _unmapped(owner: int) -> bool:
    """In a user namespace (rootless containers, sandboxes) the real root and all others outside are one number."""
    try:
        overflow = int(Path("/proc/sys/kernel/overflowuid").read_text())
        return owner == overflow and Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]
    except (OSError, ValueError):
        return False


def _writers(found: os.stat_result) -> str | None:
    """Who else may write in it, in words."""
    if found.st_mode & stat.S_IWOTH:
        return "everybody"
    if found.st_mode & stat.S_IWGRP and (others := _members(found.st_gid) - {0, os.geteuid(), found.st_uid}):
        return f"group {found.st_gid} ({', '.join(sorted(map(_name, others))[:3])})"
    return None


def _members(group: int) -> set[int]:
    """The users of ``group``, as far as the user database lists them. Many systems give each user a group of their own,
    and a umask that lets it write."""
    found = {entry.pw_uid for entry in pwd.getpwall() if entry.pw_gid == group}
    try:
        names = set(grp.getgrgid(group).gr_mem)
    except KeyError:
        return found
    return found | {entry.pw_uid for entry in pwd.getpwall() if entry.pw_name in names}


def _written(folder: Path, where: Path, who: str, found: os.stat_result) -> UsageError:
    less = "go-w" if found.st_mode & stat.S_IWOTH else "g-w"
    return UsageError(f"{folder}: {who} may write in {where}: chmod {less} {where}, or {_ELSEWHERE}")


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _hint(owner: int) -> str:
    """Also for root: what a user's files say is not to be done as root."""
    who = _name(owner) if os.geteuid() == 0 else ""
    return f"call clusterctl as them (sudo -u {who} …), or {_ELSEWHERE}" if who else _ELSEWHERE
