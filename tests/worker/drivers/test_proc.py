"""What /proc says about processes."""

from __future__ import annotations

import os
import time

import pytest

from fakes import Processes, eventually
from worker.drivers import proc
from worker.drivers.proc import ProcessId
from worker.drivers.process import Process

FIELDS = "S 10 20 30 0 -1 4194304 1 2 3 4 150 50 7 8 20 0 1 0 98765 4096 3 18446744073709551615"


@pytest.mark.parametrize("name", ["sleep", "a b", "a) S 1 (b", "(", ")", "VLLM::Worker", ""])
def test_a_name_may_hold_anything(name: str) -> None:
    found = proc.parse_stat(f"42 ({name}) {FIELDS}\n")
    assert (found.pid, found.state, found.parent, found.session) == (42, "S", 10, 30)
    assert found.cpu == 200 / os.sysconf("SC_CLK_TCK")
    assert found.rss == 3 * os.sysconf("SC_PAGE_SIZE")
    assert found.identity == ProcessId(42, 98765)


@pytest.mark.parametrize("text", ["", "42", "42 (x", "42 (x)", "42 (x) S", "42 (x) S 1 2 3", "x (y) " + FIELDS])
def test_what_is_no_stat_line_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        proc.parse_stat(text)


@pytest.mark.parametrize("state", "RSDTZX")
def test_a_process_that_has_ended_is_not_alive(state: str) -> None:
    assert proc.parse_stat(f"42 (x) {state}{FIELDS[1:]}").alive is (state not in "ZX")


def test_we_are_alive() -> None:
    me = proc.stat(os.getpid())
    assert me is not None and me.pid == os.getpid() and me.parent == os.getppid() and me.session == os.getsid(0)
    assert proc.alive(me.identity)
    assert not proc.alive(ProcessId(me.pid, me.start_ticks + 1))
    assert me.rss > 2**20 and 0 < me.cpu < time.process_time() + 60


def test_a_pid_that_nobody_has_is_nobody() -> None:
    nobody = int(open("/proc/sys/kernel/pid_max").read()) + 1  # noqa: PTH123, SIM115
    assert proc.stat(nobody) is None and not proc.alive(ProcessId(nobody, 1))


def test_all_processes_are_listed(processes: Processes) -> None:
    started = processes.shell("exec sleep 600")
    assert {os.getpid(), started.pid} <= {p.pid for p in proc.processes()}


def test_the_processes_of_a_session_are_found_and_no_other(processes: Processes) -> None:
    one = processes.shell("sleep 600 & echo $!; wait", "one")
    other = processes.shell("exec sleep 600", "other")
    child = int(eventually(lambda: processes.log("one").read_text().strip()))
    found = proc.sessions([one.pid, 2**30])
    assert {p.pid for p in found[one.pid]} == {one.pid, child}
    assert found[2**30] == [] and other.pid not in found
    assert proc.sessions([]) == {}


def test_a_zombie_is_of_no_session(processes: Processes) -> None:
    handle: Process = processes.shell("exit 0")
    eventually(lambda: not proc.alive(handle.process))
    assert proc.stat(handle.pid) is not None and proc.sessions([handle.pid]) == {handle.pid: []}
