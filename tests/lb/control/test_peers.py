"""Several balancers of one cluster, in one loop: what they count together, and what they say for each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from config.disk.strategy_file import StrategyWriter
from config.link import bind_unix, encode
from config.topology import BalancerConfig
from fakes import soon
from lb import app
from lb.control import peers
from lb.telemetry.exposition import samples, total
from lbfakes import DEADLINE_S, Worker, backend_set, listening, running_worker, snapshot


@pytest.fixture
async def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[app.Balancer]]:
    """Two of three that were asked for: the third has died and left its socket behind. Both wait for each other however
    slow this machine is."""
    monkeypatch.setattr(peers, "_ANSWER_S", DEADLINE_S)
    monkeypatch.setattr(peers, "_LOOK_EVERY", 0.03)
    async with AsyncExitStack() as exits:
        made = []
        bind_unix(tmp_path / "lb-3.sock").close()
        for number in (1, 2):
            listener = exits.enter_context(listening())
            config = BalancerConfig(
                listen_fd=listener.fileno(), state_dir=str(tmp_path), host="127.0.0.1",
                port=listener.getsockname()[1], queue_timeout=5, processes=3,
            )  # fmt: skip
            made.append(app.make(config, listener, tmp_path / f"lb-{number}.sock"))
            await made[-1].start(listener)
            exits.push_async_callback(made[-1].close)
        yield made


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    async with running_worker("instance_0") as made:
        yield made


def _url(balancer: app.Balancer) -> str:
    return "http://{}:{}".format(*balancer.link._listeners[0].getsockname())


def _apply(balancers: list[app.Balancer], worker: Worker, revision: int = 1, **fields: str) -> None:
    for one in balancers:
        one.pool.apply(backend_set(worker.spec(), revision=revision, **fields))


async def test_each_sees_what_the_other_has_in_flight(two: list[app.Balancer], worker: Worker) -> None:
    _apply(two, worker)
    first, second = (one.pool.backends["instance_0"] for one in two)
    await soon(lambda: all(one.counters._elsewhere["instance_0"] for one in two), "they find each other")
    leases = [first.lease(lambda reason: None) for _ in range(3)] + [second.lease(lambda reason: None)]
    assert (first.load, second.load) == (4, 4)
    assert [one.admin.status.snapshot()["load_balancer"]["in_flight"] for one in two] == [4, 4]
    for lease in leases:
        lease.release()
    assert (first.load, second.load) == (0, 0)


async def test_series_are_added_and_what_all_read_from_one_place_is_not(
    two: list[app.Balancer], worker: Worker
) -> None:
    _apply(two, worker)
    await soon(lambda: all(one.counters._elsewhere["instance_0"] for one in two), "they find each other")
    for number, one in enumerate(two, 1):
        for _ in range(number):
            one.shared.metrics.finished("instance_0", "/v1/completions", 200, 0.5)
            one.counters.add("instance_0", requests=1)
    two[1].shared.metrics.finished("instance_0", "/v1/completions", 500, 0.5)
    lease = two[1].pool.backends["instance_0"].lease(lambda reason: None)
    others = await two[0].peers.expositions()
    assert len(others) == 1
    found = samples([two[0].shared.metrics.render(), *others], two[0].admin.metrics.alike)
    answered = 'clusterctl_requests_total{code="%d",instance="instance_0",route="/v1/completions"}'
    assert (found[answered % 200], found[answered % 500]) == (3, 1)
    assert found['clusterctl_request_seconds_count{instance="instance_0",route="/v1/completions"}'] == 4
    assert found['clusterctl_request_seconds_bucket{instance="instance_0",le="+Inf",route="/v1/completions"}'] == 4
    assert found['clusterctl_instance_requests_total{instance="instance_0"}'] == 3
    assert found['clusterctl_in_flight{instance="instance_0"}'] == 1
    assert found['clusterctl_instance_ready{instance="instance_0"}'] == 1
    lease.release()


async def test_the_mean_latency_is_over_the_requests_of_all(two: list[app.Balancer], worker: Worker) -> None:
    _apply(two, worker)
    two[0].link.snapshot = snapshot("instance_0")
    for one, seconds in zip(two, (0.5, 1.5), strict=True):
        one.shared.metrics.finished("instance_0", "/v1/completions", 200, seconds)
    async with aiohttp.ClientSession() as session, session.get(f"{_url(two[0])}/v1/system/metrics") as response:
        assert (await response.json())["instances"]["instance_0"]["mean_latency_ms"] == 1000


async def test_who_asks_for_series_is_no_supervisor(two: list[app.Balancer]) -> None:
    assert len(await two[0].peers.expositions()) == 1
    assert not two[1].link.alive


async def test_one_that_hangs_is_left_out_in_time(
    two: list[app.Balancer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung = bind_unix(tmp_path / "lb-4.sock")
    monkeypatch.setattr(peers, "_ANSWER_S", 0.3)
    began = asyncio.get_running_loop().time()
    assert len(await two[0].peers.expositions()) == 1
    assert asyncio.get_running_loop().time() - began < 2
    hung.close()


@pytest.mark.parametrize("answer", [b"", b"{", encode({"type": "hello", "pid": 1}), b"x\n"])
async def test_one_that_talks_nonsense_is_left_out(two: list[app.Balancer], tmp_path: Path, answer: bytes) -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(talk, sock=bind_unix(tmp_path / "lb-4.sock"))
    assert len(await two[0].peers.expositions()) == 1
    server.close()


async def test_a_switch_of_the_strategy_is_one_step(tmp_path: Path, worker: Worker) -> None:
    writer = StrategyWriter(tmp_path / "strategy.bin")
    async with AsyncExitStack() as exits:
        made = []
        for number in (1, 2):
            listener = exits.enter_context(listening())
            config = BalancerConfig(listener.fileno(), str(tmp_path), "127.0.0.1", 1, 5, processes=2)
            made.append(app.make(config, listener, tmp_path / f"lb-{number}.sock"))
            exits.push_async_callback(made[-1].close)
            await made[-1].start(listener)
        _apply(made, worker)
        assert [one.shared.router.strategy for one in made] == ["round_robin", "round_robin"]
        writer.write((1, 2), "weighted")  # neither has the set yet
        assert [one.shared.router.strategy for one in made] == ["weighted", "weighted"]
        _apply(made[:1], worker, 2, strategy="weighted")
        assert [one.admin.status.snapshot()["load_balancer_strategy"] for one in made] == ["weighted", "weighted"]
        _apply(made, worker, 3, strategy="random")
        assert [one.shared.router.strategy for one in made] == ["random", "random"]


def test_a_total_of_one_is_that_one_and_of_none_nothing() -> None:
    text = "# HELP a_total A\n# TYPE a_total counter\na_total 1.0\n"
    assert total([text], ()) == text
    assert total([], ()) == ""


def test_heads_are_given_once_and_unknown_series_are_taken_in() -> None:
    one = "# TYPE a counter\na{x=\"1 2\"} 1.0\n# TYPE g gauge\ng 1.0\n"
    two = "# TYPE a counter\na{x=\"1 2\"} 2.5\na{x=\"3\"} 1.0\n# TYPE g gauge\ng 1.0\n"
    assert total([one, two], {"g"}).splitlines() == [
        "# TYPE a counter", "# TYPE g gauge", 'a{x="1 2"} 3.5', "g 1.0", 'a{x="3"} 1.0',
    ]  # fmt: skip


async def test_a_new_one_takes_connections_when_it_knows_what_there_is(tmp_path: Path, worker: Worker) -> None:
    async with AsyncExitStack() as exits:
        listener = exits.enter_context(listening())
        port = listener.getsockname()[1]
        made = app.make(
            BalancerConfig(listener.fileno(), str(tmp_path), "127.0.0.1", port, 5), listener, tmp_path / "lb-1.sock"
        )
        exits.push_async_callback(made.close)
        starting = asyncio.ensure_future(made.start(listener, 30))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.1)
        assert not starting.done()
        _, supervisor = await asyncio.open_unix_connection(str(tmp_path / "lb-1.sock"))
        supervisor.write(encode({"type": "set", "set": backend_set(worker.spec()).to_json()}))
        supervisor.write(encode({"type": "snapshot", "snapshot": {"sequence": [1, 1]}}))
        assert (await asyncio.wait_for(reader.readline(), 5)).split()[1] == b"200"
        await starting
        supervisor.close()
        writer.close()
