"""Who keeps zygotes, over real ones without an engine (`forkedengine`)."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import zygotes as started
from cluster.deployment.forks import reason_against
from cluster.fleet.instance import Instance
from cluster.fleet.restart import History
from cluster.supervisor import zygotes
from cluster.supervisor.executor import _failed_to_start
from cluster.supervisor.zygote_process import end_left, left
from cluster.supervisor.zygotes import Zygotes
from config.paths import StateDir
from fakes import soon
from worker.drivers import fingerprint, forked, proc
from worker.drivers.local import LocalDriver
from worker.spec import Fork, Slot, WorkerEndpoint, WorkerSpec

pytestmark = pytest.mark.processes


class Site:
    """A keeper of zygotes, what it is to want, and what it said."""

    def __init__(self, state: StateDir, *wanted: Fork | str) -> None:
        self.state, self.wanted, self.mode = state, list(wanted), "auto"
        self.said: list[tuple[str, str]] = []
        self.changes, self.skipped = 0, 0.0
        self.zygotes = Zygotes(
            state, lambda: self.mode, lambda: self.wanted, lambda who, text, kind, **_: self.said.append((kind, text)),
            self._changed, lambda: asyncio.get_running_loop().time() + self.skipped,
        )

    def _changed(self) -> None:
        self.changes += 1

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.said]

    @property
    def fork(self) -> Fork:
        return next(fork for fork in self.wanted if isinstance(fork, Fork))

    async def ready(self) -> Path:
        await soon(lambda: self.zygotes.ready(self.fork) is not None)
        found = self.zygotes.ready(self.fork)
        assert found is not None
        return found

    @property
    def pid(self) -> int:
        return self.zygotes.pids["zygote"]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateDir:
    monkeypatch.setattr(zygotes, "_EVERY_S", 0.02)
    state = StateDir(tmp_path / "state")
    state.create()
    return state


@asynccontextmanager
async def keeping(state: StateDir, *wanted: Fork | str, leave: bool = False) -> AsyncIterator[Site]:
    site = Site(state, *wanted)
    site.zygotes.begin()
    try:
        yield site
    finally:
        await (site.zygotes.close() if leave else site.zygotes.stop())


def _spec(state: StateDir, zygote: Path | None, code: str = "import time; time.sleep(600)") -> WorkerSpec:
    return WorkerSpec(
        "instance_0", 1, (sys.executable, "-S", "-c", code), {"PATH": os.environ["PATH"]}, state.work,
        state.log("instance_0"), state.run("instance_0"), WorkerEndpoint(1), "key", zygote=zygote,
    )


async def test_it_is_waited_for_while_it_imports_and_forks_then(state: StateDir) -> None:
    async with keeping(state, started.fork(ZYGOTE_IMPORT_S="0.3")) as site:
        assert site.zygotes.waits(site.fork) and site.zygotes.ready(site.fork) is None
        path = await site.ready()
        assert not site.zygotes.waits(site.fork) and path == state.root / "zygote.sock"
        assert site.changes == 1 and site.kinds() == ["zygote.ready"]
        handle = LocalDriver().start(_spec(state, path), "title")
        assert proc.stat(handle.pid).parent == site.pid  # type: ignore[union-attr]
        shown = site.zygotes.describe({"zygote": {"memory_bytes": 5_000_000}})
        assert shown == {
            "mode": "auto", "plain": "", "processes": [
                {"name": "zygote", "pid": site.pid, "ready": True, "reason": "", "restarts": 0, "memory_mb": 5.0}
            ],
        }  # fmt: skip
    assert not handle.empty(), "a worker needs none"
    await soon(lambda: not handle.destroy())


async def test_nobody_waits_for_longer_than_a_plain_start_takes(state: StateDir) -> None:
    async with keeping(state, started.fork(ZYGOTE_IMPORT_S="60")) as site:
        assert site.zygotes.waits(site.fork)
        site.skipped = zygotes.PATIENCE_S + 1
        assert not site.zygotes.waits(site.fork) and site.zygotes.ready(site.fork) is None


async def test_one_that_is_killed_is_started_again(state: StateDir) -> None:
    async with keeping(state, started.fork()) as site:
        await site.ready()
        before = site.pid
        os.kill(before, signal.SIGKILL)
        await soon(lambda: "zygote.ended" in site.kinds())
        await site.ready()
        assert site.pid != before and site.kinds() == ["zygote.ready", "zygote.ended", "zygote.ready"]


async def test_one_that_dies_as_it_imports_is_tried_later_and_later_and_nobody_waits(state: StateDir) -> None:
    async with keeping(state, started.fork("there.is.none")) as site:
        await soon(lambda: site.kinds().count("zygote.ended") == 2)
        await soon(lambda: not site.zygotes.pids)
        assert not site.zygotes.waits(site.fork)


async def test_the_next_supervisor_adopts_it(state: StateDir) -> None:
    async with keeping(state, started.fork(), leave=True) as first:
        await first.ready()
        pid = first.pid
    async with keeping(state, started.fork()) as second:
        await second.ready()
        assert second.pid == pid and second.kinds() == ["zygote.adopted", "zygote.ready"]
        os.kill(pid, signal.SIGKILL)
        await soon(lambda: "zygote.ended" in second.kinds())
        await second.ready()


@pytest.mark.parametrize("changed", ["environment", "packages", "nothing is wanted"])
async def test_one_that_has_imported_something_else_is_not_adopted_but_ended(
    state: StateDir, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with keeping(state, started.fork(), leave=True) as first:
        await first.ready()
        pid = first.pid
    if changed == "packages":
        monkeypatch.setattr(fingerprint, "installed", lambda: "other ones")
    wanted = {"environment": [started.fork(MORE="1")], "packages": [started.fork()]}.get(changed, [])
    async with keeping(state, *wanted) as second:
        await soon(lambda: not _alive(pid))
        if wanted:
            await second.ready()
            assert pid not in second.zygotes.pids.values()


async def test_it_is_made_anew_when_what_is_installed_changes(
    state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with keeping(state, started.fork()) as site:
        await site.ready()
        before = site.pid
        monkeypatch.setattr(fingerprint, "installed", lambda: "other ones")
        assert site.zygotes.waits(site.fork) and site.zygotes.ready(site.fork) is None, "from that very moment on"
        await soon(lambda: site.zygotes.pids.get("zygote", before) != before)
        await site.ready()
        assert site.kinds().count("zygote.renewed") == 1


async def test_one_that_hangs_is_killed_and_left_alone_for_a_while(
    state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forked, "ANSWER_S", 0.1)
    async with keeping(state, started.fork()) as site:
        path, before = await site.ready(), site.pid
        driver = LocalDriver()
        driver.on_failed_fork = site.zygotes.failed
        os.kill(before, signal.SIGSTOP)
        handle = await asyncio.to_thread(driver.start, _spec(state, path), "title")
        assert proc.stat(handle.pid).parent == os.getpid()  # type: ignore[union-attr]
        await soon(lambda: site.kinds()[-2:] == ["zygote.ended", "zygote.ready"])
        assert "zygote.refused" in site.kinds() and site.pid != before
        assert site.zygotes.ready(site.fork) is None and not site.zygotes.waits(site.fork)
        site.skipped = 301
        assert site.zygotes.ready(site.fork) is not None
    await soon(lambda: not handle.destroy())
    assert handle.popen is not None
    handle.popen.wait()


async def test_one_that_cannot_be_forked_says_why(state: StateDir) -> None:
    async with keeping(state, started.fork(ZYGOTE_OBSTACLE="of itself")) as site:
        await soon(lambda: site.kinds() == ["zygote.obstacle"])
        assert not site.zygotes.waits(site.fork) and site.zygotes.ready(site.fork) is None
        assert site.zygotes.describe({})["processes"][0]["reason"] == "of itself"


async def test_switched_off_there_is_none_and_on_again_there_is(state: StateDir) -> None:
    async with keeping(state, started.fork()) as site:
        await site.ready()
        pid, site.mode = site.pid, "off"
        assert site.zygotes.ready(site.fork) is None
        await soon(lambda: not _alive(pid))
        assert site.zygotes.pids == {} and site.zygotes.describe({})["plain"] == "--zygote off"
        site.mode = "on"
        await site.ready()


async def test_why_there_is_none_is_said_once_to_who_asked_for_it(state: StateDir) -> None:
    async with keeping(state, "no engine for that") as site:
        await soon(lambda: site.zygotes.describe({})["plain"] == "no engine for that")
        assert site.said == [] and not site.zygotes.waits("no engine for that")
        site.mode = "on"
        await soon(lambda: bool(site.said))
        await asyncio.sleep(0.1)
        assert site.said == [("zygote.plain", "workers are started plainly: no engine for that")]


async def test_each_environment_has_its_own_and_one_that_nobody_wants_any_more_goes(state: StateDir) -> None:
    one, other = started.fork(), started.fork(MORE="1")
    async with keeping(state, one, other) as site:
        await soon(lambda: None not in (site.zygotes.ready(one), site.zygotes.ready(other)))
        assert site.zygotes.pids.keys() == {"zygote", "zygote-1"} == set(site.zygotes.logs)
        site.wanted.remove(one)
        site.skipped = 301
        await soon(lambda: len(site.zygotes.pids) == 1)
        assert site.zygotes.ready(other) is not None
        many = [started.fork(MORE=str(n)) for n in range(2, 9)]
        for fork in many:
            site.zygotes.waits(fork)
        assert len(site.zygotes.pids) == 3, "they take memory"


async def test_nothing_is_left_of_it(state: StateDir) -> None:
    async with keeping(state, started.fork(), leave=True) as site:
        await site.ready()
        pid = site.pid
    assert _alive(pid) and left(state).keys() == {"zygote"}
    await end_left(state)
    assert not _alive(pid) and left(state) == {}
    assert not list(state.runs.iterdir()) and not (state.root / "zygote.sock").exists()


def _alive(pid: int) -> bool:
    found = proc.stat(pid)
    return found is not None and found.alive


@pytest.mark.parametrize(
    ("mode", "fork", "why"),
    [
        ("off", started.fork(), "--zygote off"), ("auto", started.fork(), ""), ("on", started.fork(), ""),
        ("auto", started.fork(unless_asked="not yet"), "not yet (--zygote on)"),
        ("on", started.fork(unless_asked="not yet"), ""), ("on", "it cannot be", "it cannot be"),
    ],
)  # fmt: skip
def test_who_is_forked(mode: str, fork: Fork | str, why: str) -> None:
    assert reason_against(mode, fork) == why


@pytest.mark.parametrize(
    ("change", "plain"),
    [
        (lambda i: None, False), (lambda i: setattr(i, "failure", "not ready within 9 s"), True),
        (lambda i: i.last_exit.update(signal=None, code=1), True),
        (lambda i: i.last_exit.update(signal=None), False),
        (lambda i: (i.last_exit.update(signal=None, code=0), setattr(i, "ready_at", 5.0)), False),
        (lambda i: setattr(i, "history", History()), False), (lambda i: setattr(i, "last_exit", None), False),
    ],
)  # fmt: skip
def test_a_start_after_one_that_came_to_nothing_by_itself_is_plain(
    change: Callable[[Instance], None], plain: bool
) -> None:
    instance = Instance("instance_0", Slot(), history=History(early=1, restarts=1))
    instance.last_exit = {"signal": signal.SIGKILL, "code": None}
    change(instance)
    assert _failed_to_start(instance) is plain
