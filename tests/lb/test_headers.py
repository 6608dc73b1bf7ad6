from __future__ import annotations

import pytest

from lb import headers


def to_worker(*pairs: tuple[str, str], api_key: str | None = None, host: str = "api.example") -> list[tuple[str, str]]:
    return headers.to_worker(
        pairs, peer="10.1.2.3", scheme="http", host=host, request_id="id-1", api_key=api_key
    )


@pytest.mark.parametrize("name", ["Connection", "keep-alive", "TE", "Trailer", "Transfer-Encoding", "UPGRADE",
                                  "Proxy-Authorization", "Proxy-Authenticate", "Proxy-Connection"])  # fmt: skip
def test_hop_by_hop_fields_stay_here(name: str) -> None:
    assert headers.end_to_end([(name, "x"), ("Accept", "y")]) == [("Accept", "y")]


def test_fields_that_connection_names_stay_here_too() -> None:
    given = [("X-One", "1"), ("Connection", "close, x-one ,X-Two"), ("x-two", "2"), ("X-Three", "3")]
    assert headers.end_to_end(given) == [("X-Three", "3")]


def test_names_order_and_repetitions_are_kept() -> None:
    given = [("B", "1"), ("a", "2"), ("B", "3")]
    assert headers.end_to_end(given) == given


def test_the_clients_authorization_is_for_the_balancer_and_goes_no_further() -> None:
    assert "Bearer secret" not in [value for _, value in to_worker(("Authorization", "Bearer secret"))]


def test_a_backends_own_key_is_sent() -> None:
    sent = to_worker(("Authorization", "Bearer client"), api_key="worker")
    assert [pair for pair in sent if pair[0] == "Authorization"] == [("Authorization", "Bearer worker")]


def test_what_says_where_the_request_comes_from_is_ours() -> None:
    sent = to_worker(("X-Forwarded-For", "6.6.6.6"), ("x-forwarded-proto", "https"), ("X-Forwarded-Host", "evil"))
    assert dict(sent) == {
        "X-Request-Id": "id-1", "X-Forwarded-For": "10.1.2.3", "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "api.example",
    }  # fmt: skip


def test_host_and_framing_are_made_anew() -> None:
    sent = to_worker(("Host", "api.example"), ("Content-Length", "3"), ("Expect", "100-continue"))
    assert {name.lower() for name, _ in sent}.isdisjoint({"host", "content-length", "expect"})


def test_without_a_host_none_is_forwarded() -> None:
    assert "X-Forwarded-Host" not in dict(to_worker(host=""))


def test_everything_else_goes_on() -> None:
    given = [("Content-Type", "multipart/form-data; boundary=x"), ("Accept-Encoding", "gzip"), ("X-Session", "7")]
    assert to_worker(*given)[:3] == given


def test_an_answer_loses_its_framing_and_gets_the_requests_id() -> None:
    answer = [("Content-Length", "5"), ("Transfer-Encoding", "chunked"), ("X-Request-Id", "theirs"),
              ("Set-Cookie", "a"), ("Set-Cookie", "b")]  # fmt: skip
    assert headers.to_client(answer, "id-1") == [("Set-Cookie", "a"), ("Set-Cookie", "b"), ("X-Request-Id", "id-1")]
