"""Log files of workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker import logfile


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "w.log"


def test_a_file_within_its_limit_stays(log: Path) -> None:
    log.write_text("12345")
    assert logfile.rotate(log, limit=5) is False
    assert [p.name for p in log.parent.iterdir()] == ["w.log"]


def test_no_file_is_nothing_to_rotate(log: Path) -> None:
    assert logfile.rotate(log) is False and not log.exists()


def test_the_oldest_is_dropped_and_the_others_move_on(log: Path) -> None:
    for text in ("first", "second", "third", "fourth", "fifth"):
        log.write_text(text)
        assert logfile.rotate(log, limit=1, keep=3) is True
    assert {p.name: p.read_text() for p in log.parent.iterdir()} == {
        "w.log": "", "w.log.1": "fifth", "w.log.2": "fourth", "w.log.3": "third",
    }


def test_the_writer_goes_on_in_the_same_file(log: Path) -> None:
    with log.open("ab", buffering=0) as writer:
        writer.write(b"before\n")
        logfile.rotate(log, limit=1)
        writer.write(b"after\n")
    assert log.read_bytes() == b"after\n"
    assert log.with_name("w.log.1").read_bytes() == b"before\n"


def test_at_least_one_old_file_is_kept(log: Path) -> None:
    log.write_text("old")
    logfile.rotate(log, limit=1, keep=1)
    assert sorted(p.name for p in log.parent.iterdir()) == ["w.log", "w.log.1"]


@pytest.mark.parametrize(
    ("lines", "expected"), [(0, []), (1, ["c"]), (2, ["b", "c"]), (3, ["a", "b", "c"]), (9, ["a", "b", "c"])]
)
def test_the_tail_is_the_last_lines(log: Path, lines: int, expected: list[str]) -> None:
    log.write_text("a\nb\nc\n")
    assert logfile.tail(log, lines) == expected


def test_the_tail_reads_no_more_than_it_may(log: Path) -> None:
    log.write_text("x" * 1000 + "\nlast\n")
    assert logfile.tail(log, 10, most_bytes=10) == ["xxxx", "last"]


def test_the_tail_of_nothing_is_nothing(log: Path) -> None:
    assert logfile.tail(log, 5) == []
    log.write_text("")
    assert logfile.tail(log, 5) == []


def test_bytes_that_are_no_text_do_no_harm(log: Path) -> None:
    log.write_bytes(b"caf\xe9\nok")
    assert logfile.tail(log, 5) == ["caf\ufffd", "ok"]


def test_a_note_of_ours_stands_between_the_workers_lines(log: Path) -> None:
    log.write_text("theirs\n")
    logfile.note(log, "start 2: ü")
    assert log.read_text(encoding="utf-8") == "theirs\n--- start 2: ü\n"
    assert log.stat().st_mode & 0o777 == 0o600
