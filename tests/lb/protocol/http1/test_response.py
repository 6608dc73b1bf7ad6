from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.protocol.http1.response import Garbage, Heads, ResponseHead, parse

DROPPED = (
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "x-request-id",
    "upgrade",
    "connection",
    "server",
    "x-powered-by",
    "x-sendfile",
    "x-accel-redirect",
    "x-accel-buffering",
)

TOKEN = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
names = (
    st.text(TOKEN, min_size=1, max_size=12)
    .map(str.encode)
    .filter(lambda name: name.lower().decode() not in (*DROPPED, "content-length", "transfer-encoding"))
)
values = st.lists(st.sampled_from([9, *range(0x20, 0x7F), *range(0x80, 0x100)]), max_size=30).map(bytes)
lines = st.lists(st.tuples(names, values.map(lambda value: value.lstrip(b" \t"))), max_size=12)


def read(*given_lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> ResponseHead:
    return parse(b"\r\n".join([start, *given_lines, b"", b""]))


def garbage(*given_lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> str:
    with pytest.raises(Garbage) as caught:
        read(*given_lines, start=start)
    return str(caught.value)


# the status line


@pytest.mark.parametrize(
    ("start", "status", "reason"),
    [
        (b"HTTP/1.1 200 OK", 200, b"OK"),
        (b"HTTP/1.1 200 ", 200, b""),
        (b"HTTP/1.1 200", 200, b""),
        (b"HTTP/1.1 404 Not Found", 404, b"Not Found"),
        (b"HTTP/1.0 599 K\xc3\xa4se\t!", 599, b"K\xc3\xa4se\t!"),
        (b"HTTP/1.1 100 Continue", 100, b"Continue"),
        (b"HTTP/1.1 200  OK", 200, b" OK"),
    ],
)
def test_status_and_reason_are_told_as_they_are(start: bytes, status: int, reason: bytes) -> None:
    found = read(start=start)
    assert (found.status, found.reason) == (status, reason)


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"HTTP/1.1",
        b"HTTP/1.1 ",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1 600 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1\t200 OK",
        b"HTTP/2.0 200 OK",
        b"HTTP/1.2 200 OK",
        b"http/1.1 200 OK",
        b"ICY 200 OK",
        b"HTTP/1.1 200 O\x00K",
        b"HTTP/1.1 200 O\x7fK",
        b"HTTP/1.1 200 O\nK",
        b"HTTP/1.1 200 O\rK",
        b" HTTP/1.1 200 OK",
        b"HTTP/1.1 +20 OK",
        b"HTTP/1.1 2\xb20 OK",
        b"GET / HTTP/1.1",
        b"SSH-2.0-OpenSSH_9.6",
        b"HTTP/1.1 200-OK",
        b"\r\nHTTP/1.1 200 OK",
    ],
)
def test_what_is_no_status_line_is_garbage(start: bytes) -> None:
    assert garbage(start=start)


# what goes on


@given(lines)
def test_every_other_line_is_kept_as_it_is_in_its_order(given_lines: list[tuple[bytes, bytes]]) -> None:
    assert read(*(name + b":" + value for name, value in given_lines)).kept == [
        b": ".join(line) for line in given_lines
    ]


@given(lines, st.data())
def test_what_connection_names_is_dropped(given_lines: list[tuple[bytes, bytes]], data: st.DataObject) -> None:
    named = data.draw(st.sets(st.sampled_from([name for name, _ in given_lines]))) if given_lines else set()
    found = read(
        b"Connection: " + b",".join(name.swapcase() for name in named),
        *(b": ".join(line) for line in given_lines),
        b"Connection: keep-alive",
    )
    gone = {name.lower() for name in named}
    assert found.kept == [b": ".join(line) for line in given_lines if line[0].lower() not in gone]


@pytest.mark.parametrize("name", DROPPED)
def test_what_is_for_one_connection_or_ours_does_not_go_on(name: str) -> None:
    assert read(f"{name.title()}: some".encode(), b"Date: x").kept == [b"Date: x"]


@pytest.mark.parametrize("line", [b"Content-Length: 3", b"Transfer-Encoding: chunked"])
def test_framing_does_not_go_on(line: bytes) -> None:
    assert read(line).kept == []


def test_what_it_upgrades_to_is_told() -> None:
    assert read(b"Upgrade: websocket", b"Connection: Upgrade", start=b"HTTP/1.1 101 X").upgrade == b"websocket"
    assert read().upgrade == b""


# where the body ends


@pytest.mark.parametrize(
    ("given_lines", "length", "chunked"),
    [
        ([], None, False),
        ([b"Content-Length: 0"], 0, False),
        ([b"content-length:\t7 "], 7, False),
        ([b"Transfer-Encoding: Chunked "], None, True),
    ],
)
def test_a_body_has_a_length_or_chunks_or_ends_with_the_connection(
    given_lines: list[bytes], length: int | None, chunked: bool
) -> None:
    found = read(*given_lines)
    assert (found.length, found.chunked) == (length, chunked)


@pytest.mark.parametrize(
    "given_lines",
    [[b"Content-Length: " + value] for value in (b"", b"-1", b"+1", b"1_0", b"0x1", b"1,1", b"1 1", b"\xb2", b"1" * 19)]
    + [[b"Transfer-Encoding: " + value] for value in (b"", b"gzip", b"gzip, chunked", b"chunked, chunked", b"identity")]
    + [
        [b"Content-Length: 1", b"Content-Length: 1"],
        [b"Content-Length: 0", b"content-length: 2"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"Content-Length: 0", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 5"],
    ],
)
def test_where_a_body_ends_is_never_guessed(given_lines: list[bytes]) -> None:
    assert garbage(*given_lines)


@pytest.mark.parametrize(
    ("status", "bodiless"),
    [(200, False), (204, True), (304, True), (100, True), (199, True), (205, False), (404, False)],
)
def test_some_answers_have_no_body_whatever_they_say(status: int, bodiless: bool) -> None:
    found = read(b"Content-Length: 5", start=b"HTTP/1.1 %d X" % status)
    assert found.bodiless is bodiless


# the connection, and what kind of answer it is


@pytest.mark.parametrize(
    ("version", "connection", "stays"),
    [
        (b"1.1", [], True),
        (b"1.1", [b"close"], False),
        (b"1.1", [b"Keep-Alive"], True),
        (b"1.1", [b"x, CLOSE"], False),
        (b"1.1", [b"keep-alive", b"close"], False),
        (b"1.0", [], False),
        (b"1.0", [b"close"], False),
        (b"1.1", [b""], True),
    ],
)
def test_a_connection_stays_unless_it_is_told_to_close(version: bytes, connection: list[bytes], stays: bool) -> None:
    found = read(*(b"Connection: " + value for value in connection), start=b"HTTP/" + version + b" 200 OK")
    assert found.keep_alive is stays


@pytest.mark.parametrize(
    ("kind", "events"),
    [
        (b"text/event-stream", True),
        (b"Text/Event-Stream; charset=utf-8", True),
        (b"text/event-stream;x", True),
        (b"application/json", False),
        (b"text/event", False),
        (b"", False),
        (b"x; y=text/event-stream", False),
    ],
)
def test_a_stream_of_events_is_known(kind: bytes, events: bool) -> None:
    found = read(b"content-TYPE: " + kind)
    assert found.is_events is events
    assert found.kept == [b"content-TYPE: " + kind]


# lines


@pytest.mark.parametrize(
    "line",
    [
        b"X",
        b"X : 1",
        b" X: 1",
        b": 1",
        b"X: 1\n",
        b"X: 1\r",
        b"X: a\nY: b",
        b"X: a\rY: b",
        b"X: \x00",
        b"X: \x7f",
        b"X(: 1",
        b"X\xe4: 1",
        b"X: 1\r\n folded",
        b"X\t: 1",
        b"\r",
        b"\n",
    ],
)
@pytest.mark.parametrize("where", ["first", "last"])
def test_what_is_no_field_line_is_garbage(line: bytes, where: str) -> None:
    assert garbage(*((line, b"A: 1") if where == "first" else (b"A: 1", line)))


@pytest.mark.measured
def test_a_head_of_any_kind_is_refused_in_no_time() -> None:
    began = time.process_time()
    assert garbage(b"X:" + b" " * 16_000 + b"\x01")
    assert time.process_time() - began < 0.5


@given(st.binary(max_size=200))
def test_no_bytes_are_anything_but_an_answer_or_garbage(data: bytes) -> None:
    for whole in (data + b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + data + b"\r\n\r\n"):
        try:
            assert isinstance(parse(whole), ResponseHead)
        except Garbage:
            pass


# one after the other on a connection

LENGTHS = (
    b"Content-Length: 5",
    b"Content-Length: 6",
    b"content-length: 5",
    b"CONTENT-LENGTH: 5",
    b"Content-Length:5",
    b"Content-Length:\t7",
    b"Content-Length: 5 ",
    b"Content-Length: 0",
    b"Content-Length: 05",
    b"Content-Length: 999999999999999999",
    b"Content-Length: x",
    b"Transfer-Encoding: chunked",
    b"X-A: 1",
    b"X-A: 2",
    b"X-Content-Length: 5",
    b"Connection: close",
    b"Connection: x-a",
    b"Content-Type: text/event-stream",
    b"Upgrade: websocket",
    b"",
)
STARTS = (b"HTTP/1.1 200 OK", b"HTTP/1.1 404 Not Found", b"HTTP/1.0 200 OK", b"HTTP/1.1 100 Continue")


def facts_of(read_one: Callable[[bytes], ResponseHead], data: bytes) -> object:
    try:
        found = read_one(data)
    except Garbage as error:
        return str(error)
    return (
        found.status,
        found.reason,
        list(found.kept),
        found.length,
        found.chunked,
        found.keep_alive,
        found.is_events,
        found.upgrade,
    )


@given(
    st.lists(st.tuples(st.sampled_from(STARTS), st.lists(st.sampled_from(LENGTHS), max_size=2)), max_size=8), st.data()
)
def test_one_of_many_heads_is_read_as_if_it_were_alone(
    many: list[tuple[bytes, list[bytes]]], data: st.DataObject
) -> None:
    heads = Heads()
    for start, given_lines in many:
        for _ in range(data.draw(st.integers(1, 2))):
            whole = b"\r\n".join([start, *filter(None, given_lines), b"", b""])
            assert facts_of(heads.read, whole) == facts_of(parse, whole)


@pytest.mark.parametrize("line", LENGTHS[:8])
def test_a_length_is_told_again_however_it_is_written(line: bytes) -> None:
    heads, whole = Heads(), b"HTTP/1.1 200 OK\r\n" + line + b"\r\n\r\n"
    assert [heads.read(whole).length for _ in range(3)] == [parse(whole).length] * 3
