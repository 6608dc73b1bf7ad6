"""Starts real clusters for tests, and makes sure that nothing of them is left."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom
from typing import Any, TypeVar

import httpx

from config.identity import admin_token
from config.paths import StateDir
from worker.drivers import proc, run_file
from worker.drivers.remote import agent_home

T = TypeVar("T")

#: Of workers that tests start without a cluster, and what their callers send.
WORKER_KEY = "the-key-of-this-worker"
AS_CLUSTER = {"Authorization": f"Bearer {WORKER_KEY}"}

CLI = str(Path(sys.executable).with_name("clusterctl"))


#: Ports for clusters under test: below those that the kernel gives to outgoing connections, none of
#: `worker.drivers.local`.
_PORTS = range(12_000, 20_000)
_given: list[socket.socket] = []


def free_port() -> int:
    """A port that is free, and that nobody else is going to get before it is listened on: no outgoing connection, and
    no other process that takes its ports from here. For that an abstract socket named after it is bound for as long as
    this process lives."""
    for port in SystemRandom().sample(_PORTS, len(_PORTS)):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0clusterctl-test-port-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _given.append(claim)
        return port
    raise RuntimeError("no port is free")


def poll(look: Callable[[], T | None], timeout: float = 15.0, what: str = "") -> T:
    """The first truthy answer of ``look``; fails after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        if found := look():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what or look}")
        time.sleep(0.02)


def environment(**extra: str) -> dict[str, str]:
    """Ours, without settings of whoever runs the tests, and without what only tests install."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("CLUSTERCTL_") and k not in _SETTINGS}
    path = os.pathsep.join(filter(None, (_ABSENT, kept.get("PYTHONPATH"))))
    return {**kept, "PYTHONPATH": path, **extra}


_ABSENT = str(Path(__file__).with_name("absent"))


_SETTINGS = {
    "CLUSTER_INSTANCES", "LOAD_BALANCE_STRATEGY", "MIN_INSTANCES", "MAX_INSTANCES", "HEALTH_CHECK_INTERVAL",
    "DEFAULT_MODEL", "HOST", "PORT", "LOG_LEVEL",
    "COLUMNS", "LINES",  # of the terminal of whoever runs the tests
}  # fmt: skip


def clusterctl(*args: str, timeout: float = 60.0, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line to its end, with its output captured."""
    return subprocess.run(
        [CLI, *args], capture_output=True, text=True, timeout=timeout, env=environment(**env), check=False
    )


@dataclass(frozen=True)
class DriverUnderTest:
    """What starts a cluster's workers. ``flags`` and ``environment`` of `up`; ``agents``: where agents of nodes have
    their homes."""

    name: str = "local"
    flags: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    agents: Path | None = None

    def homes(self, state: StateDir) -> list[Path]:
        """Of the agents of the cluster on ``state``."""
        key = admin_token.read(state.agent_key) if self.agents is not None else None
        if self.agents is None or key is None:
            return []
        return list((self.agents / hashlib.sha256(key.encode()).hexdigest()[:12]).glob("*"))


@dataclass
class Cluster:
    """One cluster, with everything it ever started remembered by session. ``tls``: whom it is known by, where it
    speaks TLS; ``grpc_port``: where it speaks gRPC, if it does."""

    root: Path
    port: int
    tls: ssl.SSLContext | None = None
    grpc_port: int = 0
    driver: DriverUnderTest = DriverUnderTest()
    seen: set[int] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    @property
    def state_dir(self) -> Path:
        return self.root / "state"

    def up(self, *args: str, timeout: float = 60.0, **env: str) -> subprocess.CompletedProcess[str]:
        """`up --detach`; what follows ``--`` in ``args`` comes last as it should."""
        place = ("--port", str(self.port), "--state-dir", str(self.state_dir), "--detach", *self.driver.flags)
        result = clusterctl("up", *place, *args, timeout=timeout, **{**self.driver.environment, **env})
        with contextlib.suppress(httpx.HTTPError):
            self.status()
        return result

    def run(self, *args: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        more = {"CLUSTERCTL_STATE_DIR": str(self.state_dir)} if self.tls else {}
        return clusterctl(*args, timeout=timeout, CLUSTERCTL_URL=self.url, **more)

    def ask(self, method: str, path: str, body: Any = None, timeout: float = 60.0, **options: Any) -> httpx.Response:
        verify = self.tls or True
        return httpx.request(method, self.url + path, json=body, timeout=timeout, verify=verify, **options)

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.ask("GET", "/v1/cluster/status", timeout=10).json()
        balancer = status["load_balancer"]
        for pid in (
            status["supervisor"]["pid"], balancer["pid"], balancer["standby"],
            *(process["pid"] for process in (*balancer["processes"], *balancer["draining"])),
            *(i["pid"] for i in status["instances"].values()),
        ):  # fmt: skip
            if pid:
                self.seen.add(pid)
        return status

    def instance(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.status()["instances"][name]
        return found

    def wait_ready(self, count: int, timeout: float = 20.0) -> dict[str, Any]:
        """The status once exactly ``count`` workers are ready and nothing else is on its way."""

        def look() -> dict[str, Any] | None:
            status = self.status()
            settled = status["supervisor"]["settled"] and len(status["instances"]) >= count
            return status if settled and status["running_instances"] == count else None

        return poll(look, timeout, f"{count} ready workers: {self.status()}")

    def post(self, path: str, body: Any, **kwargs: Any) -> httpx.Response:
        return self.ask("POST", path, body, **kwargs)

    def complete(self, model: str = "demo", **body: Any) -> httpx.Response:
        return self.post("/v1/completions", {"model": model, "prompt": "hello", "max_tokens": 4, **body})

    def fault(self, instance: str, **fault: Any) -> None:
        """Makes a simulated worker fail, behind the cluster's back."""
        answer = self.ask_worker(instance, "POST", "/sim/fault", fault)
        assert answer.status_code == 200, answer.text

    def worker_key(self, instance: str) -> str:
        """What the worker that runs now answers to, as its supervisor wrote it down."""
        started = poll(lambda: run_file.notes(StateDir(self.state_dir).run(instance)).get("record"), 5, "its record")
        return str(started["spec"]["api_key"])

    def ask_worker(self, instance: str, method: str, path: str, body: Any = None) -> httpx.Response:
        """Speaks to one worker behind the cluster's back."""
        headers = {"Authorization": f"Bearer {self.worker_key(instance)}"}
        shown = self.instance(instance)
        url = f"http://{shown['host']}:{shown['port']}{path}"
        return httpx.request(method, url, json=body, headers=headers, timeout=10)

    def log(self, name: str) -> str:
        return (self.state_dir / "logs" / f"{name}.log").read_text(errors="replace")

    def close(self) -> None:
        """Ends it and asserts that nothing of it is left."""
        if self.leftovers() and not self._ended():
            clusterctl("down", "--state-dir", str(self.state_dir), "--now", timeout=60)
        try:
            poll(lambda: not self.leftovers(), 10, f"nothing left: {self.leftovers()}")
        finally:
            for process in self.leftovers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)

    def _ended(self) -> bool:
        """Whether its supervisor is there, takes our word for it and ends everything, as `down --now` would ask it to,
        without another Python that has to start."""
        try:
            self.status()
            asked = self.ask("POST", "/v1/cluster/shutdown", {"now": True}, timeout=10).status_code == 202
            return asked and poll(lambda: not self.leftovers(), 20)
        except (httpx.HTTPError, AssertionError, ValueError, KeyError):
            return False

    def leftovers(self) -> list[proc.Stat]:
        return [p for members in proc.sessions({*self.seen, *self._recorded()}).values() for p in members]

    def _recorded(self) -> Iterator[int]:
        """The sessions of processes that wrote themselves down in the state directory, or in the home of an agent,
        whether a status ever showed them or not; and those of the agents."""
        homes = self.driver.homes(StateDir(self.state_dir))
        for folder in (self.state_dir, *homes):
            for file in (folder / "run").glob("*"):
                with contextlib.suppress(OSError, ValueError, IndexError):
                    yield proc.parse_stat(file.read_text()).pid
        for home in homes:
            with contextlib.suppress(OSError, ValueError, KeyError):
                pid = json.loads((home / agent_home.FILE).read_text())["pid"]
                if (found := proc.stat(pid)) is not None:
                    yield found.session


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def sse(text: str) -> list[Any]:
    """The events of a stream; ``[DONE]`` as that string."""
    data = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [d if d == "[DONE]" else json.loads(d) for d in data]
