"""The contract between supervisor and balancer survives the wire."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import get_args

import pytest

from cluster.fleet.states import WorkerState
from config import topology
from config.settings import Settings
from config.topology import BackendSet, BackendSpec, BalancerConfig, Capabilities, OfferedModel

SPEC = BackendSpec(
    id="instance_0", incarnation=3, state="ready", scheme="http", host="127.0.0.1", port=20001, ip="127.0.0.1",
    path="/v", weight=2, managed=False, api_key="k", models=({"id": "demo"}, {"id": "poet"}), expected=("demo",),
)


def test_a_backend_set_survives_the_wire_unchanged() -> None:
    sent = BackendSet(4, 9, "weighted", (SPEC,), shutting_down=True)
    got = BackendSet.from_json(json.loads(json.dumps(sent.to_json())))
    assert got == sent
    assert isinstance(got.backends[0].models, tuple) and isinstance(got.backends[0].expected, tuple)


def test_a_spec_has_an_address() -> None:
    assert replace(SPEC, host="::1", port=5, path="/x").address == "http://[::1]:5/x"


def test_a_balancers_configuration_survives_the_wire_unchanged() -> None:
    sent = BalancerConfig(7, "/s", "::", 1, 2.5, "key", "debug", 4096, ("a", "b"), {"x": 1})
    assert BalancerConfig.from_json(json.loads(json.dumps(sent.to_json()))) == sent


def test_an_earlier_balancer_is_told_nothing_that_it_does_not_know() -> None:
    made = BalancerConfig(7, "/s", "::", 1, 2.5)
    assert not {"tls", "limits_store"} & made.to_json().keys()
    stored = replace(made, limits_store="redis://h")
    assert BalancerConfig.from_json(stored.to_json()) == stored and stored.digest() != made.digest()


@pytest.mark.parametrize("broken", [{}, {"epoch": 1}, {"epoch": 1, "revision": 1, "strategy": "x", "backends": [{}]}])
def test_what_is_no_backend_set_is_an_error(broken: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError)):
        BackendSet.from_json(broken)


def test_a_later_supervisors_first_revision_is_newer() -> None:
    assert BackendSet(2, 1, "random").version > BackendSet(1, 900, "random").version


@pytest.mark.parametrize(
    ("host", "path", "address"),
    [
        ("h", "", "http://h:80"),
        ("h", "/v", "http://h:80/v"),
        ("::1", "", "http://[::1]:80"),
    ],
)
def test_the_address_is_a_url_without_trailing_slash(host: str, path: str, address: str) -> None:
    assert BackendSpec("b", 1, "ready", "http", host, 80, path=path).address == address


def test_every_state_the_contract_names_is_a_state_of_a_worker() -> None:
    states = {*map(str, WorkerState), topology.SPARE}
    assert topology.TAKES_NEW < topology.KEEPS_RUNNING < states
    assert states - {"failed"} == topology.MAY_RECOVER


def test_the_settings_know_exactly_the_contracts_strategies() -> None:
    assert get_args(Settings.model_fields["strategy"].annotation) == ("auto", *topology.STRATEGIES)


def test_nothing_of_a_backend_is_lost_in_its_json() -> None:
    sent = BackendSet(1, 1, "random", (SPEC,)).to_json()["backends"][0]
    assert set(sent) == {f.name for f in fields(BackendSpec)} - {"capabilities"}


@pytest.mark.parametrize("able", [Capabilities(), Capabilities(lora=False, detokenize=False)])
def test_capabilities_survive_the_wire_and_the_usual_ones_are_not_sent(able: Capabilities) -> None:
    """A balancer of the version before them knows no such field, and has to take what it is told."""
    sent = BackendSet(1, 1, "random", (replace(SPEC, capabilities=able),)).to_json()
    assert ("capabilities" in sent["backends"][0]) is (able != Capabilities())
    assert BackendSet.from_json(json.loads(json.dumps(sent))).backends[0].capabilities == able


def test_what_a_later_version_says_of_a_backend_is_left_out() -> None:
    sent = BackendSet(1, 1, "random", (SPEC,)).to_json()
    later = {**sent["backends"][0], "region": "north", "capabilities": {"lora": False, "flies": True}}
    sent["backends"] = [later]
    assert BackendSet.from_json(sent).backends[0] == replace(SPEC, capabilities=Capabilities(lora=False))


def test_models_are_told_where_there_may_be_several() -> None:
    model = OfferedModel("a", ("a", "b"), "a", "down", 600.0, is_default=True)
    told = BackendSet(1, 1, "random", models=(model,))
    assert BackendSet.from_json(json.loads(json.dumps(told.to_json()))) == told
    assert "models" not in BackendSet(1, 1, "random").to_json()
