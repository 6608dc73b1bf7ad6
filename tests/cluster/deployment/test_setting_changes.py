"""Changed settings: what each does, what is refused, what is shown."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.deployment.setting_changes import Change, changes, merge, refusal
from config.errors import UsageError
from config.settings import Effect, Settings, effect_of, load
from config.topology import BalancerConfig


def _settings(**given: Any) -> Settings:
    return load({"engine": "sim", **given})


EFFECTS = {name: effect_of(name) for name in Settings.model_fields}


def test_an_unknown_setting_has_no_effect() -> None:
    with pytest.raises(KeyError):
        effect_of("port_number")


def test_what_a_balancer_is_started_with_is_never_said_to_hold_at_once() -> None:
    told = set(BalancerConfig.__dataclass_fields__) & set(EFFECTS)
    assert {EFFECTS[name] for name in told} <= {Effect.BALANCER, Effect.NEVER}
    told |= {"lb_processes", "tls_cert", "tls_key", "tls_client_ca", "cors_origin", "response_cache"}  # by other names
    assert {name for name, effect in EFFECTS.items() if effect is Effect.BALANCER} <= told


def test_what_is_not_named_stays() -> None:
    old = _settings(instances=3, engine_args=["--seed", "1"], max_body=4096)
    new = merge(old, {"drain_timeout": 5})
    assert new == _settings(instances=3, engine_args=["--seed", "1"], max_body=4096, drain_timeout=5)
    assert changes(old, new, {}) == [Change("drain_timeout", 30.0, 5.0)]


def test_a_setting_can_be_as_if_nobody_had_given_it() -> None:
    old = _settings(engine_args=["--seed", "1"], stop_grace=3)
    assert merge(old, {}, ["engine_args", "stop_grace"]) == _settings()


def test_the_environment_of_the_cluster_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTERCTL_DRAIN_TIMEOUT", "99")
    old = merge(_settings(drain_timeout=7), {})
    assert merge(old, {"stop_grace": 1}).drain_timeout == 7
    assert merge(old, {}, ["drain_timeout"]).drain_timeout == 30


@pytest.mark.parametrize(
    ("given", "defaults", "said"),
    [
        ({"drain_timout": 1}, [], "unknown setting 'drain_timout' (did you mean 'drain_timeout'?)"),
        ({}, ["engine_arg"], "did you mean 'engine_args'?"),
        ({"drain_timeout": "soon"}, [], "--drain-timeout: "),
        ({"max_body": 3}, [], "--max-body: "),
        ({"engine_args": ["--port", "1"]}, [], "set by the cluster itself"),
        ({"max_instances": 1}, [], "max_instances 1 is below instances 3"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(given: dict[str, Any], defaults: list[str], said: str) -> None:
    with pytest.raises(UsageError) as error:
        merge(_settings(instances=3), given, defaults)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_what_was_changed_at_run_time_is_what_a_change_begins_from() -> None:
    old = _settings(instances=3)
    assert changes(old, merge(old, {"instances": 3}), {"instances": 5}) == [Change("instances", 5, 3)]
    assert changes(old, merge(old, {"instances": 5}), {"instances": 5}) == []


def test_what_cannot_be_changed_is_named_in_one_sentence() -> None:
    old = _settings()
    assert refusal(changes(old, merge(old, {"drain_timeout": 5, "max_body": 9999}), {})) is None
    found = changes(old, merge(old, {"port": 1, "drain_timeout": 5, "lora": {"a": "/x"}}), {})
    said = refusal(found)
    assert said is not None and said.startswith("lora, port are not changed on a running cluster")
    assert "drain_timeout" not in said and "nothing was changed" in said and "clusterctl lora load" in said


@pytest.mark.parametrize("setting", ["admin_key", "limits_store"])
def test_a_secret_is_not_shown(setting: str) -> None:
    shown = Change(setting, None, "redis://:secret@h").shown()
    assert shown == {"setting": setting, "old": None, "new": "(set)", "effect": "replacement of the balancer"}
