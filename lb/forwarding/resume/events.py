"""The events of a generation stream: the ids of tokens taken out again, and what an event says. Pure.

In JSON a quotation mark inside a string is escaped. So ``"token_ids":[`` is a key wherever it stands, and what has to
be known of nearly every event is known without parsing it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

_IDS = b'"token_ids":['

#: In every event but the last of a choice.
_RUNNING = b'"finish_reason":null'

#: How vLLM 0.32 writes the two: in a chat next to each other, in a completion with something between; and what stands
#: behind the ids of an event's only choice. What is written otherwise is looked at more closely.
_RUNNING_AND = _RUNNING + b","
_NEAR = 64
_BEHIND = b"]}]}\n\n\r\n"
_ENDS = _IDS[:-1] + b"null" + _BEHIND[1:]

_BEGINS = b'data: {"id"'
_ENDED = re.compile(rb'"finish_reason":"(?:stop|length)"')

#: What every event of text has and no other: in a chat a delta of nothing but content; and the whole of it, up to its
#: ids, where log probabilities are not asked for. A search by a literal beginning and without going back is as fast as
#: a look for the ids alone.
_DELTA = re.compile(rb'\{"content":"[^"\\]*+(?:\\.[^"\\]*+)*+"\},"logprobs":')
_AND_IDS = rb'null,"finish_reason":null,"token_ids":\[([0-9,]*+)\]'
_DELTA_AND_IDS = re.compile(_DELTA.pattern + _AND_IDS)
#: The same of text without anything escaped: nearly all, found in half the time.
_PLAIN_AND_IDS = re.compile(rb'\{"content":"[^"\\]*+"\},"logprobs":' + _AND_IDS)
_TEXT = b'"text":"'

#: Bytes between the ids of one event and the delta of the next, beside those before its delta.
_BETWEEN = 32

_ANY_IDS, _NO_IDS = b'token_ids":[', b'token_ids":null'

_FINGERPRINT = re.compile(rb'"system_fingerprint":"([\x20\x21\x23-\x5b\x5d-\x7e]+)"')
_PROMPT = re.compile(rb'"prompt_token_ids":\[([0-9, ]*)\]')
_END = re.compile(rb"\r?\n\r?\n")

_DECODE = json.JSONDecoder().raw_decode

DONE = b"data: [DONE]\n\n"


def plain(data: bytes, start: int) -> bytes | None:
    """``data``, whole HTTP chunks, if it is nothing but events in the middle of a stream; else None. ``start`` as
    `lb.protocol.http1.chunked.payload_of` tells it."""
    if start and data.find(b"\n", start) == len(data) - 4:  # one event
        return data if data.rfind(_RUNNING) > 0 and data.endswith(b"\n\n\r\n") else None
    return data if data.count(b"\n\n") == data.count(_RUNNING) > 0 else None


def cut(data: bytes, start: int) -> bytes | None:
    """The same without the ids of the tokens, in one HTTP chunk."""
    head, found, behind = data.rpartition(_IDS)
    if (
        found and start and head.rfind(b"\n") == start - 1  # one event
        and behind.find(b"]") == len(behind) - len(_BEHIND) and behind.endswith(_BEHIND)
        and (head.endswith(_RUNNING_AND) or head.find(_RUNNING, -_NEAR) >= 0)
    ):  # fmt: skip
        return b"%x\r\n%b%b" % (len(head) - start + len(_ENDS) - 2, head[start:], _ENDS)
    return _cut_several(data)


def _cut_several(data: bytes) -> bytes | None:
    # No line break stands in JSON, so a chunk's payload has none that is CRLF.
    payload = b"".join(data.split(b"\r\n")[1::2])
    events = payload.count(b"\n\n")
    if payload.count(_RUNNING) != events or payload.count(_IDS) != events or not payload.endswith(b"\n\n"):
        return None
    out = without_ids(payload)
    return b"%x\r\n%b\r\n" % (len(out), out)


def without_ids(data: bytes) -> bytes:
    """``data``, of one event or several, with null in place of the ids of tokens, generated or of the prompt."""
    first, *rest = data.split(_ANY_IDS)
    return first + b"".join([_NO_IDS + part[part.find(b"]") + 1 :] for part in rest])


def middle(whole: Sequence[bytes], start: int, ids: bool) -> int:
    """Where the events in the middle of a stream that begin at ``start`` end; ``ids``: they have to have some."""
    end = start
    for event in whole[start:]:
        if _RUNNING not in event or (ids and _IDS not in event):
            break
        end += 1
    return end


def says_something(event: bytes, ids: bool) -> bool:
    """Whether an event is surely one with text, and nothing else, in the middle of an answer. ``ids``: it has to have
    some."""
    return _RUNNING in event and (not ids or _IDS in event) and _is_text(event)


def build_at_end(event: bytes) -> str | None:
    """What an event says of its server's build (nothing: "") if it is surely the last one of its choice, which came to
    its end and tells ids; else None."""
    if not (_ENDED.search(event) and _IDS in event and _is_text(event)):
        return None
    found = _FINGERPRINT.search(event)
    return found[1].decode() if found else ""


def _is_text(event: bytes) -> bool:
    return event.startswith(_BEGINS) and (_TEXT in event or bool(_DELTA.search(event)))


def without_prompt(event: bytes) -> tuple[bytes, bytes | None]:
    """A stream's first event without the ids of its prompt, and those: digits with commas between them."""
    found = _PROMPT.search(event)
    if found is None:
        return event, None
    return event[: found.start(1) - 1] + b"null" + event[found.end(1) + 1 :], found[1]


def ids(data: bytes) -> list[bytes]:
    """The ids of generated tokens in ``data``, in the order in which they came: digits with commas between them."""
    found = [part[: part.find(b"]")] for part in data.split(_IDS)[1:]]
    return [some for some in found if some]


def ids_of_text(data: bytes, head: int, first: bool) -> list[bytes] | None:
    """As `ids`, if ``data`` is nothing but events of a chat with text alone; None if it may be anything else. ``head``:
    bytes of an event before its delta; ``first``: something else, without ids, may come before the first text."""
    for pattern in (_PLAIN_AND_IDS, _DELTA_AND_IDS):
        parts = pattern.split(data)
        # Where another event stands in between, its own head does too.
        if (
            len(parts) >= 3 and max(map(len, parts[2::2] if first else parts[::2])) <= head + _BETWEEN
            and _IDS not in parts[0]
        ):  # fmt: skip
            return [some for some in parts[1::2] if some]
    return None


def not_text(data: bytes) -> list[bytes]:
    """The events in ``data``, of a chat, that have more than text, or something else."""
    return [line for line in data.split(b"\n") if line.startswith(b"data: {") and not _DELTA.search(line)]


def split(buffer: bytes) -> tuple[list[bytes], bytes]:
    """Whole events, without the empty line that ends each, and what has come of the next one."""
    if b"\r\n" in buffer:
        parts = _END.split(buffer)
    else:
        parts = buffer.split(b"\n\n")
    return parts[:-1], parts[-1]


def payload(event: bytes) -> bytes | None:
    """What follows ``data:``; None for an event without data, such as a comment."""
    if event.startswith(b"data: "):
        return event[6:]
    lines = [line[5:].lstrip(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def load(data: bytes) -> Any:
    """The JSON value in ``data``, which is UTF-8: as `json.loads`, without its look for another encoding. Raises
    ValueError."""
    text = data.decode().strip()
    made, end = _DECODE(text)
    if end != len(text):
        raise ValueError("more than one JSON value")
    return made


def parse(event: bytes) -> dict[str, Any] | None:
    """The object in an event; None for one without. Raises ValueError for what is no JSON object."""
    data = payload(event)
    if data is None or data == b"[DONE]":
        return None
    made = load(data)
    if not isinstance(made, dict):
        raise ValueError("an event of a stream that is no object")
    return made


def dump(event: dict[str, Any]) -> bytes:
    """As vLLM writes it."""
    return b"data: " + json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
