"""The changes a client may ask for, and how wrong ones are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cluster.api import schemas
from cluster.api.apply import Apply
from cluster.api.handlers import ClusterCommands
from cluster.deployment.revisions import Revisions
from cluster.errors import Refused
from cluster.fleet.fleet import Fleet
from cluster.fleet.instance import Instance
from cluster.fleet.placement import Machine, Placement
from cluster.fleet.restart import RestartPolicy
from cluster.fleet.states import DesiredState
from clusterfakes import FakeBalancers, Told, external, sim_plan
from config.link import CHANGE_BYTES
from fakes import Clock, rng
from worker.spec import Slot


class Cluster:
    """Two workers that are wanted, a server that is not ours, and what was told and asked for."""

    def __init__(self, instances: int = 2, **flags: Any) -> None:
        self.told, self.balancers = Told(), FakeBalancers()
        self.ended: list[bool] = []
        self.revisions = Revisions(sim_plan(instances=instances, **flags))
        self.fleet = Fleet(DesiredState(), RestartPolicy(), rng().random, self.told, strategy="random")
        self.fleet.intent.scale(instances)
        self.commands = ClusterCommands(
            self.fleet, self.revisions, [external("http://a")], self.balancers, self.told,
            lambda: (1, 1), self.ended.append, Clock(),
        )


def _ask(
    cluster: Cluster, do: Callable[..., dict[str, Any]], kind: type[schemas.Body], body: dict[str, Any], *path: str
) -> Any:
    return do(cluster.commands, *path, schemas.parse(kind, json.dumps(body).encode()))


def _scale(cluster: Cluster, **body: Any) -> Any:
    return _ask(cluster, ClusterCommands.scale, schemas.Scale, body)


def _restart(cluster: Cluster, **body: Any) -> Any:
    return _ask(cluster, ClusterCommands.restart, schemas.Restart, body)


@pytest.mark.parametrize(
    ("kind", "body", "said", "param"),
    [
        (schemas.Scale, "", "either", None),
        (schemas.Scale, "{", "Invalid JSON", None),
        (schemas.Scale, "[]", "object", None),
        (schemas.Scale, '"x"', "object", None),
        (schemas.Scale, "\xff", "", None),
        (schemas.Scale, "[" * 100_000, "", None),
        (schemas.Scale, '{"instances": "3"}', "instances: Input should be a valid integer", "instances"),
        (schemas.Scale, '{"instances": 2.5}', "instances: ", "instances"),
        (schemas.Scale, '{"instances": true}', "instances: ", "instances"),
        (schemas.Scale, '{"instances": -1}', "instances: ", "instances"),
        (schemas.Scale, '{"action": "scale_up", "count": 0}', "count: ", "count"),
        (schemas.Scale, '{"action": "up"}', "action: ", "action"),
        (schemas.Scale, '{"count": 1}', "either", None),
        (schemas.Scale, '{"instances": 1, "action": "scale_up"}', "either", None),
        (schemas.Scale, '{"instances": 1, "count": 1}', '"count" goes with "action"', None),
        (schemas.Scale, '{"instance": 1}', "instance: unknown field (did you mean 'instances'?)", "instance"),
        (schemas.SetStrategy, "{}", "strategy: Field required", "strategy"),
        (schemas.SetStrategy, '{"strategy": 1}', "strategy: ", "strategy"),
        (schemas.Restart, "{}", "either", None),
        (schemas.Restart, '{"rolling": false}', "either", None),
        (schemas.Restart, '{"rolling": true, "instance_id": "instance_0"}', "either", None),
        (schemas.Restart, '{"rolling": 1}', "rolling: ", "rolling"),
        (schemas.Restart, '{"instance_id": "a", "spare": true}', '"spare" goes with "rolling"', None),
        (schemas.DrainBody, '{"grace": -1}', "grace: ", "grace"),
        (schemas.DrainBody, '{"grace": "3"}', "grace: ", "grace"),
        (schemas.Weight, '{"weight": -1}', "weight: ", "weight"),
        (schemas.Weight, '{"weight": 1001}', "weight: ", "weight"),
        (schemas.Weight, '{"weight": "3"}', "weight: ", "weight"),
        (schemas.Shutdown, '{"now": "yes"}', "now: ", "now"),
        (schemas.Scale, '{"a":' * 9_000 + "1" + "}" * 9_000, "", None),
        (schemas.LoadAdapter, json.dumps({"lora_name": "a", "lora_path": "/a", "description": "x" * 257}),
         "description: String should have at most 256", "description"),
        (schemas.LoadAdapter, json.dumps({"lora_name": "a" * 257, "lora_path": "/a"}), "lora_name: ", "lora_name"),
        (schemas.LoadAdapter, json.dumps({"lora_name": "a", "lora_path": "/" * 4097}), "lora_path: ", "lora_path"),
    ],
)
def test_a_wrong_body_is_refused_with_what_and_where(kind: type[Any], body: str, said: str, param: str | None) -> None:
    with pytest.raises(Refused) as refused:
        schemas.parse(kind, body.encode("latin-1"))
    assert refused.value.status == 400 and refused.value.param == param
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": 1,' + b'"a":1,' * 40_000 + b'"a":1}',
        b'{"instances": [' + b"[]," * 80_000 + b"1]}",
        b"[" * 250_000,
        b'{"settings": {"a": ' + b"[{}," * 40_000 + b"1" + b"]" * 40_000 + b"}}",
    ],
)
def test_a_body_of_more_values_than_any_change_has_is_not_parsed(body: bytes) -> None:
    assert len(body) <= CHANGE_BYTES
    for kind in (schemas.Scale, Apply, schemas.LoadAdapter):
        with pytest.raises(Refused, match="10000 values") as refused:
            schemas.parse(kind, body)
        assert refused.value.status == 400


def test_names_of_unknown_fields_are_not_echoed_whole() -> None:
    with pytest.raises(Refused) as refused:
        schemas.parse(schemas.Scale, json.dumps({"x" * 200_000: 1}).encode())
    assert len(str(refused.value)) < 2_500 and len(refused.value.param or "") < 1_200


def test_an_empty_body_is_one_without_fields() -> None:
    assert schemas.parse(schemas.Shutdown, b"") == schemas.Shutdown(now=False)


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({"instances": 5}, 5),
        ({"instances": 2}, 2),
        ({"action": "scale_up", "count": 3}, 5),
        ({"action": "scale_up"}, 3),
        ({"action": "scale_down"}, 1),
    ],
)
def test_scale_is_relative_to_what_is_desired(body: dict[str, Any], wanted: int) -> None:
    cluster = Cluster(2)
    assert _scale(cluster, **body) == {"desired": wanted, "current": 0}
    assert len(cluster.fleet.intent.desired.instances) == wanted


@pytest.mark.parametrize(
    ("flags", "body", "said"),
    [
        ({"max_instances": 3}, {"instances": 4}, "4 instances are outside 1..3 (max_instances)"),
        ({}, {"instances": 17}, "17 instances are outside 1..16 (what this machine's memory can hold)"),
        ({}, {"instances": 0}, "(min_instances)"),
        ({"min_instances": 2}, {"action": "scale_down"}, "1 instances are outside 2..16 (min_instances)"),
        ({}, {"action": "scale_down", "count": 9}, "-7 instances"),
    ],
)
def test_a_scale_out_of_bounds_is_refused_and_changes_nothing(
    flags: dict[str, Any], body: dict[str, Any], said: str
) -> None:
    cluster = Cluster(2, **flags)
    with pytest.raises(Refused) as refused:
        _scale(cluster, **body)
    assert refused.value.status == 409 and said in str(refused.value)
    assert len(cluster.fleet.intent.desired.instances) == 2


def test_a_strategy_is_changed_by_its_name() -> None:
    cluster = Cluster()
    assert _ask(cluster, ClusterCommands.set_strategy, schemas.SetStrategy, {"strategy": "weighted"}) == {
        "strategy": "weighted"
    }
    assert cluster.fleet.intent.strategy == "weighted"


def test_what_a_cluster_chooses_itself_can_be_gone_back_to() -> None:
    cluster = Cluster()
    _ask(cluster, ClusterCommands.set_strategy, schemas.SetStrategy, {"strategy": "auto"})
    assert cluster.fleet.intent.strategy == "auto"


def test_an_unknown_strategy_is_refused_naming_the_known() -> None:
    cluster = Cluster()
    with pytest.raises(Refused, match=r"did you mean 'weighted'\?\); known: auto, round_robin, .*_two") as refused:
        _ask(cluster, ClusterCommands.set_strategy, schemas.SetStrategy, {"strategy": "weightd"})
    assert (refused.value.status, refused.value.param, cluster.fleet.intent.strategy) == (400, "strategy", "random")


@pytest.mark.parametrize("name", ["load_balancer", "lb", "balancer"])
def test_the_balancer_is_replaced_by_any_of_its_names(name: str) -> None:
    cluster = Cluster()
    assert _restart(cluster, instance_id=name) == {"restarting": ["load_balancer"], "rolling": False}
    assert cluster.balancers.replaced == [None]


def test_one_instance_or_all_of_them_can_be_restarted() -> None:
    cluster = Cluster()
    assert _restart(cluster, instance_id="instance_1") == {"restarting": ["instance_1"], "rolling": False}
    assert [i.generation for i in cluster.fleet.intent.desired.instances.values()] == [0, 1]
    assert _restart(cluster, rolling=True) == {
        "restarting": ["instance_0", "instance_1"], "rolling": True, "spare": "instance_2",
    }  # fmt: skip
    assert [i.generation for i in cluster.fleet.intent.desired.instances.values()] == [1, 2]
    assert _restart(cluster, instance_id="instance_0", rolling=False)["rolling"] is False


@pytest.mark.parametrize(("name", "status"), [("instance_9", 404), ("", 404), ("backend_0", 409)])
def test_what_this_cluster_did_not_start_it_cannot_restart(name: str, status: int) -> None:
    with pytest.raises(Refused) as refused:
        _restart(Cluster(), instance_id=name)
    assert (refused.value.status, refused.value.param) == (status, "instance_id")


@pytest.mark.parametrize(
    ("flags", "asked", "spare"),
    [
        ({}, None, "instance_2"), ({}, False, None), ({"rolling_spare": False}, None, None),
        ({"rolling_spare": False}, True, "instance_2"), ({"max_instances": 2}, True, None),
        ({"max_instances": 3}, None, "instance_2"),
    ],
)  # fmt: skip
def test_a_spare_is_started_where_it_is_wanted_and_fits(
    flags: dict[str, Any], asked: bool | None, spare: str | None
) -> None:
    cluster = Cluster(**flags)
    body = {"rolling": True} if asked is None else {"rolling": True, "spare": asked}
    assert _restart(cluster, **body)["spare"] == spare
    assert list(cluster.fleet.intent.desired.spares) == ([spare] if spare else [])


def test_a_gpu_that_is_taken_is_no_place_for_a_spare() -> None:
    gpus = Machine(tuple((n, f"GPU {n}") for n in range(3)), (0, 1), 2**34)
    cluster = Cluster(2)
    for taken, spare in (((), "instance_2"), (("instance_2",), None)):
        checked = replace(cluster.revisions.latest, placement=Placement(gpus))
        cluster.fleet.instances.update({name: Instance(name, Slot()) for name in taken})
        assert cluster.commands.spare_for(checked, True) == spare


def _drain(cluster: Cluster, name: str, **body: Any) -> Any:
    return _ask(cluster, ClusterCommands.drain, schemas.DrainBody, body, name)


@pytest.mark.parametrize("name", ["instance_0", "backend_0"])
def test_everybody_can_be_drained_and_undrained(name: str) -> None:
    cluster = Cluster()
    assert _drain(cluster, name) == {"instance_id": name, "drained": True, "grace": 30.0, "ready": 0}
    assert _drain(cluster, name, grace=1)["grace"] == 1.0
    assert list(cluster.fleet.intent.cordons) == [name]
    answer = _ask(cluster, ClusterCommands.undrain, schemas.NoFields, {}, name)
    assert (answer["drained"], list(cluster.fleet.intent.cordons)) == (False, [])
    told = [text for _, text in cluster.told.events]
    assert told == ["drain asked for, with 30 s for what runs", "no longer drained"]


@pytest.mark.parametrize("how", [{"instance_id": "instance_1"}, {"rolling": True}])
def test_a_restart_ends_a_drain(how: dict[str, Any]) -> None:
    cluster = Cluster()
    _drain(cluster, "instance_1")
    _restart(cluster, **how)
    assert not list(cluster.fleet.intent.cordons)


def test_a_drain_is_no_reason_to_go_first_and_goes_with_its_worker() -> None:
    cluster = Cluster(3)
    _drain(cluster, "instance_0")
    _drain(cluster, "instance_2")
    assert _scale(cluster, instances=2)["desired"] == 2
    assert list(cluster.fleet.intent.desired.instances) == ["instance_0", "instance_1"]
    assert list(cluster.fleet.intent.cordons) == ["instance_0"]


def test_a_drain_of_nobody_is_refused() -> None:
    for do, kind in ((ClusterCommands.drain, schemas.DrainBody), (ClusterCommands.undrain, schemas.NoFields)):
        with pytest.raises(Refused, match="there are: instance_0") as refused:
            _ask(Cluster(), do, kind, {}, "instance_9")
        assert refused.value.status == 404


@pytest.mark.parametrize("name", ["instance_0", "backend_0"])
@pytest.mark.parametrize("weight", [0, 3, 1000])
def test_every_backend_has_a_weight(name: str, weight: int) -> None:
    cluster = Cluster()
    answer = _ask(cluster, ClusterCommands.set_weight, schemas.Weight, {"weight": weight}, name)
    assert answer == {"instance_id": name, "weight": weight}
    assert cluster.fleet.intent.weights == {name: weight}


def test_a_weight_of_nobody_is_refused() -> None:
    with pytest.raises(Refused, match="there are: instance_0, instance_1, backend_0") as refused:
        _ask(Cluster(), ClusterCommands.set_weight, schemas.Weight, {"weight": 1}, "instance_7")
    assert refused.value.status == 404


@pytest.mark.parametrize("now", [True, False])
def test_a_shutdown_is_passed_on(now: bool) -> None:
    cluster = Cluster()
    _ask(cluster, ClusterCommands.shut_down, schemas.Shutdown, {"now": now})
    assert cluster.ended == [now]


def test_a_cluster_that_is_ending_takes_no_more_workers() -> None:
    cluster = Cluster()
    cluster.fleet.intent.shut_down()
    for ask in (lambda: _scale(cluster, instances=3), lambda: _restart(cluster, rolling=True)):
        with pytest.raises(Refused, match="shutting down") as refused:
            ask()
        assert refused.value.status == 409


def test_every_change_is_told_to_people() -> None:
    cluster = Cluster()
    _scale(cluster, instances=3)
    _restart(cluster, instance_id="instance_0")
    told = cluster.told.events
    assert told == [("cluster", "scale from 2 to 3 instances"), ("instance_0", "restart asked for")]
