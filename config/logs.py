"""How the log of a process looks: lines for people, or one JSON object a line for programs."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import IO, Any

from config.text import printable, printable_json

_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode

_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def fields(event: str, **data: Any) -> dict[str, Any]:
    """What a program may want of a message: ``log.warning("…", extra=fields("worker.lost", instance=name))``."""
    return {"event": event, "data": data}


def iso(at: float) -> str:
    """``at`` (s since the epoch) in UTC with milliseconds, as ISO 8601 has it."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def line(at: float, level: str, module: str, event: str, data: Mapping[str, Any], message: str | None = None) -> str:
    """One line of a log in JSON, without its end. ``at``: s since the epoch."""
    said: dict[str, Any] = {"timestamp": iso(at), "level": level, "module": module, "event": event}
    if message is not None:
        said["message"] = message
    said["data"] = data
    return printable_json(_encode(said))


class TextFormatter(logging.Formatter):
    """A line for people stays one line; what an exception adds is several."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return printable(super().formatException(ei), lines=True)


class JsonFormatter(logging.Formatter):
    """``event`` is what `fields` was given, or ``log``; ``message`` the sentence for people."""

    def format(self, record: logging.LogRecord) -> str:
        data = dict(getattr(record, "data", {}))
        if record.exc_info:
            data["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            data["stack"] = record.stack_info
        event = getattr(record, "event", "log")
        return line(record.created, record.levelname.lower(), record.name, event, data, record.getMessage())


def set_up(style: str, level: str, stream: IO[str] | None = None, text: str = _LINE, time: str | None = None) -> None:
    """The log of this process goes to ``stream`` (standard error), as ``text`` (logging's format, with ``time``) or
    ``json``; in JSON what would end in a bare traceback too. ``level`` is the setting."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter(text, time))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    if style == "json":
        sys.excepthook = _log_exception


def _log_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    said = str(error) or kind.__name__
    logging.getLogger("clusterctl").critical("%s", said, exc_info=(kind, error, trace), extra=fields("crash"))
