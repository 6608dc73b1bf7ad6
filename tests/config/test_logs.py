from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Iterator

import pytest

from config import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What a process would have written; the log of the tests is as before afterwards."""
    root, hook = logging.getLogger(), sys.excepthook
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    yield io.StringIO()
    root.handlers, sys.excepthook = handlers, hook
    root.setLevel(level)
    logging.captureWarnings(False)


def _lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_have_the_fields(stream: io.StringIO) -> None:
    logs.set_up("json", "info", stream)
    logging.getLogger("lb.x").warning("lost %s\nof it", "ä", extra=logs.fields("worker.lost", instance="instance_0"))
    logging.getLogger("lb.x").debug("not said")
    (line,) = _lines(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(line.pop("timestamp")))
    assert line == {
        "level": "warning", "module": "lb.x", "event": "worker.lost", "message": "lost ä\nof it",
        "data": {"instance": "instance_0"},
    }  # fmt: skip


def test_a_message_of_nobody_in_particular_is_an_event_too(stream: io.StringIO) -> None:
    logs.set_up("json", "debug", stream)
    logging.getLogger("asyncio").debug("x")
    assert (_lines(stream)[0]["event"], _lines(stream)[0]["data"]) == ("log", {})


def test_what_is_no_json_is_written_as_text(stream: io.StringIO) -> None:
    logs.set_up("json", "info", stream)
    logging.getLogger("x").info("x", extra=logs.fields("x", path=stream))
    assert "StringIO" in str(_lines(stream)[0]["data"])


def test_exceptions_are_one_line(stream: io.StringIO) -> None:
    logs.set_up("json", "info", stream)
    try:
        raise ValueError("no\nsuch thing")
    except ValueError as error:
        logging.getLogger("x").exception("it failed")
        sys.excepthook(ValueError, error, error.__traceback__)
    caught, ended = _lines(stream)
    assert "Traceback" in caught["data"]["exception"]  # type: ignore[index]
    assert (ended["level"], ended["event"], ended["message"]) == ("critical", "crash", "no\nsuch thing")


def test_text_is_for_people(stream: io.StringIO) -> None:
    logs.set_up("text", "info", stream)
    logging.getLogger("lb.x").info("said", extra=logs.fields("x"))
    assert re.fullmatch(r"[-0-9]+ [0-9:,]+ INFO lb\.x: said\n", stream.getvalue())


def test_times_are_utc() -> None:
    assert logs.iso(0.0016) == "1970-01-01T00:00:00.001Z"
    assert logs.iso(0) == "1970-01-01T00:00:00.000Z"


def test_what_others_chose_stays_in_its_line(stream: io.StringIO) -> None:
    for style in ("text", "json"):
        logs.set_up(style, "info", stream)
        logging.getLogger("x").info("name %s", "\x1b[2J\u202e\u2028\n2026 forged\x9b")
    text, encoded = stream.getvalue().splitlines()
    assert text.endswith(r"name \x1b[2J\u202e\u2028\n2026 forged\x9b")
    assert encoded.isascii() and json.loads(encoded)["message"] == "name \x1b[2J\u202e\u2028\n2026 forged\x9b"


def test_a_traceback_keeps_its_lines_and_nothing_else(stream: io.StringIO) -> None:
    logs.set_up("text", "info", stream)
    try:
        raise ValueError("\x1b[2J")
    except ValueError:
        logging.getLogger("x").exception("failed")
    said = stream.getvalue()
    assert "\x1b" not in said and said.count("\n") > 3 and said.endswith("ValueError: \\x1b[2J\n")
