"""Answers as vLLM 0.32 gives them, out of what llama.cpp's ``/completion`` tells. Pure.

Events have vLLM's keys in vLLM's order: the balancer reads them as bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.llamacpp.requests import LlamaRequest
from worker.sim.api.sse import DONE, dumps, usage

_LEAST = -9999.0  # a probability of nothing, as vLLM writes it

#: llama.cpp's reason for an end, and OpenAI's.
_REASONS = {"eos": "stop", "word": "stop", "limit": "length", "none": "stop"}


@dataclass(frozen=True, slots=True)
class LlamaStep:
    """What comes next of one answer. ``ids`` of its tokens, None where they are not known; ``made``: how many those
    are; ``probs`` as llama.cpp tells them."""

    text: str
    ids: tuple[int, ...] | None
    made: int
    probs: tuple[dict[str, Any], ...] = ()
    finish_reason: str | None = None
    stop_reason: str | None = None


@dataclass(slots=True)
class StepReader:
    """Of one answer. Tokens without text of their own (held back by llama.cpp, as a stop string may begin in them; or
    special) go with the next that has some. ``lag``: characters of text that stay behind the tokens until the end, as
    vLLM holds back what a stop string may begin in: whoever goes on with a broken stream counts on it."""

    include_stop: bool = False
    lag: int = 0
    _text: str = ""
    _seen: int = 0
    _waiting: list[int] = field(default_factory=list)
    _probs: list[dict[str, Any]] = field(default_factory=list)
    _counted: int = 0
    _known: bool = True

    def untold(self, event: dict[str, Any]) -> int:
        """How many tokens ``event`` stands for beside the one that it names."""
        return max(0, int(event["tokens_predicted"]) - self._seen - len(event.get("tokens") or ()))

    def take(self, event: dict[str, Any], ids: Sequence[int] | None) -> LlamaStep | None:
        """What is to be said of it; ``ids`` of all tokens that it stands for, None if they are not known."""
        made = max(0, int(event["tokens_predicted"]) - self._seen)
        self._seen += made
        self._counted += made
        self._known = self._known and ids is not None
        self._waiting += ids or ()
        self._probs += event.get("completion_probabilities") or ()
        text, reason, stop = str(event.get("content") or ""), None, None
        self._text += text
        if event.get("stop"):
            reason = _REASONS.get(str(event.get("stop_type")), "stop")
            stop = str(event["stopping_word"]) if event.get("stop_type") == "word" else None
            self._text += stop if stop is not None and self.include_stop else ""
        elif not text:
            return None
        known = tuple(self._waiting) if self._known else None
        step = LlamaStep(self._shown(reason is not None), known, self._counted, tuple(self._probs), reason, stop)
        self._waiting, self._probs, self._counted = [], [], 0
        return step

    def _shown(self, ended: bool) -> str:
        """What is not held back any more."""
        end = len(self._text) if ended else max(0, len(self._text) - self.lag)
        shown, self._text = self._text[:end], self._text[end:]
        return shown


def _alternatives(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The token that was taken, then the most likely others, as vLLM has them."""
    others = [top for top in entry.get("top_logprobs") or () if top["id"] != entry["id"]]
    return [entry, *others]


def _one(entry: dict[str, Any]) -> dict[str, Any]:
    return {"token": entry["token"], "logprob": max(entry["logprob"], _LEAST), "bytes": entry["bytes"]}


def chat_logprobs(probs: Sequence[dict[str, Any]], count: int) -> dict[str, Any]:
    """Of a chat, with ``count`` alternatives."""
    content = [
        {**_one(entry), "top_logprobs": [_one(other) for other in _alternatives(entry)[:count]]} for entry in probs
    ]
    return {"content": content}


def completion_logprobs(probs: Sequence[dict[str, Any]], count: int, offset: int) -> dict[str, Any]:
    """Of a completion; ``offset``: characters of text before it."""
    offsets, at = [], offset
    for entry in probs:
        offsets.append(at)
        at += len(entry["token"])
    tops = []
    for entry in probs:
        shown = _alternatives(entry)
        tops.append({top["token"]: max(top["logprob"], _LEAST) for top in shown[: count + 1]})
    return {
        "text_offset": offsets, "token_logprobs": [max(entry["logprob"], _LEAST) for entry in probs],
        "tokens": [entry["token"] for entry in probs], "top_logprobs": tops,
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """What all parts of an answer carry; ``created``: s since the epoch."""

    id: str
    object: str
    created: int
    model: str
    fingerprint: str

    def fields(self) -> dict[str, Any]:
        return {"id": self.id, "object": self.object, "created": self.created, "model": self.model}


class EventWriter:
    """The events of one stream. ``prompts``: ids of each; ``echoed``: the text of each, where it is to be repeated."""

    def __init__(
        self, request: LlamaRequest, head: AnswerHead, prompts: Sequence[Sequence[int]], echoed: Sequence[str]
    ) -> None:
        self._request, self._prompts, self._echoed = request, prompts, echoed
        self._fingerprint = head.fingerprint
        self._head = f"data: {dumps(head.fields())[:-1]},\"choices\":["
        choices = len(prompts) * request.n
        self.made, self._offsets, self._opened = [0] * choices, [0] * choices, [False] * choices

    def first(self) -> str:
        """What comes before any token: in a chat, whose it is."""
        if not self._request.chat:
            return ""
        ids = dumps(self._prompts[0]) if self._request.ids else "null"
        counts = self._counts(0) if self._request.continuous_usage else ""
        delta = '{"role":"assistant","content":""}'
        return "".join(
            f'{self._head}{{"index":{index},"delta":{delta},"logprobs":null,"finish_reason":null}}]{counts},'
            f'"prompt_token_ids":{ids},"prompt_text":null}}\n\n'
            for index in range(self._request.n)
        )

    def event(self, index: int, step: LlamaStep) -> str:
        """The event of one step of choice ``index``."""
        self.made[index] += step.made
        choice = self._chat_choice(index, step) if self._request.chat else self._choice(index, step)
        counts = self._counts(index) if self._request.continuous_usage else ""
        last = step.finish_reason is not None and not self._request.include_usage
        tail = f',"system_fingerprint":{dumps(self._fingerprint)}' if last else ""
        return f"{self._head}{choice}]{counts}{tail}}}\n\n"

    def last(self) -> str:
        """The usage, if it is asked for, and the end."""
        if not self._request.include_usage:
            return DONE
        prompt = sum(map(len, self._prompts))
        told = dumps(usage(prompt, sum(self.made)))
        return f'{self._head}],"usage":{told},"system_fingerprint":{dumps(self._fingerprint)}}}\n\n{DONE}'

    def _chat_choice(self, index: int, step: LlamaStep) -> str:
        count = self._request.logprobs
        logprobs = "null" if count is None else dumps(chat_logprobs(step.probs, count))
        reason = f',"stop_reason":{dumps(step.stop_reason)}' if step.finish_reason else ""
        return (
            f'{{"index":{index},"delta":{{"content":{dumps(step.text)}}},"logprobs":{logprobs},'
            f'"finish_reason":{dumps(step.finish_reason)}{reason},"token_ids":{self._ids(step)}}}'
        )

    def _choice(self, index: int, step: LlamaStep) -> str:
        opening, self._opened[index] = not self._opened[index], True
        prompt, text = index // self._request.n, step.text
        if opening and self._request.echo:
            text = self._echoed[prompt] + text
        logprobs = "null"
        if self._request.logprobs is not None:
            logprobs = dumps(completion_logprobs(step.probs, self._request.logprobs, self._offsets[index]))
            self._offsets[index] += sum(len(entry["token"]) for entry in step.probs)
        ids = dumps(self._prompts[prompt]) if opening and self._request.ids else "null"
        return (
            f'{{"index":{index},"text":{dumps(text)},"logprobs":{logprobs},'
            f'"finish_reason":{dumps(step.finish_reason)},"stop_reason":{dumps(step.stop_reason)},'
            f'"prompt_token_ids":{ids},"token_ids":{self._ids(step)}}}'
        )

    def _ids(self, step: LlamaStep) -> str:
        return dumps(step.ids) if self._request.ids else "null"

    def _counts(self, index: int) -> str:
        counts = usage(len(self._prompts[index // self._request.n]), self.made[index])
        return f',"usage":{dumps(counts | ({"completion_tokens_details": None} if self._request.chat else {}))}'


def whole(
    request: LlamaRequest, head: AnswerHead, prompts: Sequence[Sequence[int]], echoed: Sequence[str],
    answers: Sequence[Sequence[LlamaStep]],
) -> dict[str, Any]:
    """The answer to a request that is not streamed; ``answers``: the steps of each choice."""
    choices = []
    for index, steps in enumerate(answers):
        prompt = index // request.n
        text = (echoed[prompt] if request.echo else "") + "".join(step.text for step in steps)
        probs = [entry for step in steps for entry in step.probs]
        known = all(step.ids is not None for step in steps)
        shown = {
            "finish_reason": steps[-1].finish_reason, "stop_reason": steps[-1].stop_reason,
            "token_ids": [token for step in steps for token in step.ids or ()] if request.ids and known else None,
        }  # fmt: skip
        count = request.logprobs
        if request.chat:
            message = {"role": "assistant", "content": text, "refusal": None, "annotations": None, "audio": None,
                       "function_call": None, "reasoning": None}  # fmt: skip
            told = None if count is None else chat_logprobs(probs, count)
            choices.append({"index": index, "message": message, "logprobs": told, **shown})
        else:
            told = None if count is None else completion_logprobs(probs, count, 0)
            ids = list(prompts[prompt]) if request.ids else None
            choices.append({"index": index, "text": text, "logprobs": told, **shown, "prompt_logprobs": None,
                            "prompt_token_ids": ids})  # fmt: skip
    counts = usage(sum(map(len, prompts)), sum(step.made for steps in answers for step in steps))
    made = {**head.fields(), "choices": choices, "service_tier": None, "system_fingerprint": head.fingerprint,
            "usage": {**counts, "prompt_tokens_details": None}}  # fmt: skip
    if request.chat:
        made |= {"prompt_logprobs": None, "prompt_token_ids": list(prompts[0]) if request.ids else None}
    return made
