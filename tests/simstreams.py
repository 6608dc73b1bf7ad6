"""Streams as the simulator's engine makes them, without a server, and what a client makes of a stream."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from worker.sim.api import protocol, sse
from worker.sim.engine.generate import Sequence as Made
from worker.sim.engine.generate import TokenStep, start

CONTEXT = 512


def merged(steps: Sequence[TokenStep], sizes: Sequence[int]) -> list[TokenStep]:
    """As vLLM puts outputs together that its server had no time to send one by one."""
    out: list[TokenStep] = []
    left = list(steps)
    for size in sizes:
        some, left = left[:size], left[size:]
        if some:
            ids = tuple(token for step in some for token in step.token_ids)
            out.append(TokenStep(ids, "".join(s.text for s in some), some[-1].finish_reason, some[-1].stop_reason))
    return [*out, *left]


def stream(body: dict[str, Any], chat: bool, sizes: Sequence[int] = (), name: str = "x") -> list[bytes]:
    """The events with which a worker answers ``body``, each with the empty line that ends it."""
    made = protocol.check_fields(dict(body), chat=chat)
    request = protocol.build(made, chat=chat, max_model_len=CONTEXT, served="demo")
    sequence: Made = start("demo", request.prompts[0].ids, request.sampling[0])
    steps: list[TokenStep] = []
    while sequence.finish_reason is None:
        steps.append(sequence.step())
    identity = sse.Identity(f"id-{name}", 1000 + len(name), "demo")
    maker = (sse.ChatStream if request.chat else sse.CompletionStream)(request, identity)
    out = [*maker.first(), *(text for step in merged(steps, sizes) if (text := maker.event(0, step)))]
    last = maker.last()
    cut = last.find(sse.DONE)
    return [event.encode() for event in [*out, *([last[:cut]] if cut else []), sse.DONE]]


def seen(stream: bytes) -> dict[str, Any]:
    """What a client makes of a stream, whatever it was cut into."""
    out: dict[str, Any] = {
        "text": "", "ids": [], "logprobs": [], "finish": [], "usage": [], "heads": set(), "roles": 0, "done": 0
    }  # fmt: skip
    for event in stream.split(b"\n\n")[:-1]:
        assert event.startswith(b"data: "), event
        assert not out["done"]
        if event == b"data: [DONE]":
            out["done"] += 1
            continue
        data = json.loads(event[6:])
        out["heads"].add((data["id"], data["object"], data["created"], data["model"]))
        if not data["choices"]:
            out["usage"].append(data["usage"])
            continue
        (choice,) = data["choices"]
        delta = choice.get("delta", {})
        out["roles"] += "role" in delta
        out["text"] += choice.get("text", "") + delta.get("content", "")
        out["ids"] += choice.get("token_ids") or []
        found = choice.get("logprobs")
        if found is not None:
            out["logprobs"] += found.get("content") or [
                [found[key][at] for key in sorted(found)] for at in range(len(found.get("tokens", ())))
            ]
        if choice["finish_reason"] is not None:
            out["finish"].append((choice["finish_reason"], choice["stop_reason"], data.get("usage")))
    return out
