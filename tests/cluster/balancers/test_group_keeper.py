"""Several balancer processes kept as if they were one: what is made of their reports, and that they are kept."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.balancers.group import BalancerGroup
from cluster.balancers.listener import listen
from cluster.balancers.process import BalancerProcess
from cluster.balancers.standby import Standby, end_left
from cluster.models.record import ModelUse
from cluster.storage.store import Store
from config.link import Phase
from config.paths import StateDir
from config.topology import BackendSet, BalancerConfig
from worker.drivers import proc, run_file
from worker.drivers.process import spawn

pytestmark = pytest.mark.processes

Report = tuple[tuple[int, int], dict[str, int], dict[str, float]]


@dataclass
class Heard:
    """What the keeper says."""

    reports: list[Report] = field(default_factory=list)
    losses: int = 0
    told: list[tuple[str, str]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)

    def reported(
        self, version: tuple[int, int], counts: Mapping[str, int], used: Mapping[str, float],
        work: Mapping[str, float],
    ) -> None:
        self.reports.append((version, dict(counts), dict(used)))

    def lost(self) -> None:
        self.losses += 1

    def wanted(self, adapter: str) -> None:
        self.names.append(adapter)

    def wanted_model(self, model: str) -> None:
        self.models.append(model)

    def changed(self) -> None:
        """Asked for when it is looked at."""

    def outcome(self, message: Mapping[str, Any]) -> None:
        """Passed on as it is."""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "test.db")
    yield opened
    await opened.close()


def _keeper(folder: Path, store: Store, heard: Heard, processes: int = 3, **fields: Any) -> BalancerGroup:
    state = StateDir(folder / "state")
    state.create()
    config = BalancerConfig(-1, str(state.root), "127.0.0.1", 1, 5, processes=processes)
    return BalancerGroup(
        state, config, store, heard, lambda who, what, **_: heard.told.append((who, what)), **fields,
    )


def _with_processes(folder: Path, store: Store, heard: Heard) -> BalancerGroup:
    """Three that are there, as far as the keeper can tell."""
    keeper = _keeper(folder, store, heard)
    for order, slot in enumerate(keeper.slots):
        process = BalancerProcess(f"lb-{order}", slot.name, order, keeper, StateDir(folder / "state"), store)
        process.phase = Phase.SERVING
        slot.line.append(process)
        keeper.processes.append(process)
    return keeper


def _report(keeper: BalancerGroup, number: int, version: tuple[int, int], **in_flight: int) -> None:
    """What `BalancerProcess._talk` does with one."""
    process = keeper.processes[number]
    process.engaged, process.version, process.in_flight = True, version, in_flight
    keeper.on_message(process, {"type": "report", "used": {"poet": float(number)}})


def _die(keeper: BalancerGroup, number: int) -> None:
    process = keeper.processes[number]
    process.over, process.engaged, process.version = True, False, (0, 0)
    keeper.ended(process, -9)


def test_names_of_the_first_are_those_of_a_balancer_that_is_alone(tmp_path: Path, store: Store) -> None:
    keeper = _keeper(tmp_path, store, Heard())
    assert [slot.name for slot in keeper.slots] == ["balancer", "balancer-1", "balancer-2"]


async def test_confirmed_is_what_the_slowest_has_and_in_flight_is_the_sum(tmp_path: Path, store: Store) -> None:
    heard = Heard()
    keeper = _with_processes(tmp_path, store, heard)
    assert not keeper.connected
    _report(keeper, 0, (1, 7), instance_0=2, instance_1=1)
    assert keeper.connected
    _report(keeper, 1, (1, 5), instance_0=3)
    _report(keeper, 1, (1, 7), instance_0=1)
    assert heard.reports == [
        ((1, 7), {"instance_0": 2, "instance_1": 1}, {"poet": 0.0}),
        ((1, 5), {"instance_0": 5, "instance_1": 1}, {"poet": 1.0}),
        ((1, 7), {"instance_0": 3, "instance_1": 1}, {"poet": 1.0}),
    ]


async def test_what_waits_for_a_first_byte_is_added_and_the_largest_of_all_counts(tmp_path: Path, store: Store) -> None:
    keeper = _with_processes(tmp_path, store, Heard())
    assert keeper.load("instance_0") == (0, 0, 0)
    _report(keeper, 0, (1, 7), instance_0=2, instance_1=1)
    _report(keeper, 1, (1, 7), instance_0=3)
    keeper.processes[0].waiting = {"instance_0": (1, 900), "instance_1": (1, 5)}
    keeper.processes[1].waiting = {"instance_0": (2, 100)}
    assert keeper.load("instance_0") == (5, 3, 900)
    assert keeper.load("instance_1") == (1, 1, 5)
    keeper.processes[0].engaged = False
    assert keeper.load("instance_0") == (3, 2, 100)


async def test_one_that_was_adopted_and_has_said_nothing_has_confirmed_nothing(tmp_path: Path, store: Store) -> None:
    heard = Heard()
    keeper = _with_processes(tmp_path, store, heard)
    keeper.processes[1].engaged = True
    _report(keeper, 0, (2, 1))
    assert heard.reports[-1][0] == (0, 0)


async def test_when_one_dies_only_its_own_requests_are_over(tmp_path: Path, store: Store) -> None:
    heard = Heard()
    keeper = _with_processes(tmp_path, store, heard)
    _report(keeper, 0, (1, 2), instance_0=2)
    _report(keeper, 1, (1, 1), instance_0=5)
    _die(keeper, 1)
    assert (heard.reports[-1], heard.losses) == (((1, 2), {"instance_0": 2}, {}), 0)
    _die(keeper, 0)
    assert (len(heard.reports), heard.losses) == (3, 1)


async def test_that_limits_are_not_shared_is_said_once_for_all(tmp_path: Path, store: Store) -> None:
    heard = Heard()
    keeper = _with_processes(tmp_path, store, heard)
    first, second, third = keeper.processes

    def tells(process: BalancerProcess, reason: str) -> None:
        limits = {"store": "redis://h:1", "shared": not reason, "reason": reason}
        keeper.on_message(process, {"type": "limits", "limits": limits})

    for process, reason in ((first, ""), (first, "away"), (second, "away"), (first, "away"), (second, "")):
        tells(process, reason)
    assert heard.told == [("redis://h:1", "away; keys' limits hold on this machine by itself")]
    _die(keeper, 0)
    tells(third, "")
    assert heard.told[-1] == ("redis://h:1", "answers: keys' limits are shared again")
    assert len([who for who, _ in heard.told if who == "redis://h:1"]) == 2


async def test_each_may_want_an_adapter(tmp_path: Path, store: Store) -> None:
    heard = Heard()
    keeper = _with_processes(tmp_path, store, heard)
    for process in keeper.processes:
        keeper.on_message(process, {"type": "want", "adapter": process.slot})
    keeper.on_message(keeper.processes[0], {"type": "hello", "pid": 1})
    assert heard.names == ["balancer", "balancer-1", "balancer-2"]


async def test_what_is_said_of_models_is_added_up(tmp_path: Path, store: Store) -> None:
    heard = Heard()
    keeper = _with_processes(tmp_path, store, heard)
    for number, models in enumerate([{"a": [1, 2, 3.5, 100.0]}, {"a": [2, 0, 0.0, 200.0], "b": [0, 0, 0.0, 0]}]):
        _report(keeper, number, (1, 7))
        keeper.processes[number].models = models
    assert keeper.models() == {"a": ModelUse(3, 2, 3.5, 200.0), "b": ModelUse(0, 0, 0.0, None)}
    keeper.on_message(keeper.processes[0], {"type": "want", "model": "a"})
    assert (heard.models, heard.names) == (["a"], [])


# real processes


async def _until(condition: Callable[[], Any], what: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.02)


def _confirmed(heard: Heard, version: tuple[int, int]) -> bool:
    return bool(heard.reports) and heard.reports[-1][0] == version


def _pid(keeper: BalancerGroup, number: int) -> int | None:
    process = keeper.slots[number].current
    return process.pid if process else None


async def test_they_share_the_socket_are_replaced_adopted_and_ended(tmp_path: Path, store: Store) -> None:
    async with AsyncExitStack() as exits:
        heard = Heard()
        keeper = _keeper(tmp_path, store, heard, processes=2)
        root = tmp_path / "state"
        (root / "lb-900.sock").touch()  # of a cluster that was killed
        keeper.starter.listeners.http = listen("127.0.0.1", 0)
        port = keeper.starter.listeners.http.getsockname()[1]
        keeper.feed.publish(BackendSet(epoch=1, revision=1, strategy="random").to_json(), {"sequence": [1, 1]})
        keeper.start()
        exits.push_async_callback(keeper.stop, 5.0)
        await _until(lambda: all(p.engaged for p in keeper.processes) and _confirmed(heard, (1, 1)), "both are told")
        first, second = keeper.processes
        links = {p.link for p in keeper.processes}
        assert {path.name for path in root.glob("lb-*.sock")} == {link.name for link in links if link}
        assert sorted(path.name for path in root.glob("counters*")) == ["counters-1.bin", "counters.bin"]

        kept, victim, link = first.pid, second.pid, second.link
        assert victim is not None and link is not None
        os.kill(victim, signal.SIGKILL)
        await _until(lambda: _pid(keeper, 1) not in (None, victim) and keeper.processes[1].engaged, "it is replaced")
        assert (_pid(keeper, 0), keeper.describe()["restarts"], heard.losses) == (kept, 1, 0)
        assert heard.told[0][0] == "balancer-1" and "signal 9" in heard.told[0][1]
        assert keeper.describe()["ends"] == {"signal 9": 1}
        assert first.link is not None and first.link.exists() and not link.exists()
        keeper.feed.publish(BackendSet(epoch=1, revision=2, strategy="random").to_json())
        await _until(lambda: _confirmed(heard, (1, 2)), "the new one has it too")
        assert len(list(root.glob("counters*"))) == 2

        await keeper.close()
        pids = [_pid(keeper, 0), _pid(keeper, 1)]
        assert keeper.starter.listeners.http is not None
        keeper.starter.listeners.http.close()
        os.kill(pids[0] or 0, signal.SIGKILL)  # nobody looks
        await _until(lambda: proc.stat(pids[0] or 0) is None or not proc.stat(pids[0] or 0).alive, "it is gone")

        heard = Heard()
        keeper = _keeper(tmp_path, store, heard, processes=2)
        assert await keeper.adopt()
        exits.push_async_callback(keeper.stop, 5.0)
        listener = keeper.starter.listeners.http
        assert isinstance(listener, socket.socket) and listener.getsockname()[1] == port
        assert [_pid(keeper, 0), _pid(keeper, 1)] == [None, pids[1]]
        keeper.feed.publish(BackendSet(epoch=2, revision=1, strategy="random").to_json(), {"sequence": [2, 1]})
        keeper.start()
        await _until(
            lambda: len(keeper.processes) == 2 and all(p.engaged for p in keeper.processes)
            and _confirmed(heard, (2, 1)), "one adopted, one new",
        )  # fmt: skip
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://127.0.0.1:{port}/health")).status_code == 503  # no worker

        pids = [p.pid for p in keeper.processes]
        await keeper.stop(5.0)
        assert not [p for p in proc.processes() if p.pid in pids and p.alive]
        assert await store.processes() == {}
        assert list(root.glob("lb-*")) == []


async def test_none_is_adopted_where_none_runs(tmp_path: Path, store: Store) -> None:
    keeper = _keeper(tmp_path, store, Heard())
    await store.save_process("balancer-1", {"process": None, "link": "x", "run_file": "x"})
    assert await keeper.adopt() is False
    await keeper.stop(1.0)


@pytest.mark.parametrize(("order", "unfinished"), [(2, True), (0, False)])
async def test_a_replacement_that_was_written_down_and_never_started_is_noticed(
    tmp_path: Path, store: Store, order: int, unfinished: bool
) -> None:
    """The supervisor is killed between the two; what is older than the one that serves had its end before."""
    keeper = _keeper(tmp_path, store, Heard(), processes=1)
    keeper.starter.listeners.http = listen("127.0.0.1", 0)
    keeper.start()
    await _serving(keeper, 1)
    assert keeper.slots[0].line[0].order == 1
    await keeper.close()
    keeper.starter.listeners.http.close()
    state = StateDir(tmp_path / "state")
    record = {"process": None, "slot": "balancer", "order": order, "link": "x", "run_file": str(state.runs / "lb-77")}
    run_file.prepare(state.runs / "lb-77", {"record": record})  # on a full disk this is all there is

    keeper = _keeper(tmp_path, store, Heard(), processes=1)
    try:
        assert await keeper.adopt()
        assert keeper.unfinished is unfinished
        assert not (state.runs / "lb-77").exists()
        keeper.start()
    finally:
        await keeper.stop(5.0)


async def _serving(keeper: BalancerGroup, count: int) -> None:
    await _until(
        lambda: [bool(slot.current and slot.current.phase is Phase.SERVING) for slot in keeper.slots] == [True] * count,
        f"{count} serve",
    )  # fmt: skip


async def test_a_replacement_is_adopted_in_the_middle_and_resized(tmp_path: Path, store: Store) -> None:
    """An idle client keeps the old one; the new one has other settings; the next supervisor finds both."""
    async with AsyncExitStack() as exits:
        heard = Heard()
        keeper = _keeper(tmp_path, store, heard, processes=1)
        keeper.starter.listeners.http = listen("127.0.0.1", 0)
        port = keeper.starter.listeners.http.getsockname()[1]
        keeper.feed.publish(BackendSet(epoch=1, revision=1, strategy="random").to_json(), {"sequence": [1, 1]})
        keeper.start()
        exits.push_async_callback(keeper.stop, 5.0)
        await _serving(keeper, 1)
        old = _pid(keeper, 0)
        client = await exits.enter_async_context(httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}"))
        assert (await client.get("/health")).status_code == 503  # no worker
        await keeper.replacements.replace(replace(keeper.config, max_connections=77))
        new = _pid(keeper, 0)
        said = keeper.describe()
        assert new not in (None, old)
        assert (said["replacements"], said["restarts"], said["replacing"], said["failure"]) == (1, 0, False, "")
        assert [process["pid"] for process in said["draining"]] == [old]
        assert ("balancer", f"replaced: pid {old} -> pid {new}; 0 requests finish on the old one") in heard.told
        assert '"max_connections": 77' in (tmp_path / "state" / "balancer.json").read_text()
        await keeper.close()

        heard = Heard()
        keeper = _keeper(tmp_path, store, heard, processes=1)
        assert await keeper.adopt()
        exits.push_async_callback(keeper.stop, 5.0)
        keeper.feed.publish(BackendSet(epoch=2, revision=1, strategy="random").to_json(), {"sequence": [2, 1]})
        keeper.start()
        assert (_pid(keeper, 0), [p["pid"] for p in keeper.describe()["draining"]]) == (new, [old])
        await _until(lambda: _confirmed(heard, (2, 1)), "the old one is told as well")
        answer = await client.get("/health")
        assert (answer.status_code, answer.headers["Connection"]) == (503, "close")
        await _until(lambda: keeper.describe()["draining"] == [], "its last connection is gone")
        assert ("balancer", f"pid {old}, which was replaced, has finished") in heard.told
        assert heard.losses == 0

        await keeper.replacements.replace(replace(keeper.config, processes=2))
        await _serving(keeper, 2)
        await keeper.replacements.replace(replace(keeper.config, processes=1))
        await _until(lambda: len(keeper.processes) == 1, "the second is gone")
        assert [slot.name for slot in keeper.slots] == ["balancer"]
        assert keeper.describe()["lost_requests"] == 0
        await keeper.stop(5.0)
        assert await store.processes() == {}


async def test_a_standby_takes_the_place_of_one_that_dies(tmp_path: Path, store: Store) -> None:
    async with AsyncExitStack() as exits:
        heard = Heard()
        keeper = _keeper(tmp_path, store, heard, processes=1, standby=True)
        keeper.starter.listeners.http = listen("127.0.0.1", 0)
        keeper.feed.publish(BackendSet(epoch=1, revision=1, strategy="random").to_json(), {"sequence": [1, 1]})
        keeper.start()
        exits.push_async_callback(keeper.stop, 5.0)
        await _until(lambda: keeper.starter.standby.pid, "there is one")
        standby = keeper.starter.standby.pid
        os.kill(_pid(keeper, 0) or 0, signal.SIGKILL)
        await _until(lambda: _pid(keeper, 0) == standby, "it is the balancer now")
        await _serving(keeper, 1)
        await _until(lambda: keeper.starter.standby.pid not in (None, standby), "there is another")
        assert len(await store.processes()) == 2
        await keeper.replacements.replace()
        assert _pid(keeper, 0) != standby  # replaced by one that has imported what is installed now
        await keeper.stop(5.0)
        assert await store.processes() == {}
        assert list((tmp_path / "state" / "run").iterdir()) == []


async def _killed(keeper: BalancerGroup, victims: list[int | None]) -> None:
    """Returns when the keeper knows."""
    for victim in victims:
        os.kill(victim or 0, signal.SIGKILL)
    known = {*victims}
    standby = keeper.starter.standby
    await _until(
        lambda: not known & {_pid(keeper, 0), _pid(keeper, 1), standby.pid}, f"the end of {victims} is noticed"
    )


async def _answers(port: int) -> None:
    async with httpx.AsyncClient(timeout=20) as client:
        await client.get(f"http://127.0.0.1:{port}/health")


async def test_killed_again_and_again_it_is_always_back_at_once(tmp_path: Path, store: Store) -> None:
    """Faster than a standby gets ready, together with the standby, and the standby alone: nobody is ever made to wait
    for more than the start of a process."""
    async with AsyncExitStack() as exits:
        heard = Heard()
        keeper = _keeper(tmp_path, store, heard, processes=2, standby=True)
        keeper.starter.listeners.http = listen("127.0.0.1", 0)
        port = keeper.starter.listeners.http.getsockname()[1]
        keeper.feed.publish(BackendSet(epoch=1, revision=1, strategy="random").to_json(), {"sequence": [1, 1]})
        keeper.start()
        exits.push_async_callback(keeper.stop, 5.0)
        await _serving(keeper, 2)
        for _ in range(4):
            await _killed(keeper, [_pid(keeper, 0), _pid(keeper, 1)])
            await _serving(keeper, 2)
        assert {said.split("; ")[1] for who, said in heard.told if "ended" in said} == {"restart at once"}

        await _until(lambda: keeper.starter.standby.pid, "there is a standby")
        await _killed(keeper, [keeper.starter.standby.pid])
        await _until(lambda: keeper.starter.standby.pid, "and another when it is killed")
        spare = keeper.starter.standby.pid
        await _killed(keeper, [_pid(keeper, 0), _pid(keeper, 1), spare])
        await _answers(port)
        await _serving(keeper, 2)
        await _until(lambda: keeper.starter.standby.pid, "there is a standby again")
        # A standby that is dying already may be given a place: it looks alive for a moment. Its end is one more then.
        ended = [said for who, said in heard.told if who != "standby" and "signal" in said]
        assert {said.split("; ")[1] for said in ended} == {"restart at once"}
        given_a_place = any(said.startswith(f"pid {spare} ended") for said in ended)
        assert keeper.describe()["restarts"] == len(ended) == 10 + given_a_place, "\n".join(map(str, heard.told))


async def test_a_standby_waits_for_none_but_a_balancer_that_is_being_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is started, by a clock that each rest moves on; what becomes of each is played."""
    busy, rests, lives = False, [], []  # type: ignore[var-annotated]
    standby = Standby(StateDir(tmp_path), None, tuple, lambda: busy, lambda *_, **__: None, lambda: None)  # type: ignore[arg-type]
    ended: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    async def one() -> str | None:
        nonlocal ended
        lives.append(len(lives))
        ended = asyncio.get_running_loop().create_future()
        return await ended

    async def sleep(seconds: float) -> None:
        rests.append(seconds)
        await real(0)

    real = asyncio.sleep
    monkeypatch.setattr(standby, "_one", one)
    monkeypatch.setattr("cluster.balancers.standby.asyncio.sleep", sleep)

    async def reached(count: int) -> None:
        for _ in range(50):
            await real(0)
        assert len(lives) == count

    standby.start()
    await reached(1)
    assert rests == [1.0]  # what starts with the cluster comes first
    ended.set_result(None)  # taken
    busy = True
    await reached(1)
    busy = False
    standby.look()
    await reached(2)
    assert rests == [1.0, 0.0]
    for count in range(3, 7):
        ended.set_result("killed")
        await reached(count)
    assert rests[2:] == [0.0, 1.0, 2.0, 4.0]  # the first at once
    standby.failures = 0  # one has come to serve
    ended.set_result(None)
    await reached(7)
    assert rests[-1] == 0.0
    standby.failures = 3  # three who took a place have died before they served
    ended.set_result(None)
    await reached(8)
    assert rests[-1] == 2.0
    await standby.close()


async def test_a_full_disk_does_not_keep_a_standby_from_its_place(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as exits:
        heard = Heard()
        keeper = _keeper(tmp_path, store, heard, processes=1, standby=True)
        keeper.starter.listeners.http = listen("127.0.0.1", 0)
        keeper.feed.publish(BackendSet(epoch=1, revision=1, strategy="random").to_json(), {"sequence": [1, 1]})
        keeper.start()
        exits.push_async_callback(keeper.stop, 5.0)
        await _until(lambda: keeper.starter.standby.pid, "there is one")
        standby = keeper.starter.standby.pid

        async def full(*_: Any) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(Store, "save_process", full)
            patched.setattr(Store, "next_number", full)
            os.kill(_pid(keeper, 0) or 0, signal.SIGKILL)
            await _until(lambda: _pid(keeper, 0) == standby, "it is the balancer now")
            await _serving(keeper, 1)
        name = keeper.processes[0].name
        for _ in range(1000):  # and it is written down when there is room again
            if "link" in (await store.processes())[name]:
                break
            await asyncio.sleep(0.02)
        assert (await store.processes())[name]["slot"] == "balancer"


async def test_a_standby_of_a_dead_supervisor_is_ended_and_counts_for_nothing(tmp_path: Path, store: Store) -> None:
    keeper = _keeper(tmp_path, store, Heard(), processes=1)
    process = spawn(
        ("sleep", "600"), env=dict(os.environ), cwd=tmp_path, log=tmp_path / "log", run_file=tmp_path / "run",
    )  # fmt: skip
    record = {"standby": True, "process": asdict(process.process), "run_file": str(tmp_path / "run")}
    await store.save_process("lb-3", record)
    assert await keeper.adopt() is False
    await end_left(StateDir(tmp_path / "state"), store)
    assert await store.processes() == {}
    assert not proc.alive(process.process)
