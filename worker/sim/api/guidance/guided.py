"""What an answer has to be by its request: a schema, a pattern, calls of tools, thoughts before it. Pure.

The simulated model calls tools as Hermes' models do, and thinks as Qwen's, whatever parsers are named.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from worker.sim.engine.guidance import grammar, schemas
from worker.sim.engine.guidance.grammar import EMPTY, BadPattern, Node, either, one_of, repeated, sequence, text
from worker.sim.errors import ApiError, invalid

CALL, CALL_END, THOUGHT = "<tool_call>", "</tool_call>", "</think>"

_THINKING = sequence(repeated(one_of(b"abcdefghijklmnopqrstuvwxyz ,."), 12, 40), text(THOUGHT))


@dataclass(frozen=True, slots=True)
class Parsers:
    """Which a worker has."""

    tools: bool = False
    automatic: bool = False
    reasoning: bool = False


@dataclass(frozen=True, slots=True)
class Guide:
    """``node``: what the answer has to be; ``optional``: or anything else; ``then_free``: and then anything.
    ``thinks``, ``calls``: what of it is taken out of its text by a parser; ``parsed``: one reads it, whatever is in it.
    ``made``: a call was asked for, ``named``: of one tool by its name; ``counted``: it is told how many tokens were
    thoughts."""

    node: Node | None = None
    optional: bool = False
    then_free: bool = False
    thinks: bool = False
    calls: bool = False
    parsed: bool = False
    made: bool = False
    named: bool = False
    counted: bool = False


FREE = Guide()


def of_request(body: Mapping[str, Any], chat: bool, parsers: Parsers) -> Guide:
    """Raises ApiError where it is asked for what nothing can be."""
    try:
        wanted = _constraint(body)
        if not chat:
            return Guide(wanted)
        tools, optional = _tools(body)
        template = body.get("chat_template_kwargs") or {}
        thinks = parsers.reasoning and template.get("enable_thinking") is not False
    except (BadPattern, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise invalid(f"Failed to convert the structured outputs: {error}", "structured_outputs") from None
    choice, node = body.get("tool_choice"), tools if wanted is None else wanted
    guide = Guide(
        node, optional and wanted is None and not thinks, thinks and node is None, thinks, tools is not None,
        parsed=parsers.tools or parsers.reasoning, made=tools is not None and not optional,
        named=isinstance(choice, Mapping), counted=parsers.reasoning,
    )  # fmt: skip
    return replace(guide, node=sequence(_THINKING, node or EMPTY)) if thinks else guide


def _constraint(body: Mapping[str, Any]) -> Node | None:
    outputs, form = body.get("structured_outputs"), body.get("response_format")
    if outputs is not None:
        return _outputs(outputs)
    kind = form.get("type") if isinstance(form, Mapping) else None
    if kind == "json_object":
        return schemas.anything()
    return schemas.value(form["json_schema"]["schema"]) if form is not None and kind == "json_schema" else None


def _outputs(outputs: Mapping[str, Any]) -> Node:
    if (source := outputs.get("regex")) is not None:
        return grammar.pattern(source)
    if (choices := outputs.get("choice")) is not None:
        return either(*(text(choice) for choice in choices))
    if (schema := outputs.get("json")) is not None:
        return schemas.value(json.loads(schema) if isinstance(schema, str) else schema)
    if outputs.get("json_object"):
        return schemas.anything()
    raise BadPattern("this kind is not simulated")


def _tools(body: Mapping[str, Any]) -> tuple[Node | None, bool]:
    """How its tools are called, None where none may be; and whether it need not."""
    tools = {tool["function"]["name"]: tool["function"] for tool in body.get("tools") or ()}
    choice = body.get("tool_choice", "auto" if tools else "none")
    if choice in (None, "none"):
        return None, False
    if isinstance(choice, Mapping):
        name = choice["function"]["name"]
        if name not in tools:
            raise ApiError("The tool specified in `tool_choice` does not match any of the specified `tools`")
        return _call(tools[name]), False
    some = either(*map(_call, tools.values()))
    return sequence(some, either(EMPTY, sequence(text("\n"), some))), choice == "auto"


def _call(tool: Mapping[str, Any]) -> Node:
    head = f'{CALL}\n{{"name": {json.dumps(tool["name"])}, "arguments": '
    arguments = schemas.value(tool.get("parameters") or {"type": "object", "additionalProperties": False})
    return sequence(text(head), arguments, text(f"}}\n{CALL_END}"))
