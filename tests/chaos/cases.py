"""What is asked: requests whose answer is the same each time, of all the kinds that are promised to survive."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chaos import apis, oracle
from chaos.oracle import Failed, Kind, Wrong
from chaos.wire import Answer, request

_TEXTS = (
    "hello", "Once upon a time there was a small house near the river", "The first thing about the sea is",
    "Write a story about the mountain and the bird", "one two three four five", "好き 😀 é → the end of the",
    " ".join(f"line {n} of the long page, and some more words to read" for n in range(12)),
)  # fmt: skip
# Rarely met, so that text is held back all along; and soon met.
_STOPS = (["zebra crossing of the queen"], [" again", "\n\n\n"], [" life", " white", " mountain"])
#: How far log probabilities may be apart on a real engine; which tokens they are for is compared exactly.
TOLERANCE = {"sim": 0.0, "vllm": 0.05}


@dataclass(frozen=True, eq=False)
class Case:
    """One request. ``check``: of a sample, which has no one right answer: what is wrong with what is seen of it."""

    name: str
    path: str
    body: dict[str, Any]
    check: Callable[[Any], str] | None = None

    @property
    def chat(self) -> bool:
        return "chat" in self.path

    @property
    def streamed(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def data(self) -> bytes:
        return request("POST", self.path, self.body)


@dataclass(frozen=True)
class Verdict:
    kind: Kind
    reason: str = ""


def read(case: Case, answer: Answer) -> Any:
    """What the client can see of it. Raises `Failed` and `Wrong`."""
    if answer.problem:
        raise Failed(f"{answer.problem}{_error_in(answer.body)}")
    if answer.status != 200:
        raise Failed(f"status {answer.status}: {answer.body[:120].decode(errors='replace')}")
    kind = answer.headers.get("content-type", "")
    if kind.partition(";")[0] != ("text/event-stream" if case.streamed else "application/json"):
        raise Wrong(f"content type {kind!r}")
    if case.path == "/v1/messages":
        return apis.read_messages(answer.body)
    if case.path == "/v1/responses":
        return apis.read_response(answer.body)
    return oracle.read_stream(answer.body, chat=case.chat) if case.streamed else oracle.read_plain(answer.body)


def judge(case: Case, answer: Answer, right: list[Any], tolerance: float = 0.0) -> Verdict:
    """Whether it is one of the answers that came ``right``, undisturbed."""
    try:
        seen = read(case, answer)
    except Failed as error:
        return Verdict(Kind.FAILED, str(error))
    except Wrong as error:
        return Verdict(Kind.WRONG, str(error))
    if case.check is not None:
        wrong = case.check(seen)
        return Verdict(Kind.WRONG, wrong) if wrong else Verdict(Kind.OK)
    found = [oracle.difference(seen, one, tolerance) for one in right]
    return Verdict(Kind.OK) if not all(found) else Verdict(Kind.WRONG, found[0])


def _error_in(body: bytes) -> str:
    at = max(body.find(b'data: {"error"'), body.find(b'event: error'))
    return f", after {body[at : at + 160].decode(errors='replace').strip()}" if at >= 0 else ""


def make(seed: int, models: list[str], *, streams: int, plain: int, lengths: tuple[int, int]) -> list[Case]:
    """``streams`` streamed and ``plain`` plain requests; ``lengths``: tokens, least and most, of the streamed ones."""
    chooser = random.Random(seed)
    options = [*_OPTIONS, *([{}] * 3)]
    chooser.shuffle(options)
    cases = []
    for number in range(streams + plain):
        streamed = number < streams
        chat = bool(number % 2)
        body: dict[str, Any] = {"model": models[number % len(models)], "temperature": 0}
        text = chooser.choice(_TEXTS)
        body |= {"messages": _messages(text, chooser)} if chat else {"prompt": f"{text} {number}"}
        least, most = lengths if streamed else (4, max(8, lengths[0]))
        body["max_tokens"] = chooser.randint(least, most)
        body["ignore_eos"] = chooser.random() < 0.7
        body |= {"stream": True} if streamed else {}
        option = options[number // 2 % len(options)]
        body |= {name: _for_chat(name, value) if chat else value for name, value in option.items()}
        _tidy(body, streamed, chat)
        name = f"{number} {'chat' if chat else 'completion'} {' '.join(option) or 'bare'}"
        cases.append(Case(name, "/v1/chat/completions" if chat else "/v1/completions", body))
    return cases


_OPTIONS: tuple[dict[str, Any], ...] = (
    {"stream_options": {"include_usage": True}},
    {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    {"logprobs": 2},
    {"logprobs": 2, "stream_options": {"include_usage": True}, "return_token_ids": True},
    {"return_token_ids": True},
    {"return_token_ids": True, "stop": _STOPS[1]},
    {"stop": _STOPS[0]},
    {"stop": _STOPS[1], "stream_options": {"include_usage": True}},
    {"stop": _STOPS[2], "min_tokens": 30, "include_stop_str_in_output": True},
    {"min_tokens": 20, "seed": 7},
    {"echo": True},
    {"prompt": [40, 41, 260, 270, 280, 290, 300], "return_token_ids": True},
)


def _messages(text: str, chooser: random.Random) -> list[dict[str, str]]:
    made = [{"role": "user", "content": text}]
    if chooser.random() < 0.5:
        made.insert(0, {"role": "system", "content": "You are a helper and tell the time."})
    if chooser.random() < 0.3:
        made += [{"role": "assistant", "content": "It is night."}, {"role": "user", "content": "And then?"}]
    return made


def _for_chat(name: str, value: Any) -> Any:
    return True if name == "logprobs" else value


def _tidy(body: dict[str, Any], streamed: bool, chat: bool) -> None:
    if chat and body.get("logprobs"):
        body["top_logprobs"] = 2
    for name in ("echo", "prompt") if chat else ():
        body.pop(name, None)
    if not streamed:
        body.pop("stream_options", None)
    body["max_tokens"] = max(body["max_tokens"], body.get("min_tokens", 0))
