from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.protocol.http1 import fields
from lb.protocol.http1.request import MAX_FIELDS, MAX_HEAD, Heads, Malformed, RequestHead, check_beginning, parse

OURS = {
    "host",
    "content-length",
    "expect",
    "authorization",
    "x-request-id",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "forwarded",
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-api-key",
}

TOKEN = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
names = (
    st.text(TOKEN.replace("_", ""), min_size=1, max_size=12)
    .filter(lambda name: name.lower() not in OURS)
    .map(str.encode)
)
values = st.lists(st.sampled_from([9, *range(0x20, 0x7F), *range(0x80, 0x100)]), max_size=30).map(bytes)
blanks = st.sampled_from([b"", b" ", b"\t", b"  \t "])
lines = st.lists(st.tuples(names, blanks, values.map(lambda value: value.lstrip(b" \t"))), max_size=12)


def head(*given_lines: bytes, start: bytes = b"GET /v1/models HTTP/1.1", host: bytes | None = b"x") -> bytes:
    first = [start] if host is None else [start, b"Host: " + host]
    return b"\r\n".join([*first, *given_lines, b"", b""])


def read(*given_lines: bytes, start: bytes = b"GET /v1/models HTTP/1.1", host: bytes | None = b"x") -> RequestHead:
    return parse(head(*given_lines, start=start, host=host))


def refused(data: bytes) -> int:
    with pytest.raises(Malformed) as caught:
        parse(data)
    return caught.value.status


# what goes on


@pytest.mark.parametrize("name", sorted({name for name in OURS if "-" in name} | {"content-type"}))
def test_a_name_of_ours_written_with_underscores_is_refused(name: str) -> None:
    """A reader that maps names to variables takes it for ours."""
    for spelling in {name.replace("-", "_"), name.replace("-", "_", 1), name.replace("-", "_").title()}:
        assert refused(head(spelling.encode() + b": chunked", b"Content-Length: 5")) == 400


@pytest.mark.parametrize("line", [b"user_id: 1", b"X_SOME_KEY: k", b"_: 1", b"X-A_B: 1"])
def test_another_name_with_an_underscore_is_left_out(line: bytes) -> None:
    assert read(line, b"Accept: a").kept == [b"Accept: a"]


def test_a_content_type_that_a_worker_is_not_told_is_not_read_here() -> None:
    assert read(b"Connection: Content-Type", b"Content-Type: multipart/form-data").content_type == ""


@given(lines)
def test_every_other_line_is_kept_as_it_is_in_its_order(given_lines: list[tuple[bytes, bytes, bytes]]) -> None:
    found = read(*(name + b":" + blank + value for name, blank, value in given_lines))
    assert found.kept == [name + b": " + value for name, _, value in given_lines]


@given(lines, st.data())
def test_what_connection_names_is_dropped_whatever_its_case(
    given_lines: list[tuple[bytes, bytes, bytes]], data: st.DataObject
) -> None:
    named = data.draw(st.sets(st.sampled_from([name for name, _, _ in given_lines]))) if given_lines else set()
    found = read(
        *(name + b":" + value for name, _, value in given_lines),
        b"Connection: " + b" ,\t".join([b"keep-alive", *(name.swapcase() for name in named)]),
    )
    gone = {name.lower() for name in named}
    assert found.kept == [name + b": " + value for name, _, value in given_lines if name.lower() not in gone]


def test_what_the_second_connection_line_names_is_dropped_too() -> None:
    found = read(b"Connection: x-a", b"X-A: 1", b"X-B: 2", b"connection: X-B, close", b"X-C: 3")
    assert found.kept == [b"X-C: 3"]
    assert not found.keep_alive


@pytest.mark.parametrize("name", sorted(OURS - {"host", "content-length", "transfer-encoding", "expect"}))
def test_what_is_for_one_connection_or_ours_does_not_go_on(name: str) -> None:
    found = read(f"{name.title()}: some".encode(), b"X-A: 1")
    assert found.kept == [b"X-A: 1"]
    assert found.ours[name.encode()] == b"some"


@pytest.mark.parametrize("line", [b"Content-Length: 3", b"Transfer-Encoding: chunked", b"Expect: 100-continue"])
def test_framing_does_not_go_on(line: bytes) -> None:
    assert read(line).kept == []


def test_repeated_ones_are_kept_each() -> None:
    assert read(b"X-A: 1", b"x-a: 2", b"X-A: 1").kept == [b"X-A: 1", b"x-a: 2", b"X-A: 1"]


def test_of_what_is_ours_the_first_counts_but_a_chain_goes_on() -> None:
    found = read(b"X-Request-Id: a", b"X-Request-Id: b", b"X-Forwarded-For: 1.1.1.1", b"X-Forwarded-For: 2.2.2.2")
    assert found.ours[b"x-request-id"] == b"a"
    assert found.ours[b"x-forwarded-for"] == b"1.1.1.1, 2.2.2.2"


@pytest.mark.parametrize(
    ("name", "value"),
    [(b"host", "x"), (b"x-a", "Käse".encode().decode("latin-1")), (b"x-empty", ""), (b"x-none", None), (b"te", "a")],
)
def test_a_field_is_found_by_its_name_without_the_blanks_around_it(name: bytes, value: str | None) -> None:
    assert read("X-A: \t Käse \t".encode(), b"X-A: second", b"X-Empty:", b"TE: a").find(name) == value


@given(names, values)
def test_any_field_is_found_whatever_its_case(name: bytes, value: bytes) -> None:
    assert read(name + b":" + value).find(name.lower()) == value.decode("latin-1").strip(" \t")


def test_the_content_type_is_told() -> None:
    assert read(b"content-TYPE:application/json; charset=utf-8").content_type == "application/json; charset=utf-8"
    assert read().content_type == ""


# the request line


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "get", "M-SEARCH", "!#$%&'*+-.^_`|~0"])
def test_any_token_is_a_method(method: str) -> None:
    assert read(start=method.encode() + b" / HTTP/1.1").method == method


@pytest.mark.parametrize(
    "target", ["/", "/v1/models", "//x", "/?", "/a?b=c&d=%20?/", "/%zz", '/"{}|\\^`<>', "/" + "a" * 9000]
)
def test_a_target_goes_through_as_it_is(target: str) -> None:
    found = read(start=b"GET " + target.encode() + b" HTTP/1.1")
    assert (found.target, found.path) == (target, target.split("?")[0])


@pytest.mark.parametrize(
    ("target", "host", "rest"),
    [
        ("http://a", "a", "/"),
        ("http://a/", "a", "/"),
        ("https://a:8080/b?c", "a:8080", "/b?c"),
        ("HTTP://a?b", "a", "/?b"),
        ("http://[::1]:80/b", "[::1]:80", "/b"),
        ("http://a//b", "a", "//b"),
    ],
)
def test_an_absolute_target_says_the_host_whatever_the_host_header_says(target: str, host: str, rest: str) -> None:
    found = read(start=b"GET " + target.encode() + b" HTTP/1.1", host=b"other")
    assert (found.host, found.target) == (host, rest)


@pytest.mark.parametrize(
    "target",
    [
        b"*",
        b"x",
        b"a:443",
        b"ftp://a/",
        b"http:/a",
        b"http://",
        b"http:///a",
        b"http://u@a/",
        b"http://a:b/",
        b"?a",
        b"http://a b/",
    ],
)
def test_any_other_target_is_refused(target: bytes) -> None:
    assert refused(head(start=b"GET " + target + b" HTTP/1.1")) == 400


@pytest.mark.parametrize("target", [b"/a#b", b"/#", b"http://a/b#c", b"http://a#c"])
def test_a_fragment_has_no_place_in_a_target(target: bytes) -> None:
    assert refused(head(start=b"GET " + target + b" HTTP/1.1")) == 400


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"GET",
        b"GET /",
        b"GET / HTTP/1.1 ",
        b" GET / HTTP/1.1",
        b"GET  / HTTP/1.1",
        b"GET /  HTTP/1.1",
        b"GET\t/ HTTP/1.1",
        b"GET / http/1.1",
        b"GET / HTTP/1",
        b"GET / HTTP/11.1",
        b"GET / HTTP/1.10",
        b"GE(T / HTTP/1.1",
        b"GET /\x00 HTTP/1.1",
        b"GET /\xff HTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET /\x7f HTTP/1.1",
        b"GET / HTTP/1.1\n",
        b"\x16\x03\x01\x02\x00",
        b"PRI * HTTP/2.0\x00",
        b"GET /\r HTTP/1.1",
    ],
)
def test_what_is_no_request_line_is_refused(start: bytes) -> None:
    assert refused(head(start=start)) == 400


@pytest.mark.parametrize("version", [b"0.9", b"1.2", b"1.9", b"2.0", b"3.0", b"9.9"])
def test_other_versions_are_not_spoken(version: bytes) -> None:
    assert refused(head(start=b"GET / HTTP/" + version)) == 505


# Host


@pytest.mark.parametrize(
    "host", [b"a", b"a:1", b"[::1]", b"[fe80::1]:8000", b"1.2.3.4:65535", b"a_b.c-d", b"", b"\t a \t"]
)
def test_a_host_is_told_without_blanks(host: bytes) -> None:
    assert read(host=host).host == host.strip(b" \t").decode()


@pytest.mark.parametrize(
    "host", [b"a b", b"a/b", b"a,b", b"u@a", b"a:b", b"a:123456", b"[::1", b"a\\b", b"\xc3\xa4", b"a?b", b'a"']
)
def test_what_is_no_host_is_refused(host: bytes) -> None:
    assert refused(head(host=host)) == 400


def test_a_host_is_needed_in_1_1_only_and_never_twice() -> None:
    assert refused(head(host=None)) == 400
    assert read(start=b"GET / HTTP/1.0", host=None).host == ""
    assert refused(head(b"host: x")) == 400
    assert refused(head(b"Host: y", start=b"GET http://x/ HTTP/1.1")) == 400
    assert refused(head(host=None, start=b"GET http://x/ HTTP/1.1")) == 400


# what happens to the connection


@pytest.mark.parametrize(
    ("version", "connection", "stays"),
    [
        (b"1.1", None, True),
        (b"1.1", b"close", False),
        (b"1.1", b"CLOSE", False),
        (b"1.1", b"keep-alive, Close", False),
        (b"1.1", b"keep-alive", True),
        (b"1.1", b"closed", True),
        (b"1.1", b",,\tclose ,", False),
        (b"1.1", b"", True),
        (b"1.0", None, False),
        (b"1.0", b"close", False),
    ],
)
def test_a_connection_stays_unless_it_is_told_to_close(version: bytes, connection: bytes | None, stays: bool) -> None:
    given_lines = [] if connection is None else [b"Connection: " + connection]
    assert read(*given_lines, start=b"GET / HTTP/" + version).keep_alive is stays


@pytest.mark.parametrize(
    ("given_lines", "upgrade"),
    [
        ([b"Connection: Upgrade", b"Upgrade: websocket"], True),
        ([b"Connection: keep-alive, upgrade", b"Upgrade: x"], True),
        ([b"Connection: keep-alive", b"Upgrade: websocket"], False),
        ([b"Upgrade: websocket"], False),
        ([b"Connection: upgrade"], False),
    ],
)
def test_an_upgrade_takes_both_fields(given_lines: list[bytes], upgrade: bool) -> None:
    assert read(*given_lines).upgrade is upgrade


# the body


@pytest.mark.parametrize(
    ("given_lines", "length"),
    [
        ([], 0),
        ([b"Content-Length: 0"], 0),
        ([b"Content-Length:7"], 7),
        ([b"Content-Length: \t07 "], 7),
        ([b"Content-Length: 999999999999999999"], 999999999999999999),
        ([b"Transfer-Encoding: chunked"], None),
        ([b"Transfer-Encoding: Chunked \t"], None),
    ],
)
def test_a_length_is_told_or_a_chunked_body(given_lines: list[bytes], length: int | None) -> None:
    found = read(*given_lines, start=b"POST / HTTP/1.1")
    assert (found.length, found.has_body) == (length, length != 0)


@pytest.mark.parametrize(
    "given_lines",
    [
        [b"Content-Length: " + value]
        for value in (b"", b"-1", b"+1", b"1_0", b"0x1", b"1,1", b"1, 1", b"1 1", b"1.0", b"\xb2", b"1" * 19, b"1e3")
    ]
    + [
        [b"Transfer-Encoding: " + value]
        for value in (
            b"",
            b"gzip",
            b"gzip, chunked",
            b"chunked, chunked",
            b"chunked;q=1",
            b"identity",
            b"xchunked",
            b"\x0bchunked",
            b"chunked\x0c",
            b"\xa0chunked",
            b'"chunked"',
        )
    ]
    + [
        [b"Content-Length: 1", b"Content-Length: 1"],
        [b"Content-Length: 1", b"content-length: 2"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 0"],
    ],
)
def test_where_a_body_ends_is_never_guessed(given_lines: list[bytes]) -> None:
    assert refused(head(*given_lines, start=b"POST / HTTP/1.1")) == 400


def test_a_chunked_body_has_no_place_in_1_0() -> None:
    assert refused(head(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0")) == 400


def test_a_continue_is_expected_in_1_1_only() -> None:
    assert read(b"Expect: 100-Continue ").expects_continue
    assert not read(b"Expect: 100-continue", start=b"GET / HTTP/1.0").expects_continue
    assert not read().expects_continue


def test_no_other_expectation_is_met() -> None:
    assert refused(head(b"Expect: 200-ok")) == 417
    assert refused(head(b"Expect: 100-continue", b"Expect: 100-continue")) == 400


# lines


@pytest.mark.parametrize(
    "line",
    [
        b"X",
        b"X : 1",
        b" X: 1",
        b"\tX: 1",
        b": 1",
        b"X: 1\n",
        b"X: 1\r",
        b"X: a\nY: b",
        b"X: a\rY: b",
        b"X: \x00",
        b"X: \x7f",
        b"X: \x1b[0m",
        b"X(: 1",
        b"X\xe4: 1",
        b"X: 1\r\n folded",
        b"X: 1\r\n\tfolded",
        b"X\t: 1",
        b'"X": 1',
        b"X: 1\x0b",
        b"X\x00: 1",
        b"\r",
        b"\n",
        b"X: 1\r\r",
        b"X: 1\n\r",
    ],
)
@pytest.mark.parametrize("where", ["first", "last"])
def test_what_is_no_field_line_is_refused(line: bytes, where: str) -> None:
    given_lines = (line, b"A: 1") if where == "first" else (b"A: 1", line)
    assert refused(head(*given_lines)) == 400


@given(st.binary(max_size=60))
def test_bytes_are_fields_only_if_each_line_is_one(block: bytes) -> None:
    expected: list[tuple[bytes, bytes]] | None = []
    *found, last = block.split(b"\r\n")
    for line in found:
        name, colon, value = line.partition(b":")
        good = colon and name and not name.strip(TOKEN.encode()) and not re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", value)
        if not good:
            expected = None
            break
        if expected is not None:
            expected.append((name, value.lstrip(b" \t")))
    if last:
        expected = None
    if expected is not None or not last:
        assert fields.pairs(block) == expected


def test_so_many_fields_and_no_more() -> None:
    given_lines = [b"X: 1"] * (MAX_FIELDS - 1)
    assert len(read(*given_lines).kept) == MAX_FIELDS - 1
    assert refused(head(*given_lines, b"X: 1")) == 431


@pytest.mark.parametrize(
    "line",
    [
        b"X:" + b" " * 16_000 + b"\x01",
        b"X:" + b"\t" * 16_000 + b"\x7f",
        b"X" * 40_000,
        b"X:" + b"a " * 20_000 + b"\x01",
    ],
)
def test_a_head_of_any_kind_is_refused_in_no_time(line: bytes) -> None:
    began = time.process_time()
    assert refused(head(line)) == 400
    assert time.process_time() - began < 0.5


@given(st.binary(max_size=200))
def test_no_bytes_are_anything_but_a_request_or_malformed(data: bytes) -> None:
    for whole in (
        data + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + data + b"\r\n\r\n",
        b"GET /" + data + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ):
        try:
            assert isinstance(parse(whole), RequestHead)
        except Malformed as error:
            assert 400 <= error.status < 600


# what has not come to its end yet


def feed(pieces: list[bytes]) -> None:
    """As a connection does: what came, and from where on it is new."""
    data = bytearray()
    for piece in pieces:
        data += piece
        check_beginning(data, len(data) - len(piece))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(lines, st.lists(st.integers(0, 5000), max_size=30))
def test_the_beginning_of_a_head_is_good_however_it_is_cut(
    given_lines: list[tuple[bytes, bytes, bytes]], places: list[int]
) -> None:
    whole = head(*(name + b":" + blank + value for name, blank, value in given_lines))
    feed(cut(whole[:-1], places))


def test_the_beginning_of_a_head_is_good_byte_by_byte() -> None:
    feed([bytes([byte]) for byte in head(b"X-A: 1", b"X-B:")[:-1]])


@given(
    lines,
    st.lists(st.integers(0, 5000), max_size=30),
    st.sampled_from([b"\n", b"\r\r", b"\x00", b"\ra", b"\n\r\n"]),
    st.integers(0, 5000),
)
def test_a_broken_line_end_is_told_at_once_however_it_is_cut(
    given_lines: list[tuple[bytes, bytes, bytes]], places: list[int], broken: bytes, place: int
) -> None:
    whole = head(*(name + b":" + blank + value for name, blank, value in given_lines))[:-4]
    place %= len(whole) + 1
    if whole[place - 1 : place] == b"\r":
        place -= 1
    with pytest.raises(Malformed) as caught:
        feed(cut(whole[:place] + broken, places))
    assert caught.value.status == 400


def test_a_head_without_end_is_too_large() -> None:
    check_beginning(bytearray(b"a" * MAX_HEAD), 0)
    with pytest.raises(Malformed) as caught:
        check_beginning(bytearray(b"a" * (MAX_HEAD + 1)), MAX_HEAD)
    assert caught.value.status == 431


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
    b"Expect: 100-continue",
    b"Content-Type: a/b",
    b"Upgrade: websocket",
    b"",
)
STARTS = (b"GET / HTTP/1.1", b"POST / HTTP/1.1", b"POST / HTTP/1.0", b"POST /?a HTTP/1.1")


def facts_of(read_one: Callable[[bytes], RequestHead], data: bytes) -> object:
    try:
        found = read_one(data)
    except Malformed as error:
        return error.status, str(error)
    ours = {name: value for name, value in found.ours.items() if name != b"content-length"}
    return (
        found.method,
        found.target,
        found.path,
        found.version,
        found.host,
        found.length,
        found.has_body,
        found.keep_alive,
        list(found.kept),
        ours,
        found.content_type,
        found.upgrade,
        found.expects_continue,
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
            whole = head(*filter(None, given_lines), start=start)
            assert facts_of(heads.read, whole) == facts_of(parse, whole)


@pytest.mark.parametrize("line", LENGTHS[:8])
def test_a_length_is_told_again_however_it_is_written(line: bytes) -> None:
    heads, whole = Heads(), head(line, start=b"POST / HTTP/1.1")
    assert [heads.read(whole).length for _ in range(3)] == [parse(whole).length] * 3


def test_the_length_that_is_found_is_that_of_the_last_head() -> None:
    heads = Heads()
    for length in (5, 6, 6, 0, 5):
        read = heads.read(head(b"Content-Length: %d" % length, start=b"POST / HTTP/1.1"))
        assert (read.length, read.find(b"content-length")) == (length, None)  # read, and not kept as text


@pytest.mark.parametrize(
    ("given", "background"),
    [
        ("u=7", True), ("u=7, i", True), ("i, u=7", True), ("i,u=7;x=1", True), (" u=7 ", True),
        ("u=6", False), ("u=0", False), ("i", False), ("", False), ("u=70", False), ("xu=7", False), ("x=u=7", False),
        ("u=7x", False), ("u=7" * 1000, False),
    ],
)  # fmt: skip
def test_only_background_counts(given: str, background: bool) -> None:
    assert parse(head(b"PrIoRiTy: " + given.encode(), start=b"POST / HTTP/1.1")).background is background


def test_who_says_nothing_is_in_a_hurry() -> None:
    assert not parse(head(start=b"POST / HTTP/1.1")).background
