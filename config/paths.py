"""Names of what lies in a state directory, and Unix socket paths that fit their 107 bytes."""

from __future__ import annotations

import functools
import os
from pathlib import Path

#: Linux: sizeof(sockaddr_un.sun_path) is 108, with the terminating NUL.
_SUN_PATH_MAX = 107


class StateDir:
    """Paths in one state directory. Making one touches nothing; `create` does."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def database(self) -> Path:
        return self.root / "state.db"

    @property
    def control(self) -> Path:
        """The supervisor's HTTP API."""
        return self.root / "control.sock"

    @property
    def launch(self) -> Path:
        """Settings handed to a detached supervisor (holds the admin key: mode 0600)."""
        return self.root / "launch.json"

    @property
    def counters(self) -> Path:
        """Of the first balancer process; the others' lie beside it (``counters-1.bin`` …)."""
        return self.root / "counters.bin"

    @property
    def strategy(self) -> Path:
        """The strategy in force, for all balancer processes."""
        return self.root / "strategy.bin"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def runs(self) -> Path:
        """One file a process started, written by the process itself before it becomes the worker."""
        return self.root / "run"

    @property
    def adapters(self) -> Path:
        """Immutable copies of adapters, one folder a content hash."""
        return self.root / "adapters"

    @property
    def work(self) -> Path:
        """The workers' working directory: empty, so that nothing in it can shadow an import."""
        return self.root / "work"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def link(self, name: str) -> Path:
        """Where a balancer process listens for its supervisor."""
        return self.root / f"{name}.sock"

    def create(self) -> None:
        """Makes the folders, private to the user. Raises OSError where that is not possible."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o700)
        for folder in (self.logs, self.runs, self.work, self.adapters):
            folder.mkdir(mode=0o700, exist_ok=True)


def short_socket_path(path: Path) -> str:
    """``path``, or the same file by a name short enough for a Unix socket.

    A deep state directory exceeds the 107 bytes; through an open descriptor of the folder the name is always
    short. One descriptor a folder stays open for the life of the process."""
    if len(os.fsencode(path)) <= _SUN_PATH_MAX:
        return str(path)
    return f"/proc/self/fd/{_folder_descriptor(path.parent)}/{path.name}"


@functools.cache
def _folder_descriptor(folder: Path) -> int:
    return os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def default_state_dir(port: int) -> Path:
    """``$XDG_STATE_HOME/clusterctl/port-N``: one cluster a port, so that two ports make two clusters."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "clusterctl" / f"port-{port}"
