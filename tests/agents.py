"""Agents of nodes on this machine, each with a home and an address of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from worker.drivers import proc
from worker.drivers.nodes import HeldPlace, WorkerNeed
from worker.drivers.remote import agent_home as home
from worker.drivers.remote import protocol
from worker.drivers.remote.protocol import AgentAddress

KEY = "the-key-of-agents"


def start(root: Path, host: str = "127.0.0.1", lease: float = 60.0) -> AgentAddress:
    """The agent of that home, started if it does not run."""
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", ""), protocol.KEY: KEY}
    root.parent.mkdir(exist_ok=True)
    subprocess.run([sys.executable, "-m", "worker.agent", str(root), host, str(lease)], env=env, check=True, timeout=30)
    found = home.read(root, KEY)
    assert found is not None
    return found


class Agents:
    """A directory of nodes: name, and on which address that is. ``key``: what is said to be theirs."""

    complete = False

    def __init__(
        self, root: Path, nodes: Mapping[str, str] | None = None, lease: float = 60.0, key: str = KEY
    ) -> None:
        self.root, self.nodes, self.lease, self.key = root, dict(nodes or {"a": "127.0.0.1"}), lease, key
        self.gpus_each = 2
        self.held: dict[str, tuple[str, tuple[int, ...]]] = {}

    def agents(self) -> dict[str, AgentAddress]:
        found = {name: start(self.root / name, host, self.lease) for name, host in self.nodes.items()}
        return {name: replace(address, key=self.key) for name, address in found.items()}

    def kill(self, name: str) -> None:
        """The agent, but not who starts it again."""
        keeper = self._keeper(name)
        for pid in _children(keeper):
            os.kill(pid, signal.SIGKILL)

    def stop(self, name: str, number: signal.Signals = signal.SIGSTOP) -> None:
        """It says nothing any more, until SIGCONT."""
        for pid in (keeper := self._keeper(name), *_children(keeper)):
            os.kill(pid, number)

    def stop_all(self, number: signal.Signals) -> None:
        for name in self.nodes:
            if (self.root / name / home.FILE).exists():
                self.stop(name, number)

    def _keeper(self, name: str) -> int:
        pid: int = json.loads((self.root / name / home.FILE).read_text())["pid"]
        return pid

    def place(self, name: str, need: WorkerNeed, hosts: Sequence[str]) -> tuple[str, dict[str, tuple[int, ...]]]:
        """On the first that has as many GPUs as are needed, of those each of which has ``gpus_each``."""
        held = {worker: place for worker, place in self.held.items() if worker != name}
        for host in hosts:
            there = {worker: gpus for worker, (at, gpus) in held.items() if at == host}
            used = {gpu for gpus in there.values() for gpu in gpus}
            free = [gpu for gpu in range(self.gpus_each) if gpu not in used][: int(need.gpus)]
            if len(free) == need.gpus:
                self.held[name] = host, tuple(free)
                return host, {**there, name: tuple(free)}
        raise OSError(f"no node has {need.gpus:g} GPUs free")

    def keep(self, places: Mapping[str, HeldPlace]) -> None:
        self.held = {name: held for name, held in self.held.items() if name in places}

    def gpus(self) -> dict[str, tuple[float, float]]:
        return {}

    def end(self) -> None: ...

    def close(self) -> None: ...


def _children(parent: int) -> list[int]:
    """Of one that starts agents, the agent."""
    return [one.pid for one in proc.processes() if one.parent == parent]
