"""Names of what lies in a state directory, and Unix socket paths that fit their 107 bytes."""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import re
from pathlib import Path

from config.disk import private
from config.errors import UsageError
from config.text import printable

#: Linux: sizeof(sockaddr_un.sun_path) is 108, with the terminating NUL.
_SUN_PATH_MAX = 107

#: What may lie in a state directory before there is a database in it, or in the root of a volume of its own.
_OURS = re.compile(
    r"lock|launch\.json|control\.sock|state\.db.*|strategy\.bin|limits\.bin|usage\.db.*"
    r"|(attempts|counters|history)(-\d+)?\.bin"
    r"|\.?(admin\.token|tls\.json|join\.pem|joined\.json).*"
    r"|zygote(-\d+)?\.sock|\.?agents\.(json|key).*"
    r"|(lb|balancer)(-\d+)?\.(sock|sock\.fd|sock\.grpc|json)|leftovers|logs|run|jobs|work|adapters|sources|links|lost\+found"
)


class StateDir:
    """Paths in one state directory. Making one touches nothing; `create` does. More methods than a class should
    have: nearly all are names."""

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
    def admin_token(self) -> Path:
        """Whoever can read it may manage the cluster."""
        return self.root / "admin.token"

    @property
    def agents(self) -> Path:
        """Where the agents of other machines listen, as far as they were heard of."""
        return self.root / "agents.json"

    @property
    def agent_key(self) -> Path:
        """What they ask for."""
        return self.root / "agents.key"

    @property
    def leftovers(self) -> Path:
        """What of a cluster that has ended could not be given back, and why, in words."""
        return self.root / "leftovers"

    @property
    def join_certificate(self) -> Path:
        """Key and certificate that machines which join are shown (PEM)."""
        return self.root / "join.pem"

    @property
    def joined(self) -> Path:
        """How the balancers here were started that another machine's supervisor has (`cluster.joining.options`): there
        while they run, or were left."""
        return self.root / "joined.json"

    @property
    def tls(self) -> Path:
        """Certificate and key that the port was served with last, see `config.tls`."""
        return self.root / "tls.json"

    @property
    def links(self) -> Path:
        """A file for each one-time link to the page that was not used yet."""
        return self.root / "links"

    @property
    def counters(self) -> Path:
        """Of the first balancer process; the others' lie beside it (``counters-1.bin`` …)."""
        return self.root / "counters.bin"

    @property
    def limits(self) -> Path:
        """What keys have taken of their rates, through all balancer processes."""
        return self.root / "limits.bin"

    @property
    def usage(self) -> Path:
        """The ledger of what keys have taken, by model and day."""
        return self.root / "usage.db"

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
    def jobs(self) -> Path:
        """A folder a job (`config.jobs`)."""
        return self.root / "jobs"

    @property
    def sources(self) -> Path:
        """Adapters and models that were fetched, see `worker.sources.store`."""
        return self.root / "sources"

    @property
    def work(self) -> Path:
        """The workers' working directory: empty, so that nothing in it can shadow an import."""
        return self.root / "work"

    def log(self, name: str) -> Path:
        return self.logs / f"{file_of(name)}.log"

    def run(self, name: str) -> Path:
        return self.runs / file_of(name)

    def link(self, name: str) -> Path:
        """Where a balancer process listens for its supervisor."""
        return self.root / f"{name}.sock"

    def create(self) -> None:
        """Makes the folders, private to the user. One that somebody else made keeps its mode. Raises OSError where that
        is not possible, and UsageError where others could change what is in it, or it holds other files."""
        if not private.make(self.root) and (foreign := self._foreign()):
            more = "" if len(foreign) < 4 else ", …"
            raise UsageError(
                f"{self.root} holds files that are not a cluster's ({', '.join(foreign[:3])}{more}): "
                "name an empty or a new folder with --state-dir"
            )
        for folder in (self.logs, self.runs, self.jobs, self.work, self.adapters):
            private.make(folder)

    def _foreign(self) -> list[str]:
        """What no cluster put there, in a folder that is none's yet."""
        if self.database.is_file():
            return []
        return sorted(printable(entry.name) for entry in self.root.iterdir() if not _OURS.fullmatch(entry.name))


def file_of(process: str) -> str:
    """By which name the files of a process go: the slash between the group of a worker and itself is a dot there."""
    return process.replace("/", ".")


def process_of(file: str) -> str:
    """Whose file it is: the inverse of `file_of`."""
    group, dot, worker = file.rpartition(".")  # there may be more of them in the name of a group
    return f"{group}/{worker}" if dot else file


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
    """``$XDG_STATE_HOME/clusterctl/port-N``: one cluster a port, so that two ports make two clusters. A relative
    XDG_STATE_HOME counts as none, as the XDG specification has it. Raises UsageError where no home is known."""
    base = Path(os.environ.get("XDG_STATE_HOME") or ".")
    if not base.is_absolute():
        base = home() / ".local" / "state"
    return base / "clusterctl" / f"port-{port}"


def home() -> Path:
    """Of the user: HOME, else what the user database says. Containers often run as a user without either. Raises
    UsageError."""
    with contextlib.suppress(KeyError):
        found = Path(os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir)
        if found.is_absolute():
            return found
    raise UsageError(
        f"user {os.getuid()} has no home directory (no HOME, no entry in the user database): "
        "name a folder with --state-dir or CLUSTERCTL_STATE_DIR, or set HOME"
    )
