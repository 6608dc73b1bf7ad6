"""The balancer replaced, killed, adopted: what its clients notice of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from harness import Cluster, free_port, kill, poll
from keepalive import Answer, KeepAlive, Load
from worker.drivers import proc

LONG = {"model": "demo", "prompt": "once", "max_tokens": 100, "stream": True, "ignore_eos": True}

#: What a supervisor tells of a balancer that it has replaced.
FINISHING = " requests finish on the old one"


@pytest.fixture
def slow(cluster: Cluster) -> Cluster:
    """Two workers whose streams take their time."""
    return _up(cluster)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """As `slow`, for tests that leave a supervisor and one balancer, whichever processes these are by then."""
    cluster = Cluster(tmp_path_factory.mktemp("handover"), free_port())
    try:
        yield _up(cluster)
    finally:
        cluster.close()


def _up(cluster: Cluster, *flags: str) -> Cluster:
    result = cluster.up(
        "--engine", "sim", "--instances", "2", *flags, "--", "--ttft-ms", "1", "--itl-ms", "50",
        "--max-num-seqs", "256",
    )
    assert result.returncode == 0, result.stderr
    cluster.wait_ready(2)
    return cluster


def _balancer(cluster: Cluster) -> dict[str, Any]:
    found: dict[str, Any] = cluster.status()["load_balancer"]
    return found


def _pids(balancer: dict[str, Any]) -> list[int]:
    return [process["pid"] for process in balancer["processes"]]


def _gone(pid: int) -> bool:
    """A zombie is one: whoever inherits it collects it in his own time."""
    found = proc.stat(pid)
    return found is None or not found.alive


def _replace(cluster: Cluster) -> None:
    """Returns when other processes take the connections."""
    before = _pids(_balancer(cluster))
    assert cluster.post("/v1/cluster/restart", {"instance_id": "lb"}).status_code == 202
    poll(lambda: _replaced(cluster, before), 30, f"another one takes the place of {before}")


def _replaced(cluster: Cluster, before: list[int]) -> bool:
    balancer = _balancer(cluster)
    assert not balancer["failure"], balancer
    return not balancer["replacing"] and not set(before) & set(_pids(balancer))


def _standby(cluster: Cluster) -> dict[str, Any]:
    """The balancer once there is a standby."""
    return poll(lambda: (b if (b := _balancer(cluster))["standby"] else None), 20, "a standby")


async def _replacements(cluster: Cluster, count: int) -> None:
    async with Load(cluster.port) as load:
        for _ in range(count):
            await asyncio.to_thread(_replace, cluster)
    assert load.wrong == []
    assert load.right["plain"] > count and load.right["stream"] >= load.streams
    await asyncio.to_thread(poll, lambda: _balancer(cluster)["draining"] == [], 20, "the old ones finish")
    status = cluster.wait_ready(2)
    balancer = status["load_balancer"]
    assert balancer["replacements"] == count * len(balancer["processes"])
    assert (balancer["restarts"], balancer["lost_requests"], balancer["in_flight"]) == (0, 0, 0)
    assert sum(i["requests_total"] for i in status["instances"].values()) == load.right.total()
    assert sum(i["errors_total"] for i in status["instances"].values()) == 0
    told = cluster.log("supervisor")
    assert told.count(FINISHING) == balancer["replacements"]
    assert told.count("which was replaced, has finished") == balancer["replacements"]
    assert len(list(cluster.state_dir.glob("lb-*.sock"))) == len(balancer["processes"])


async def test_a_dozen_replacements_under_load_fail_nothing(slow: Cluster) -> None:
    await _replacements(slow, 12)


async def test_several_processes_are_replaced_one_after_the_other(cluster: Cluster) -> None:
    await _replacements(_up(cluster, "--lb-processes", "2"), 2)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_hundred_replacements_under_load_fail_nothing(slow: Cluster) -> None:
    await _replacements(slow, 100)


@pytest.mark.alone
async def test_what_began_before_a_replacement_ends_after_it(slow: Cluster) -> None:
    """A stream that outlasts it, and a connection that is idle meanwhile: its next request is answered, and told that
    it was the last one. Both count while a worker is drained, although nobody new comes to the old process."""
    idle, streaming = KeepAlive(slow.port), KeepAlive(slow.port)
    assert not (await idle.ask("GET", "/health")).closes
    old = _balancer(slow)["pid"]
    stream = asyncio.ensure_future(streaming.ask("POST", "/v1/completions", {**LONG, "max_tokens": 160}))
    other = asyncio.ensure_future(KeepAlive(slow.port).ask("POST", "/v1/completions", {**LONG, "max_tokens": 160}))
    await asyncio.to_thread(poll, lambda: _balancer(slow)["in_flight"] == 2, 5, "both run")
    assert (await asyncio.to_thread(slow.run, "restart", "lb")).returncode == 0

    def draining() -> dict[str, Any] | None:
        balancer = _balancer(slow)
        return balancer if [p["in_flight"] for p in balancer["draining"]] == [2] else None

    balancer = await asyncio.to_thread(poll, draining, 5, "the old one says what it has")
    assert [p["pid"] for p in balancer["draining"]] == [old]
    assert balancer["in_flight"] == 2  # as the new one sees it
    assert (await asyncio.to_thread(slow.run, "scale", "1", "--no-wait")).returncode == 0
    await asyncio.to_thread(poll, lambda: slow.instance("instance_1")["state"] == "draining", 5)

    last = await idle.ask("POST", "/v1/completions", {"model": "demo", "prompt": "hi", "max_tokens": 1})
    assert (last.status, last.closes, idle.opened) == (200, True, 1)
    assert (await idle.ask("GET", "/health")).status == 200
    assert idle.opened == 2
    for answer in (await stream, await other):
        assert answer.status == 200 and answer.body.endswith(b"data: [DONE]\n\n"), answer.body[-300:]
    streaming.close()
    await asyncio.to_thread(poll, lambda: _gone(old), 10, "the old one has ended")
    told, new = slow.log("supervisor"), _pids(balancer)[0]
    assert f"pid {old}, which was replaced, has finished" in told
    assert f"replaced: pid {old} -> pid {new}; 2 requests finish on the old one" in told
    slow.wait_ready(1)


async def test_what_outlasts_the_drain_timeout_on_the_old_one_is_ended_with_a_word(cluster: Cluster) -> None:
    slow = _up(cluster, "--drain-timeout", "1")
    client = KeepAlive(slow.port)
    stream = asyncio.ensure_future(client.ask("POST", "/v1/completions", {**LONG, "max_tokens": 2000}))
    await asyncio.to_thread(poll, lambda: _balancer(slow)["in_flight"] == 1, 5)
    await asyncio.to_thread(_replace, slow)
    with pytest.raises(asyncio.IncompleteReadError):
        await stream
    await asyncio.to_thread(poll, lambda: _balancer(slow)["draining"] == [], 10)


async def _connect(port: int) -> tuple[float, Answer]:
    began = time.monotonic()
    client = KeepAlive(port)
    answer = await client.ask("GET", "/health")
    client.close()
    return time.monotonic() - began, answer


@pytest.mark.alone
async def test_connections_made_after_sigkill_wait_and_are_answered(slow: Cluster) -> None:
    waited = []
    for _ in range(3):
        balancer = await asyncio.to_thread(_standby, slow)
        kill(balancer["pid"])
        answers = await asyncio.gather(*(_connect(slow.port) for _ in range(50)))
        assert {answer.status for _, answer in answers} == {200}
        waited.append(max(seconds for seconds, _ in answers))
        assert _pids(_balancer(slow)) == [balancer["standby"]]
    print("answered after", [f"{seconds:.3f} s" for seconds in waited])
    assert sorted(waited)[1] < 1.0, waited
    assert _balancer(slow)["restarts"] == 3


@pytest.mark.alone
async def test_killed_every_second_and_a_half_it_is_back_as_soon_the_last_time_as_the_first(slow: Cluster) -> None:
    """Whether a standby is ready by then or imports still is the machine's; what has been before counts for nothing."""
    await asyncio.to_thread(_standby, slow)
    waited = []
    for _ in range(8):
        began = time.monotonic()
        kill((await asyncio.to_thread(_balancer, slow))["pid"])
        _, answer = await _connect(slow.port)
        assert answer.status == 200
        waited.append(time.monotonic() - began)
        await asyncio.sleep(max(0.0, began + 1.5 - time.monotonic()))
    print("answered after", [f"{seconds:.3f} s" for seconds in waited])
    assert sorted(waited)[4] < 1.0 and max(waited) < 3.0, waited
    assert slow.log("supervisor").count("; restart at once") == _balancer(slow)["restarts"] == 8


async def test_what_a_killed_balancer_had_is_counted(shared: Cluster) -> None:
    streams = [asyncio.ensure_future(KeepAlive(shared.port).ask("POST", "/v1/completions", LONG)) for _ in range(3)]
    await asyncio.to_thread(poll, lambda: _balancer(shared)["processes"][0]["in_flight"] == 3, 5, "this is reported")
    before = _balancer(shared)
    kill(before["pid"])
    for stream in streams:
        with pytest.raises((OSError, EOFError)):
            await stream
    await asyncio.to_thread(poll, lambda: _balancer(shared)["restarts"] > before["restarts"], 10)
    balancer = _balancer(shared)
    lost, ends = balancer["lost_requests"], balancer["ends"]["signal 9"]
    assert (lost, ends) == (before["lost_requests"] + 3, before["ends"].get("signal 9", 0) + 1)
    metrics = (await KeepAlive(shared.port).ask("GET", "/metrics")).body.decode()
    assert f"clusterctl_balancer_lost_requests_total {lost}.0" in metrics
    assert f'clusterctl_balancer_ends_total{{cause="signal 9"}} {ends}.0' in metrics
    assert "(signal 9) with 3 requests in flight, which are lost" in shared.log("supervisor")


async def test_without_a_standby_it_comes_back_too(cluster: Cluster) -> None:
    slow = _up(cluster, "--no-lb-standby")
    await asyncio.sleep(0)
    kill(_balancer(slow)["pid"])
    seconds, answer = await _connect(slow.port)
    assert (answer.status, seconds < 5.0) == (200, True)
    assert _balancer(slow)["standby"] is None


@pytest.mark.measured
def test_a_standby_that_dies_is_started_again_and_takes_no_connections(shared: Cluster) -> None:
    first = _standby(shared)
    for _ in range(20):
        assert shared.complete().status_code == 200
    kill(first["standby"])
    second = poll(lambda: (b if (b := _balancer(shared))["standby"] not in (None, first["standby"]) else None), 20)
    assert (second["pid"], second["restarts"]) == (first["pid"], first["restarts"])
    kill(shared.status()["supervisor"]["pid"])
    poll(lambda: _gone(second["standby"]), 10, "it ends with its supervisor")
    _up(shared)


async def _supervisors(cluster: Cluster, count: int) -> None:
    before, took = cluster.status(), []
    async with Load(cluster.port, plain=2, streams=2) as load:
        for _ in range(count):
            kill((await asyncio.to_thread(cluster.status))["supervisor"]["pid"])
            began = time.monotonic()
            result = await asyncio.to_thread(cluster.up, "--engine", "sim")
            assert result.returncode == 0, result.stderr
            after = await asyncio.to_thread(cluster.wait_ready, 2)
            took.append(time.monotonic() - began)
            assert {n: i["pid"] for n, i in after["instances"].items()} == {
                n: i["pid"] for n, i in before["instances"].items()
            }
            assert [i["restarts"] for i in after["instances"].values()] == [0, 0]
            assert _pids(after["load_balancer"]) == _pids(before["load_balancer"])
    print("adopted in", [f"{seconds:.2f} s" for seconds in took])
    assert load.wrong == []
    assert min(took) < 10.0, took  # two starts of Python, mostly: on a machine that does nothing else, about 2 s


@pytest.mark.alone
async def test_three_supervisors_killed_under_load_are_not_noticed(slow: Cluster) -> None:
    await _supervisors(slow, 3)


@pytest.mark.soak
@pytest.mark.timeout(1200)
async def test_twenty_supervisors_killed_under_load_are_not_noticed(slow: Cluster) -> None:
    await _supervisors(slow, 20)


@pytest.mark.parametrize("moment", ["started", "serving", "draining"])
async def test_a_replacement_whose_supervisor_is_killed_is_finished_by_the_next(shared: Cluster, moment: str) -> None:
    _standby(shared)  # which is started on its own
    before = shared.status()
    old = before["load_balancer"]["pid"]
    known, told = {p.name for p in (shared.state_dir / "run").iterdir()}, shared.log("supervisor").count(FINISHING)

    def reached() -> bool:
        if moment == "draining":
            return shared.log("supervisor").count(FINISHING) > told
        if moment == "started":
            return bool({p.name for p in (shared.state_dir / "run").iterdir()} - known)
        return len(list(shared.state_dir.glob("lb-*.sock"))) == 2

    async with Load(shared.port) as load:
        client = KeepAlive(shared.port)
        stream = asyncio.ensure_future(client.ask("POST", "/v1/completions", {**LONG, "max_tokens": 200}))
        await asyncio.to_thread(poll, lambda: _balancer(shared)["in_flight"] > 2, 5)
        assert (await asyncio.to_thread(shared.post, "/v1/cluster/restart", {"instance_id": "lb"})).status_code == 202
        await asyncio.to_thread(poll, reached, 20, moment)
        kill(before["supervisor"]["pid"])
        result = await asyncio.to_thread(shared.up, "--engine", "sim")
        assert result.returncode == 0, result.stderr
        await asyncio.to_thread(poll, lambda: old not in _pids(_balancer(shared)), 30, "another takes the connections")
        assert (await stream).body.endswith(b"data: [DONE]\n\n")
        client.close()  # an idle connection is left alone, for 75 s
    assert load.wrong == []
    await asyncio.to_thread(poll, lambda: _balancer(shared)["draining"] == [], 20, "the old one finishes")
    after = shared.wait_ready(2)
    assert {n: i["pid"] for n, i in after["instances"].items()} == {
        n: i["pid"] for n, i in before["instances"].items()
    }
    assert _gone(old)
    assert len(list(shared.state_dir.glob("lb-*.sock"))) == 1


@pytest.mark.parametrize("dead", ["nobody", "supervisor"])
async def test_down_in_the_middle_of_a_replacement_leaves_nothing(slow: Cluster, dead: str) -> None:
    _standby(slow)
    stream = asyncio.ensure_future(KeepAlive(slow.port).ask("POST", "/v1/completions", LONG))
    await asyncio.to_thread(poll, lambda: _balancer(slow)["in_flight"] == 1, 5)
    await asyncio.to_thread(_replace, slow)
    slow.post("/v1/cluster/restart", {"instance_id": "load_balancer"})
    if dead == "supervisor":
        kill(slow.status()["supervisor"]["pid"])
    slow.status()
    result = await asyncio.to_thread(slow.run, "down", "--state-dir", str(slow.state_dir))
    assert result.returncode == 0, result.stderr
    assert not slow.leftovers()
    assert (await stream).body.endswith(b"data: [DONE]\n\n")
    assert list(slow.state_dir.glob("lb-*.sock*")) == []


def test_a_balancer_that_cannot_be_started_leaves_the_old_one_alone(shared: Cluster) -> None:
    start, before = shared.state_dir / "balancer.json", _pids(_balancer(shared))
    start.unlink()
    start.mkdir()  # what the new one is to be started with cannot be written
    result = shared.run("restart", "lb")
    assert (result.returncode, "could not be replaced" in result.stderr) == (1, True), result
    assert _pids(_balancer(shared)) == before
    assert shared.complete().status_code == 200
    start.rmdir()
    assert shared.run("restart", "lb").returncode == 0
    assert _pids(_balancer(shared)) != before
