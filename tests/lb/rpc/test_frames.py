"""Where a GOAWAY may stand between the frames of a server."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lb.rpc.frames import GOAWAY, FrameReader

DATA, HEADERS, SETTINGS, CONTINUATION = 0, 1, 4, 9
END_HEADERS = 4


def _frame(kind: int, size: int, flags: int = 0) -> bytes:
    return size.to_bytes(3) + bytes((kind, flags)) + b"\0\0\0\1" + b"x" * size


#: Frames, with whether another may stand behind.
KINDS = st.one_of(
    st.integers(0, 40).map(lambda size: [(_frame(DATA, size), True)]),
    st.integers(0, 20).map(lambda size: [(_frame(HEADERS, size, END_HEADERS), True)]),
    st.integers(0, 20).map(
        lambda size: [(_frame(HEADERS, size), False), (_frame(CONTINUATION, size, END_HEADERS), True)]
    ),
)


@given(st.lists(KINDS, max_size=8), st.data())
def test_frames_end_where_they_end_however_they_come(
    kinds: list[list[tuple[bytes, bool]]], data: st.DataObject
) -> None:
    parts = [(_frame(SETTINGS, 6), True), *(part for kind in kinds for part in kind)]
    whole, ends, at = b"".join(part for part, _ in parts), set(), 0
    for part, may in parts:
        at += len(part)
        if may:
            ends.add(at)
    reader, at = FrameReader(), 0
    while at < len(whole):
        step = data.draw(st.integers(1, 60))
        piece = whole[at : at + step]
        inside = sorted(end - at for end in ends if at < end <= at + len(piece))
        assert reader.feed(piece) == (inside[0] if inside else None)
        at += len(piece)
        assert reader.between == (at in ends)


def test_nothing_stands_before_the_settings_of_the_server() -> None:
    reader = FrameReader()
    assert not reader.between
    reader.feed(_frame(SETTINGS, 0))
    assert reader.between


def test_it_is_a_frame_itself() -> None:
    reader = FrameReader()
    assert reader.feed(GOAWAY) == len(GOAWAY) and int.from_bytes(GOAWAY[9:13]) == 2**31 - 1
