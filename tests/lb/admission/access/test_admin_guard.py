from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from config.identity import admin_token
from config.identity.principal import Principal, Scope
from config.paths import StateDir
from lb.admission.access.admin_guard import Caller, Guard, host_name, is_loopback, require_json
from lb.admission.access.credentials import Credentials
from lb.admission.access.keys import KeyRing
from lb.protocol.errors import ProxyError

LOCAL = {"peer": "127.0.0.1", "local": "127.0.0.1"}
REMOTE = {"peer": "10.0.0.9", "local": "10.0.0.1"}
OWN, OTHER = 1000, 65534
STATUS = "/v1/cluster/status"


@dataclass
class Bearers:
    """One token, for ``scope``; with ``has_key`` it is the admin key."""

    token: str | None = None
    has_key: bool = False
    has_api_keys: bool = False
    scope: Scope = Scope.OWNER

    def principal(self, bearer: str) -> Principal | None:
        return Principal("somebody", frozenset({self.scope})) if bearer == self.token else None


def _guard(key: str | None = None, names: tuple[str, ...] = (), **options: bool) -> Guard:
    state = StateDir(Path("/nowhere"))
    return Guard(Credentials(key, state, KeyRing()), frozenset({0, OWN}), names, **options)


def never() -> int | None:
    raise AssertionError("the kernel was asked")


def refusal(
    guard: Guard | None = None, ends: dict[str, str] | None = None, *, path: str = STATUS, method: str = "GET",
    uid: int | Callable[[], int | None] | None = OWN, proxy: str = "", **headers: str,
) -> ProxyError | None:
    """What a request is refused with, if it is. ``Host`` is a good one unless given."""
    caller = Caller(
        **(ends or LOCAL), host=headers.get("Host", "localhost:8000"), uid=uid if callable(uid) else lambda: uid,
        origin=headers.get("Origin"), authorization=headers.get("Authorization", ""), proxy=proxy,
    )
    try:
        (guard or _guard()).admit(path, method, caller)
    except ProxyError as error:
        return error
    return None


def verdict(guard: Guard | None = None, ends: dict[str, str] | None = None, **options: object) -> int:
    """The status with which a request is refused, 200 if it is not."""
    error = refusal(guard, ends, **options)  # type: ignore[arg-type]
    return error.status if error else 200


@pytest.mark.parametrize("uid", [OWN, 0])
def test_the_clusters_user_and_root_may(uid: int) -> None:
    assert verdict(uid=uid) == 200


@pytest.mark.parametrize(("uid", "words"), [(OTHER, "user 65534"), (1001, "user 1001"), (None, "does not say whose")])
def test_another_user_may_not_and_is_told_what_to_do(uid: int | None, words: str) -> None:
    error = refusal(uid=uid)
    assert error is not None and error.status == 403
    for remedy in (words, "admin.token", "clusterctl ui", "CLUSTERCTL_ADMIN_KEY"):
        assert remedy in str(error)


@pytest.mark.parametrize("peer", ["10.0.0.9", "192.168.1.4", "2001:db8::1", "::ffff:10.0.0.9", "", "not an address"])
def test_a_remote_client_may_not(peer: str) -> None:
    assert verdict(ends={"peer": peer, "local": "127.0.0.1"}, uid=never) == 403


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "::1%lo"])
def test_every_form_of_loopback_is_local(peer: str) -> None:
    assert is_loopback(peer)
    assert verdict(ends={"peer": peer, "local": "127.0.0.1"}) == 200


def test_what_came_through_a_proxy_is_not_local_whoever_runs_it() -> None:
    error = refusal(uid=0, proxy="via")
    assert error is not None and error.status == 403 and "proxy (via)" in str(error)


def test_with_a_key_the_owner_needs_it_too() -> None:
    assert verdict(_guard("key"), uid=never) == 401


def test_a_token_speaks_for_who_the_kernel_does_not_know() -> None:
    guard = Guard(Bearers("t"), frozenset({0, OWN}))
    for ends, proxy in ((LOCAL, ""), (REMOTE, ""), (LOCAL, "via")):
        host = "10.0.0.1:8000" if ends is REMOTE else "localhost"
        asked = {"ends": ends, "proxy": proxy, "Host": host, "uid": OTHER}
        assert verdict(guard, Authorization="Bearer t", **asked) == 200
        assert verdict(guard, Authorization="Bearer u", **asked) == 401
        assert verdict(guard, **asked) == 403


def test_the_owner_needs_no_token_and_may_have_a_wrong_one() -> None:
    assert verdict(Guard(Bearers("t"), frozenset({OWN})), Authorization="Bearer old") == 200


def test_the_token_in_the_state_directory_opens_nothing_where_a_key_is_set(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    admin_token.ensure(state.admin_token)
    given = {"Authorization": f"Bearer {admin_token.read(state.admin_token)}"}
    assert verdict(Guard(Credentials(None, state, KeyRing()), frozenset()), **given) == 200
    assert verdict(Guard(Credentials("key", state, KeyRing()), frozenset({OWN})), **given) == 401


@pytest.mark.parametrize(("scope", "reads", "changes"), [
    (Scope.OWNER, 200, 200), (Scope.ADMIN, 200, 200), (Scope.READ, 200, 403), (Scope.INFERENCE, 403, 403),
])  # fmt: skip
def test_a_scope_is_enough_for_what_it_says(scope: Scope, reads: int, changes: int) -> None:
    guard = Guard(Bearers("t", scope=scope), frozenset())
    for method, expected in (("GET", reads), ("HEAD", reads), ("POST", changes), ("PATCH", changes),
                             ("DELETE", changes), ("BREW", changes)):  # fmt: skip
        assert verdict(guard, method=method, Authorization="Bearer t") == expected, method


@pytest.mark.parametrize("ends", [LOCAL, {"peer": "::ffff:127.0.0.1", "local": "::ffff:127.0.0.1"}])
def test_metrics_are_for_everybody_on_the_machine(ends: dict[str, str]) -> None:
    assert verdict(path="/metrics", ends=ends, uid=never, Host="prometheus.example") == 200
    assert verdict(_guard("key"), path="/metrics", ends=ends, uid=never) == 200


def test_metrics_need_a_credential_from_elsewhere() -> None:
    assert verdict(path="/metrics", ends=REMOTE) == 403
    assert verdict(path="/metrics", proxy="HTTP/1.0", uid=0) == 403
    assert verdict(_guard("key"), path="/metrics", ends=REMOTE) == 401
    # By whatever name the scraper knows the cluster.
    assert verdict(_guard("key"), path="/metrics", ends=REMOTE, Host="cluster", Authorization="Bearer key") == 200


def test_protected_metrics_need_the_owner_or_a_credential() -> None:
    guard = _guard(protect_metrics=True)
    assert [verdict(guard, path="/metrics", uid=uid) for uid in (OWN, OTHER)] == [200, 403]
    guard = _guard("key", protect_metrics=True)
    assert [verdict(guard, path="/metrics", **given) for given in ({}, {"Authorization": "Bearer key"})] == [401, 200]


def test_a_code_is_exchanged_by_anybody_but_from_no_other_site() -> None:
    asked = {"path": "/v1/cluster/ui/session", "method": "POST", "uid": OTHER}
    assert verdict(**asked) == verdict(_guard("key"), **asked) == 200
    assert verdict(Origin="http://evil.example", **asked) == verdict(Host="evil.example", **asked) == 403


def test_the_key_opens_it_to_remote_clients() -> None:
    assert verdict(_guard("key"), ends=REMOTE, Host="10.0.0.1:8000", Authorization="Bearer key") == 200


def test_the_key_opens_it_through_a_proxy() -> None:
    assert verdict(_guard("key"), proxy="x-forwarded-for", Authorization="bearer key") == 200


@pytest.mark.parametrize("given", ["Bearer wrong", "Bearer", "key", "Basic key", "Bearer key2", "Bearer ke", ""])
def test_a_wrong_key_is_401(given: str) -> None:
    assert verdict(_guard("key"), Authorization=given) == 401


def test_a_key_that_is_no_text_is_401() -> None:
    given = b"Bearer \xff\xfe".decode("utf-8", "surrogateescape")
    assert verdict(_guard("key"), Authorization=given) == 401


def test_a_key_with_other_letters_than_ascii_works() -> None:
    assert verdict(_guard("schlüssel"), Authorization="Bearer schlüssel") == 200


def test_keys_are_compared_in_constant_time() -> None:
    with mock.patch("lb.admission.access.credentials.hmac.compare_digest", wraps=hmac.compare_digest) as compare:
        assert verdict(_guard("key"), Authorization="Bearer kez") == 401
    compare.assert_called_once_with(b"kez", b"key")


def test_an_empty_key_is_no_key() -> None:
    assert verdict(_guard("")) == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "127.0.0.1.nip.io",
                                  "[::2]:8000", "10.0.0.1"])  # fmt: skip
def test_a_name_that_is_not_ours_is_refused_as_after_dns_rebinding(host: str) -> None:
    assert verdict(Host=host) == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]", "::1"])
def test_the_names_of_loopback_are_ours(host: str) -> None:
    assert verdict(Host=host) == 200


def test_names_set_by_the_user_are_ours() -> None:
    guard = _guard("key", ("Cluster.Example",))
    assert verdict(guard, Host="cluster.example:443", Authorization="Bearer key") == 200


@pytest.mark.parametrize(("local", "host"), [("10.0.0.1", "10.0.0.1:8000"), ("2001:db8::1", "[2001:db8::1]:8000"),
                                             ("::ffff:10.0.0.1", "10.0.0.1:8000")])  # fmt: skip
def test_the_address_that_was_called_is_ours(local: str, host: str) -> None:
    guard = _guard("key")
    assert verdict(guard, ends={"peer": "10.0.0.9", "local": local}, Host=host, Authorization="Bearer key") == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:3000", "http://localhost",
                                    "https://localhost:8000.evil.example", "file://", "", "http://[::1"])  # fmt: skip
def test_a_foreign_origin_is_refused(origin: str) -> None:
    assert verdict(Origin=origin) == 403


def test_a_foreign_origin_is_refused_with_the_right_key_too() -> None:
    assert verdict(_guard("key"), Authorization="Bearer key", Origin="http://evil.example") == 403


def test_our_own_origin_may() -> None:
    assert verdict(Origin="http://localhost:8000") == 200


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data",
                                  "application/jsonp", "text/plain; application/json"])  # fmt: skip
@pytest.mark.parametrize(("method", "body"), [("POST", True), ("PATCH", True), ("DELETE", True), ("POST", False)])
def test_a_change_that_is_not_declared_as_json_is_415(method: str, body: bool, kind: str) -> None:
    with pytest.raises(ProxyError) as refused:
        require_json(method, kind, body)
    assert refused.value.status == 415


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
def test_a_change_in_json_may(kind: str) -> None:
    require_json("POST", kind, True)


def test_a_delete_without_a_body_declares_none() -> None:
    require_json("DELETE", "", False)


@pytest.mark.parametrize(("host", "name"), [("A.Example:80", "a.example"), ("[::1]:80", "::1"), ("::1", "::1"),
                                            (" localhost ", "localhost"), ("", "")])  # fmt: skip
def test_the_name_in_a_host_header(host: str, name: str) -> None:
    assert host_name(host) == name
