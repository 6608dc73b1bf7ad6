"""What a `RemoteDriver` and the agent of a node say to each other: JSON over HTTP/1.1, each call with the agent's key.

A *start* is one start of one worker; its id is made by the supervisor before the worker exists, so that whoever comes
later can tell whether it was started. The *lease* is how long an agent keeps workers of which nobody asks any more.
The *rank* of a supervisor is the time at which it began: an agent does what the highest one says and refuses others.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from config.values.addresses import bracketed

#: Routes, all POST but the last: what changed since the last answer, and this renews the lease.
POLL, START, STOP, DESTROY, EMPTY, MEMBERS, END = (
    f"/v1/{name}" for name in ("poll", "start", "stop", "destroy", "empty", "members", "end")
)

#: GET, for anybody: whether there is a worker that answers.
READY = "/readyz"

#: GET, with the key: how it is, of which nothing changes and no lease is renewed.
ABOUT = "/v1/about"

#: Of an agent: who may ask it, hex, given in its environment and nowhere else.
KEY = "CLUSTERCTL_AGENT_KEY"

#: Bytes of a message to an agent (a start brings its environment), and of an answer.
MOST_ASKED, MOST_ANSWERED = 4 * 1024 * 1024, 32 * 1024 * 1024

#: Bytes of one worker's log in one answer. Of a backlog that is longer, the last.
LOG_CHUNK = 128 * 1024

#: How long (s) a poll waits for something to report.
WAIT_S = 0.5

#: Ports that an agent offers in each answer.
PORTS = 64

_START, _FILE = re.compile(r"[0-9a-f]{32}"), re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True, slots=True)
class AgentAddress:
    """Where the agent of a node listens. ``host`` is also where its workers do."""

    host: str
    port: int
    key: str = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://{bracketed(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class Order:
    """A start that is asked for. ``file`` names its files at the agent: the same at each start of one worker."""

    start: str
    file: str
    incarnation: int
    argv: tuple[str, ...]
    env: dict[str, str] = field(repr=False)
    port: int
    title: str

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def read_order(message: Mapping[str, Any]) -> Order:
    """Raises ValueError for what is none."""
    match message:
        case {
            "start": str(start), "file": str(file), "incarnation": int(number), "argv": [*argv], "env": dict(env),
            "port": int(port), "title": str(title),
        } if _START.fullmatch(start) and _FILE.fullmatch(file) and argv and 0 < port < 65536:  # fmt: skip
            if all(isinstance(text, str) for text in (*argv, *env, *env.values())):
                return Order(start, file, number, tuple(argv), dict(env), port, title)
    raise ValueError(f"no start that could be made: {sorted(message)}")


def read_start(message: Mapping[str, Any]) -> str:
    """Which start is meant. Raises ValueError."""
    start = message.get("start")
    if not isinstance(start, str) or not _START.fullmatch(start):
        raise ValueError("no start is named")
    return start


@dataclass(frozen=True, slots=True)
class NodePoll:
    """``since``: the revision of the last answer, so that this one waits for another. ``lease`` (s) from now on.
    ``taken``: how many bytes of each start's log have arrived."""

    rank: int
    lease: float
    since: int = -1
    taken: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def read_poll(message: Mapping[str, Any]) -> NodePoll:
    """Raises ValueError for what is none."""
    match message:
        case {"rank": int(rank), "lease": int() | float() as lease, "since": int(since), "taken": dict(taken)}:
            if 0 < lease <= 86400 and all(isinstance(count, int) and count >= 0 for count in taken.values()):
                return NodePoll(rank, float(lease), since, dict(taken))
    raise ValueError(f"no poll: {sorted(message)}")


@dataclass(frozen=True, slots=True)
class StartReport:
    """What an agent knows of a start. ``ended``: its main process has, with ``status`` as `Handle.watch` has it;
    ``empty``: nothing is left of it. ``members``: how many of the processes have ended that were there when it was
    asked to look at them. ``cpu``: seconds by process."""

    pid: int
    file: str = ""
    ended: bool = False
    status: int | None = None
    empty: bool = False
    members: int = 0
    cpu: Mapping[Hashable, float] = field(default_factory=dict)
    memory: int = 0
    files: int = 0

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class NodeReport:
    """An agent's answer to a poll. ``boot``: of its machine; ``ports``: on which nobody listens; ``logs``: of each
    start that wrote something, where in its log that is (bytes), and the text; ``adapters``: the folder of those that
    it keeps."""

    boot: str
    revision: int
    ports: tuple[int, ...] = ()
    starts: dict[str, StartReport] = field(default_factory=dict)
    logs: dict[str, tuple[int, str]] = field(default_factory=dict)
    adapters: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "boot": self.boot, "revision": self.revision, "ports": self.ports, "logs": self.logs,
            "adapters": self.adapters,
            "starts": {start: one.to_json() for start, one in self.starts.items()},
        }  # fmt: skip


def read_node_report(message: Mapping[str, Any]) -> NodeReport:
    """Raises ValueError for what is none."""
    try:
        starts = {str(start): StartReport(**one) for start, one in message["starts"].items()}
        logs = {str(start): (int(at), str(text)) for start, (at, text) in message["logs"].items()}
        return NodeReport(
            str(message["boot"]), int(message["revision"]), tuple(map(int, message["ports"])), starts, logs,
            str(message["adapters"]),
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no report of an agent: {error}") from None
