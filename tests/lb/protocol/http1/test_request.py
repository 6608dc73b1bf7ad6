"""What a head says, and what of it goes on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.protocol.http1.request import parse
from requestheads import LINES, NAMES, OURS, VALUES, head, read, refused


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


@given(LINES)
def test_every_other_line_is_kept_as_it_is_in_its_order(given_lines: list[tuple[bytes, bytes, bytes]]) -> None:
    found = read(*(name + b":" + blank + value for name, blank, value in given_lines))
    assert found.kept == [name + b": " + value for name, _, value in given_lines]


@given(LINES, st.data())
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


@given(NAMES, VALUES)
def test_any_field_is_found_whatever_its_case(name: bytes, value: bytes) -> None:
    assert read(name + b":" + value).find(name.lower()) == value.decode("latin-1").strip(" \t")


def test_the_content_type_is_told() -> None:
    assert read(b"content-TYPE:application/json; charset=utf-8").content_type == "application/json; charset=utf-8"
    assert read().content_type == ""


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
