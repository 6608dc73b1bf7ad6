"""Type checks of request fields with the leniency and the error shape of pydantic. Pure.

vLLM's request models are pydantic models in lax mode: ``"3"`` is an integer, ``2.5`` is not. A check returns
the converted value or adds to the list of problems; the first problem names the ``param`` of the answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pydantic_core import SchemaValidator, ValidationError, core_schema

from worker.sim.errors import ApiError, PlainError

_REPORTED = 10


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
    except (ValueError, RecursionError):  # no text, a number of thousands of digits, or too deep
        raise PlainError("There was an error parsing the body") from None
    if not isinstance(body, dict):
        text = "Input should be a valid dictionary or object to extract fields from"
        problems.note("model_attributes_type", "body", text, body)
        raise problems.error()
    return body


def typed(schema: core_schema.CoreSchema) -> Check:
    """What pydantic itself says of a value."""
    validator = SchemaValidator(schema)

    def check(value: Any, loc: str, problems: Problems) -> Any:
        try:
            return validator.validate_python(value)
        except ValidationError as error:
            for found in error.errors(include_url=False, include_context=False):
                problems.note(found["type"], loc, found["msg"], value)
        return None

    return check


integer, number, boolean = (
    typed(schema) for schema in (core_schema.int_schema(), core_schema.float_schema(), core_schema.bool_schema())
)


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


def checked(
    body: Mapping[str, Any], table: Mapping[str, tuple[Check, bool]], needed: Collection[str]
) -> dict[str, Any]:
    """As `check_all`, where those ``needed`` have to be there. Raises ApiError (400) with all that is wrong."""
    problems = Problems()
    made = check_all(body, table, problems)
    for name in needed:
        if name not in body:
            problems.note("missing", f"body.{name}", "Field required", body)
    if problems:
        raise problems.error()
    return made


def _summary(value: object) -> str:
    if isinstance(value, list | dict):
        return f"<{type(value).__name__} of {len(value)} items>"
    text = str(value)
    return text if len(text) <= 200 else text[:200] + "...[truncated]"
