"""Building streamed answers: events with the keys and key order of vLLM 0.32. Pure.

A stream writes one event a token, so everything that does not change is put together once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from config import replay
from worker.sim.api import logprobs
from worker.sim.api.guidance.parsing import parser
from worker.sim.api.protocol import GenerationRequest, Prompt
from worker.sim.engine.generate import TokenStep
from worker.sim.engine.tokens import decode
from worker.sim.errors import ApiError

VERSION = "0.32.0"
FINGERPRINT = f"vllm-{VERSION}-51301a7e"
DONE = "data: [DONE]\n\n"


def dumps(value: object) -> str:
    """Compact JSON, not escaped to ASCII, as vLLM's answers are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Identity:
    """What all parts of an answer carry: id, creation time (Unix seconds), model name."""

    id: str
    created: int
    model: str


def usage(prompt_tokens: int, completion_tokens: int, **details: dict[str, int] | None) -> dict[str, Any]:
    """A usage object; counts in tokens."""
    total = prompt_tokens + completion_tokens
    counts = {"prompt_tokens": prompt_tokens, "total_tokens": total, "completion_tokens": completion_tokens}
    return {**counts, **details}


class Told:
    """The tokens made since the last event, for who asked to be told of them (`config.replay`)."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._made: dict[int, list[int]] = {}

    def add(self, index: int, step: TokenStep) -> None:
        if self._wanted and step.token_ids:
            self._made.setdefault(index, []).extend(step.token_ids)

    def comments(self) -> str:
        """The lines that tell of them, once."""
        made, self._made = self._made, {}
        return "".join(replay.comment(index, ids).decode() for index, ids in made.items())


class Stream:
    """Turns the steps of one streaming request into events; a subclass for each endpoint."""

    object_name = ""

    def __init__(self, request: GenerationRequest, identity: Identity) -> None:
        self.request = request
        self.prompt_tokens = [len(prompt.ids) for prompt in request.prompts]
        self.made = [0] * (len(request.prompts) * request.n)
        self._opened = [False] * len(self.made)
        self._offsets = [0] * len(self.made)
        head = {
            "id": identity.id,
            "object": self.object_name,
            "created": identity.created,
            "model": identity.model,
        }
        self._head = f'data: {dumps(head)[:-1]},"choices":['
        self._last = "" if request.include_usage else f',"system_fingerprint":"{FINGERPRINT}"'

    def first(self) -> list[str]:
        """Events that come before any token."""
        return []

    def event(self, index: int, step: TokenStep) -> str | None:
        """The event of one step of choice ``index``; None where vLLM sends none."""
        raise NotImplementedError

    def last(self) -> str:
        """The usage event, if asked for, and the end mark."""
        if not self.request.include_usage:
            return DONE
        body = dumps(usage(sum(self.prompt_tokens), sum(self.made)))
        return f'{self._head}],"usage":{body},"system_fingerprint":"{FINGERPRINT}"}}\n\n{DONE}'

    def failed(self, error: ApiError) -> str | None:
        """How it ends where ``error`` came in the middle; None: without a word, in the middle of the message."""
        return error.event() + DONE

    def _silent(self, index: int, step: TokenStep) -> bool:
        """vLLM sends nothing while a choice has neither text nor tokens: not even that it was aborted."""
        return not step.text and not step.token_ids and not self.made[index]

    def _tail(self, index: int, step: TokenStep) -> str:
        tail = ""
        if self.request.continuous_usage:
            tail = f',"usage":{self._usage(self.prompt_tokens[index // self.request.n], self.made[index])}'
        return f"{tail}{self._last}}}\n\n" if step.finish_reason else f"{tail}}}\n\n"

    def _usage(self, prompt: int, made: int) -> str:
        return dumps(usage(prompt, made))

    def _ids(self, step: TokenStep) -> str:
        return dumps(step.token_ids) if self.request.return_token_ids else "null"


class CompletionStream(Stream):
    """Events of ``/v1/completions``."""

    object_name = "text_completion"

    def event(self, index: int, step: TokenStep) -> str | None:
        request = self.request
        opening = not self._opened[index]
        prompt = request.prompts[index // request.n]
        text, shown = step.text, list(step.token_ids)
        if opening and request.echo:
            echoed = "" if request.return_token_ids else prompt_text(prompt)
            text = echoed if request.only_prompt else echoed + text
            shown = prompt.ids if request.only_prompt else prompt.ids + shown
        elif self._silent(index, step):
            self._opened[index] = self._opened[index] or request.return_token_ids
            return None
        self._opened[index] = True
        self.made[index] += len(step.token_ids)
        ids = dumps(prompt.ids) if opening and (request.echo or request.return_token_ids) else "null"
        return (
            f'{self._head}{{"index":{index},"text":{dumps(text)},"logprobs":{self._logprobs(index, shown)},'
            f'"finish_reason":{dumps(step.finish_reason)},"stop_reason":{dumps(step.stop_reason)},'
            f'"prompt_token_ids":{ids},"token_ids":{self._ids(step)}}}]{self._tail(index, step)}'
        )

    def _logprobs(self, index: int, ids: list[int]) -> str:
        if self.request.logprobs is None:
            return "null"
        prompt = self.request.prompts[index // self.request.n]
        first_is_prompt = not self._offsets[index] and self.request.echo and ids[: len(prompt.ids)] == prompt.ids
        made = logprobs.completion(
            ids,
            self.request.logprobs,
            self._offsets[index],
            self.request.ids_as_tokens,
            blank=first_is_prompt,
        )
        if made["tokens"]:
            self._offsets[index] = made["text_offset"][-1] + len(made["tokens"][-1])
        return dumps(made)


class ChatStream(Stream):
    """Events of ``/v1/chat/completions``: a role event for each choice first."""

    object_name = "chat.completion.chunk"

    def __init__(self, request: GenerationRequest, identity: Identity) -> None:
        super().__init__(request, identity)
        self._parsers = [parser(request.guide) for _ in range(request.n)]

    def first(self) -> list[str]:
        request, prompt = self.request, self.request.prompts[0]
        ids = dumps(prompt.ids if request.return_token_ids else None)
        text = dumps(prompt.text if request.return_prompt_text else None)
        counts = f',"usage":{self._usage(len(prompt.ids), 0)}' if request.continuous_usage else ""
        events = []
        for index in range(request.n):
            delta = dumps({"role": request.role, "content": ""})
            events.append(
                f'{self._head}{{"index":{index},"delta":{delta},"logprobs":null,"finish_reason":null}}]'
                f'{counts},"prompt_token_ids":{ids},"prompt_text":{text}}}\n\n'
            )
        for index in range(request.n if request.echoed else 0):
            delta = dumps({"content": request.echoed})
            choice = f'{{"index":{index},"delta":{delta},"logprobs":null,"finish_reason":null}}'
            events.append(f"{self._head}{choice}]{counts}}}\n\n")
        return events

    def event(self, index: int, step: TokenStep) -> str | None:
        if self._silent(index, step):
            return None
        self.made[index] += len(step.token_ids)
        delta, ended, reader = f'{{"content":{dumps(step.text)}}}', step.finish_reason, self._parsers[index]
        if reader is not None:
            found = reader.feed(step.text, ended is not None).delta()
            request = self.request
            if not found and ended is None and request.logprobs is None and not request.return_token_ids:
                return None
            delta, ended = dumps(found), reader.finish(ended)
        reason = f',"stop_reason":{dumps(step.stop_reason)}' if ended else ""
        return (
            f'{self._head}{{"index":{index},"delta":{delta},'
            f'"logprobs":{self._logprobs(step)},"finish_reason":{dumps(ended)}{reason},'
            f'"token_ids":{self._ids(step)}}}]{self._tail(index, step)}'
        )

    def _logprobs(self, step: TokenStep) -> str:
        if self.request.logprobs is None:
            return "null"
        return dumps(logprobs.chat(step.token_ids, self.request.logprobs, self.request.ids_as_tokens))

    def _usage(self, prompt: int, made: int) -> str:
        return dumps(usage(prompt, made, completion_tokens_details=None))


def prompt_text(prompt: Prompt) -> str:
    """The text of a prompt, made from the ids where it came as ids."""
    return decode(prompt.ids) if prompt.text is None else prompt.text
