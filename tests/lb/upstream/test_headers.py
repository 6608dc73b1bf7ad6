from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.protocol.http1 import request, response
from lb.protocol.http1.fields import SERVER
from lb.protocol.http1.request import RequestHead
from lb.protocol.http1.response import ResponseHead
from lb.upstream import headers
from lb.upstream.headers import Trusted


def asked(*lines: bytes, start: bytes = b"GET /v1/models HTTP/1.1", host: bytes = b"lb:8000") -> RequestHead:
    return request.parse(b"\r\n".join([start, b"Host: " + host, *lines, b"", b""]))


def answered(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> ResponseHead:
    return response.parse(b"\r\n".join([start, *lines, b"", b""]))


def sent(
    head: RequestHead,
    *,
    host: bytes = b"10.0.0.7:8001",
    prefix: str = "",
    forwarded: bytes = b"",
    request_id: str = "id",
    api_key: str | None = None,
    length: int | None = 0,
    upgrade: bool = False,
) -> list[bytes]:
    """The lines of the upstream request; those that are ours, in the order of their names, behind the client's."""
    data = headers.to_worker(
        head,
        host=host,
        prefix=prefix,
        forwarded=forwarded,
        request_id=request_id,
        api_key=api_key,
        length=length,
        upgrade=upgrade,
    )
    assert data.endswith(b"\r\n\r\n")
    assert data.count(b"\r\n\r\n") == 1
    start, named, *lines = data[:-4].split(b"\r\n")
    kept = headers.passed(head.kept, headers.FORWARDED)
    assert lines[: len(kept)] == kept
    return [start, named, *kept, *sorted(lines[len(kept) :])]


def returned(head: ResponseHead, *, request_id: str = "id", framing: bytes = b"", close: bool = False) -> list[bytes]:
    data = headers.to_client(head, request_id=request_id, framing=framing, close=close)
    assert data.endswith(b"\r\n\r\n")
    assert data.count(b"\r\n\r\n") == 1
    return data[:-4].split(b"\r\n")


# to a worker


def test_a_worker_gets_the_request_with_its_own_name_and_the_id() -> None:
    head = asked(b"Accept: */*", b"TraceParent:1", start=b"GET /v1/models?a=b HTTP/1.1")
    assert sent(head) == [
        b"GET /v1/models?a=b HTTP/1.1",
        b"Host: 10.0.0.7:8001",
        b"Accept: */*",
        b"TraceParent: 1",
        b"X-Request-Id: id",
    ]


def test_the_backends_path_goes_before_the_clients() -> None:
    assert sent(asked(), prefix="/base")[0] == b"GET /base/v1/models HTTP/1.1"


def test_a_request_in_1_0_goes_on_in_1_1() -> None:
    assert sent(asked(start=b"GET / HTTP/1.0"))[0] == b"GET / HTTP/1.1"


@pytest.mark.parametrize(
    "line",
    [
        b"Authorization: Bearer client",
        b"Connection: close",
        b"Keep-Alive: 5",
        b"X-Request-Id: theirs",
        b"X-Forwarded-For: 6.6.6.6",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: evil",
        b"Forwarded: for=6.6.6.6",
        b"TE: trailers",
        b"Transfer-Encoding: chunked",
        b"Expect: 100-continue",
        b"Upgrade: websocket",
        b"Proxy-Authorization: Basic eA==",
    ],
)
def test_what_is_ours_is_never_the_clients(line: bytes) -> None:
    assert sent(asked(line)) == [b"GET /v1/models HTTP/1.1", b"Host: 10.0.0.7:8001", b"X-Request-Id: id"]


def test_a_worker_with_a_key_gets_its_key() -> None:
    assert sent(asked(b"Authorization: Bearer client"), api_key="secret")[2:] == [
        b"Authorization: Bearer secret",
        b"X-Request-Id: id",
    ]
    assert sent(asked(), api_key="")[2:] == [b"X-Request-Id: id"]


@pytest.mark.parametrize(
    ("method", "length", "line"),
    [
        (b"GET", 0, None),
        (b"HEAD", 0, None),
        (b"GET", 3, b"Content-Length: 3"),
        (b"POST", 0, b"Content-Length: 0"),
        (b"POST", 7, b"Content-Length: 7"),
        (b"POST", None, b"Transfer-Encoding: chunked"),
        (b"GET", None, b"Transfer-Encoding: chunked"),
    ],
)
def test_a_body_is_framed_once(method: bytes, length: int | None, line: bytes | None) -> None:
    lines = sent(asked(b"Content-Length: 99", start=method + b" / HTTP/1.1"), length=length)
    assert sorted(lines[2:]) == sorted([b"X-Request-Id: id"] if line is None else [line, b"X-Request-Id: id"])


def test_an_upgrade_is_passed_on() -> None:
    lines = sent(asked(b"Connection: upgrade, x-a", b"Upgrade: WebSocket", b"X-A: 1"), upgrade=True)
    assert lines[2:] == [b"Connection: Upgrade", b"Upgrade: websocket", b"X-Request-Id: id"]


TOKEN = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
lines_of_any_kind = st.lists(
    st.tuples(
        st.one_of(
            st.text(TOKEN, min_size=1, max_size=9),
            st.sampled_from(["Connection", "TE", "X-Forwarded-For", "Content-Type", "Upgrade"]),
        ),
        st.text([chr(code) for code in [9, *range(0x20, 0x7F), *range(0x80, 0x100)]], max_size=20),
    ).map(lambda line: f"{line[0]}:{line[1]}".encode("latin-1")),
    max_size=8,
)


@given(lines_of_any_kind, st.sampled_from([None, 0, 5]), st.booleans())
def test_whatever_the_client_sends_a_worker_reads_one_request_with_the_framing_that_was_meant(
    lines: list[bytes], length: int | None, upgrade: bool
) -> None:
    try:
        head = asked(*lines, start=b"POST /x HTTP/1.1")
    except request.Malformed:
        return
    forwarded = headers.forwarded(head, "10.0.0.1", Trusted(["10.0.0.0/8"]))
    read = request.parse(
        headers.to_worker(
            head,
            host=b"w:1",
            prefix="/p",
            forwarded=forwarded,
            request_id="id",
            api_key="key",
            length=length,
            upgrade=upgrade,
        )
    )
    assert (read.method, read.target, read.host, read.length, read.upgrade) == ("POST", "/p/x", "w:1", length, upgrade)
    assert (read.find(b"authorization"), read.find(b"x-request-id")) == ("Bearer key", "id")
    assert read.kept == headers.passed(head.kept, headers.FORWARDED)


def test_nothing_of_a_client_goes_up_but_what_an_engine_reads() -> None:
    secret = (
        b"Cookie: session=1", b"X-Api-Key: k", b"Api-Key: k", b"X-Real-IP: 10.1.2.3", b"X-Forwarded-Port: 1",
        b"True-Client-IP: 1", b"CF-Connecting-IP: 1", b"Via: 1.1 x", b"Origin: http://a.example", b"Referer: http://a/b",
        b"X-Amzn-SageMaker-Adapter-Identifier: pirate", b"X-Amzn-SageMaker-Session-Id: 1", b"X-Data-Parallel-Rank: 1",
        b"X-Amz-Security-Token: t", b"X-Goog-Api-Key: k", b"Ocp-Apim-Subscription-Key: k", b"X-CSRF-Token: t",
        b"OpenAI-Organization: o", b"OpenAI-Project: p", b"X-Stainless-OS: Linux", b"Baggage: user=1",
        b"Range: bytes=0-", b"If-None-Match: x", b"X-Http-Method-Override: DELETE", b"X-Original-URL: /adapters",
        b"Content-Encoding: gzip", b"X-Anything: 1",
    )  # fmt: skip
    assert sent(asked(*secret))[2:] == [b"X-Request-Id: id"]


def test_what_engines_and_their_clients_read_goes_up() -> None:
    read = (
        b"Accept: a", b"accept-encoding: b", b"Content-Type: c", b"User-Agent: d", b"traceparent: e", b"tracestate: f",
        b"X-Session-ID: g", b"X-Vllm-Priority: 1", b"Endpoint-Load-Metrics-Format: TEXT", b"anthropic-version: h",
        b"anthropic-beta: i", b"OpenAI-Beta: j",
    )  # fmt: skip
    assert sent(asked(*read))[2:] == [*read, b"X-Request-Id: id"]


def test_further_names_go_up_where_they_are_wanted() -> None:
    head, wanted = asked(b"X-Tenant: a", b"X-Other: b"), headers.FORWARDED | {b"x-tenant"}
    assert headers.passed(head.kept, wanted) == [b"X-Tenant: a"]


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        (b"realtime", [b"Sec-WebSocket-Protocol: realtime"]),
        (b"realtime, openai-insecure-api-key.sk-1, v1", [b"Sec-WebSocket-Protocol: realtime, v1"]),
        (b"OpenAI-Insecure-Api-Key.sk-1", []),
    ],
)
def test_a_key_among_the_protocols_of_a_websocket_stays_here(given: bytes, passed: list[bytes]) -> None:
    assert headers.passed(asked(b"Sec-WebSocket-Protocol: " + given).kept, headers.FORWARDED) == passed


def test_the_same_head_goes_to_each_worker_as_that_one_needs_it() -> None:
    """Whatever is remembered of it."""
    head = asked(b"Accept: 1", b"Upgrade: websocket", start=b"POST /x HTTP/1.1")
    for _ in range(2):
        for number in range(20):
            for key in (None, "a", "b"):
                for length in (0, 7, None):
                    lines = sent(
                        head,
                        host=b"w:%d" % number,
                        prefix=f"/{number % 3}",
                        request_id=f"id-{number}",
                        api_key=key,
                        length=length,
                    )
                    assert lines[0] == b"POST /%d/x HTTP/1.1" % (number % 3)
                    assert lines[1] == b"Host: w:%d" % number
                    framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
                    ours = [b"X-Request-Id: id-%d" % number, framing] + (
                        [f"Authorization: Bearer {key}".encode()] if key else []
                    )
                    assert lines[2:] == [b"Accept: 1", *sorted(ours)]


# to a client


def test_a_client_gets_the_answer_with_our_framing_and_id() -> None:
    head = answered(
        b"Server: vllm",
        b"Set-Cookie:a",
        b"set-cookie: b",
        b"X-Request-Id: theirs",
        b"Content-Length: 3",
        b"Keep-Alive: 5",
    )
    assert returned(head, framing=b"Content-Length: 3") == [
        b"HTTP/1.1 200 OK",
        b"Server: clusterctl",
        b"Set-Cookie: a",
        b"set-cookie: b",
        b"X-Request-Id: id",
        b"Content-Length: 3",
    ]


def test_status_and_reason_go_through() -> None:
    assert returned(answered(start=b"HTTP/1.0 418 I'm a K\xc3\xa4se"))[0] == b"HTTP/1.1 418 I'm a K\xc3\xa4se"
    assert returned(answered(start=b"HTTP/1.1 200"))[0] == b"HTTP/1.1 200 "


def test_without_an_id_or_framing_there_is_none() -> None:
    assert returned(answered(b"Content-Length: 3"), request_id="") == [b"HTTP/1.1 200 OK", SERVER]


def test_a_connection_that_closes_is_told_to() -> None:
    assert returned(answered(b"Connection: keep-alive"), request_id="", close=True)[2:] == [b"Connection: close"]
    assert returned(answered(b"Connection: close"), request_id="", close=False)[2:] == []


def test_an_answer_names_the_product_and_gives_a_proxy_no_orders() -> None:
    given = (
        b"Server: uvicorn", b"X-Powered-By: PHP/5", b"X-Accel-Redirect: /protected/file", b"X-Sendfile: /etc/passwd",
        b"X-Accel-Limit-Rate: 1",
    )  # fmt: skip
    assert returned(answered(*given), request_id="") == [b"HTTP/1.1 200 OK", b"Server: clusterctl"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((b"Content-Type: text/event-stream; charset=utf-8",), True),
        ((b"X-Accel-Buffering: yes", b"Content-Type: text/event-stream"), True),
        ((b"Content-Type: text/event-stream", b"x-accel-buffering: yes"), True),
        ((b"Content-Type: text/plain", b"X-Accel-Buffering: no"), True),
        ((b"Content-Type: application/json",), False),
        ((b"Content-Type: text/plain", b"X-Accel-Buffering: yes"), False),
    ],
)
def test_a_proxy_in_front_does_not_buffer_streams(given: tuple[bytes, ...], told: bool) -> None:
    lines = [line.lower() for line in returned(answered(*given))]
    assert [line for line in lines if b"accel" in line] == [b"x-accel-buffering: no"] * told


# who it is for


def forwarded(head: RequestHead, peer: str, *trusted: str) -> dict[bytes, bytes]:
    data = headers.forwarded(head, peer, Trusted(trusted))
    assert data[:2] == b"\r\n"
    assert not data.endswith(b"\n")
    lines = [line.split(b": ", 1) for line in data[2:].split(b"\r\n")]
    assert len({name for name, _ in lines}) == len(lines)
    return dict(lines)


SAID = (b"X-Forwarded-For: 1.2.3.4", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: example.org")


def test_a_client_is_named_by_its_address() -> None:
    assert forwarded(asked(), "10.0.0.1") == {
        b"X-Forwarded-For": b"10.0.0.1",
        b"X-Forwarded-Proto": b"http",
        b"X-Forwarded-Host": b"lb:8000",
    }


@pytest.mark.parametrize("trusted", [(), ("10.0.0.2",), ("192.168.0.0/16", "::1")])
def test_what_somebody_says_is_not_believed(trusted: tuple[str, ...]) -> None:
    assert forwarded(asked(*SAID), "10.0.0.1", *trusted) == forwarded(asked(), "10.0.0.1")


def test_what_a_trusted_proxy_says_is_passed_on_with_its_own_address() -> None:
    assert forwarded(asked(*SAID, b"X-Forwarded-For: 5.6.7.8 "), "10.0.0.1", "10.0.0.0/8") == {
        b"X-Forwarded-For": b"1.2.3.4, 5.6.7.8, 10.0.0.1",
        b"X-Forwarded-Proto": b"https",
        b"X-Forwarded-Host": b"example.org",
    }


def test_what_a_trusted_proxy_does_not_say_is_what_we_see() -> None:
    assert forwarded(asked(), "10.0.0.1", "10.0.0.0/8") == forwarded(asked(), "10.0.0.1")


def test_an_empty_chain_of_a_trusted_proxy_adds_no_empty_link() -> None:
    assert forwarded(asked(b"X-Forwarded-For: "), "10.0.0.1", "10.0.0.0/8")[b"X-Forwarded-For"] == b"10.0.0.1"


def test_without_a_host_none_is_told() -> None:
    head = request.parse(b"GET / HTTP/1.0\r\n\r\n")
    assert set(forwarded(head, "10.0.0.1")) == {b"X-Forwarded-For", b"X-Forwarded-Proto"}


@pytest.mark.parametrize(
    ("networks", "peer", "believed"),
    [
        (["10.0.0.0/8"], "10.1.2.3", True),
        (["10.0.0.0/8"], "11.0.0.1", False),
        (["10.0.0.1"], "10.0.0.1", True),
        (["10.0.0.1/8"], "10.9.9.9", True),
        (["::1"], "::1", True),
        (["::1"], "127.0.0.1", False),
        (["10.0.0.0/8"], "::ffff:10.1.2.3", True),
        (["10.0.0.0/8"], "::ffff:11.1.2.3", False),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["0.0.0.0/0"], "::1", False),
        (["::/0"], "1.2.3.4", False),
        (["0.0.0.0/0", "::/0"], "1.2.3.4", True),
        (["0.0.0.0/0"], "", False),
        (["0.0.0.0/0"], "localhost", False),
        ([], "127.0.0.1", False),
    ],
)
def test_a_peer_is_trusted_by_its_address(networks: list[str], peer: str, believed: bool) -> None:
    assert (peer in Trusted(networks)) is believed


@pytest.mark.parametrize("network", ["", "localhost", "10.0.0.0/33", "10.0.0", "*", "10.0.0.1:80"])
def test_what_is_no_network_is_an_error(network: str) -> None:
    with pytest.raises(ValueError):
        Trusted([network])


# the id


@pytest.mark.parametrize("given_id", ["a", "req-1234", "x" * 128, "!~\"'<>{}\\", "a,b"])
def test_the_clients_own_id_is_used(given_id: str) -> None:
    assert asked(b"X-Request-Id: \t" + given_id.encode() + b" ").request_id == given_id


@pytest.mark.parametrize("given_id", [b"", b" ", b"x" * 129, b"a b", b"a\tb", b"\xc3\xa4", b"a\x80"])
def test_an_id_that_cannot_stand_in_a_log_is_not_used(given_id: bytes) -> None:
    assert asked(b"X-Request-Id: " + given_id).request_id == ""


def test_without_an_id_there_is_none() -> None:
    assert asked().request_id == ""


@given(st.binary(max_size=140))
def test_an_id_is_visible_and_short(given_id: bytes) -> None:
    try:
        found = asked(b"X-Request-Id:" + given_id).request_id
    except request.Malformed:
        return
    assert len(found) <= 128
    assert all("!" <= char <= "~" for char in found)


def test_limits_of_a_server_behind_do_not_stand_beside_ours() -> None:
    head = answered(b"X-RateLimit-Limit-Requests: 9", b"x-ratelimit-reset: 1s", b"X-Kept: 1")
    ours = b"\r\nx-ratelimit-limit-requests: 5"

    def lines(told: bytes) -> list[bytes]:
        return headers.to_client(head, request_id="", framing=b"", close=False, told=told)[:-4].split(b"\r\n")[2:]

    theirs = [b"X-RateLimit-Limit-Requests: 9", b"x-ratelimit-reset: 1s", b"X-Kept: 1"]
    assert lines(ours) == [b"X-Kept: 1", b"x-ratelimit-limit-requests: 5"]
    assert lines(b"") == theirs
    assert lines(b"\r\nx-routed-model: a") == [*theirs, b"x-routed-model: a"]
    assert lines(ours) == [b"X-Kept: 1", b"x-ratelimit-limit-requests: 5"]
