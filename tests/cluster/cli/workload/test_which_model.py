"""Which model a command means where it is told none."""

from __future__ import annotations

from typing import cast

import pytest

from cluster.cli.workload.lora.jobs import origins
from cluster.cli.workload.models import base_models, distinct
from cluster.client.results import Model
from cluster.client.status import ClusterModel

DEMO: Model = {"id": "demo", "owned_by": "vllm", "root": "/models/demo", "parent": None}
ADAPTER: Model = {"id": "sql", "owned_by": "clusterctl", "root": "/adapters/sql", "parent": "demo"}
ALIAS: Model = {"id": "best", "owned_by": "clusterctl"}
DOWN: Model = {"id": "big", "owned_by": "clusterctl", "parent": None}
ELSEWHERE: Model = {"id": "gpt", "owned_by": "somebody"}


def test_aliases_and_adapters_are_no_base_models() -> None:
    assert list(base_models([ALIAS, DEMO, ADAPTER, DOWN, ELSEWHERE])) == ["demo", "big", "gpt"]


def test_an_alias_beside_the_one_model_makes_no_choice_necessary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origins, "_cards", lambda url, needed: [DEMO, ALIAS, ADAPTER])
    assert origins.model_of(None, None).path == "/models/demo"


@pytest.mark.parametrize(
    ("managed", "first"),
    [((), ["demo", "big"]), (("demo",), ["demo", "big"]), (("demo", "other"), ["demo", "other", "big"])],
)
def test_two_names_of_one_model_are_no_choice(managed: tuple[str, ...], first: list[str]) -> None:
    """Of two models made of the same files the cluster itself says that they are two."""
    other: Model = {**DEMO, "id": "other"}
    models = [cast(ClusterModel, {"name": name, "names": [name]}) for name in managed]
    if managed == ("demo",):
        models[0]["names"] = ["demo", "other"]
    assert distinct(base_models([DEMO, other, ADAPTER, DOWN]), models) == first


def test_one_model_of_two_names_needs_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origins, "_cards", lambda url, needed: [DEMO, {**DEMO, "id": "other"}, ADAPTER])
    monkeypatch.setattr(origins, "_managed", lambda url: [])
    assert origins.model_of(None, None).name == "demo" and origins.model_of("other", None).name == "other"
