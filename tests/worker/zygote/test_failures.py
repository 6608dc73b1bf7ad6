"""What goes wrong with a zygote, and what a start comes to then. Without any engine: `forkedengine`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

import zygotes
from fakes import eventually, rng
from worker.drivers import forked, proc, run_file, scratch
from worker.drivers import zygote_protocol as protocol
from worker.drivers.base import Handle
from worker.drivers.forked import ForkedHandle, ForkFailed
from worker.drivers.local import LocalDriver
from worker.drivers.process import Process
from worker.spec import WorkerEndpoint, WorkerSpec

pytestmark = pytest.mark.processes

_WAITS = "print('there', flush=True)\nimport time; time.sleep(600)"


class Site:
    """A driver, a zygote, and what the driver said of its failures."""

    def __init__(self, folder: Path, zygote: Process, path: Path) -> None:
        self.folder, self.zygote, self.path = folder, zygote, path
        self.driver, self.failures = LocalDriver(rng()), list[ForkFailed]()
        self.driver.on_failed_fork = lambda zygote, error: self.failures.append(error)
        self.handles: list[Handle] = []

    def spec(self, code: str = _WAITS, name: str = "instance_0") -> WorkerSpec:
        return WorkerSpec(
            name, 1, (sys.executable, "-S", "-c", code), {"PATH": os.environ["PATH"]}, self.folder,
            self.folder / f"{name}.log", self.folder / f"{name}.run", WorkerEndpoint(1), "key", zygote=self.path,
        )

    def start(self, spec: WorkerSpec | None = None) -> Handle:
        spec = spec or self.spec()
        self.driver.prepare(spec.run_file, {})
        handle = self.driver.start(spec, "its title")
        self.handles.append(handle)
        return handle

    def says(self, handle: Handle, text: str = "there") -> None:
        eventually(lambda: text in handle.logs(50))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with zygotes.running(tmp_path) as (zygote, path):
        made = Site(tmp_path, zygote, path)
        yield made
        for handle in made.handles:
            eventually(lambda h=handle: not h.destroy())  # type: ignore[misc]


async def _end(handle: Handle) -> int | None:
    ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
    handle.watch(ended.set_result)
    return await asyncio.wait_for(ended, 10)


def _parent(handle: Handle) -> int | None:
    found = proc.stat(handle.pid) if handle.pid is not None else None
    return found.parent if found else None


def test_a_worker_is_a_fork_of_it(site: Site) -> None:
    handle = site.start()
    assert isinstance(handle, ForkedHandle) and _parent(handle) == site.zygote.pid
    site.says(handle)
    assert proc.stat(handle.identity["pid"]).session == handle.pid  # type: ignore[union-attr]
    assert not site.failures


def test_it_has_the_environment_the_folder_and_the_descriptors_that_it_is_to_have(site: Site) -> None:
    """And none of its zygote's."""
    code = (
        "import os, sys, tempfile\n"
        "print(sorted(os.environ), os.getcwd(), sorted(map(int, os.listdir('/proc/self/fd')))[:-1], flush=True)\n"
        "print(tempfile.gettempdir(), sys.argv[0] == sys.executable, flush=True)\n" + _WAITS
    )
    spec = site.spec(code)
    others = [site.start(site.spec(name=f"instance_{n}")) for n in (1, 2)]
    handle = site.start(spec)
    site.says(handle)
    seen = [line for line in handle.logs(50) if not line.startswith("---") and line != "there"]
    assert seen[-2] == f"{sorted(['PATH', 'TMPDIR'])} {site.folder} [0, 1, 2]"
    assert seen[-1] == f"{scratch.place(spec)} True"
    assert len(others) == 2


def test_it_ignores_what_one_that_is_started_plainly_does(site: Site) -> None:
    """Such as SIGPIPE, which would end it where a client leaves."""
    code = f"print(next(l for l in open('/proc/self/status') if 'SigIgn' in l), flush=True)\n{_WAITS}"
    by_python = sum(1 << number - 1 for number in (signal.SIGPIPE, signal.SIGXFSZ))
    for spec in (site.spec(code), replace(site.spec(code, "instance_1"), zygote=None)):
        handle = site.start(spec)
        site.says(handle)
        (line,) = (line for line in handle.logs(50) if line.startswith("SigIgn"))
        assert int(line.split()[1], 16) & by_python == by_python


@pytest.mark.parametrize("obstacle", [{"ZYGOTE_OBSTACLE": "of itself"}, {"ZYGOTE_THREAD": "1"}])
def test_one_that_must_not_be_forked_refuses_and_the_worker_is_started_plainly(
    tmp_path: Path, obstacle: dict[str, str]
) -> None:
    with zygotes.running(tmp_path, **obstacle) as (zygote, path):
        site = Site(tmp_path, zygote, path)
        handle = site.start()
        site.says(handle)
        assert [("of itself" in str(f) or "2 threads" in str(f), f.hung) for f in site.failures] == [(True, False)]
        assert _parent(handle) == os.getpid()
        eventually(lambda: not handle.destroy())


async def test_a_dead_one_harms_no_worker_and_the_next_is_started_plainly(site: Site) -> None:
    forked_one = site.start()
    await asyncio.to_thread(site.says, forked_one)
    site.zygote.kill_tree()
    site.zygote.popen.wait()  # type: ignore[union-attr]
    assert not forked_one.empty()
    plain = site.start(site.spec(name="instance_1"))
    await asyncio.to_thread(site.says, plain)
    assert len(site.failures) == 1 and not site.failures[0].hung and _parent(plain) == os.getpid()
    forked_one.stop()
    assert await _end(forked_one) is None, "nobody can tell any more"


async def test_how_a_worker_ends_is_told_by_it(site: Site) -> None:
    for code, status in (("import sys; sys.exit(3)", 3), ("raise ValueError('so')", 1), ("pass", 0)):
        handle = site.start(site.spec(code))
        assert await _end(handle) == status
        assert await _end(handle) == status, "and again, where it is asked again"
        await asyncio.to_thread(eventually, lambda h=handle: not h.destroy())
    assert "ValueError: so" in handle.logs(50)
    handle = site.start()
    os.kill(handle.identity["pid"], signal.SIGSEGV)
    assert await _end(handle) == -signal.SIGSEGV


async def test_one_that_hangs_when_a_worker_ends_keeps_nobody_waiting_for_long(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forked, "_LAST_WORD_S", 0.05)
    handle = site.start()
    site.zygote.signal(signal.SIGSTOP)
    handle.stop()
    assert await _end(handle) is None
    assert not handle.destroy() and handle.empty(), "a zombie is nothing that is left"


def test_one_that_hangs_gets_no_second_worker_afterwards(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start is plain, and what it forks when it goes on ends before it is a worker."""
    monkeypatch.setattr(forked, "ANSWER_S", 0.1)
    site.zygote.signal(signal.SIGSTOP)
    spec = site.spec()
    handle = site.start(spec)
    site.says(handle)
    assert [f.hung for f in site.failures] == [True]
    site.zygote.signal(signal.SIGCONT)
    with forked.connect(site.path, 10) as connection:  # once this is answered, the other has been
        connection.send(protocol.encode({"ask": "who"}))
        connection.recv(protocol.MOST)
    eventually(lambda: not [p for p in proc.processes() if p.parent == site.zygote.pid])
    assert handle.logs(50).count("there") == 1 and not handle.empty()


def test_whoever_comes_after_a_supervisor_that_was_killed_while_it_asked_finds_its_worker_by_the_run_file(
    site: Site,
) -> None:
    """It wrote itself down, and ended, as nobody was there to be told of it."""
    spec = site.spec()
    site.driver.prepare(spec.run_file, {"incarnation": 1})
    site.zygote.signal(signal.SIGSTOP)
    _ask_and_leave(site, spec)
    site.zygote.signal(signal.SIGCONT)
    eventually(lambda: run_file.read(spec.run_file) is not None)
    found = LocalDriver().recover(spec, None)
    assert found is not None and site.driver.prepared(spec.run_file) == {"incarnation": 1}
    eventually(found.empty)
    assert "there" not in found.logs(50)


def test_whoever_comes_after_a_supervisor_that_was_killed_once_it_was_answered_finds_it_alive(site: Site) -> None:
    spec = site.spec()
    site.start(spec)
    found = LocalDriver().recover(replace(spec, env={}), None)
    assert found is not None and not found.empty()
    site.says(found)


def _ask_and_leave(site: Site, spec: WorkerSpec) -> None:
    log = os.open(spec.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with forked.connect(site.path, 5) as connection:
        socket.send_fds(connection, [protocol.encode(_message(spec))], [log])
    os.close(log)


def _message(spec: WorkerSpec) -> dict[str, object]:
    return {
        "ask": "start", "argv": spec.argv, "env": spec.env, "cwd": str(spec.cwd), "run_file": str(spec.run_file)
    }  # fmt: skip


@pytest.mark.parametrize("broken", ["run_file", "cwd"])
def test_a_fork_that_cannot_become_a_worker_says_why(site: Site, broken: str) -> None:
    """As where its run file cannot be written: it does not become one."""
    spec = site.spec()
    site.driver.prepare(spec.run_file, {})
    log = os.open(spec.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with forked.connect(site.path, 5) as connection:
        socket.send_fds(connection, [protocol.encode({**_message(spec), broken: "/dev/full/none"})], [log])
        assert "Not a directory" in protocol.decode(connection.recv(protocol.MOST))["error"]
        assert protocol.decode(connection.recv(protocol.MOST)) == {"exit": 1}
    os.close(log)


def test_a_start_on_a_full_disk_is_refused_as_any_other_is(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_file, "prepare", full)
    spec = site.spec()
    with pytest.raises(OSError, match="No space left"):
        site.driver.start(spec, "its title")
    assert len(site.failures) == 1 and not scratch.place(spec).exists()


def test_an_environment_that_is_too_long_for_a_message_is_for_a_plain_start(site: Site) -> None:
    spec = site.spec()
    handle = site.start(replace(spec, env={**spec.env, "LONG": "x" * 100_000, "MORE": "y" * 100_000}))
    site.says(handle)
    assert "the most" in str(site.failures[0]) and _parent(handle) == os.getpid()


@pytest.mark.parametrize(
    "words",
    [b"", b"{", b"[]", b'{"ask": "start"}', b'{"ask": "who else"}', b"x" * 150_000, b'{"ask": {}}', b"\xff\xfe"],
)
def test_words_that_mean_nothing_harm_nobody(site: Site, words: bytes) -> None:
    with forked.connect(site.path, 5) as connection:
        if words:
            connection.send(words)
            assert "error" in protocol.decode(connection.recv(protocol.MOST))
    site.says(site.start())
    assert not site.failures


@pytest.mark.parametrize("wrong", [{"argv": []}, {"argv": [1]}, {"env": {"A": 1}}, {"env": 3}, {"cwd": None}])
def test_a_start_that_lacks_something_is_refused(site: Site, wrong: dict[str, object]) -> None:
    with forked.connect(site.path, 5) as connection, Path(os.devnull).open("w") as null:
        text = protocol.encode({**_message(site.spec()), **wrong})
        socket.send_fds(connection, [text], [null.fileno()])
        assert "error" in protocol.decode(connection.recv(protocol.MOST))
    site.says(site.start())


def test_more_connections_than_it_keeps_are_closed_and_it_goes_on(site: Site) -> None:
    held: list[socket.socket] = []
    while len(held) < 300:
        with contextlib.suppress(BlockingIOError):  # it is a little behind
            held.append(forked.connect(site.path, 5))
    eventually(lambda: any(_closed(one) for one in held))
    for one in held:
        one.close()
    site.says(site.start())


def _closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False


def test_it_is_its_users_alone(site: Site) -> None:
    assert site.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="to become somebody else")
def test_another_user_who_reaches_the_socket_is_not_answered(site: Site) -> None:
    for folder in (site.folder, *site.folder.parents):
        if str(folder).startswith(tempfile.gettempdir() + "/"):
            folder.chmod(0o755)
    site.path.chmod(0o777)
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(5)
            try:
                connection.connect(str(site.path))
                connection.send(protocol.encode({"ask": "who"}))
                answered = connection.recv(100)
            except (BrokenPipeError, ConnectionResetError):
                answered = b""
            except OSError:
                os._exit(2)
        os._exit(1 if answered else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


async def test_what_it_left_in_its_temporary_folder_goes_with_it(site: Site) -> None:
    code = "import tempfile, os\nopen(os.path.join(os.environ['TMPDIR'], 'left'), 'w').close()\n" + _WAITS
    spec = site.spec(code)
    handle = site.start(spec)
    await asyncio.to_thread(site.says, handle)
    assert [file.name for file in scratch.place(spec).iterdir()] == ["left"]
    assert handle.destroy() and scratch.place(spec).exists(), "while anything runs it stays"
    await asyncio.to_thread(eventually, lambda: not handle.destroy())
    assert not scratch.place(spec).parent.exists()


async def test_asked_to_end_it_ends_and_its_workers_go_on(site: Site) -> None:
    handle = site.start()
    await asyncio.to_thread(site.says, handle)
    site.zygote.signal(signal.SIGTERM)
    assert await asyncio.to_thread(site.zygote.popen.wait, 10) == 0  # type: ignore[union-attr]
    assert not handle.empty()


@pytest.mark.skipif(find_spec("setproctitle") is None, reason="vLLM brings it")
def test_lists_of_processes_show_its_own_command_and_proc_tells_none_of_the_environment(site: Site) -> None:
    spec = site.spec()
    handle = site.start(replace(spec, env={**spec.env, "KEY": "s3cret-of-the-worker"}))
    site.says(handle)
    words = Path(f"/proc/{handle.pid}/cmdline").read_text()
    assert words.startswith(f"{sys.executable} -S -c print('there'") and "worker.zygote" not in words
    assert "s3cret" not in Path(f"/proc/{handle.pid}/environ").read_text()
