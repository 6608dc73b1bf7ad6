from __future__ import annotations

import pytest

from lb.downstream.head_buffer import HeadBuffer
from lb.protocol.http1.request import Malformed

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def holding(data: bytes) -> HeadBuffer:
    buffer = HeadBuffer()
    buffer += data
    return buffer


@pytest.mark.parametrize("before", [b"", b"\r\n"])
def test_a_head_may_come_byte_by_byte(before: bytes) -> None:
    buffer = HeadBuffer()
    for byte in (before + HEAD)[:-1]:
        buffer.append(byte)
        assert buffer.take() is None
    buffer += b"\nrest"
    assert buffer.holds_head
    assert buffer.take() == (HEAD, b"rest")
    assert not buffer and not buffer.skipped


def test_one_empty_line_is_passed_over_before_each_request_and_no_second_one() -> None:
    buffer = holding(b"\r\n")
    assert buffer.take() is None and not buffer and buffer.skipped
    buffer += b"\r\n" + HEAD
    found = buffer.take()
    assert found is not None and found[0].startswith(b"\r\n")  # which is no head
    buffer += b"\r\n" + HEAD
    assert buffer.take() == (HEAD, b"")


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\n", b"GET /\0", b"GET /" + b"x" * 65536])
def test_what_cannot_become_a_head_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(Malformed):
        holding(data).take()
