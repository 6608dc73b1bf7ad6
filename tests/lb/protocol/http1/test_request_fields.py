"""What is no field, where a body ends, and what can be told before a head is complete."""

from __future__ import annotations

import itertools
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.protocol.http1 import fields
from lb.protocol.http1.request import MAX_FIELDS, MAX_HEAD, Malformed, RequestHead, check_beginning, parse
from requestheads import LINES, TOKEN, head, read, refused

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


@pytest.mark.measured
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


@given(LINES, st.lists(st.integers(0, 5000), max_size=30))
def test_the_beginning_of_a_head_is_good_however_it_is_cut(
    given_lines: list[tuple[bytes, bytes, bytes]], places: list[int]
) -> None:
    whole = head(*(name + b":" + blank + value for name, blank, value in given_lines))
    feed(cut(whole[:-1], places))


def test_the_beginning_of_a_head_is_good_byte_by_byte() -> None:
    feed([bytes([byte]) for byte in head(b"X-A: 1", b"X-B:")[:-1]])


@given(
    LINES,
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
