"""What a client asks for, seen from one who may have to go on with it on another worker. Pure.

Whether a stream can be continued is decided by its request, as far as it tells (`lb/forwarding/resume/obstacles.py`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from lb.forwarding.resume import obstacles
from lb.protocol import lax

#: Asks a worker for the ids of the tokens beside their text.
_IDS = b',"return_token_ids":true}'
_NO_ECHO = b',"echo":false'

#: Keys that make a difference here; a request without any of them need not be parsed.
_SPECIAL = re.compile(
    rb'"(?:n|best_of|echo|tools|functions|response_format|structured_outputs|guided_[a-z_]+|use_beam_search|'
    rb"prompt_embeds|return_token_ids|return_tokens_as_token_ids|kv_transfer_params|ec_transfer_params|"
    rb'mm_processor_kwargs|include_reasoning)"\s*:|"(?:prompt|content)"\s*:\s*[\[{]'
)
_ESCAPED = re.compile(rb"\\u00[4-7]")


@dataclass(slots=True)
class ResumePlan:
    """``body``: what a worker is to be asked. ``ids``: with the ids of tokens, which the client did not ask for and
    does not get. ``obstacle``: why the stream cannot be continued once text of it has been sent, empty if it can.
    ``echo``: the prompt's text, which the client wants repeated and gets from us: vLLM leaves it out where it tells
    ids."""

    chat: bool
    body: bytes
    ids: bool
    obstacle: str
    echo: str = ""

    @property
    def path(self) -> str:
        return "/v1/chat/completions" if self.chat else "/v1/completions"


def read(body: bytes, *, chat: bool, resume: bool) -> ResumePlan:
    """Of the JSON ``body`` of a streamed request. ``resume``: whether anything is to be asked for at all."""
    if not resume:
        return ResumePlan(chat, body, False, "streams are not continued here (--no-resume)")
    obstacle, shown, echo = "", False, ""
    if _SPECIAL.search(body) or (b"\\" in body and b"\\u00" in body and _ESCAPED.search(body)):
        try:
            data = fields(body, chat=chat)
        except (ValueError, RecursionError):
            return ResumePlan(chat, body, False, obstacles.NOT_UNDERSTOOD)
        obstacle, shown = obstacles.of_request(data, chat), bool(data.get("return_token_ids"))
        echo = str(data["prompt"]) if data.get("echo") and not obstacle else ""
    if obstacle or shown:
        return ResumePlan(chat, body, False, obstacle)
    end = body.rstrip()
    if not end.endswith(b"}") or len(end) < 3:
        return ResumePlan(chat, body, False, obstacles.NOT_UNDERSTOOD)
    return ResumePlan(chat, end[:-1] + (_NO_ECHO if echo else b"") + _IDS, True, "", echo)


def fields(body: bytes, *, chat: bool) -> dict[str, Any]:
    """The fields of a request as the engine takes them. Raises ValueError for what it refuses, and RecursionError."""
    data = json.loads(body)
    if not isinstance(data, dict):
        raise ValueError("no object")
    return lax.request(data, chat=chat)
