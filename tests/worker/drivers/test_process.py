"""Spawning, signalling and reaping, with real tiny processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fakes import Processes, eventually
from worker.drivers import proc
from worker.drivers.local import LocalDriver
from worker.drivers.proc import ProcessId
from worker.drivers.process import Process, find, spawn
from worker.drivers.run_file import read as read_run_file
from worker.spec import WorkerEndpoint, WorkerSpec

pytestmark = pytest.mark.processes

TERM, KILL = signal.SIGTERM, signal.SIGKILL
#: Says its child's pid, and has one.
WITH_CHILD = "sleep 600 & echo $!; wait"


async def _ended(handle: Process) -> int | None:
    """The status with which ``handle`` is reported to have ended."""
    ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
    handle.watch(ended.set_result)
    return await asyncio.wait_for(ended, 5)


def _child(processes: Processes) -> int:
    return int(eventually(lambda: processes.log().read_text().strip()))


def _end_leader(handle: Process) -> None:
    assert handle.popen is not None
    handle.popen.kill()
    handle.popen.wait()


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", -9), ("kill -15 $$", -15)])
async def test_an_end_is_reported_with_its_status(processes: Processes, script: str, status: int) -> None:
    assert await _ended(processes.shell(script)) == status


async def test_an_end_before_the_watch_is_reported_too(processes: Processes) -> None:
    handle = processes.shell("exit 4")
    await asyncio.to_thread(eventually, lambda: not proc.alive(handle.process))
    assert await _ended(handle) == 4


async def test_an_end_is_reported_once_and_not_after_unwatch(processes: Processes) -> None:
    first, second = processes.shell("exec sleep 600", "a"), processes.shell("exec sleep 600", "b")
    told: list[int | None] = []
    first.watch(told.append)
    first.unwatch()
    first.kill_tree()
    await asyncio.to_thread(eventually, lambda: not proc.alive(first.process))
    second.kill_tree()
    assert await _ended(second) == -9
    assert told == []


async def test_a_running_process_is_not_reported(processes: Processes) -> None:
    handle, other = processes.shell("exec sleep 600", "a"), processes.shell("exit 0", "b")
    told: list[int | None] = []
    handle.watch(told.append)
    await _ended(other)
    assert told == []
    handle.unwatch()


def test_output_is_appended_to_a_private_file(processes: Processes) -> None:
    processes.log().write_text("before\n")
    processes.log().chmod(0o600)
    handle = processes.shell("echo out; echo err >&2")
    eventually(lambda: not proc.alive(handle.process))
    assert processes.log().read_text() == "before\nout\nerr\n"
    fresh = processes.shell("exit 0", "fresh")
    eventually(lambda: not proc.alive(fresh.process))
    assert processes.log("fresh").stat().st_mode & 0o777 == 0o600


def test_a_log_that_was_emptied_is_written_from_its_start(processes: Processes) -> None:
    """O_APPEND: a rotation by copy and truncate leaves no hole."""
    os.mkfifo(processes.folder / "gate")
    processes.shell("echo one; read -r line <gate; echo two; exec sleep 600")
    eventually(lambda: "one" in processes.log().read_text())
    os.truncate(processes.log(), 0)
    with (processes.folder / "gate").open("w") as gate:
        gate.write("go\n")
    assert eventually(processes.log().read_bytes) == b"two\n"


def test_the_process_writes_its_own_run_file_before_it_becomes_the_worker(processes: Processes) -> None:
    handle = processes.shell(f"head -n 1 '{processes.run_file()}'; exec sleep 600")
    said = eventually(lambda: processes.log().read_text().endswith("\n") and processes.log().read_text())
    assert isinstance(said, str) and proc.parse_stat(said).identity == handle.process
    assert read_run_file(processes.run_file()) == handle.process
    assert handle.process == ProcessId(handle.pid, proc.stat(handle.pid).start_ticks)  # type: ignore[union-attr]


def test_a_run_file_of_an_earlier_start_does_not_stay(processes: Processes) -> None:
    processes.run_file().write_text("1 (x) S 0")
    handle = processes.shell("exec sleep 600")
    assert eventually(lambda: read_run_file(processes.run_file())) == handle.process


@pytest.mark.parametrize("text", [None, "", "garbage", "1 (x) S 0", "x (y) S " + "1 " * 30])
def test_what_is_no_run_file_names_no_process(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "run").write_text(text)
    assert read_run_file(tmp_path / "run") is None


def test_a_worker_gets_exactly_its_arguments_environment_and_folder(processes: Processes) -> None:
    code = "import os, sys; print(sys.argv[1:], os.environ.get('GIVEN'), 'HOME' in os.environ, os.getcwd())"
    arguments = ("a b", "$HOME", "'", "*", "")
    handle = processes.start(sys.executable, "-c", code, *arguments, env={"GIVEN": "x y"})
    eventually(lambda: not proc.alive(handle.process))
    assert processes.log().read_text() == f"{list(arguments)} x y False {processes.folder.resolve()}\n"


def test_a_worker_leads_a_session_and_reads_nothing(processes: Processes) -> None:
    handle = processes.shell("readlink /proc/self/fd/0; exec sleep 600")
    assert eventually(lambda: processes.log().read_text()) == "/dev/null\n"
    assert os.getsid(handle.pid) == os.getpgid(handle.pid) == handle.pid


def test_only_the_descriptors_that_are_kept_are_inherited(processes: Processes) -> None:
    kept, dropped = os.pipe()
    try:
        os.set_inheritable(dropped, True)
        handle = processes.shell("ls /proc/$$/fd; exec sleep 600", keep=(kept,))
        eventually(lambda: proc.stat(handle.pid) and processes.log().read_text().endswith("\n"))
        there = set(map(int, processes.log().read_text().split()))
        assert kept in there and dropped not in there
    finally:
        os.close(kept)
        os.close(dropped)


def test_a_folder_that_is_not_there_is_an_os_error(processes: Processes) -> None:
    with pytest.raises(FileNotFoundError):
        processes.shell("exit 0", cwd=processes.folder / "none")
    assert read_run_file(processes.run_file()) is None


def test_a_log_that_cannot_be_opened_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Is a directory"):
        spawn(("true",), env={}, cwd=tmp_path, log=tmp_path, run_file=tmp_path / "run")


async def test_a_program_that_is_not_there_ends_with_127_and_a_word_in_the_log(processes: Processes) -> None:
    handle = processes.start("/no/such/program")
    assert await _ended(handle) == 127
    assert "/no/such/program" in processes.log().read_text()


async def test_a_signal_goes_to_the_main_process_alone(processes: Processes) -> None:
    handle = processes.shell(f"trap 'exit 5' TERM; {WITH_CHILD}")
    child = _child(processes)
    handle.signal(TERM)
    assert await _ended(handle) == 5
    left = proc.stat(child)
    assert left is not None and left.alive


async def test_a_signal_to_a_process_that_has_ended_is_none(processes: Processes) -> None:
    handle = processes.shell("exit 0")
    await _ended(handle)
    handle.signal(KILL)


def test_killing_the_tree_takes_children_too(processes: Processes) -> None:
    handle = processes.shell(WITH_CHILD)
    child = _child(processes)
    assert {p.pid for p in handle.kill_tree()} == {handle.pid, child}
    eventually(lambda: not handle.survivors())
    left = proc.stat(child)
    assert left is None or not left.alive


def test_an_orphan_that_survived_its_leader_is_found_and_killed(processes: Processes) -> None:
    """vLLM's EngineCore survives a SIGKILL of its API server."""
    handle = processes.shell(f"sh -c '{WITH_CHILD}; :'; exit 0")
    grandchild = _child(processes)
    _end_leader(handle)
    assert grandchild in {p.pid for p in handle.survivors()} and handle.pid not in {p.pid for p in handle.survivors()}
    handle.kill_tree()
    eventually(lambda: not handle.survivors())
    left = proc.stat(grandchild)
    assert left is None or not left.alive


def test_an_orphan_in_a_process_group_of_its_own_is_still_of_the_session(processes: Processes) -> None:
    code = "import subprocess as s; c = s.Popen(['sleep', '600'], process_group=0); print(c.pid, flush=True); c.wait()"
    handle = processes.start(sys.executable, "-S", "-c", code)
    child = _child(processes)
    assert os.getpgid(child) != handle.pid
    _end_leader(handle)
    assert [p.pid for p in handle.survivors()] == [child]


def test_a_zombie_is_not_alive_and_no_survivor(processes: Processes) -> None:
    handle = processes.shell("exit 0")
    found = eventually(lambda: (s := proc.stat(handle.pid)) and not s.alive and s)
    assert isinstance(found, proc.Stat) and found.state == "Z"
    assert not proc.alive(handle.process) and handle.survivors() == []


async def test_a_process_with_a_reused_pid_is_neither_signalled_nor_killed(processes: Processes) -> None:
    handle = processes.shell("exec sleep 600")
    eventually(lambda: read_run_file(processes.run_file()))
    earlier = Process(replace(handle.process, start_ticks=handle.process.start_ticks - 1))
    earlier.signal(KILL)
    assert earlier.survivors() == earlier.kill_tree() == []
    assert await _ended(earlier) is None
    assert proc.alive(handle.process)


@pytest.fixture
def stranger(processes: Processes) -> Process:
    """A process that we did not start: the child of one that has ended, in a session of its own."""
    code = "import subprocess; print(subprocess.Popen(['sleep', '600'], stdout=-3, start_new_session=True).pid)"
    pid = int(subprocess.check_output([sys.executable, "-S", "-c", code], stderr=subprocess.DEVNULL))
    found = proc.stat(pid)
    assert found is not None and found.parent != os.getpid()
    return processes.own(found.identity)


async def test_a_process_of_somebody_else_is_adopted_and_its_end_noticed(stranger: Process) -> None:
    adopted = find(stranger.identity, Path("none"))
    assert adopted is not None and adopted.survivors() == [stranger.process]
    ended = asyncio.create_task(_ended(adopted), name="ended")
    await asyncio.sleep(0)
    assert not ended.done()
    adopted.signal(TERM)
    assert await ended is None  # its status is for its parent alone
    assert adopted.empty()


async def test_an_adopted_process_that_is_gone_is_reported_at_once(processes: Processes) -> None:
    gone = processes.shell("exit 0")
    await _ended(gone)
    assert proc.stat(gone.pid) is None
    assert await _ended(Process(gone.process)) is None


def test_the_driver_starts_what_the_spec_says(processes: Processes) -> None:
    log, run_file = processes.log(), processes.run_file()
    argv = ("sh", "-c", "echo $X; exec sleep 600")
    env = {"PATH": os.environ["PATH"], "X": "x"}
    spec = WorkerSpec("a", 1, argv, env, processes.folder, log, run_file, WorkerEndpoint(1), "k")
    handle = LocalDriver().start(spec, "a title")
    processes._handles.append(handle)
    assert eventually(lambda: handle.logs(2) == ["--- a title", "x"])
    eventually(lambda: not handle.destroy())


async def test_a_watched_process_leaves_no_descriptor_behind(processes: Processes) -> None:
    def open_now() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    handle = processes.shell("exec sleep 600")
    before = open_now()
    await _ended(Process(replace(handle.process, start_ticks=1)))
    handle.kill_tree()
    await _ended(handle)
    assert open_now() == before
