from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.protocol.websocket import CLOSE_RESTART, Frames


def a_frame(first: int, length: int, masked: bool) -> bytes:
    """RFC 6455 5.2, by hand."""
    mask = 0x80 if masked else 0
    if length < 126:
        head = struct.pack("!BB", first, mask | length)
    elif length < 65536:
        head = struct.pack("!BBH", first, mask | 126, length)
    else:
        head = struct.pack("!BBQ", first, mask | 127, length)
    return (
        head
        + (b"\xff\x7f\xfe\x88" if masked else b"")
        + b"\x88\xfe\x7f\xff\x00"[:5] * (length // 5)
        + b"\x81" * (length % 5)
    )


lengths = st.one_of(
    st.integers(0, 200), st.sampled_from([0, 1, 125, 126, 127, 65535, 65536, 70000]), st.integers(0, 70000)
)
frames = st.lists(
    st.tuples(st.sampled_from([0x81, 0x82, 0x01, 0x00, 0x80, 0x88, 0x89, 0x8A, 0xC1]), lengths, st.booleans()),
    max_size=8,
)


def ends_of(given_frames: list[tuple[int, int, bool]]) -> tuple[bytes, set[int]]:
    data, ends = b"", {0}
    for one in given_frames:
        data += a_frame(*one)
        ends.add(len(data))
    return data, ends


@given(frames, st.lists(st.integers(0, 600_000), max_size=20), st.data())
def test_it_is_between_frames_exactly_where_one_has_ended(
    given_frames: list[tuple[int, int, bool]], places: list[int], data: st.DataObject
) -> None:
    stream, ends = ends_of(given_frames)
    near = data.draw(st.lists(st.tuples(st.sampled_from(sorted(ends)), st.integers(-3, 15)), max_size=20))
    places = [place % (len(stream) + 1) for place in places] + [
        end + off for end, off in near if 0 <= end + off <= len(stream)
    ]
    edges = sorted({0, len(stream), *places})
    followed = Frames()
    assert followed.between
    for start, end in itertools.pairwise(edges):
        followed.feed(stream[start:end])
        assert followed.between is (end in ends)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 200, 65536])
def test_it_is_between_frames_exactly_where_one_has_ended_byte_by_byte(length: int, masked: bool) -> None:
    stream, ends = ends_of([(0x82, length, masked), (0x89, 0, not masked), (0x81, 3, masked)])
    followed = Frames()
    told = set()
    for at in range(len(stream)):
        followed.feed(stream[at : at + 1])
        if followed.between:
            told.add(at + 1)
    assert told == ends - {0}


@pytest.mark.parametrize(
    ("head", "length"), [(b"\x82\x7e\x00\x05", 5), (b"\x82\x7f" + bytes(7) + b"\x05", 5), (b"\x82\x7e\x00\x00", 0)]
)
def test_a_length_may_be_written_longer_than_needed(head: bytes, length: int) -> None:
    followed = Frames()
    followed.feed(head)
    assert followed.between is (length == 0)
    followed.feed(b"x" * length)
    assert followed.between


def test_nothing_changes_nothing() -> None:
    followed = Frames()
    followed.feed(b"")
    assert followed.between
    followed.feed(b"\x81")
    followed.feed(b"")
    assert not followed.between


def test_a_huge_frame_is_only_counted() -> None:
    followed = Frames()
    followed.feed(b"\x82\x7f" + (1 << 62).to_bytes(8, "big"))
    followed.feed(b"x" * 1_000_000)
    assert not followed.between


def test_the_last_frame_is_a_whole_one_and_says_restart() -> None:
    followed = Frames()
    followed.feed(CLOSE_RESTART)
    assert followed.between
    assert struct.pack("!BBH", 0x88, 2, 1012) == CLOSE_RESTART
