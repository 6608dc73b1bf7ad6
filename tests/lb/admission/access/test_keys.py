"""Which key a request shows, and for whom it is then."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.identity import api_keys
from config.identity.api_keys import ApiKey, Digest
from config.identity.principal import Principal, Scope, owner
from lb.admission.access.keys import ANONYMOUS, Gate, KeyRing, presented
from lb.protocol.errors import ProxyError
from lb.protocol.http1.request import RequestHead, parse
from lb.protocol.tenant import ANYBODY

LOCAL, REMOTE = "127.0.0.1", "10.0.0.9"
NOW = 1_000_000.0


def key(secret: str, name: str = "team", until: float | None = None, **fields: Any) -> ApiKey:
    return ApiKey(name, digests=(Digest(api_keys.digest(secret), until),), **fields)


def message(*keys: ApiKey, number: int = 1, keyed: bool | None = None) -> dict[str, Any]:
    ever = any(one.scope is Scope.INFERENCE for one in keys) if keyed is None else keyed
    return {"type": "keys", "version": [1, number], "keyed": ever, "keys": [one.to_json() for one in keys]}


def head(*lines: bytes) -> RequestHead:
    return parse(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n")


class Owners:
    def owner(self, bearer: str) -> Principal | None:
        return owner("token") if bearer == "the token" else None


class House:
    def __init__(self, *keys: ApiKey, anonymous: frozenset[str] = frozenset(), **options: bool) -> None:
        self.ring, self.now = KeyRing(), NOW
        if keys:
            self.ring.apply(message(*keys))
        given: Mapping[str, bool] = {"insecure": False, "guarded": False, **options}
        self.gate = Gate(self.ring, Owners(), anonymous, wall=lambda: self.now, **given)

    def ask(self, *lines: bytes, peer: str = LOCAL) -> str:
        """The tenant's name, or the status and the reason that it is refused with."""
        try:
            return self.gate.tenant(head(*lines), peer).name
        except ProxyError as error:
            return f"{error.status} {error}"


def test_nobody_needs_a_key_while_there_is_none() -> None:
    house = House()
    assert house.gate.tenant(head(), LOCAL) is ANYBODY
    assert house.gate.tenant(head(b"Authorization: Bearer EMPTY"), LOCAL) is ANYBODY
    assert House(key("a", scope=Scope.READ)).gate.tenant(head(), LOCAL) is ANYBODY, "that one is not for models"


@pytest.mark.parametrize("line", [b"Authorization: Bearer cck_a", b"authorization: BEARER  cck_a ", b"x-api-key: cck_a",
                                  b"X-Api-Key:\tcck_a\t"])  # fmt: skip
def test_a_key_is_known_by_either_header(line: bytes) -> None:
    assert House(key("cck_a")).ask(line) == "team"


@pytest.mark.parametrize(
    "lines",
    [
        (), (b"Authorization: Bearer cck_b",), (b"Authorization: cck_a",), (b"Authorization: Basic cck_a",),
        (b"Authorization: Bearer",), (b"Authorization: Bearer ",), (b"x-api-key:",), (b"x-api-key: Bearer cck_a",),
        (b"Authorization: Bearer cck_a", b"x-api-key: cck_a"), (b"x-api-key: cck_a", b"x-api-key: cck_a"),
        (b"Authorization: Bearer cck_a", b"Authorization: Bearer cck_a"), (b"Authorization: Bearer cck_a, cck_a",),
        (b'Authorization: Bearer "cck_a"',), (b"Authorization: Bearer 'cck_a'",), (b"x-api-key: cck_a\xff",),
        (b"x-api-key: \xff\xfe",), (b"Authorization: Bearer cck_a cck_a",), (b"Authorization: Bearer CCK_A",),
        (b"x-api-key: " + b"a" * 5000,), (b"Authorization: Bearer the token2",),
    ],
)  # fmt: skip
@pytest.mark.parametrize("peer", [LOCAL, REMOTE])
def test_everything_else_is_refused_from_everywhere_and_nothing_of_it_repeated(
    lines: tuple[bytes, ...], peer: str
) -> None:
    house = House(key("cck_a"), guarded=True, insecure=True)
    said = house.ask(*lines, peer=peer)
    assert said.startswith("401 ")
    assert "cck" not in said.lower() and "aaaa" not in said and "\\x" not in said


@given(st.lists(st.binary(max_size=40).filter(lambda b: not set(b) & {10, 13, 0}), max_size=3))
def test_no_field_whatever_it_says_is_a_mistake_of_ours(values: list[bytes]) -> None:
    try:
        asked = head(*(b"Authorization: " + v for v in values[:1]), *(b"x-api-key: " + v for v in values[1:]))
    except Exception as error:
        assert type(error).__name__ == "Malformed"
        return
    try:
        house = House(key("cck_a"))
        assert house.gate.tenant(asked, LOCAL).name != "team"
    except ProxyError as error:
        assert error.status == 401


def test_a_key_expires_by_the_clock_also_on_a_connection_that_knows_it() -> None:
    house, asked = House(key("cck_a", expires=NOW + 10)), head(b"x-api-key: cck_a")
    assert house.gate.tenant(asked, LOCAL).name == "team"
    house.now += 10
    with pytest.raises(ProxyError, match="expired") as refused:
        house.gate.tenant(asked, LOCAL)
    assert refused.value.status == 401


def test_a_secret_that_was_rotated_away_holds_for_its_grace() -> None:
    old, new = (Digest(api_keys.digest(secret), until) for secret, until in (("cck_old", NOW + 10), ("cck_new", None)))
    house = House(ApiKey("team", digests=(new, old)))
    assert house.ask(b"x-api-key: cck_old") == house.ask(b"x-api-key: cck_new") == "team"
    house.now += 10
    assert house.ask(b"x-api-key: cck_old").startswith("401") and house.ask(b"x-api-key: cck_new") == "team"


def test_what_a_connection_has_shown_is_not_hashed_again_and_not_believed_after_a_change() -> None:
    house, asked = House(key("cck_a")), head(b"x-api-key: cck_a")
    first = house.gate.tenant(asked, LOCAL)
    house.ring.find = None  # type: ignore[method-assign,assignment]
    assert house.gate.tenant(asked, LOCAL) is first
    del house.ring.find
    house.ring.apply(message(key("cck_b", "other"), number=2))
    with pytest.raises(ProxyError):
        house.gate.tenant(asked, LOCAL)


def test_the_owner_is_asked_for_again_every_second() -> None:
    house, asked = House(key("cck_a")), head(b"Authorization: Bearer the token")
    assert house.gate.tenant(asked, LOCAL).name == "token" and house.gate.tenant(asked, LOCAL).mark == ""
    house.gate._owners = type("Gone", (Owners,), {"owner": lambda self, bearer: None})()
    assert house.gate.tenant(asked, LOCAL).name == "token"
    house.now += 1.0
    with pytest.raises(ProxyError):
        house.gate.tenant(asked, LOCAL)


def test_scopes() -> None:
    house = House(key("cck_r", "reads", scope=Scope.READ), key("cck_a", "admin", scope=Scope.ADMIN), key("cck_i"))
    assert house.ask(b"x-api-key: cck_r").startswith("403")
    assert house.ask(b"x-api-key: cck_a") == "admin"


def test_what_a_key_may_is_what_its_tenant_may() -> None:
    house = House(key("cck_a", models=("a", "b"), rpm=5, weight=2.0, created=7.0))
    tenant = house.gate.tenant(head(b"x-api-key: cck_a"), LOCAL)
    assert (tenant.models, tenant.rpm, tenant.weight) == (frozenset({"a", "b"}), 5, 2.0)
    assert tenant.mark != House(key("cck_a", created=8.0)).gate.tenant(head(b"x-api-key: cck_a"), LOCAL).mark


def test_some_models_may_need_none() -> None:
    house = House(key("cck_a"), anonymous=frozenset({"free"}))
    tenant = house.gate.tenant(head(), REMOTE)
    assert (tenant.name, tenant.models) == (ANONYMOUS, {"free"}) and tenant.mark
    assert house.ask(b"x-api-key: cck_b").startswith("401"), "a wrong one is no none"
    assert house.gate.models_for(ANONYMOUS) == {"free"}


@pytest.mark.parametrize(
    ("keyed", "options", "remote"),
    [
        (False, {}, 401), (True, {}, 401), (False, {"guarded": True}, 200), (True, {"guarded": True}, 401),
        (False, {"insecure": True}, 200), (True, {"insecure": True}, 200),
        (True, {"insecure": True, "guarded": True}, 200),
    ],
)
def test_where_no_key_is_left_other_machines_need_one_all_the_same(
    keyed: bool, options: dict[str, bool], remote: int
) -> None:
    house = House(**options)
    house.ring.apply(message(keyed=keyed))
    assert house.ask() == "anybody"
    assert (house.ask(peer=REMOTE) == "anybody") == (remote == 200)


def test_the_latest_word_counts() -> None:
    ring = KeyRing()
    ring.apply(message(key("cck_a"), number=3))
    ring.apply(message(number=2))
    assert len(ring) == 1 and ring.find(b"cck_a") and ring.has_inference
    ring.apply({**message(), "version": [2, 1]})
    assert len(ring) == 0 and not ring.has_inference


def test_a_key_of_a_later_release_is_there_and_lets_nobody_in() -> None:
    ring = KeyRing()
    told = message(key("cck_a"))
    told["keys"][0]["only_on_mondays"] = True
    ring.apply(told)
    assert ring.has_inference and ring.find(b"cck_a") is None


def test_names_of_who_may_see_all_models_and_of_who_is_gone() -> None:
    gate = House(key("cck_a", models=("a",)), key("cck_b", "free")).gate
    assert gate.models_for("team") == {"a"} and gate.models_for("free") is None
    assert gate.models_for("") is gate.models_for("anybody") is gate.models_for("owner") is None
    assert gate.models_for("gone") == frozenset()


@pytest.mark.measured
def test_a_thousand_keys_are_no_longer_way() -> None:
    ring = KeyRing()
    ring.apply(message(*(key(f"cck_{n}", f"k{n}") for n in range(1000))))
    began = time.process_time()
    for n in range(1000):
        found = ring.find(f"cck_{n}".encode())
        assert found is not None and found.key.name == f"k{n}"
    assert time.process_time() - began < 0.5


def test_presented_of_nothing() -> None:
    assert presented(head()) is None
