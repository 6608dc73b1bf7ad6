"""Against a coder and a decoder that know nothing of the ones under test."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lb.protocol.http1.chunked import LAST, BadChunk, Decoder, Passage, frame, payload_of

TEXT = bytes([9, *range(0x20, 0x7F), *range(0x80, 0x100)])
TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
HEX = b"0123456789abcdefABCDEF"


@dataclass
class Read:
    """What can be told of a chunked body by its beginning. ``rest``: what came behind the end. ``plain``: neither
    extensions nor trailers."""

    payload: bytes = b""
    ended: bool = False
    rest: bytes = b""
    plain: bool = True


def read(data: bytes) -> Read:
    """Raises ValueError for what is no chunked body."""
    found = Read()
    while True:
        line, ending, data = data.partition(b"\r\n")
        if not ending:
            return found
        digits, semicolon, extension = line.partition(b";")
        if semicolon or digits != digits.rstrip(b" \t"):
            found.plain = False
            digits = digits.rstrip(b" \t")
        if not digits or digits.strip(HEX) or len(digits) > 12 or extension.strip(TEXT):
            raise ValueError("no size")
        size = int(digits, 16)
        if not size:
            break
        found.payload += data[:size]
        if len(data) < size + 2:
            if data[size:] not in (b"", b"\r"):
                raise ValueError("too long")
            return found
        if data[size : size + 2] != b"\r\n":
            raise ValueError("too long")
        data = data[size + 2 :]
    while True:
        line, ending, data = data.partition(b"\r\n")
        if not ending:
            return found
        if not line:
            found.ended, found.rest = True, data
            return found
        found.plain = False
        name, colon, value = line.partition(b":")
        if not name or name.strip(TOKEN) or not colon or value.strip(TEXT):
            raise ValueError("no trailer")


def pieces(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@dataclass
class Outcome:
    out: bytes
    rest: bytes
    ended_with: int  # bytes that had been fed when it ended; -1 if it did not


def run(coder: Decoder | Passage, parts: list[bytes]) -> Outcome:
    out, fed = b"", 0
    for number, part in enumerate(parts):
        out += coder.feed(part)
        fed += len(part)
        if coder.ended:
            return Outcome(out, coder.rest + b"".join(parts[number + 1 :]), fed)
    return Outcome(out, b"", -1)


extensions = st.one_of(
    st.just(b""), st.just(b""), st.just(b""), st.sampled_from([b";a=b", b" ;a", b'\t; a="b;c"', b" ", b";", b" \t "])
)
trailers = st.lists(st.sampled_from([b"X-A: 1", b"Digest:abc", b"a:", b"E: \xc3\xa4"]), max_size=3)
surplus = st.sampled_from([b"", b"", b"HTTP/1.1 200 OK\r\n\r\n", b"\r\n", b"0\r\n\r\n", b"5"])
cuts = st.one_of(st.lists(st.integers(0, 10_000), max_size=12), st.just(list(range(10_000))))
payloads = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=40),
        st.sampled_from([b"\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n", b"\r", b"\n", b"x" * 300]),
    ),
    max_size=6,
)


@st.composite
def bodies(draw: st.DrawFn, plain: bool = False) -> tuple[bytes, bytes]:
    """(payload, the same in chunked coding)."""
    chunks, coded = draw(payloads), b""
    for chunk in chunks:
        size = b"%x" % len(chunk)
        if not plain:
            size = draw(st.sampled_from([size, size, size.upper(), b"0" + size, size.rjust(10, b"0")])) + draw(
                extensions
            )
        coded += size + b"\r\n" + chunk + b"\r\n"
    if plain:
        return b"".join(chunks), coded + LAST
    coded += draw(st.sampled_from([b"0", b"0", b"000"])) + draw(extensions) + b"\r\n"
    return b"".join(chunks), coded + b"".join(line + b"\r\n" for line in draw(trailers)) + b"\r\n"


any_body = st.one_of(bodies(plain=True), bodies())


@given(any_body, surplus)
def test_the_tests_own_decoder_reads_what_the_tests_own_coder_wrote(body: tuple[bytes, bytes], behind: bytes) -> None:
    found = read(body[1] + behind)
    assert (found.payload, found.ended, found.rest) == (body[0], True, behind)


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=5))
def test_frames_and_the_last_one_are_a_body(chunks: list[bytes]) -> None:
    found = read(b"".join(frame(chunk) for chunk in chunks) + LAST)
    assert found == Read(b"".join(chunks), True)


# taken apart


@given(any_body, cuts, surplus)
def test_a_body_is_taken_apart_however_it_is_cut(body: tuple[bytes, bytes], places: list[int], behind: bytes) -> None:
    payload, coded = body
    for parts in (pieces(coded + behind, places), [*pieces(coded, places), *([behind] if behind else [])]):
        decoder = Decoder(strict=False)
        outcome = run(decoder, parts)
        assert (outcome.out, outcome.rest) == (payload, behind)
        assert outcome.ended_with >= len(coded)
        assert not decoder.between_chunks


@given(any_body, cuts)
def test_it_ends_with_its_last_byte_and_not_before(body: tuple[bytes, bytes], places: list[int]) -> None:
    for coder in (Decoder(strict=False), Passage()):
        assert run(coder, pieces(body[1][:-1], places)).ended_with == -1
        coder.feed(body[1][-1:])
        assert (coder.ended, coder.rest) == (True, b"")


@given(any_body, cuts, st.integers(0, 10_000))
def test_the_payload_comes_as_soon_as_it_is_there(body: tuple[bytes, bytes], places: list[int], end: int) -> None:
    coded = body[1][: end % len(body[1])]
    assert run(Decoder(strict=False), pieces(coded, places)).out == read(coded).payload
    assert read(run(Passage(), pieces(coded, places)).out).payload == read(coded).payload


@given(bodies(), cuts)
def test_a_strict_one_refuses_extensions_and_nothing_else(body: tuple[bytes, bytes], places: list[int]) -> None:
    payload, coded = body
    lines_only = read_sizes(coded)
    if any(set(line) - set(HEX) for line in lines_only):
        with pytest.raises(BadChunk):
            run(Decoder(strict=True), pieces(coded, places))
    else:
        assert run(Decoder(strict=True), pieces(coded, places)).out == payload


def read_sizes(data: bytes) -> list[bytes]:
    """The size lines of a body."""
    lines = []
    while True:
        line, _, data = data.partition(b"\r\n")
        lines.append(line)
        size = int(line.partition(b";")[0], 16)
        if not size:
            return lines
        data = data[size + 2 :]


def test_between_chunks_is_told_byte_by_byte() -> None:
    decoder, told = Decoder(strict=False), ""
    for byte in b"2\r\nab\r\n1;x\r\nc\r\n0\r\nA: b\r\n\r\n":
        decoder.feed(bytes([byte]))
        told += "|" if decoder.between_chunks else "."
    assert told == "......|" + ".......|" + "..........."[: len(told) - 15]


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"g\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b" 1\r\n",
        b"0x1\r\n",
        b"1_0\r\n",
        b"1\n",
        b"1\r",
        b"1\rx",
        b";a\r\n",
        b"1 1\r\n",
        b"1;\x00\r\n",
        b"1;a\nb\r\n",
        b"1;a\rb\r\n",
        b"1\r\naXX",
        b"1\r\nab",
        b"1\r\na\n",
        b"1\r\na\r\r",
        b"0\r\n \r\n",
        b"0\r\nX\r\n",
        b"0\r\nX : 1\r\n",
        b"0\r\n X: 1\r\n",
        b"0\r\nX: 1\n\r\n",
        b"0\r\n\n",
        b"0\r\n\rx",
        b"0\r\nX: \x00\r\n",
        b"1" * 13 + b"\r\n",
        b"\xb2\r\n",
        b"\n",
        b"0\r\nX: a\rb\r\n",
        b"0\n\n",
        b"0;\x7f\r\n\r\n",
        b"\x00",
        b"HTTP/1.1 ",
    ],
)
@pytest.mark.parametrize("coder", [Decoder, Passage])
def test_what_is_no_chunked_body_is_refused(data: bytes, coder: type[Decoder] | type[Passage]) -> None:
    """However it is cut, and behind a good chunk as well; one byte more shows it where it can still become one."""
    for before in (b"", b"3\r\nabc\r\n", b"3;x\r\nabc\r\n"):
        for parts in (
            [before + data + b"\x00"],
            [*filter(None, [before]), data, b"\x00"],
            [bytes([byte]) for byte in before + data + b"\x00"],
        ):
            with pytest.raises(BadChunk):
                run(Decoder(strict=False) if coder is Decoder else Passage(), parts)


@pytest.mark.parametrize(
    "line", [b"1;" + b"a" * 5000, b"0\r\n" + b"X: " + b"a" * 5000, b"0" * 5000, b"0\r\n" + b"X" * 5000]
)
@pytest.mark.parametrize("step", [1, 1000, 6000])
def test_a_line_that_is_too_long_is_refused_however_it_is_cut(line: bytes, step: int) -> None:
    data = line + b"\r\n"
    with pytest.raises(BadChunk):
        run(Decoder(strict=False), [data[at : at + step] for at in range(0, len(data), step)])


@pytest.mark.parametrize("step", [1, 1000, 100_000])
def test_too_many_trailers_are_refused(step: int) -> None:
    data = b"0\r\n" + b"X-Trailer: 1\r\n" * 2000
    with pytest.raises(BadChunk):
        run(Decoder(strict=False), [data[at : at + step] for at in range(0, len(data), step)])


@given(any_body, st.integers(0, 10_000), st.integers(0, 255), st.sampled_from(["change", "insert", "remove"]), cuts)
def test_a_corrupt_body_is_refused_or_read_as_anybody_reads_it(
    body: tuple[bytes, bytes], place: int, byte: int, how: str, places: list[int]
) -> None:
    coded, place = body[1], place % len(body[1])
    broken = coded[:place] + (b"" if how == "remove" else bytes([byte])) + coded[place + (how != "insert") :]
    check_as_anybody_reads_it(broken, places)


@given(
    st.lists(st.sampled_from([b"0", b"1", b"a", b"\r\n", b"\r", b"\n", b";", b" ", b":", b"X"]), max_size=14).map(
        b"".join
    ),
    cuts,
)
def test_whatever_comes_is_refused_or_read_as_anybody_reads_it(data: bytes, places: list[int]) -> None:
    check_as_anybody_reads_it(data, places)


def check_as_anybody_reads_it(data: bytes, places: list[int]) -> None:
    parts = pieces(data, places)
    try:
        expected = read(data)
    except ValueError:
        for coder in (Decoder(strict=False), Passage()):
            try:
                assert run(coder, parts).ended_with == -1
            except BadChunk:
                pass
        return
    try:
        outcome = run(Decoder(strict=False), parts)
    except BadChunk:
        assert not expected.ended
        return
    assert (outcome.out, outcome.rest) == (expected.payload, expected.rest)
    assert (outcome.ended_with >= 0) is expected.ended
    passed = run(Passage(), parts)
    assert read(passed.out) == Read(expected.payload, expected.ended)
    assert passed.rest == expected.rest


# passed on


@given(any_body, cuts, surplus)
def test_a_body_that_is_passed_on_is_the_same_without_what_nobody_needs(
    body: tuple[bytes, bytes], places: list[int], behind: bytes
) -> None:
    payload, coded = body
    for parts in (pieces(coded + behind, places), [*pieces(coded, places), *([behind] if behind else [])]):
        outcome = run(Passage(), parts)
        assert read(outcome.out) == Read(payload, ended=True, plain=True)
        assert outcome.rest == behind
        assert outcome.ended_with >= len(coded)


@given(bodies(plain=True), cuts)
def test_what_is_plain_is_passed_on_byte_by_byte(body: tuple[bytes, bytes], places: list[int]) -> None:
    assert read(run(Passage(), pieces(body[1], places)).out).payload == body[0]
    assert run(Passage(), [body[1]]).out == body[1]


@given(any_body, cuts, st.integers(0, 10_000), st.binary(min_size=1, max_size=60))
def test_another_end_fits_in_wherever_it_has_got_to(
    body: tuple[bytes, bytes], places: list[int], end: int, last: bytes
) -> None:
    coded = body[1][: end % len(body[1])]
    passage = Passage()
    out = run(passage, pieces(coded, places)).out
    assert read(out + passage.interrupt(last)) == Read(read(coded).payload + last)


def test_another_end_fits_in_at_any_byte() -> None:
    coded, last = (
        b"3\r\nabc\r\n14\r\n" + b"x" * 20 + b"\r\n1;e\r\nd\r\n01\r\nf\r\n2\r\ngh\r\n0\r\nT: 1\r\n\r\n",
        b"event",
    )
    for end in range(len(coded)):
        for step in (1, 2, 3, end or 1):
            passage = Passage()
            out = run(passage, [coded[at : min(at + step, end)] for at in range(0, end, step)]).out
            assert read(out + passage.interrupt(last)) == Read(read(coded[:end]).payload + last)


@pytest.mark.parametrize("room", range(1, 12))
def test_another_end_is_read_whole_whatever_room_the_running_chunk_has(room: int) -> None:
    passage = Passage()
    out = passage.feed(b"14\r\n" + b"x" * (20 - room))
    assert read(out + passage.interrupt(b"event")).payload == b"x" * (20 - room) + b"event"


@given(any_body, st.integers(0, 10_000), st.integers(0, 255), cuts, st.binary(min_size=1, max_size=60))
@example((b"", b"5\r\nabcde\r\n"), 6, ord("X"), [3, 5], b"event").via("the running chunk was forgotten")
def test_after_a_corrupt_piece_another_end_fits_in_where_the_client_has_got_to(
    body: tuple[bytes, bytes], place: int, byte: int, places: list[int], last: bytes
) -> None:
    """Nothing of the piece in which it was found has gone out."""
    coded, place = body[1], place % len(body[1])
    check_interrupted(pieces(coded[:place] + bytes([byte]) + coded[place + 1 :], places), last)


def check_interrupted(parts: list[bytes], last: bytes) -> None:
    passage, out = Passage(), b""
    try:
        for part in parts:
            out += passage.feed(part)
            if passage.ended:
                return
    except BadChunk:
        assert read(out + passage.interrupt(last)) == Read(read(out).payload + last)


@pytest.mark.parametrize(
    "parts",
    [
        [b"a\r\nhello", b"world\r\nzz\r\n"],  # the next chunk has no size
        [b"a\r\nhello", b"world\r\n1;x\r\nabc"],  # a chunk with an extension that is longer than it says
        [b"a\r\nhello", b"worldX"],  # no CR behind the chunk
        [b"a\r\nhello", b"worldXY"],
        [b"a\r\nhello", b"world\r\n1\r\nabc"],
        [b"a\r\nhello", b"world\r\n1\r\nab"],
        [b"a\r\nhelloworld", b"X"],
        [b"a\r\nhelloworld\r", b"X"],
        [b"a\r\nhelloworld\r\n", b"X"],
        [b"1;x\r\na\r\n5", b"\r\nhelloXX"],
        [b"0;x\r\n", b"\x00"],
    ],
)
def test_after_a_corrupt_piece_the_client_hears_of_it_where_it_has_got_to(parts: list[bytes]) -> None:
    check_interrupted(parts, b"\n\ndata: it broke\n\n")


pieces_of_any_size = st.binary(min_size=1, max_size=40) | st.integers(1, 5000).map(lambda size: b"x" * size)


@given(st.lists(pieces_of_any_size, min_size=1, max_size=4), st.booleans())
def test_whole_chunks_are_told_from_anything_else(pieces: list[bytes], capital: bool) -> None:
    """A size in capitals is as good as one in small letters, on the longer way."""
    chunks = [(b"%X" if capital else b"%x") % len(piece) + b"\r\n" + piece + b"\r\n" for piece in pieces]
    data, start = b"".join(chunks), payload_of(b"".join(chunks))
    if start > 0:
        assert len(pieces) == 1 and data[start:-2] == pieces[0]
    elif start < 0:
        assert max(map(len, pieces)) >= 4096 or len(data) > 8192
    if not capital and len(pieces) == 1 and len(data) <= 2048:
        assert start > 0
    for broken in (data[:-1], data + b"1", data + LAST, LAST, data[:-2] + b"\n\r", b"0" + data):
        assert payload_of(broken) < 0


def test_a_large_chunk_costs_nothing_but_its_bytes() -> None:
    passage = Passage()
    assert passage.feed(b"ffffffff\r\n") == b"ffffffff\r\n"
    piece = b"x" * 100_000
    assert all(passage.feed(piece) is piece for _ in range(100))
