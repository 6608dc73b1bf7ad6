"""Which model a command means where it is told none."""

from __future__ import annotations

import pytest

from cluster.cli.workload.lora.jobs import origins
from cluster.cli.workload.models import base_models
from cluster.client.results import Model

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
