"""Type checks of request fields with the leniency and the error shape of pydantic. Pure.

vLLM's request models are pydantic models in lax mode: ``"3"`` is an integer, ``2.5`` is not. A check returns
the converted value or adds to the list of problems; the first problem names the ``param`` of the answer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from worker.sim.errors import ApiError, PlainError

_TRUE = {"1", "on", "t", "true", "y", "yes"}
_FALSE = {"0", "off", "f", "false", "n", "no"}
_REPORTED = 10

#: An integer in a string, without white space around it; and Unicode's white space, as Python strips more than that.
_INTEGER = re.compile(r"([+-]?[0-9]+(?:_[0-9]+)*)(?:\.0+)?")
_WHITE = "".join(char for char in map(chr, range(0x3001)) if char.isspace() and char not in "\x1c\x1d\x1e\x1f")

#: A float from here on is no integer.
_LARGEST = float(2**63)


class Problems(list[dict[str, str]]):
    """The validation errors found so far, in the order of the fields."""

    def note(self, kind: str, loc: str, msg: str, value: object) -> None:
        """Add one error at the dotted location ``loc``."""
        self.append({"type": kind, "loc": loc, "msg": msg, "input": _summary(value)})

    def error(self) -> ApiError:
        """All of them as one answer with status 400."""
        label = "error" if len(self) == 1 else "errors"
        lines = [f"{len(self)} validation {label}:", *(f"  {item}" for item in self[:_REPORTED])]
        if len(self) > _REPORTED:
            lines.append(f"  ...and {len(self) - _REPORTED} more {label}")
        return ApiError("\n".join(lines), kind="Bad Request", param=self[0]["loc"])


Check = Callable[[Any, str, Problems], Any]


def body_object(raw: bytes, content_type: str) -> dict[str, Any]:
    """The JSON object of a request; raises the answers vLLM gives to anything else."""
    if content_type.lower().split(";", 1)[0] != "application/json":
        message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        raise ApiError(message, kind="Bad Request")
    problems = Problems()
    if not raw:
        problems.note("missing", "body", "Field required", None)
        raise problems.error()
    try:
        body = json.loads(raw)
    except json.JSONDecodeError as exc:
        problems.note("json_invalid", f"body.{exc.pos}", "JSON decode error", {})
        raise problems.error() from None
    except (UnicodeDecodeError, RecursionError):
        raise PlainError("There was an error parsing the body") from None
    if not isinstance(body, dict):
        text = "Input should be a valid dictionary or object to extract fields from"
        problems.note("model_attributes_type", "body", text, body)
        raise problems.error()
    return body


def integer(value: Any, loc: str, problems: Problems) -> Any:
    """An integer, a whole float, a boolean, or a string of one."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _whole(value, loc, problems)
    if isinstance(value, str):
        try:
            found = _INTEGER.fullmatch(value.strip(_WHITE))
            return int(found[1] if found else "")
        except ValueError:
            text = "Input should be a valid integer, unable to parse string as an integer"
            return problems.note("int_parsing", loc, text, value)
    return problems.note("int_type", loc, "Input should be a valid integer", value)


def _whole(value: float, loc: str, problems: Problems) -> Any:
    if not math.isfinite(value):
        return problems.note("finite_number", loc, "Input should be a finite number", value)
    if not value.is_integer():
        text = "Input should be a valid integer, got a number with a fractional part"
        return problems.note("int_from_float", loc, text, value)
    if abs(value) >= _LARGEST:
        text = "Unable to parse input string as an integer, exceeded maximum size"
        return problems.note("int_parsing_size", loc, text, value)
    return int(value)


def number(value: Any, loc: str, problems: Problems) -> Any:
    """A float, anything that is an integer, or a string of one."""
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return problems.note("float_type", loc, "Input should be a valid number", value)
    if isinstance(value, str):
        bare = value.strip(_WHITE)
        try:
            if not bare.isascii() or ("_" in value and bare != value):
                raise ValueError
            return float(bare)
        except ValueError:
            text = "Input should be a valid number, unable to parse string as a number"
            return problems.note("float_parsing", loc, text, value)
    return problems.note("float_type", loc, "Input should be a valid number", value)


def boolean(value: Any, loc: str, problems: Problems) -> Any:
    """A boolean, 0 or 1, or one of the usual words."""
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    if isinstance(value, str | int | float):
        text = "Input should be a valid boolean, unable to interpret input"
        return problems.note("bool_parsing", loc, text, value)
    return problems.note("bool_type", loc, "Input should be a valid boolean", value)


def string(value: Any, loc: str, problems: Problems) -> Any:
    """A string and nothing else."""
    if isinstance(value, str):
        return value
    return problems.note("string_type", loc, "Input should be a valid string", value)


def mapping(value: Any, loc: str, problems: Problems) -> Any:
    """A JSON object."""
    if isinstance(value, dict):
        return value
    return problems.note("dict_type", loc, "Input should be a valid dictionary", value)


def list_of(item: Check, *, least: int | None = None) -> Check:
    """A list whose items pass ``item``; integers not below ``least``."""

    def check(value: Any, loc: str, problems: Problems) -> Any:
        if not isinstance(value, list):
            return problems.note("list_type", loc, "Input should be a valid list", value)
        made = [item(entry, f"{loc}.{index}", problems) for index, entry in enumerate(value)]
        if least is not None:
            _check_least(made, least, loc, problems)
        return made

    return check


def _check_least(values: list[Any], least: int, loc: str, problems: Problems) -> None:
    for index, value in enumerate(values):
        if isinstance(value, int) and value < least:
            text = f"Input should be greater than or equal to {least}"
            problems.note("greater_than_equal", f"{loc}.{index}", text, value)


def check_all(body: Mapping[str, Any], table: Mapping[str, tuple[Check, bool]], problems: Problems) -> dict[str, Any]:
    """Check the fields of ``table`` (check, nullable) that ``body`` has; other fields are let through."""
    made: dict[str, Any] = {}
    for name, (check, nullable) in table.items():
        if name not in body:
            continue
        value = body[name]
        made[name] = None if value is None and nullable else check(value, f"body.{name}", problems)
    return made


def _summary(value: object) -> str:
    if isinstance(value, list | dict):
        return f"<{type(value).__name__} of {len(value)} items>"
    text = str(value)
    return text if len(text) <= 200 else text[:200] + "...[truncated]"
