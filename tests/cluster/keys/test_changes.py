"""What a change of a key comes to, and who may ask for it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import Refused
from cluster.keys import changes
from config.identity import api_keys
from config.identity.api_keys import GRACE, ApiKey, Budget, Digest, Period, Priority
from config.identity.principal import Principal, Scope, owner

NOW, SHA, OTHER = 1000.0, "a" * 64, "b" * 64
ADMIN = Principal("boss", frozenset({Scope.ADMIN}))
MODELS = st.none() | st.sets(st.sampled_from("abc"), min_size=1).map(lambda names: tuple(sorted(names)))
LIMITS = st.none() | st.integers(1, 5)


def _keys(scope: Any = None) -> st.SearchStrategy[ApiKey]:
    return st.builds(
        ApiKey, name=st.just("x"), scope=st.sampled_from(api_keys.SCOPES) if scope is None else scope,
        digests=st.just((Digest(SHA),)), models=MODELS,
        rpm=LIMITS, tpm=LIMITS, max_concurrent=LIMITS, priority=st.sampled_from(Priority),
        weight=st.sampled_from([0.5, 1.0, 2.0]), expires=st.none() | st.sampled_from([2000.0, 3000.0]),
        budget=st.none() | st.builds(Budget, st.integers(1, 3), st.sampled_from(Period)),
    )  # fmt: skip


def _given(key: ApiKey) -> dict[str, Any]:
    """All that one may say of a key, as it is said."""
    return {
        "scope": str(key.scope), "models": key.models and list(key.models), "rpm": key.rpm, "tpm": key.tpm,
        "max_concurrent": key.max_concurrent, "priority": str(key.priority), "weight": key.weight,
        "expires": key.expires, "budget": key.budget and str(key.budget),
    }  # fmt: skip


def test_all_that_may_be_said_is_what_is_said_here() -> None:
    assert set(_given(ApiKey("x"))) == set(changes.FIELDS)


@given(_keys(), _keys(st.just(Scope.ADMIN)))
def test_nobody_makes_a_key_that_may_more_than_theirs(wanted: ApiKey, maker: ApiKey) -> None:
    try:
        made = changes.made("new", _given(wanted), SHA, maker, NOW)
    except Refused as error:
        assert error.status == 403 and api_keys.excess(wanted, maker) == error.param
    else:
        assert not api_keys.excess(made, maker)


@given(_keys(), _keys(), _keys(st.just(Scope.ADMIN)))
def test_nor_changes_one_into_such_nor_touches_one_that_does(key: ApiKey, wanted: ApiKey, maker: ApiKey) -> None:
    for change in (
        lambda: changes.updated(key, _given(wanted), maker, NOW), lambda: changes.rotated(key, OTHER, None, maker, NOW),
    ):  # fmt: skip
        try:
            new = change()
        except Refused as error:
            assert error.status == 403
        else:
            assert not api_keys.excess(key, maker) and not api_keys.excess(new, maker)


@given(_keys(st.just(Scope.ADMIN)), _keys())
def test_no_key_widens_itself(key: ApiKey, wanted: ApiKey) -> None:
    try:
        new = changes.updated(key, _given(wanted), key, NOW)
    except Refused:
        return
    assert not api_keys.excess(new, key)


@given(_keys(), _keys())
def test_the_owner_may_everything(key: ApiKey, wanted: ApiKey) -> None:
    assert not api_keys.excess(changes.updated(key, _given(wanted), None, NOW), wanted)


def test_who_asks() -> None:
    boss = ApiKey("boss", Scope.ADMIN, expires=NOW)
    assert changes.maker(owner("owner"), {}, NOW) is None
    assert changes.maker(ADMIN, {"boss": boss}, NOW - 1) is boss
    for keys in ({}, {"boss": boss}, {"boss": ApiKey("boss", Scope.READ)}):
        with pytest.raises(Refused) as refused:
            changes.maker(ADMIN, keys, NOW)
        assert refused.value.status == 403


@pytest.mark.parametrize(
    ("name", "fields", "param"),
    [
        ("owner", {}, "name"), ("a b", {}, "name"), ("x", {"rpm": 0}, "rpm"), ("x", {"scope": "owner"}, "scope"),
        ("x", {"expires": "soon"}, "expires"), ("x", {"budget": "5"}, "budget"), ("x", {"models": []}, "models"),
    ],
)  # fmt: skip
def test_what_is_no_key(name: str, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as refused:
        changes.made(name, fields, SHA, None, NOW)
    assert (refused.value.status, refused.value.param) == (400, param)


def test_times_from_now_on() -> None:
    assert changes.made("x", {"expires": "30d"}, SHA, None, NOW).expires == NOW + 30 * 86_400
    assert changes.made("x", {"expires": 5000.0}, SHA, None, NOW).expires == 5000.0


def test_rotation() -> None:
    key = ApiKey("x", digests=(Digest(SHA),))
    for grace, seconds in ((None, GRACE), ("1h", 3600.0), (5.0, 5.0)):
        assert changes.rotated(key, OTHER, grace, None, NOW).digests == (Digest(OTHER), Digest(SHA, NOW + seconds))
    assert changes.rotated(key, OTHER, 0.0, None, NOW).digests == (Digest(OTHER),)
    with pytest.raises(Refused, match="grace"):
        changes.rotated(key, OTHER, "soon", None, NOW)
    for _ in range(api_keys.MOST_SECRETS - 1):
        key = changes.rotated(key, OTHER, None, None, NOW)
    with pytest.raises(Refused) as refused:
        changes.rotated(key, OTHER, None, None, NOW)
    assert refused.value.status == 409


def test_nothing_of_a_secret_is_shown() -> None:
    key = ApiKey("x", digests=(Digest(SHA), Digest(OTHER, NOW + 5), Digest("c" * 64, NOW)), expires=NOW)
    seen = changes.shown(key, NOW, "state")
    assert SHA not in str(seen) and seen["expired"] and seen["secrets"] == [{"until": None}, {"until": NOW + 5}]
