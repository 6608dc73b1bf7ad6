"""`POST /v1/cluster/apply`: what follows from each kind of change, and what is refused before anything is changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.adapters.registry import Adapter, Registry, Version
from cluster.api.apply import Apply
from cluster.deployment.plan import Plan
from cluster.deployment.revisions import Revisions
from cluster.errors import Refused
from cluster.fleet.groups import DEFAULT, instance_name
from cluster.fleet.states import WorkerState
from clusterfakes import Unrun
from config.identity.principal import Principal, Scope
from config.topology import CorsConfig
from worker.demo import adapter_path
from worker.spec import Slot

S = WorkerState


class Cluster(Unrun):
    """Three workers, with what it was that balancers were replaced with."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(folder, **{"instances": 3, **settings})
        self.replaced = self.replaceable.replaced
        for number in range(3):
            self.worker(instance_name(number), S.READY)

    @property
    def plan(self) -> Plan:
        return self.revisions.latest

    def worker(self, name: str, state: S, **more: Any) -> None:
        instance = self.fleet.admit(name, Slot(), 0.0)
        instance.state, instance.settings = state, self.revisions.number
        for key, value in more.items():
            setattr(instance, key, value)

    async def apply(self, **body: Any) -> dict[str, Any]:
        return await self.services.applier.apply(Apply(**body))

    @property
    def wanted(self) -> dict[str, tuple[int, bool]]:
        return {n: (i.generation, i.rolling) for n, i in self.fleet.intent.desired.instances.items()}


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


QUIET = {f"instance_{n}": (0, False) for n in range(3)}
ROLLING = {f"instance_{n}": (1, True) for n in range(3)}


async def test_what_holds_at_once_restarts_nobody(cluster: Cluster) -> None:
    given = {"drain_timeout": 7, "stop_grace": 3, "startup_timeout": 50, "strategy": "random", "restart_delay": 9}
    answer = await cluster.apply(settings=given)
    desired = cluster.fleet.intent.desired
    assert {c["effect"] for c in answer["changes"]} == {"at once"} and answer["restarting"] == []
    assert (desired.drain_timeout, desired.stop_grace, desired.startup_timeout) == (7, 3, 50)
    assert (cluster.fleet.intent.strategy, cluster.fleet.policy.backoff.first) == ("random", 9)
    assert cluster.plan.settings.drain_timeout == 7 == cluster.replaceable.drain_timeout
    assert (cluster.wanted, cluster.replaced) == (QUIET, [])


async def test_the_number_of_workers_is_one_of_the_settings(cluster: Cluster) -> None:
    assert (await cluster.apply(settings={"instances": 2}))["changes"][0]["old"] == 3
    assert list(cluster.wanted) == ["instance_0", "instance_1"]
    with pytest.raises(Refused, match="99 instances are outside"):
        await cluster.apply(settings={"instances": 99})


async def test_a_change_of_the_balancer_replaces_it_with_the_new_settings(cluster: Cluster) -> None:
    await cluster.apply(settings={"max_body": 4096, "queue_timeout": 2})
    (config,) = cluster.replaced
    assert (config.max_body, config.queue_timeout) == (4096, 2) and cluster.wanted == QUIET


async def test_flags_of_the_engine_that_are_the_balancers_too_reach_it(cluster: Cluster) -> None:
    await cluster.apply(settings={"engine_args": ["--allowed-origins", '["https://a"]']})
    (config,) = cluster.replaced
    assert config.cors == CorsConfig(("https://a",)) and cluster.wanted == ROLLING
    with pytest.raises(Refused, match="--allowed-origins"):
        await cluster.apply(settings={"engine_args": ["--allowed-origins", "*"]})


async def test_a_change_of_the_workers_rolls_with_a_spare(cluster: Cluster) -> None:
    answer = await cluster.apply(settings={"engine_args": ["--seed", "1"]})
    assert answer["spare"] == "instance_3" and answer["restarting"] == list(ROLLING)
    assert cluster.wanted == ROLLING and list(cluster.fleet.intent.desired.spares) == ["instance_3"]
    assert cluster.revisions.number == 1 and cluster.replaced == []
    assert cluster.revisions.of(DEFAULT, 0).spec.extra_args == ()
    assert cluster.revisions.of(DEFAULT, 1).spec.extra_args == ("--seed", "1")


@pytest.mark.parametrize(("settings", "body"), [({"rolling_spare": False}, {}), ({}, {"spare": False}),
                                                ({"max_instances": 3}, {})])  # fmt: skip
async def test_a_spare_can_be_done_without(tmp_path: Path, settings: dict[str, Any], body: dict[str, Any]) -> None:
    cluster = Cluster(tmp_path, **settings)
    answer = await cluster.apply(settings={"engine_args": ["--seed", "1"]}, **body)
    assert answer["spare"] is None and not cluster.fleet.intent.desired.spares and cluster.wanted == ROLLING


async def test_settings_that_are_taken_back_restart_only_who_had_got_them(cluster: Cluster) -> None:
    await cluster.apply(settings={"engine_args": ["--bad"], "drain_timeout": 3}, spare=False)
    first = cluster.fleet.instances["instance_0"]
    first.generation, first.settings, first.state = 1, 1, S.FAILED
    answer = await cluster.apply(previous=True)
    assert answer["restarting"] == ["instance_0"]
    assert cluster.plan.settings.engine_args == () and cluster.plan.settings.drain_timeout == 30
    behind = [i.id for i in cluster.fleet.instances.values() if i.generation < 2]
    assert behind == ["instance_0"] and cluster.wanted["instance_0"] == (2, True)


async def test_settings_that_only_a_spare_had_are_taken_back_without_a_restart(cluster: Cluster) -> None:
    await cluster.apply(settings={"engine_args": ["--bad"]})
    cluster.worker("instance_3", S.FAILED)
    answer = await cluster.apply(previous=True)
    assert (answer["restarting"], answer["spare"]) == ([], None)
    assert not cluster.fleet.intent.desired.spares
    assert all(cluster.fleet.instances[n].generation == 2 for n in QUIET)


async def test_a_restart_by_hand_that_is_still_to_come_is_not_forgotten(cluster: Cluster) -> None:
    await cluster.apply(settings={"engine_args": ["--bad"]})
    cluster.fleet.intent.restart("instance_1")
    assert (await cluster.apply(previous=True))["restarting"] == ["instance_1"]


async def test_a_dry_run_changes_nothing_and_shows_what_is_refused(cluster: Cluster) -> None:
    before = cluster.plan
    given = {"port": 1, "max_body": 4096, "engine_args": ["--seed", "1"], "drain_timeout": 1}
    answer = await cluster.apply(settings=given, dry_run=True)
    assert {c["setting"]: c["effect"] for c in answer["changes"]} == {
        "port": "not on a running cluster", "max_body": "replacement of the balancer", "drain_timeout": "at once",
        "engine_args": "rolling restart of the workers",
    }  # fmt: skip
    assert answer["refused"].startswith("port is not changed")
    with pytest.raises(Refused, match="port is not changed") as refused:
        await cluster.apply(settings=given)
    assert (refused.value.status, refused.value.param) == (409, "port")
    assert cluster.plan is before and cluster.wanted == QUIET and cluster.replaced == []


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 400, "no settings are given"),
        ({"previous": True}, 409, "nothing was applied before"),
        ({"previous": True, "settings": {"port": 1}}, 400, "goes without"),
        ({"settings": {"nonsense": 1}}, 400, "unknown setting"),
        ({"settings": {"engine_args": ["--tensor-parallel-size", "2"]}}, 409, "how many GPUs a worker spans"),
        ({"settings": {"engine_args": ["--served-model-name", "other"]}}, 409, "clients know the model as demo"),
        ({"settings": {"engine_args": ["--max-lora-rank", "many"]}}, 400, "--max-lora-rank"),
        ({"settings": {"max_instances": 2}}, 400, "max_instances 2 is below"),
    ],
)
async def test_what_would_not_work_is_refused_before_anything_changes(
    cluster: Cluster, body: dict[str, Any], status: int, said: str
) -> None:
    with pytest.raises(Refused, match=said) as refused:
        await cluster.apply(**body)
    assert refused.value.status == status and cluster.wanted == QUIET


async def test_a_limit_below_what_was_scaled_to_is_refused(cluster: Cluster) -> None:
    cluster.fleet.intent.scale(5)
    with pytest.raises(Refused, match=r"5 instances are outside 1\.\.4"):
        await cluster.apply(settings={"max_instances": 4})


def _hold(cluster: Cluster, **adapters: Path) -> None:
    """As if these were loaded."""
    known = {
        name: Adapter(name, 1, (Version(1, "0" * 64, str(path), 8, (), None, "", 1, 0.0),))
        for name, path in adapters.items()
    }
    cluster.inventory.registry = Registry(known)


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["--max-lora-rank", "1"], "rank 8 is more than max_lora_rank, which is 1 here"),
        (["--no-enable-lora"], "take no adapters"),
        (["--lora-target-modules", "q_proj"], "would drop 16 of the adapter's 28 modules"),
        (["--lora-target-modules=lm_head"], "it would use none"),
    ],
)
async def test_adapters_that_would_not_fit_any_more_are_named(cluster: Cluster, args: list[str], why: str) -> None:
    _hold(cluster, poet=adapter_path("poet"), pirate=adapter_path("pirate"))
    with pytest.raises(Refused) as refused:
        await cluster.apply(settings={"engine_args": args})
    assert (refused.value.status, refused.value.param) == (409, "engine_args")
    assert why in str(refused.value) and "adapter poet" in str(refused.value) and "pirate" in str(refused.value)
    assert cluster.wanted == QUIET and cluster.plan.spec.extra_args == ()


@pytest.mark.parametrize(
    "args", [["--lora-target-modules", "qkv_proj", "o_proj", "up_proj", "down_proj"], ["--max-lora-rank", "8"]]
)
async def test_flags_with_which_all_of_an_adapter_is_used_are_taken(cluster: Cluster, args: list[str]) -> None:
    _hold(cluster, poet=adapter_path("poet"))
    assert (await cluster.apply(settings={"engine_args": args}))["restarting"] == list(ROLLING)


async def test_an_adapter_that_did_not_fit_before_is_no_reason(cluster: Cluster, tmp_path: Path) -> None:
    _hold(cluster, gone=tmp_path / "gone", poet=adapter_path("poet"))
    assert (await cluster.apply(settings={"engine_args": ["--seed", "1"]}))["restarting"] == list(ROLLING)
    with pytest.raises(Refused, match="adapter poet") as refused:
        await cluster.apply(settings={"engine_args": ["--no-enable-lora"]})
    assert "gone" not in str(refused.value).replace("nothing", "")


async def test_a_cluster_that_is_ending_is_not_changed(cluster: Cluster) -> None:
    cluster.fleet.intent.shut_down()
    with pytest.raises(Refused, match="shutting down"):
        await cluster.apply(settings={"drain_timeout": 1})
    assert cluster.plan.settings.drain_timeout == 30


async def test_plans_outlive_the_supervisor(cluster: Cluster) -> None:
    await cluster.apply(settings={"engine_args": ["--seed", "1"], "drain_timeout": 3})
    kept = cluster.revisions.durable()
    later = Revisions(cluster.plan)
    later.restore(kept["plans"])
    assert (later.number, later.of(DEFAULT, 0).spec.extra_args, later.of(DEFAULT, 1)) == (1, (), cluster.plan)
    assert later.before == {"engine_args": [], "drain_timeout": 30.0}
    later.forget({1})
    assert later.of(DEFAULT, 0) is cluster.plan, "nobody runs by it any more"
    empty = Revisions(cluster.plan)
    empty.restore(None)
    assert empty.number == 0


async def test_what_weakens_the_guard_is_not_applied_for_less_than_the_owner(cluster: Cluster) -> None:
    admin = Principal("a", frozenset({Scope.ADMIN}))

    async def ask(**body: Any) -> dict[str, Any]:
        return await cluster.services.applier.apply(Apply(**body), admin)

    assert (await ask(settings={"drain_timeout": 7}))["changes"]
    before = cluster.plan.settings
    for body in ({"settings": {"engine_args": ["--tool-parser-plugin", "/x.py"]}}, {"settings": {"admin_key": "k"}},
                 {"settings": {"drain_timeout": 8, "extra_routes": ["/x"]}, "dry_run": True}):  # fmt: skip
        with pytest.raises(Refused, match="only the owner") as refused:
            await ask(**body)
        assert refused.value.status == 403 and cluster.plan.settings is before
    # By no way round either.
    await cluster.apply(settings={"extra_routes": ["/x"]})
    for body in ({"previous": True}, {"defaults": ["extra_routes"]}):
        with pytest.raises(Refused, match="extra_routes"):
            await ask(**body)
    # What is given as it is already is no change.
    assert (await ask(settings={"extra_routes": ["/x"]}))["changes"] == []
