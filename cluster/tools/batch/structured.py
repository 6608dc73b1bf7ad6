"""Answers that are to be JSON of a schema: how they are asked for, and how read. Pure.

Most servers hold a model to ``response_format``; of others a model may put its JSON into a fence or between sentences.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from config import bounded

#: Characters and beginnings of JSON that are looked at in an answer, and values of it.
_LONGEST, _MOST_TRIES, _VALUES = 1 << 20, 100, 50_000

FIELD = "response_format"


def format_of(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The value of `FIELD`."""
    return {"type": "json_schema", "json_schema": {"name": name, "schema": dict(schema), "strict": True}}


def values(text: str) -> Iterator[Any]:
    """Every JSON object or list in ``text`` that is not within another, from the first on: of an answer that is JSON
    all of it, of another what stands in it."""
    text = text[:_LONGEST]
    try:
        bounded.measure(text.encode(errors="replace"), _VALUES)
    except bounded.Unfit:
        return
    decode, position = json.JSONDecoder().raw_decode, 0
    for _ in range(_MOST_TRIES):
        begins = [at for mark in "{[" if (at := text.find(mark, position)) >= 0]
        if not begins:
            return
        position = min(begins)
        try:
            value, position = decode(text, position)
        except (ValueError, RecursionError):
            position += 1
            continue
        yield value
