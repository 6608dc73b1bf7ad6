"""The changes a client may ask for, and how wrong ones are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.api import handlers as commands
from cluster.api.apply import Apply
from cluster.deployment import plan
from cluster.errors import Refused
from cluster.events import EventLog
from cluster.fleet.fleet import Fleet
from cluster.fleet.instance import Instance
from cluster.fleet.placement import Machine, Placement
from cluster.fleet.restart import RestartPolicy
from cluster.fleet.states import DesiredState
from cluster.monitoring import external
from config.link import CHANGE_BYTES
from config.settings import load
from fakes import Clock, rng
from worker.spec import Slot


def _supervisor(instances: int = 2, **flags: Any) -> Any:
    checked = plan.make(load({"engine": "sim", "instances": instances, **flags}), Machine((), (0, 1), 2**34))
    events = EventLog(Clock())
    fleet = Fleet(DesiredState(), RestartPolicy(), rng().random, events.emit)
    fleet.scale(instances)
    ended: list[bool] = []
    def drain_by_hand(name: str, grace: float) -> None:
        fleet.drain_by_hand(name, grace, 0.0, (1, 1), True)

    return SimpleNamespace(
        plan=checked, fleet=fleet, events=events, external=external.parse(("http://a",), None, 1),
        strategy="random", ended=ended, shut_down=ended.append, drain_by_hand=drain_by_hand,
    )


def _ask(supervisor: Any, do: Callable[..., Any], kind: type[Any], body: dict[str, Any], *path: str) -> Any:
    return do(supervisor, *path, commands.parse(kind, json.dumps(body).encode()))


def _scale(supervisor: Any, **body: Any) -> Any:
    return _ask(supervisor, commands.scale, commands.Scale, body)


def _restart(supervisor: Any, **body: Any) -> Any:
    return _ask(supervisor, commands.restart, commands.Restart, body)


@pytest.mark.parametrize(
    ("kind", "body", "said", "param"),
    [
        (commands.Scale, "", "either", None),
        (commands.Scale, "{", "Invalid JSON", None),
        (commands.Scale, "[]", "object", None),
        (commands.Scale, '"x"', "object", None),
        (commands.Scale, "\xff", "", None),
        (commands.Scale, "[" * 100_000, "", None),
        (commands.Scale, '{"instances": "3"}', "instances: Input should be a valid integer", "instances"),
        (commands.Scale, '{"instances": 2.5}', "instances: ", "instances"),
        (commands.Scale, '{"instances": true}', "instances: ", "instances"),
        (commands.Scale, '{"instances": -1}', "instances: ", "instances"),
        (commands.Scale, '{"action": "scale_up", "count": 0}', "count: ", "count"),
        (commands.Scale, '{"action": "up"}', "action: ", "action"),
        (commands.Scale, '{"count": 1}', "either", None),
        (commands.Scale, '{"instances": 1, "action": "scale_up"}', "either", None),
        (commands.Scale, '{"instances": 1, "count": 1}', '"count" goes with "action"', None),
        (commands.Scale, '{"instance": 1}', "instance: unknown field (did you mean 'instances'?)", "instance"),
        (commands.Strategy, "{}", "strategy: Field required", "strategy"),
        (commands.Strategy, '{"strategy": 1}', "strategy: ", "strategy"),
        (commands.Restart, "{}", "either", None),
        (commands.Restart, '{"rolling": false}', "either", None),
        (commands.Restart, '{"rolling": true, "instance_id": "instance_0"}', "either", None),
        (commands.Restart, '{"rolling": 1}', "rolling: ", "rolling"),
        (commands.Restart, '{"instance_id": "a", "spare": true}', '"spare" goes with "rolling"', None),
        (commands.Drain, '{"grace": -1}', "grace: ", "grace"),
        (commands.Drain, '{"grace": "3"}', "grace: ", "grace"),
        (commands.Weight, '{"weight": -1}', "weight: ", "weight"),
        (commands.Weight, '{"weight": 1001}', "weight: ", "weight"),
        (commands.Weight, '{"weight": "3"}', "weight: ", "weight"),
        (commands.Shutdown, '{"now": "yes"}', "now: ", "now"),
        (commands.Scale, '{"a":' * 9_000 + "1" + "}" * 9_000, "", None),
        (commands.LoadAdapter, json.dumps({"lora_name": "a", "lora_path": "/a", "description": "x" * 257}),
         "description: String should have at most 256", "description"),
        (commands.LoadAdapter, json.dumps({"lora_name": "a" * 257, "lora_path": "/a"}), "lora_name: ", "lora_name"),
        (commands.LoadAdapter, json.dumps({"lora_name": "a", "lora_path": "/" * 4097}), "lora_path: ", "lora_path"),
    ],
)
def test_a_wrong_body_is_refused_with_what_and_where(kind: type[Any], body: str, said: str, param: str | None) -> None:
    with pytest.raises(Refused) as refused:
        commands.parse(kind, body.encode("latin-1"))
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
    for kind in (commands.Scale, Apply, commands.LoadAdapter):
        with pytest.raises(Refused, match="10000 values") as refused:
            commands.parse(kind, body)
        assert refused.value.status == 400


def test_names_of_unknown_fields_are_not_echoed_whole() -> None:
    with pytest.raises(Refused) as refused:
        commands.parse(commands.Scale, json.dumps({"x" * 200_000: 1}).encode())
    assert len(str(refused.value)) < 2_500 and len(refused.value.param or "") < 1_200


def test_an_empty_body_is_one_without_fields() -> None:
    assert commands.parse(commands.Shutdown, b"") == commands.Shutdown(now=False)


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
    supervisor = _supervisor(2)
    assert _scale(supervisor, **body) == {"desired": wanted, "current": 0}
    assert len(supervisor.fleet.desired.instances) == wanted


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
    supervisor = _supervisor(2, **flags)
    with pytest.raises(Refused) as refused:
        _scale(supervisor, **body)
    assert refused.value.status == 409 and said in str(refused.value)
    assert len(supervisor.fleet.desired.instances) == 2


def test_a_strategy_is_changed_by_its_name() -> None:
    supervisor = _supervisor()
    assert _ask(supervisor, commands.set_strategy, commands.Strategy, {"strategy": "weighted"}) == {
        "strategy": "weighted"
    }
    assert supervisor.strategy == "weighted"


def test_an_unknown_strategy_is_refused_naming_the_known() -> None:
    supervisor = _supervisor()
    with pytest.raises(Refused, match=r"did you mean 'weighted'\?\); known: round_robin, .*power_of_two") as refused:
        _ask(supervisor, commands.set_strategy, commands.Strategy, {"strategy": "weightd"})
    assert (refused.value.status, refused.value.param, supervisor.strategy) == (400, "strategy", "random")


@pytest.mark.parametrize("name", ["load_balancer", "lb", "balancer"])
def test_the_balancer_is_replaced_by_any_of_its_names(name: str) -> None:
    supervisor, asked = _supervisor(), []
    supervisor.balancer = SimpleNamespace(request_replacement=lambda: asked.append(name))
    assert _restart(supervisor, instance_id=name) == {"restarting": ["load_balancer"], "rolling": False}
    assert asked == [name]


def test_one_instance_or_all_of_them_can_be_restarted() -> None:
    supervisor = _supervisor()
    assert _restart(supervisor, instance_id="instance_1") == {"restarting": ["instance_1"], "rolling": False}
    assert [i.generation for i in supervisor.fleet.desired.instances.values()] == [0, 1]
    assert _restart(supervisor, rolling=True) == {
        "restarting": ["instance_0", "instance_1"], "rolling": True, "spare": "instance_2",
    }  # fmt: skip
    assert [i.generation for i in supervisor.fleet.desired.instances.values()] == [1, 2]
    assert _restart(supervisor, instance_id="instance_0", rolling=False)["rolling"] is False


@pytest.mark.parametrize(("name", "status"), [("instance_9", 404), ("", 404), ("backend_0", 409)])
def test_what_this_cluster_did_not_start_it_cannot_restart(name: str, status: int) -> None:
    with pytest.raises(Refused) as refused:
        _restart(_supervisor(), instance_id=name)
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
    supervisor = _supervisor(**flags)
    body = {"rolling": True} if asked is None else {"rolling": True, "spare": asked}
    assert _restart(supervisor, **body)["spare"] == spare
    assert list(supervisor.fleet.desired.spares) == ([spare] if spare else [])


def test_a_gpu_that_is_taken_is_no_place_for_a_spare() -> None:
    gpus = Machine(tuple((n, f"GPU {n}") for n in range(3)), (0, 1), 2**34)
    supervisor = _supervisor(2)
    for taken, spare in (((), "instance_2"), (("instance_2",), None)):
        supervisor.plan = replace(supervisor.plan, placement=Placement(gpus))
        supervisor.fleet.instances = {name: Instance(name, Slot()) for name in taken}
        assert commands.spare_for(supervisor, True) == spare


def _drain(supervisor: Any, name: str, **body: Any) -> Any:
    return _ask(supervisor, commands.drain, commands.Drain, body, name)


@pytest.mark.parametrize("name", ["instance_0", "backend_0"])
def test_everybody_can_be_drained_and_undrained(name: str) -> None:
    supervisor = _supervisor()
    assert _drain(supervisor, name) == {"instance_id": name, "drained": True, "grace": 30.0, "ready": 0}
    assert _drain(supervisor, name, grace=1)["grace"] == 1.0
    assert list(supervisor.fleet.cordons) == [name]
    answer = _ask(supervisor, commands.undrain, commands.Undrain, {}, name)
    assert (answer["drained"], list(supervisor.fleet.cordons)) == (False, [])
    told = [event.text for event in supervisor.events.events]
    assert told == ["drain asked for, with 30 s for what runs", "no longer drained"]


@pytest.mark.parametrize("how", [{"instance_id": "instance_1"}, {"rolling": True}])
def test_a_restart_ends_a_drain(how: dict[str, Any]) -> None:
    supervisor = _supervisor()
    _drain(supervisor, "instance_1")
    _restart(supervisor, **how)
    assert not list(supervisor.fleet.cordons)


def test_a_drain_is_no_reason_to_go_first_and_goes_with_its_worker() -> None:
    supervisor = _supervisor(3)
    _drain(supervisor, "instance_0")
    _drain(supervisor, "instance_2")
    assert _scale(supervisor, instances=2)["desired"] == 2
    assert list(supervisor.fleet.desired.instances) == ["instance_0", "instance_1"]
    assert list(supervisor.fleet.cordons) == ["instance_0"]


def test_a_drain_of_nobody_is_refused() -> None:
    for do, kind in ((commands.drain, commands.Drain), (commands.undrain, commands.Undrain)):
        with pytest.raises(Refused, match="there are: instance_0") as refused:
            _ask(_supervisor(), do, kind, {}, "instance_9")
        assert refused.value.status == 404


@pytest.mark.parametrize("name", ["instance_0", "backend_0"])
@pytest.mark.parametrize("weight", [0, 3, 1000])
def test_every_backend_has_a_weight(name: str, weight: int) -> None:
    supervisor = _supervisor()
    answer = _ask(supervisor, commands.set_weight, commands.Weight, {"weight": weight}, name)
    assert answer == {"instance_id": name, "weight": weight}
    assert supervisor.fleet.weights == {name: weight}


def test_a_weight_of_nobody_is_refused() -> None:
    with pytest.raises(Refused, match="there are: instance_0, instance_1, backend_0") as refused:
        _ask(_supervisor(), commands.set_weight, commands.Weight, {"weight": 1}, "instance_7")
    assert refused.value.status == 404


@pytest.mark.parametrize("now", [True, False])
def test_a_shutdown_is_passed_on(now: bool) -> None:
    supervisor = _supervisor()
    _ask(supervisor, commands.shut_down, commands.Shutdown, {"now": now})
    assert supervisor.ended == [now]


def test_a_cluster_that_is_ending_takes_no_more_workers() -> None:
    supervisor = _supervisor()
    supervisor.fleet.shut_down()
    for ask in (lambda: _scale(supervisor, instances=3), lambda: _restart(supervisor, rolling=True)):
        with pytest.raises(Refused, match="shutting down") as refused:
            ask()
        assert refused.value.status == 409


def test_every_change_is_told_to_people() -> None:
    supervisor = _supervisor()
    _scale(supervisor, instances=3)
    _restart(supervisor, instance_id="instance_0")
    told = [(event.subject, event.text) for event in supervisor.events.events]
    assert told == [("cluster", "scale from 2 to 3 instances"), ("instance_0", "restart asked for")]
