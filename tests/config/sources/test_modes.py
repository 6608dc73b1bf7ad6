"""What INFERENCE_MODE sets, and what contradicts it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from config.errors import UsageError
from config.settings import from_json, load, load_with_sources
from fakes import clean_environment

B = ["http://a"]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    clean_environment(monkeypatch)
    return monkeypatch


@pytest.mark.parametrize(
    ("mode", "given", "made"),
    [
        ("single", {}, (1, 1, 1, ())), ("SINGLE", {"instances": 1, "max_instances": 1}, (1, 1, 1, ())),
        ("multi_instance", {"instances": 3}, (3, 1, None, ())), ("multi-instance", {"instances": 1}, (1, 1, None, ())),
        ("multi_instance", {"instances": 2, "max_instances": 4}, (2, 1, 4, ())),
        ("load_balance", {"backend": B}, (0, 1, None, ("http://a",))),
        ("load_balance", {"backend": B, "instances": 2}, (2, 1, None, ("http://a",))),
        ("load_balance", {"instances": 2}, (2, 1, None, ())),
        (None, {"instances": 2}, (2, 1, None, ())),
    ],
)  # fmt: skip
def test_what_a_mode_sets(mode: str | None, given: dict[str, Any], made: tuple[Any, ...]) -> None:
    got = load({**given, **({"inference_mode": mode} if mode else {})})
    assert (got.instances, got.min_instances, got.max_instances, got.backend) == made
    assert from_json(got.to_json()) == got


@pytest.mark.parametrize(
    ("mode", "given", "said"),
    [
        ("single", {"instances": 4}, "single is one instance, and --instances says 4"),
        ("single", {"max_instances": 2}, "single is one instance, and --max-instances says 2"),
        ("single", {"min_instances": 0}, "single is one instance, and --min-instances says 0"),
        ("single", {"backend": B}, "single is one instance and no other server, and --backend says http://a"),
        ("single", {"autoscale": "on"}, "single is one instance, and --autoscale says on"),
        ("multi_instance", {}, "multi_instance needs to be told how many: --instances or CLUSTER_INSTANCES"),
        ("multi_instance", {"instances": 2, "backend": B}, "and --backend says http://a"),
        ("load_balance", {}, "load_balance needs servers (--backend URL) or workers (--instances) to balance"),
    ],
)  # fmt: skip
def test_what_contradicts_a_mode_is_named(
    environment: pytest.MonkeyPatch, mode: str, given: dict[str, Any], said: str
) -> None:
    environment.setenv("INFERENCE_MODE", mode)
    with pytest.raises(UsageError, match=re.escape(said)) as error:
        load(given)
    assert str(error.value).startswith("environment INFERENCE_MODE: ") and error.value.exit_code == 2


def test_both_names_of_the_environment_are_told_apart(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("INFERENCE_MODE", "single")
    environment.setenv("CLUSTER_INSTANCES", "4")
    with pytest.raises(UsageError, match=r"environment INFERENCE_MODE: .* environment CLUSTER_INSTANCES says 4"):
        load({})
    environment.delenv("CLUSTER_INSTANCES")
    settings, given = load_with_sources({})
    assert given.source("instances") == "environment INFERENCE_MODE, single"
    assert given.source("port") is None and settings.instances == 1
    environment.setenv("INFERENCE_MODE", "some")
    with pytest.raises(UsageError, match="environment INFERENCE_MODE: Input should be 'single'"):
        load({})


def test_a_cluster_of_several_models_is_told_how_many_by_each() -> None:
    assert load({"inference_mode": "multi_instance", "models": {"a": {"path": "demo", "instances": 2}}}).instances == 1
