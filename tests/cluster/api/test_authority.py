from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.api import authority
from cluster.errors import Refused
from config.identity.principal import Principal, Scope, owner
from config.settings import Settings

ADMIN = Principal("a", frozenset({Scope.ADMIN}))

#: What runs code, names paths, opens the cluster or shows what clients send.
GUARDED = (
    "engine_args", "model", "engine", "adapter_root", "admin_key", "protect_metrics", "trusted_proxies", "log_prompts",
    "extra_routes", "otlp_endpoint", "allowed_hosts", "host", "port", "state_dir", "lora", "lora_config", "backend",
    "backend_key_file", "forward_headers", "manage_backend_adapters", "access_log", "log_level", "max_body",
    "max_connections",
)  # fmt: skip


@pytest.mark.parametrize("name", GUARDED)
def test_only_the_owner_changes_what_weakens_the_guard(name: str) -> None:
    authority.check_settings(owner("o"), [name])
    with pytest.raises(Refused, match=name) as refused:
        authority.check_settings(ADMIN, ["instances", name])
    assert (refused.value.status, refused.value.param) == (403, name)


def test_an_administrator_changes_the_rest() -> None:
    assert set(Settings.model_fields) >= authority.ORDINARY and not authority.ORDINARY & set(GUARDED)
    authority.check_settings(ADMIN, sorted(authority.ORDINARY))


def test_a_setting_that_nobody_has_thought_of_is_the_owners() -> None:
    with pytest.raises(Refused):
        authority.check_settings(ADMIN, ["a_new_one"])


def test_a_path_is_named_by_the_owner_or_below_folders_of_the_owners() -> None:
    for path, needed in (("/adapters/a", "adapter_root"), ("hf://org/a", "source_hosts")):
        authority.check_path(owner("o"), path, ())
        authority.check_path(ADMIN, path, ("what the owner allows",))
        with pytest.raises(Refused, match=needed) as refused:
            authority.check_path(ADMIN, path, ())
        assert refused.value.status == 403


@given(st.sets(st.sampled_from(Scope)), st.text("abc-", max_size=9))
def test_who_asks_is_told_to_the_supervisor_as_it_is(scopes: set[Scope], name: str) -> None:
    one = Principal(name, frozenset(scopes))
    assert Principal.from_line(one.line()) == one


@given(st.text())
def test_what_is_not_understood_gives_no_rights(line: str) -> None:
    found = Principal.from_line(line)
    assert found.scopes <= {scope for scope in Scope if scope in line}


def test_scopes_contain_each_other() -> None:
    may = {scope: {other for other in Scope if Principal("p", frozenset({scope})).may(other)} for scope in Scope}
    assert may == {
        Scope.READ: {Scope.READ}, Scope.ADMIN: {Scope.READ, Scope.ADMIN}, Scope.OWNER: set(Scope),
        Scope.INFERENCE: {Scope.INFERENCE},
    }  # fmt: skip
