from __future__ import annotations

import hmac
from unittest import mock

import pytest
from multidict import CIMultiDict

from lb.errors import ProxyError
from lb.guard import Guard, host_name, is_loopback, require_json

LOCAL = {"peer": "127.0.0.1", "local": "127.0.0.1"}
REMOTE = {"peer": "10.0.0.9", "local": "10.0.0.1"}


def verdict(guard: Guard | None = None, ends: dict[str, str] | None = None, **headers: str) -> int:
    """The status with which a request is refused, 200 if it is not. ``Host`` is a good one unless given."""
    fields = CIMultiDict({"Host": "localhost:8000", **{k.replace("_", "-"): v for k, v in headers.items()}})
    try:
        (guard or Guard(None)).check(headers=fields, **(ends or LOCAL))
    except ProxyError as error:
        return error.status
    return 200


def test_a_local_client_may() -> None:
    assert verdict() == 200


@pytest.mark.parametrize("peer", ["10.0.0.9", "192.168.1.4", "2001:db8::1", "::ffff:10.0.0.9", "", "not an address"])
def test_a_remote_client_may_not(peer: str) -> None:
    assert verdict(ends={"peer": peer, "local": "127.0.0.1"}) == 403


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "::1%lo"])
def test_every_form_of_loopback_is_local(peer: str) -> None:
    assert is_loopback(peer)
    assert verdict(ends={"peer": peer, "local": "127.0.0.1"}) == 200


@pytest.mark.parametrize("name", ["X_Forwarded_For", "x_forwarded_for", "Forwarded"])
def test_what_came_through_a_proxy_is_not_local(name: str) -> None:
    assert verdict(**{name: "127.0.0.1"}) == 403


def test_with_a_key_loopback_needs_it_too() -> None:
    assert verdict(Guard("key")) == 401


def test_the_key_opens_it_to_remote_clients() -> None:
    assert verdict(Guard("key"), ends=REMOTE, Host="10.0.0.1:8000", Authorization="Bearer key") == 200


def test_the_key_opens_it_through_a_proxy() -> None:
    assert verdict(Guard("key"), X_Forwarded_For="1.2.3.4", Authorization="bearer key") == 200


@pytest.mark.parametrize("given", ["Bearer wrong", "Bearer", "key", "Basic key", "Bearer key2", "Bearer ke", ""])
def test_a_wrong_key_is_401(given: str) -> None:
    assert verdict(Guard("key"), Authorization=given) == 401


def test_a_key_that_is_no_text_is_401() -> None:
    given = b"Bearer \xff\xfe".decode("utf-8", "surrogateescape")
    assert verdict(Guard("key"), Authorization=given) == 401


def test_a_key_with_other_letters_than_ascii_works() -> None:
    assert verdict(Guard("schlüssel"), Authorization="Bearer schlüssel") == 200


def test_keys_are_compared_in_constant_time() -> None:
    with mock.patch("lb.guard.hmac.compare_digest", wraps=hmac.compare_digest) as compare:
        assert verdict(Guard("key"), Authorization="Bearer kez") == 401
    compare.assert_called_once_with(b"kez", b"key")


def test_an_empty_key_is_no_key() -> None:
    assert verdict(Guard("")) == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "127.0.0.1.nip.io",
                                  "[::2]:8000", "10.0.0.1"])  # fmt: skip
def test_a_name_that_is_not_ours_is_refused_as_after_dns_rebinding(host: str) -> None:
    assert verdict(Host=host) == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]", "::1"])
def test_the_names_of_loopback_are_ours(host: str) -> None:
    assert verdict(Host=host) == 200


def test_names_set_by_the_user_are_ours() -> None:
    guard = Guard("key", ("Cluster.Example",))
    assert verdict(guard, Host="cluster.example:443", Authorization="Bearer key") == 200


@pytest.mark.parametrize(("local", "host"), [("10.0.0.1", "10.0.0.1:8000"), ("2001:db8::1", "[2001:db8::1]:8000"),
                                             ("::ffff:10.0.0.1", "10.0.0.1:8000")])  # fmt: skip
def test_the_address_that_was_called_is_ours(local: str, host: str) -> None:
    guard = Guard("key")
    assert verdict(guard, ends={"peer": "10.0.0.9", "local": local}, Host=host, Authorization="Bearer key") == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:3000", "http://localhost",
                                    "https://localhost:8000.evil.example", "file://", "", "http://[::1"])  # fmt: skip
def test_a_foreign_origin_is_refused(origin: str) -> None:
    assert verdict(Origin=origin) == 403


def test_a_foreign_origin_is_refused_with_the_right_key_too() -> None:
    assert verdict(Guard("key"), Authorization="Bearer key", Origin="http://evil.example") == 403


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
