"""What a client can see of a stream of `/v1/messages` or `/v1/responses`, apart from ids, times and how it was cut; and
that it is one: each event in its place, none twice. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from chaos.oracle import Failed, Wrong

_TEXTS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
#: Of a response: made anew each time.
_ANEW = frozenset({"id", "created_at", "completed_at", "item_id", "call_id", "sequence_number", "response_id"})


def read_messages(body: bytes) -> Any:
    """Raises `Failed` for an error in it, `Wrong` for what no right stream does."""
    events = _events(body)
    blocks: list[list[Any]] = []
    is_open, end, names = False, None, [event["type"] for event in events]
    if names[0] != "message_start" or names[-2:] != ["message_delta", "message_stop"]:
        raise Wrong(f"it begins with {names[0]} and ends with {names[-2:]}")
    for event in events[1:-1]:
        kind, index = event["type"], event.get("index")
        if kind == "message_delta":
            end = event["delta"], event["usage"]
        elif kind == "content_block_start":
            if is_open or index != len(blocks):
                raise Wrong(f"block {index} begins where {len(blocks)} should")
            blocks.append([{**event["content_block"], "id": None}, "", 0])
        elif kind != "ping" and (not is_open or index != len(blocks) - 1):
            raise Wrong(f"{kind} of block {index} is not of the open one")
        elif kind == "content_block_delta":
            key = _TEXTS.get(event["delta"]["type"])
            blocks[-1][1] += event["delta"][key] if key else ""
            blocks[-1][2] += key is None
        if kind.startswith("content_block"):
            is_open = kind != "content_block_stop"
    return {"blocks": blocks, "end": end}


def read_response(body: bytes) -> Any:
    """Raises `Failed` for an error in it, `Wrong` for what no right stream does."""
    events = _events(body)
    numbers = [event["sequence_number"] for event in events]
    if numbers != list(range(len(events))):
        raise Wrong(f"the numbers of its events have a gap: {numbers}")
    if events[0]["type"] != "response.created" or events[-1]["type"] != "response.completed":
        raise Wrong(f"it begins with {events[0]['type']} and ends with {events[-1]['type']}")
    if len({event["response"]["id"] for event in events if "response" in event}) != 1:
        raise Wrong("it has two ids")
    texts: dict[str, str] = {}
    others = []
    for event in events:
        item = event.get("item_id")
        if event["type"].endswith(".delta"):
            texts[item] = texts.get(item, "") + event["delta"]
        elif item is not None and event["type"].endswith(("text.done", "arguments.done")):
            said = event.get("text", event.get("arguments"))
            if texts.get(item, "") != said:
                raise Wrong(f"{event['type']} says {said!r} after {texts.get(item)!r}")
        if not event["type"].endswith(".delta"):
            others.append(_lasting(event))
    output = events[-1]["response"]["output"]
    if [item["id"] for item in output if item["id"] in texts] != list(texts):
        raise Wrong("its items have other ids at the end")
    return {"texts": list(texts.values()), "events": others}


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lasting(item) for key, item in value.items() if key not in _ANEW}
    return [_lasting(item) for item in value] if isinstance(value, list) else value


def _events(body: bytes) -> Sequence[dict[str, Any]]:
    found = []
    for event in body.decode().split("\n\n"):
        lines = [line for line in event.split("\n") if line and not line.startswith(":")]
        if not lines:
            continue
        if len(lines) != 2 or not lines[1].startswith("data: "):
            raise Wrong(f"no event of this API: {event[:80]!r}")
        value = json.loads(lines[1].removeprefix("data: "))
        if lines[0] != f"event: {value['type']}":
            raise Wrong(f"{lines[0]} is {value['type']}")
        if value["type"] in ("error", "response.failed"):
            raise Failed(f"error event: {json.dumps(value)[:160]}")
        found.append(value)
    if len(found) < 3:
        raise Wrong(f"a stream of {len(found)} events")
    return found
