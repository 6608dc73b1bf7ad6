"""Values of a JSON schema, as a grammar: valid ones, and short. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from worker.sim.engine.guidance import grammar
from worker.sim.engine.guidance.grammar import EMPTY, BadPattern, Node, either, one_of, repeated, sequence, text

_LONGEST = 8  # of a string, in characters, and of nothing else that may be longer
_MOST_ITEMS = 3
_DEEPEST = 12
_LETTERS = one_of(b"abcdefghijklmnopqrstuvwxyz ")
_DIGITS = one_of(b"0123456789")
_NATURAL = sequence(one_of(b"123456789"), repeated(_DIGITS, 0, 2))

Schema = Any


def value(schema: Schema) -> Node:
    """Raises BadPattern for what is no schema, or nests without end."""
    return _value(schema, schema if isinstance(schema, Mapping) else {}, 0)


def anything() -> Node:
    """Some JSON object."""
    member = sequence(_string({"minLength": 1}), text(": "), either(_string({}), _number({})))
    return sequence(text("{"), member, repeated(sequence(text(", "), member), 0, 2), text("}"))


def _value(schema: Schema, root: Mapping[str, Any], depth: int) -> Node:
    if schema is True or schema == {}:
        return _string({})
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        raise BadPattern("it is no JSON schema that can be followed")
    if "$ref" in schema:
        return _value(_referred(str(schema["$ref"]), root), root, depth + 1)
    if "const" in schema:
        return text(json.dumps(schema["const"]))
    if "enum" in schema:
        return either(*(text(json.dumps(item)) for item in schema["enum"]))
    for name in ("anyOf", "oneOf"):
        if name in schema:
            return either(*(_value(option, root, depth + 1) for option in schema[name]))
    if "allOf" in schema:
        merged: dict[str, Any] = {}
        for part in schema["allOf"]:
            merged |= part
        return _value(merged, root, depth + 1)
    kinds = schema.get("type", "object" if "properties" in schema else "array" if "items" in schema else "string")
    options = kinds if isinstance(kinds, list) else [kinds]
    return either(*(_of_type(kind, schema, root, depth) for kind in options))


def _referred(reference: str, root: Mapping[str, Any]) -> Schema:
    found: Any = root
    for part in reference.removeprefix("#").split("/"):
        if part:
            found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _of_type(kind: str, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Node:
    match kind:
        case "object":
            return _object(schema, root, depth)
        case "array":
            return _array(schema, root, depth)
        case "string":
            return _string(schema)
        case "integer" | "number":
            return _number(schema)
        case "boolean":
            return either(text("true"), text("false"))
        case "null":
            return text("null")
    raise BadPattern(f"{kind!r} is no type of JSON")


def _object(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Node:
    properties = schema.get("properties") or {}
    if not properties:
        return text("{}") if schema.get("additionalProperties") is False else anything()
    members = [
        sequence(text(f"{json.dumps(name)}: "), _value(inner, root, depth + 1)) for name, inner in properties.items()
    ]
    parts = [part for member in members for part in (text(", "), member)][1:]
    return sequence(text("{"), *parts, text("}"))


def _array(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Node:
    item = _value(schema.get("items", {}), root, depth + 1)
    least = int(schema.get("minItems", 0))
    most = max(least, min(int(schema.get("maxItems", _MOST_ITEMS)), _MOST_ITEMS))
    if most == 0:
        return text("[]")
    some = sequence(item, repeated(sequence(text(", "), item), max(0, least - 1), most - 1))
    return sequence(text("["), some if least else either(EMPTY, some), text("]"))


def _string(schema: Mapping[str, Any]) -> Node:
    if "pattern" in schema:
        inner = grammar.pattern(str(schema["pattern"]))
    else:
        least = int(schema.get("minLength", 0))
        most = max(least, min(int(schema.get("maxLength", _LONGEST)), _LONGEST))
        inner = repeated(_LETTERS, least, most)
    return sequence(text('"'), inner, text('"'))


def _number(schema: Mapping[str, Any]) -> Node:
    """One of a range, as far as it is named; else of at most three digits."""
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None and high is None:
        return either(text("0"), sequence(either(EMPTY, text("-")), _NATURAL))
    least = int(low if low is not None else min(0, int(high or 0)))
    most = int(high) if high is not None else least + 9
    return either(*(text(str(number)) for number in range(least, min(most, least + 99) + 1)))
