"""One head after the other on a connection."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.protocol.http1.request import Heads, Malformed, RequestHead, parse
from requestheads import head

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
