"""What a client asks for, seen from one who may have to go on with it on another worker. Pure.

Whether a stream can be continued is decided by its request: what is continued are token ids, so everything that
depends on more than the tokens before it (a grammar, a parser of tool calls, several choices) cannot be.
`docs/decisions/0013` has the why.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

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

_GUIDED = frozenset({"structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar"})
_TRANSFERS = ("kv_transfer_params", "ec_transfer_params")


@dataclass(slots=True)
class Asked:
    """``body``: what a worker is to be asked. ``ids``: with the ids of tokens, which the client did not ask for and
    does not get. ``obstacle``: why the stream cannot be continued once text of it has been sent, empty if it can.
    ``echo``: the prompt's text, which the client wants repeated and gets from us: vLLM leaves it out where it tells
    ids."""

    chat: bool
    body: bytes
    ids: bool
    obstacle: str
    echo: str = ""


def read(body: bytes, *, chat: bool, resume: bool) -> Asked:
    """Of the JSON ``body`` of a streamed request. ``resume``: whether anything is to be asked for at all."""
    if not resume:
        return Asked(chat, body, False, "streams are not continued here (--no-resume)")
    obstacle, shown, echo = "", False, ""
    if _SPECIAL.search(body) or (b"\\" in body and b"\\u00" in body and _ESCAPED.search(body)):
        try:
            data = json.loads(body)
        except (ValueError, RecursionError):
            return Asked(chat, body, False, "its request is not understood")
        if not isinstance(data, dict):
            return Asked(chat, body, False, "its request is not understood")
        obstacle, shown = _obstacle(data, chat), data.get("return_token_ids") is True
        echo = str(data["prompt"]) if data.get("echo") and not obstacle else ""
    if obstacle or shown:
        return Asked(chat, body, False, obstacle)
    end = body.rstrip()
    if not end.endswith(b"}") or len(end) < 3:
        return Asked(chat, body, False, "its request is not understood")
    return Asked(chat, end[:-1] + (_NO_ECHO if echo else b"") + _IDS, True, "", echo)


def _obstacle(data: dict[str, Any], chat: bool) -> str:
    if (data.get("n") or 1) != 1 or (data.get("best_of") or 1) != 1:
        return "it has several choices"
    if data.get("use_beam_search"):
        return "it is a beam search"
    if any(data.get(key) is not None for key in _GUIDED):
        return "its output is guided"
    form = data.get("response_format")
    if form is not None and not (isinstance(form, dict) and form.get("type") == "text"):
        return "its output has to have a format"
    if any(data.get(key) for key in _TRANSFERS):
        return "it moves a KV cache"
    return _chat_obstacle(data) if chat else _completion_obstacle(data)


def _chat_obstacle(data: dict[str, Any]) -> str:
    if data.get("echo"):
        return "it repeats a message"
    if (data.get("tools") or data.get("functions")) and data.get("tool_choice") != "none":
        return "it may call tools"
    if data.get("include_reasoning") is False:
        return "its reasoning is hidden"
    if data.get("logprobs") and data.get("return_tokens_as_token_ids"):
        return "its log probabilities name tokens by id"
    messages = data.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        parts = content if isinstance(content, list) else ()
        if isinstance(content, dict) or any(not _is_text(part) for part in parts):
            return "its prompt is not text alone"
    return ""


def _is_text(part: object) -> bool:
    return isinstance(part, str) or (isinstance(part, dict) and part.get("type") in ("text", "refusal", "input_text"))


def _completion_obstacle(data: dict[str, Any]) -> str:
    if data.get("prompt_embeds") is not None:
        return "its prompt is not text"
    prompt = data.get("prompt")
    if data.get("echo") and not data.get("return_token_ids"):
        if not isinstance(prompt, str) or data.get("truncate_prompt_tokens") is not None:
            return "it repeats a prompt that is not plain text"
        if data.get("logprobs") is not None or data.get("max_tokens") == 0:
            return "it tells log probabilities of its prompt"
    elif data.get("echo") and data.get("logprobs") is not None:
        return "it tells log probabilities of its prompt"
    one = not isinstance(prompt, list) or len(prompt) == 1 or all(type(item) is int for item in prompt)
    return "" if one else "it has several prompts"
