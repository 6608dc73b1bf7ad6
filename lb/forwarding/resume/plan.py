"""What a client asks for, seen from one who may have to go on with it on another worker. Pure.

Whether a stream can be continued is decided by its request, as far as it tells (`lb/forwarding/resume/obstacles.py`).
What servers say of their build (``system_fingerprint``) is kept for a stream's end that we write ourselves.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from lb.forwarding.resume import obstacles, rendered
from lb.protocol.fields import lax

#: Asks a worker for the ids of the tokens beside their text.
_IDS = b',"return_token_ids":true}'
_NO_ECHO = b',"echo":false'

#: Keys that make a difference here; a request without any of them need not be parsed.
_SPECIAL = re.compile(
    rb'"(?:n|best_of|echo|tools|functions|response_format|structured_outputs|guided_[a-z_]+|use_beam_search|'
    rb"prompt_embeds|return_token_ids|return_tokens_as_token_ids|kv_transfer_params|ec_transfer_params|"
    rb'mm_processor_kwargs|include_reasoning|bad_words|repetition_detection|thinking_token_budget|vllm_xargs)"\s*:|'
    rb'"(?:prompt|content)"\s*:\s*[\[{]|"logprobs"\s*:\s*[^\snf]|"seed"\s*:\s*[^\sn]|"top_logprobs"\s*:\s*"?\s*-|'
    rb'"(?:presence|frequency)_penalty"\s*:\s*(?!0(?:\.0+)?\s*[,}]|null)'
)
_ESCAPED = re.compile(rb"\\u00[4-7]")


#: Without it a request has one choice.
_MAY_HAVE_SEVERAL = re.compile(rb'"(?:n|prompt)"\s*:\s*[^\s"]|\\u')

#: Models whose builds are kept in mind: adapters come and go.
_MOST_BUILDS = 4096


@dataclass(slots=True)
class ResumePlan:
    """``sent``: the request's body; ``body``: what a worker is to be asked. ``ids``: with the ids of tokens, which the
    client did not ask for and does not get. ``obstacle``: why the stream cannot be continued once text of it has been
    sent, as far as is known; empty if it can. ``echo``: the prompt's text, which the client wants repeated and gets
    from us: vLLM leaves it out where it tells ids. ``follows``: it is one for `lb.forwarding.resume.followed`."""

    chat: bool
    sent: bytes
    body: bytes
    ids: bool
    obstacle: str
    echo: str = ""
    follows: bool = False
    _fields: dict[str, Any] | None = None

    @property
    def path(self) -> str:
        return "/v1/chat/completions" if self.chat else "/v1/completions"

    def request(self) -> dict[str, Any]:
        """Its fields as the engine takes them; none of a request that it would refuse, and that is not continued."""
        if self._fields is None:
            try:
                self._fields = fields(self.sent, chat=self.chat)
            except (ValueError, RecursionError):
                self._fields = {}
                self.obstacle = self.obstacle or obstacles.NOT_UNDERSTOOD
        return self._fields

    def settle(self, answer: bytes | None) -> None:
        """The worker that is to go on has said how it takes the request (`lb.forwarding.resume.rendered`), or says
        nothing."""
        requested = self.request()
        found = None if answer is None else rendered.read(answer, requested, chat=self.chat)
        if found is not None:
            self._fields = {**requested, **found.fields}
            self.obstacle = self.obstacle or found.obstacle

    def choices(self) -> int:
        """How many the answer has."""
        if not self.obstacle or not _MAY_HAVE_SEVERAL.search(self.sent):
            return 1
        requested = self.request()
        return max(1, requested.get("n") or 1) * lax.prompts_in(requested.get("prompt"))

    def wants_usage(self) -> bool:
        """At the end of its stream."""
        if b'"include_usage"' not in self.sent and b"\\u" not in self.sent:
            return False  # most say nothing of it, and need not be parsed
        options = self.request().get("stream_options")
        return isinstance(options, dict) and bool(options.get("include_usage"))


def read(body: bytes, *, chat: bool, resume: bool, replays: bool = False) -> ResumePlan:
    """Of the JSON ``body`` of a streamed request. ``resume``: whether anything is to be asked for at all; ``replays``:
    some worker makes given tokens again."""
    if not resume:
        return ResumePlan(chat, body, body, False, "streams are not continued here (--no-resume)")
    obstacle, shown, echo = "", False, ""
    if _SPECIAL.search(body) or (b"\\" in body and b"\\u00" in body and _ESCAPED.search(body)):
        try:
            data = fields(body, chat=chat)
        except (ValueError, RecursionError):
            return ResumePlan(chat, body, body, False, obstacles.NOT_UNDERSTOOD)
        obstacle, shown = obstacles.of_request(data, chat), bool(data.get("return_token_ids"))
        echo = str(data["prompt"]) if data.get("echo") and not obstacle else ""
        if not obstacles.for_good(data) and (
            obstacle or obstacles.lasting(data) or obstacles.is_to_be_exact(data)
            or (replays and (obstacles.counts_tokens(data) or (chat and data.get("logprobs"))))
        ):  # fmt: skip
            return ResumePlan(chat, body, body, False, obstacle, follows=True, _fields=data)
    if obstacle or shown:
        return ResumePlan(chat, body, body, False, obstacle)
    end = body.rstrip()
    if not end.endswith(b"}") or len(end) < 3:
        return ResumePlan(chat, body, body, False, obstacles.NOT_UNDERSTOOD)
    return ResumePlan(chat, body, end[:-1] + (_NO_ECHO if echo else b"") + _IDS, True, "", echo)


def fields(body: bytes, *, chat: bool) -> dict[str, Any]:
    """The fields of a request as the engine takes them. Raises ValueError for what it refuses, and RecursionError."""
    data = json.loads(body)
    if not isinstance(data, dict):
        raise ValueError("no object")
    return lax.request(data, chat=chat)


@dataclass(slots=True)
class Build:
    """``fingerprint``: the latest word of the servers of one model; empty: nothing yet."""

    fingerprint: str = ""

    def fields(self) -> dict[str, str]:
        """What the last event of a stream has besides."""
        return {"system_fingerprint": self.fingerprint} if self.fingerprint else {}


class Builds:
    """One for each model."""

    def __init__(self) -> None:
        self._known: dict[str | None, Build] = {}

    def of(self, model: str | None) -> Build:
        if (known := self._known.get(model)) is None:
            if len(self._known) >= _MOST_BUILDS:
                self._known.clear()
            known = self._known[model] = Build()
        return known
