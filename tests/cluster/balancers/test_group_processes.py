"""Several balancer processes share a socket, are replaced, adopted and ended."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from balancergroups import Heard, group_of, pid_of, serving
from cluster.balancers.listener import listen
from cluster.storage.store import Store
from config.paths import StateDir
from config.topology import BackendSet
from fakes import soon
from worker.drivers import proc, run_file

pytestmark = pytest.mark.processes


def _confirmed(heard: Heard, version: tuple[int, int]) -> bool:
    return bool(heard.reports) and heard.reports[-1][0] == version


async def test_they_share_the_socket_are_replaced_adopted_and_ended(tmp_path: Path, store: Store) -> None:
    async with AsyncExitStack() as exits:
        heard = Heard()
        keeper = group_of(tmp_path, store, heard, processes=2)
        root = tmp_path / "state"
        (root / "lb-900.sock").touch()  # of a cluster that was killed
        keeper.starter.listeners.http = listen("127.0.0.1", 0)
        port = keeper.starter.listeners.http.getsockname()[1]
        keeper.feed.publish(BackendSet(epoch=1, revision=1, strategy="random").to_json(), {"sequence": [1, 1]})
        keeper.start()
        exits.push_async_callback(keeper.stop, 5.0)
        await soon(lambda: all(p.engaged for p in keeper.processes) and _confirmed(heard, (1, 1)), "both are told")
        first, second = keeper.processes
        links = {p.link for p in keeper.processes}
        assert {path.name for path in root.glob("lb-*.sock")} == {link.name for link in links if link}
        assert sorted(path.name for path in root.glob("counters*")) == ["counters-1.bin", "counters.bin"]

        kept, victim, link = first.pid, second.pid, second.link
        assert victim is not None and link is not None
        os.kill(victim, signal.SIGKILL)
        await soon(lambda: pid_of(keeper, 1) not in (None, victim) and keeper.processes[1].engaged, "it is replaced")
        assert (pid_of(keeper, 0), keeper.describe()["restarts"], heard.losses) == (kept, 1, 0)
        assert heard.told[0][0] == "balancer-1" and "signal 9" in heard.told[0][1]
        await soon(lambda: keeper.describe()["ends"] == {"signal 9": 1}, "its end is counted")
        assert first.link is not None and first.link.exists() and not link.exists()
        keeper.feed.publish(BackendSet(epoch=1, revision=2, strategy="random").to_json())
        await soon(lambda: _confirmed(heard, (1, 2)), "the new one has it too")
        assert len(list(root.glob("counters*"))) == 2

        await keeper.close()
        pids = [pid_of(keeper, 0), pid_of(keeper, 1)]
        assert keeper.starter.listeners.http is not None
        keeper.starter.listeners.http.close()
        os.kill(pids[0] or 0, signal.SIGKILL)  # nobody looks
        await soon(lambda: proc.stat(pids[0] or 0) is None or not proc.stat(pids[0] or 0).alive, "it is gone")

        heard = Heard()
        keeper = group_of(tmp_path, store, heard, processes=2)
        assert await keeper.adopt()
        exits.push_async_callback(keeper.stop, 5.0)
        listener = keeper.starter.listeners.http
        assert isinstance(listener, socket.socket) and listener.getsockname()[1] == port
        assert [pid_of(keeper, 0), pid_of(keeper, 1)] == [None, pids[1]]
        keeper.feed.publish(BackendSet(epoch=2, revision=1, strategy="random").to_json(), {"sequence": [2, 1]})
        keeper.start()
        await soon(
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
    keeper = group_of(tmp_path, store, Heard())
    await store.save_process("balancer-1", {"process": None, "link": "x", "run_file": "x"})
    assert await keeper.adopt() is False
    await keeper.stop(1.0)


@pytest.mark.parametrize(("order", "unfinished"), [(2, True), (0, False)])
async def test_a_replacement_that_was_written_down_and_never_started_is_noticed(
    tmp_path: Path, store: Store, order: int, unfinished: bool
) -> None:
    """The supervisor is killed between the two; what is older than the one that serves had its end before."""
    keeper = group_of(tmp_path, store, Heard(), processes=1)
    keeper.starter.listeners.http = listen("127.0.0.1", 0)
    keeper.start()
    await serving(keeper, 1)
    assert keeper.slots[0].line[0].order == 1
    await keeper.close()
    keeper.starter.listeners.http.close()
    state = StateDir(tmp_path / "state")
    record = {"process": None, "slot": "balancer", "order": order, "link": "x", "run_file": str(state.runs / "lb-77")}
    run_file.prepare(state.runs / "lb-77", {"record": record})  # on a full disk this is all there is

    keeper = group_of(tmp_path, store, Heard(), processes=1)
    try:
        assert await keeper.adopt()
        assert keeper.unfinished is unfinished
        assert not (state.runs / "lb-77").exists()
        keeper.start()
    finally:
        await keeper.stop(5.0)


async def test_a_replacement_is_adopted_in_the_middle_and_resized(tmp_path: Path, store: Store) -> None:
    """An idle client keeps the old one; the new one has other settings; the next supervisor finds both."""
    async with AsyncExitStack() as exits:
        heard = Heard()
        keeper = group_of(tmp_path, store, heard, processes=1)
        keeper.starter.listeners.http = listen("127.0.0.1", 0)
        port = keeper.starter.listeners.http.getsockname()[1]
        keeper.feed.publish(BackendSet(epoch=1, revision=1, strategy="random").to_json(), {"sequence": [1, 1]})
        keeper.start()
        exits.push_async_callback(keeper.stop, 5.0)
        await serving(keeper, 1)
        old = pid_of(keeper, 0)
        client = await exits.enter_async_context(httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}"))
        assert (await client.get("/health")).status_code == 503  # no worker
        await keeper.replacements.replace(replace(keeper.config, max_connections=77))
        new = pid_of(keeper, 0)
        said = keeper.describe()
        assert new not in (None, old)
        assert (said["replacements"], said["restarts"], said["replacing"], said["failure"]) == (1, 0, False, "")
        assert [process["pid"] for process in said["draining"]] == [old]
        assert ("balancer", f"replaced: pid {old} -> pid {new}; 0 requests finish on the old one") in heard.told
        assert '"max_connections": 77' in (tmp_path / "state" / "balancer.json").read_text()
        await keeper.close()

        heard = Heard()
        keeper = group_of(tmp_path, store, heard, processes=1)
        assert await keeper.adopt()
        exits.push_async_callback(keeper.stop, 5.0)
        keeper.feed.publish(BackendSet(epoch=2, revision=1, strategy="random").to_json(), {"sequence": [2, 1]})
        keeper.start()
        assert (pid_of(keeper, 0), [p["pid"] for p in keeper.describe()["draining"]]) == (new, [old])
        await soon(lambda: _confirmed(heard, (2, 1)), "the old one is told as well")
        answer = await client.get("/health")
        assert (answer.status_code, answer.headers["Connection"]) == (503, "close")
        await soon(lambda: keeper.describe()["draining"] == [], "its last connection is gone")
        assert ("balancer", f"pid {old}, which was replaced, has finished") in heard.told
        assert heard.losses == 0

        await keeper.replacements.replace(replace(keeper.config, processes=2))
        await serving(keeper, 2)
        await keeper.replacements.replace(replace(keeper.config, processes=1))
        await soon(lambda: len(keeper.processes) == 1, "the second is gone")
        assert [slot.name for slot in keeper.slots] == ["balancer"]
        assert keeper.describe()["lost_requests"] == 0
        await keeper.stop(5.0)
        assert await store.processes() == {}
