"""What a simulated answer may be: patterns and schemas, byte by byte."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.sim.engine.guidance import grammar, schemas
from worker.sim.engine.guidance.grammar import NEVER, BadPattern, Node


def made(node: Node, draw: random.Random) -> str:
    """Something that it matches."""
    out = bytearray()
    while True:
        options = grammar.begins_with(node)
        if not options or (grammar.may_end(node) and draw.random() < 0.3):
            assert grammar.may_end(node)
            return out.decode()
        out.append(draw.choice(options))
        node = grammar.after(node, out[-1])
        assert node != NEVER


def matches(node: Node, text: str) -> bool:
    for byte in text.encode():
        node = grammar.after(node, byte)
    return grammar.may_end(node)


PATTERNS = [
    "[0-9]{3}(-[0-9]{3}){4}", "a*b+(c|d)?", "x{2,5}", "y{3}", "z{2,}", "[^a-z]{3}", r"\d+\.\d*", "(ab|a)*c", "日本?",
    r"\{\"a\": [tf]\}", "[a-c-]+", r"[\w.]+@\w+", "(?:ab){2}", "", "^a.c$", r"[\]x]\n", "(|a)b",
]  # fmt: skip


@pytest.mark.parametrize("source", PATTERNS)
@given(st.integers(0, 2**32))
def test_what_is_made_of_a_pattern_matches_it(source: str, seed: int) -> None:
    text = made(grammar.pattern(source), random.Random(seed))
    assert re.fullmatch(source, text), text


@pytest.mark.parametrize("source", ["a*b+(c|d)?", "(ab|a)*c", "x{2,3}"])
@given(st.text("abcdx", max_size=6))
def test_it_takes_what_the_pattern_matches_and_nothing_else(source: str, text: str) -> None:
    assert matches(grammar.pattern(source), text) is (re.fullmatch(source, text) is not None)


@pytest.mark.parametrize(
    "source", ["(a", "a)", "[a", "*", "a{2", "a{3,1}", "a{x}", "a{99999}", "\\", r"\pL", "[a-\\d]", "?a", "(*)"]
)
def test_what_is_no_pattern_is_refused(source: str) -> None:
    with pytest.raises(BadPattern):
        grammar.pattern(source)


SCHEMAS: list[tuple[Any, Any]] = [
    ({"type": "object", "properties": {"a": {"type": "string", "minLength": 2}, "b": {"type": "boolean"}}},
     lambda v: len(v["a"]) >= 2 and v["b"] in (True, False)),
    ({"type": "array", "items": {"enum": ["x", 1, None]}, "minItems": 1, "maxItems": 2},
     lambda v: 1 <= len(v) <= 2 and all(item in ("x", 1, None) for item in v)),
    ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer", "minimum": 3, "maximum": 40}}}, lambda v: 3 <= v <= 40),
    ({"anyOf": [{"type": "null"}, {"const": {"k": [1]}}]}, lambda v: v is None or v == {"k": [1]}),
    ({"type": ["number", "null"]}, lambda v: v is None or isinstance(v, int | float)),
    ({"type": "string", "pattern": "^[a-f]{4}$"}, lambda v: re.fullmatch("[a-f]{4}", v)),
    ({"allOf": [{"type": "object"}, {"properties": {"a": {"type": "integer"}}}]}, lambda v: isinstance(v["a"], int)),
    ({"type": "array", "maxItems": 0}, lambda v: v == []),
    (True, lambda v: isinstance(v, str)),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "valid"), SCHEMAS, ids=lambda case: None if callable(case) else str(case)[:40])
@given(st.integers(0, 2**32))
def test_what_is_made_of_a_schema_is_valid(schema: Any, valid: Any, seed: int) -> None:
    assert valid(json.loads(made(schemas.value(schema), random.Random(seed))))


@pytest.mark.parametrize("schema", [5, {"type": "nope"}, {"$ref": "#/nowhere"}, {"$ref": "#"}, {"anyOf": [3]}])
def test_what_is_no_schema_is_refused(schema: Any) -> None:
    with pytest.raises(BadPattern):
        schemas.value(schema)
