"""A cluster over several hosts with Ray on each, and what can befall it."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from harness import CLI, Cluster, poll
from manyhosts import raycluster
from manyhosts.namespaces import Host, Process, Switch

#: Of what belongs to a cluster: nothing of it may be left.
_OURS = ("worker.sim", "worker.agent", "ray::NodeActor", "cluster.cli", "-m lb ", "worker.drivers", "vllm", "VLLM")

_UP_S = 120.0

#: What the cluster asks of whoever changes it, wherever that is.
_ADMIN_KEY = "the-admin-key-of-clusters-over-hosts"
_ENVIRONMENT = {**raycluster.ENVIRONMENT, "CLUSTERCTL_ADMIN_KEY": _ADMIN_KEY}


@dataclass
class HostsCluster(Cluster):
    """Its supervisor and balancer are on ``host``; its state directory is where all hosts see it."""

    host: Host = field(kw_only=True)
    given: tuple[str, ...] = field(default=(), kw_only=True)

    def up(self, *args: str, timeout: float = _UP_S, **env: str) -> subprocess.CompletedProcess[str]:
        """With ``given``, as ever."""
        place = ("--host", "0.0.0.0", "--port", str(self.port), "--state-dir", str(self.state_dir), "--detach")
        return self.host.run(CLI, "up", *place, *args, *self.given, timeout=timeout, **_ENVIRONMENT, **env)

    def run(self, *args: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        return self.run_on(self.host, *args, timeout=timeout)

    def run_on(self, host: Host, *args: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """The command line on any of them."""
        url = f"http://{self.host.address}:{self.port}"
        return host.run(CLI, *args, timeout=timeout, CLUSTERCTL_URL=url, **_ENVIRONMENT)

    def ask(self, method: str, path: str, body: Any = None, timeout: float = 60.0, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {_ADMIN_KEY}"}
        return self.host.inside(lambda: Cluster.ask(self, method, path, body, timeout, headers=headers, **options))

    def places(self) -> dict[str, tuple[str, int]]:
        """On which host each worker is, and its pid there."""
        found = self.status()["instances"].items()
        return {name: (one["host"], one["pid"]) for name, one in found if one["pid"]}

    def running_on(self, host: Host) -> list[str]:
        found = self.status()["instances"].items()
        return [name for name, one in found if one["is_running"] and one["host"] == host.address]


class Site:
    """Three hosts. The cluster is on the first, Ray's head on the third."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._switch = folder, Switch()
        self.hosts = [Host(self._switch, number, folder / f"host{number}") for number in (1, 2, 3)]
        self.first, self.second, self.third = self.hosts
        self.head = self.third

    def begin(self, *given: str) -> HostsCluster:
        """Everything on, and a cluster that is not up yet."""
        for host in self.hosts:
            host.boot()
        address = raycluster.start(self.hosts, self.head)
        shared = self.folder / "shared"
        shared.mkdir()
        return HostsCluster(
            shared, 8000, host=self.first, given=("--driver", "ray", "--ray-address", address, *given)
        )

    def simulated(self, workers: int) -> HostsCluster:
        """Begun, and so many simulated workers serve."""
        scaled = ("--max-instances", "12", "--autoscale-load", "0.25", "--autoscale-up-after", "1")
        scaled = (*scaled, "--autoscale-itl", "0")  # how many answers a worker takes is not learnt
        pace = ("--ttft-ms", "20", "--itl-ms", "50", "--max-num-seqs", "16")
        made = self.begin("--engine", "sim", *scaled, "--", *pace)
        result = made.up("--instances", str(workers))
        assert result.returncode == 0, result.stderr
        self.whole(made, workers)
        return made

    def boot(self, host: Host) -> None:
        """Again, with its Ray."""
        host.boot()
        raycluster.start_on(host, self.head)

    def close(self) -> None:
        for host in self.hosts:
            host.kill()
        self._switch.close()

    def workers(self, host: Host) -> list[Process]:
        """The first process of each worker that runs there."""
        return [one for one in host.processes() if one.pid == one.session and _is_worker(one.command)]

    def left(self) -> list[str]:
        """What runs of a cluster anywhere."""
        return [
            f"{host.name}: {one.command[:100]}" for host in self.hosts for one in host.processes()
            if any(words in one.command for words in _OURS)
        ]  # fmt: skip

    def orphans(self, cluster: HostsCluster) -> list[str]:
        """Workers that run and that the cluster does not know of, and those that it knows of and that do not run."""
        known = Counter(cluster.places().values())
        there = Counter((host.address, one.pid) for host in self.hosts for one in self.workers(host))
        return [f"not known: {there - known}", f"not there: {known - there}"] if known != there else []

    def whole(self, cluster: HostsCluster, count: int, timeout: float = 60.0) -> None:
        """Returns when so many workers serve, nothing else runs, and each host can be used."""
        cluster.wait_ready(count, timeout)
        poll(lambda: all(map(self._is_usable, self.hosts)), timeout, "an agent on each host")
        poll(lambda: not self.orphans(cluster), 15, f"no orphans: {self.orphans(cluster)}")

    def _is_usable(self, host: Host) -> bool:
        """There is an agent, and where there are workers an actor of Ray's."""
        return bool(host.processes("worker.agent.run") and (host.processes("ray::NodeActor") or not self.workers(host)))


def _is_worker(command: str) -> bool:
    return "worker.sim" in command or "vllm" in command.lower()


@contextlib.contextmanager
def cut_off(host: Host) -> Iterator[None]:
    host.cut()
    try:
        yield
    finally:
        host.join()


def missed_after(cluster: HostsCluster, host: Host, do: Callable[[], None]) -> float:
    """Seconds from ``do`` until none of the workers there is said to run."""
    assert cluster.running_on(host), f"nothing runs on {host.name}"
    do()
    began = time.monotonic()
    poll(lambda: not cluster.running_on(host), 20, f"{host.name} is missed")
    return time.monotonic() - began
