"""Both clients against a running cluster: every method, and results that are what their types say."""

from __future__ import annotations

import types
import typing
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from cluster.client import AsyncClusterClient, ClusterClient, ClusterError, results
from harness import Cluster, clusterctl, free_port
from worker.demo import adapter_path

KEY = "schlüssel"
_SECONDS = 30.0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("client"), free_port())
    args = ("--engine", "sim", "--instances", "2", "--max-instances", "3", "--lora", f"poet={adapter_path('poet')}")
    place = ("--port", str(cluster.port), "--state-dir", str(cluster.state_dir), "--detach")
    result = clusterctl("up", *place, *args, CLUSTERCTL_ADMIN_KEY=KEY)
    assert result.returncode == 0, result.stderr
    yield cluster
    cluster.close()


@pytest.fixture
def client(shared: Cluster) -> Iterator[ClusterClient]:
    with ClusterClient(shared.url, KEY) as cluster:
        cluster.wait_ready(2, _SECONDS)
        yield cluster


@pytest.fixture
async def later(shared: Cluster) -> AsyncIterator[AsyncClusterClient]:
    async with AsyncClusterClient(shared.url, KEY) as cluster:
        await cluster.wait_ready(2, _SECONDS)
        yield cluster


def _wrong(kind: Any, value: Any, where: str = "") -> Iterator[str]:
    """Where ``value`` is not what ``kind`` says."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return
    if origin is typing.NotRequired:
        yield from _wrong(parts[0], value, where)
    elif origin in (types.UnionType, typing.Union):
        found = [list(_wrong(part, value, where)) for part in parts]
        if all(found):
            yield from max(found, key=len)
    elif origin is list and isinstance(value, list):
        for item in value:
            yield from _wrong(parts[0], item, f"{where}[]")
    elif origin is dict and isinstance(value, dict):
        for name, item in value.items():
            yield from _wrong(parts[1], item, f"{where}[{name}]")
    elif typing.is_typeddict(kind) and isinstance(value, dict):
        hints = typing.get_type_hints(kind)
        yield from (f"{where} lacks {name}" for name in kind.__required_keys__ - set(value))
        for name, item in value.items():
            yield from _wrong(hints[name], item, f"{where}.{name}") if name in hints else [f"{where}.{name} is more"]
    else:
        plain = (int, float) if kind is float else kind if isinstance(kind, type) else ()
        if typing.is_typeddict(kind) or not isinstance(value, plain) or (isinstance(value, bool) and kind is not bool):
            yield f"{where} is {value!r}, not {kind}"


def _check(kind: Any, value: Any) -> Any:
    assert not list(_wrong(kind, value)), list(_wrong(kind, value))
    return value


def test_the_check_of_types_sees_what_is_wrong() -> None:
    assert not list(_wrong(results.Scaled, {"desired": 1, "current": 2}))
    for value in ({"desired": 1}, {"desired": 1, "current": "2"}, {"desired": 1, "current": 2, "x": 3}, [], None):
        assert list(_wrong(results.Scaled, value)), value
    assert list(_wrong(results.Adapter.__annotations__["last_used"], "x"))


def test_what_can_be_looked_at(client: ClusterClient) -> None:
    _check(results.Status, client.status())
    _check(results.SystemHealth, client.system_health())
    _check(results.SystemMetrics, client.system_metrics())
    _check(list[results.Model], client.models())
    assert _check(list[results.Event], client.events(3))
    assert client.openapi()["openapi"] == "3.1.0"
    assert client.healthy()


def test_a_cluster_is_changed_by_its_methods(client: ClusterClient) -> None:
    assert _check(results.Scaled, client.scale(3))["desired"] == 3
    assert _check(results.Status, client.wait_ready(3, _SECONDS))["running_instances"] == 3
    assert _check(results.Scaled, client.scale_by(-1))["desired"] == 2
    client.wait_settled(_SECONDS)
    assert _check(results.StrategySet, client.strategy("weighted")) == {"strategy": "weighted"}
    assert _check(results.Weighted, client.weight("instance_0", 4))["weight"] == 4
    assert _check(results.Drained, client.drain("instance_0", 1.0))["drained"] is True
    assert _check(results.Drained, client.undrain("instance_0"))["drained"] is False
    assert _check(results.Restarting, client.restart("instance_1"))["restarting"] == ["instance_1"]
    client.wait_settled(_SECONDS)
    assert _check(results.Restarting, client.restart_rolling(spare=False))["rolling"] is True
    client.wait_settled(_SECONDS)
    shown = _check(results.Applied, client.apply({"drain_timeout": 7}, dry_run=True))
    assert [change["new"] for change in shown["changes"]] == [7.0]
    _check(results.Applied, client.apply({"drain_timeout": 7}))
    _check(results.Applied, client.apply(previous=True))


def test_a_balancer_is_replaced_by_its_name(client: ClusterClient) -> None:
    before = client.status()["load_balancer"]["processes"]
    assert _check(results.Restarting, client.restart("load_balancer"))["restarting"] == ["load_balancer"]
    after = client.wait_settled(_SECONDS)["load_balancer"]["processes"]
    assert len(after) == len(before) == 1 and after[0]["pid"] != before[0]["pid"]


def test_the_life_of_an_adapter(client: ClusterClient) -> None:
    one, two = str(adapter_path("pirate")), str(adapter_path("poet"))
    assert _check(results.AdapterChanged, client.load_adapter("voice", one, description="x"))["version"] == 1
    assert _check(results.AdapterChanged, client.load_adapter("voice", two, replace=True))["version"] == 2
    assert [a["lora_name"] for a in _check(list[results.Adapter], client.adapters())].count("voice") == 1
    assert len(_check(results.AdapterDetail, client.adapter("voice"))["versions"]) == 2
    assert _check(results.AdapterChanged, client.rollback_adapter("voice"))["version"] == 1
    assert isinstance(client.ask("voice", "hello", 50), str)
    assert client.first_token("voice", "hello") > 0
    assert _check(results.AdapterUnloaded, client.unload_adapter("voice"))["state"] == "unloaded"
    with pytest.raises(ClusterError) as gone:
        client.adapter("voice")
    assert (gone.value.status, gone.value.type, gone.value.param) == (404, "NotFoundError", "lora_name")


def test_a_refusal_says_why(client: ClusterClient, shared: Cluster) -> None:
    with pytest.raises(ClusterError, match=r"99 instances are outside 1\.\.3") as refused:
        client.scale(99)
    assert (refused.value.status, refused.value.type) == (409, "ConflictError")
    with ClusterClient(shared.url) as stranger, pytest.raises(ClusterError) as unknown:
        stranger.status()
    assert (unknown.value.status, unknown.value.type) == (401, "AuthenticationError")
    with ClusterClient(shared.url) as stranger, pytest.raises(ClusterError, match="admin key"):
        stranger.wait_ready(1, _SECONDS)


def test_the_supervisor_is_asked_through_its_socket(shared: Cluster) -> None:
    with ClusterClient(state_dir=shared.state_dir) as cluster:
        assert "instance_0" in cluster.snapshot()["instances"]
        assert _check(results.StrategySet, cluster.strategy("random"))


async def test_the_supervisor_is_awaited_through_its_socket(shared: Cluster) -> None:
    async with AsyncClusterClient(state_dir=shared.state_dir) as cluster:
        assert "instance_0" in (await cluster.snapshot())["instances"]


def _kinds(events: Iterator[results.Event], until: str) -> list[str]:
    """Of the events up to the first of the kind ``until``: what went before may still be coming to an end."""
    kinds = [next(events)["kind"]]
    while kinds[-1] != until:
        kinds.append(next(events)["kind"])
    return kinds


def test_events_go_on_while_the_balancer_is_replaced(client: ClusterClient) -> None:
    with ClusterClient(client.where, KEY) as other:
        events = other.follow(client.events(1)[0]["id"])
        client.strategy("random")
        assert "strategy" in _kinds(events, until="strategy")
        client.restart("load_balancer")
        client.wait_settled(_SECONDS)
        client.weight("instance_0", 2)
        kinds = _kinds(events, until="weight")
        events.close()  # type: ignore[attr-defined]
    assert "restart" in kinds and kinds.count("weight") == 1


async def test_events_are_awaited(later: AsyncClusterClient) -> None:
    events = later.follow((await later.events(1))[0]["id"])
    await later.strategy("round_robin")
    async for event in events:
        if _check(results.Event, event)["kind"] == "strategy":
            assert event["data"] == {"strategy": "round_robin"}
            break
    await events.aclose()  # type: ignore[attr-defined]


async def test_everything_can_be_awaited(later: AsyncClusterClient) -> None:
    _check(results.Status, await later.status())
    _check(results.Scaled, await later.scale(2))
    _check(results.SystemMetrics, await later.system_metrics())
    _check(list[results.Adapter], await later.adapters())
    assert (await later.wait_ready(2, _SECONDS))["running_instances"] >= 2
    assert (await later.wait_settled(_SECONDS))["supervisor"].get("settled") is True
    assert await later.ask("demo", "hello", 50)
    assert await later.first_token("demo", "hello") > 0
    assert await later.healthy()
    with pytest.raises(ClusterError) as refused:
        await later.scale(99)
    assert refused.value.status == 409


def test_logs_are_lines_and_go_on(client: ClusterClient, shared: Cluster) -> None:
    assert any("instance_0, start 1" in line for line in client.log_lines("instance_0", 1000))
    lines = client.log_lines("instance_0", 1, follow=True)
    before = next(lines)
    with (shared.state_dir / "logs" / "instance_0.log").open("a") as log:
        log.write("a new line\n")
    assert next(lines) == "a new line" != before
    lines.close()  # type: ignore[attr-defined]
    with pytest.raises(ClusterError, match="no log of 'nobody'"):
        list(client.log_lines("nobody"))


async def test_logs_are_awaited(later: AsyncClusterClient) -> None:
    assert len([line async for line in later.log_lines("instance_0", 3)]) == 3


def test_the_end(client: ClusterClient) -> None:
    assert _check(results.ShuttingDown, client.shutdown(now=True)) == {"shutting_down": True}
