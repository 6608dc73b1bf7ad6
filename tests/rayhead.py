"""A Ray on this machine, for tests: of one node, or of more that join it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import DriverUnderTest, free_port, poll
from worker.drivers import proc

TESTS = Path(__file__).parent

#: 127.0.0.1 is taken for "the address of whoever asks" in some of Ray.
HOST = "127.0.0.2"


@dataclass
class Head:
    """``home``: of its processes, by which they are told from others'. ``temporary``: where Ray has its logs."""

    address: str
    home: Path
    temporary: Path = Path("/nowhere")

    @property
    def driver(self) -> DriverUnderTest:
        """For clusters whose workers run there."""
        return DriverUnderTest(
            "ray", ("--driver", "ray", "--ray-address", self.address), {"RAY_AUTH_MODE": "disabled"},
            self.home / ".cache" / "clusterctl" / "agents",
        )  # fmt: skip

    def processes(self, words: str) -> list[int]:
        """Whose command line has ``words`` in it."""
        return [pid for pid in self._all() if words in _text(pid, "cmdline").replace("\0", " ")]

    def find(self, words: str) -> int:
        return poll(lambda: self.processes(words), 30, words)[0]

    def nodes(self) -> list[str]:
        """The addresses of those whose raylets run."""
        given = "\0".join(_text(pid, "cmdline") for pid in self.processes("raylet/raylet"))
        return sorted(re.findall(r"--node_ip_address=([^\0]+)", given))

    def autoscaler_log(self) -> str:
        return "".join(path.read_text()[-4000:] for path in self.temporary.glob("session_latest/logs/monitor.*"))

    def kill(self) -> None:
        """All of Ray at once: head, raylet, and its workers."""
        for pid in self._all():
            command = _text(pid, "cmdline").replace("\0", " ")
            if "worker.agent" not in command and "worker.sim" not in command:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        """Whatever has this home."""
        for pid in self._all():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _all(self) -> list[int]:
        mark = f"HOME={self.home}\0"
        return [one.pid for one in proc.processes() if one.alive and mark in _text(one.pid, "environ") + "\0"]


def _text(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


@contextlib.contextmanager
def running(folder: Path, *given: str, port: int | None = None, **env: str) -> Iterator[Head]:
    """With all that it started, it ends at the end. ``given``: more flags of ``ray start``."""
    port = port or free_port()
    temporary = Path(tempfile.mkdtemp(prefix="ray-"))  # sockets lie below it, and a path of one may have 107 bytes
    made = Head(f"{HOST}:{port}", folder, temporary)
    try:
        _start(made, HOST, temporary, "--head", f"--port={port}", "--include-dashboard=false", *given, **env)
        yield made
    finally:
        made.end()
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def autoscaling(folder: Path, kind: dict[str, float], most: int, idle_s: float) -> Iterator[Head]:
    """One whose autoscaler starts up to ``most`` nodes with what is of that ``kind`` when somebody waits for it, and
    ends those of which nothing was used for ``idle_s``. The head has no GPU."""
    port = free_port()
    config = {
        "cluster_name": "tests", "max_workers": most, "idle_timeout_minutes": idle_s / 60, "upscaling_speed": 1.0,
        "provider": {
            "type": "external", "module": "rayprovider.OwnAddresses", "gcs_address": f"{HOST}:{port}",
            "use_node_id_as_ip": True, "disable_node_updaters": True, "disable_launch_config_check": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {}, "node_config": {}, "max_workers": 0},
            "gpus": {"resources": kind, "node_config": {}, "min_workers": 0, "max_workers": most},
        },
        "auth": {}, "file_mounts": {}, "cluster_synced_files": [], "initialization_commands": [],
        **{f"{whose}setup_commands": [] for whose in ("", "head_", "worker_")},
        **{f"{whose}_start_ray_commands": [] for whose in ("head", "worker")},
    }  # fmt: skip
    (folder / "autoscaler.yaml").write_text(json.dumps(config))
    given = (f"--autoscaling-config={folder / 'autoscaler.yaml'}", "--num-gpus=0")
    path = {"PYTHONPATH": f"{TESTS.parent}:{TESTS}", "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    with running(folder, *given, port=port, **path) as made:
        yield made


def join(head: Head, host: str, *given: str, **env: str) -> None:
    """One more node of it, on that address."""
    _start(head, host, None, f"--address={head.address}", *given, **env)


def kill_node(head: Head, host: str) -> None:
    """Its raylet, and with it what Ray runs there."""
    raylets = head.processes("raylet/raylet")
    os.kill(next(pid for pid in raylets if f"--node_ip_address={host}" in _text(pid, "cmdline")), signal.SIGKILL)


def _start(head: Head, host: str, temporary: Path | None, *given: str, **env: str) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    home = {**kept, "HOME": str(head.home), "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", **env}
    argv = [
        str(Path(sys.executable).with_name("ray")), "start", f"--node-ip-address={host}", "--num-cpus=4",
        "--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats", "--object-store-memory=100000000",
        *([f"--temp-dir={temporary}"] if temporary else []), *given,
    ]  # fmt: skip
    with (head.home / "ray.log").open("ab") as log:
        subprocess.run(argv, env=home, stdout=log, stderr=log, check=True, timeout=90)
