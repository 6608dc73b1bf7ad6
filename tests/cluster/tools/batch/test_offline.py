"""The lines of a batch that an engine in this process answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from cluster.client import ClusterError
from cluster.tools.batch.lines import BatchRequest, Defaults, ask_of
from cluster.tools.batch.offline import OfflineSender
from worker.offline import OfflineError, UnknownExpert

GOOD = {"model": "m", "choices": [{"text": "t", "finish_reason": "stop"}], "usage": {"completion_tokens": 2}}


class MadeUpEngine:
    def __init__(self, status: int = 200, data: Any = GOOD) -> None:
        self.status, self.data, self.asked = status, data, list[tuple[str, Any]]()

    def check_expert(self, name: str) -> None:
        if name != "m":
            raise UnknownExpert(f"no {name}")

    async def request(self, path: str, body: bytes) -> tuple[int, bytes]:
        self.asked.append((path, json.loads(body)))
        if self.data is None:
            await asyncio.Event().wait()
        if isinstance(self.data, Exception):
            raise self.data
        return self.status, json.dumps(self.data).encode()


def _ask(line: Any = "p") -> BatchRequest:
    return ask_of(1, json.dumps(line).encode(), Defaults("m"))


async def test_an_answer_is_the_line_that_a_cluster_would_give() -> None:
    engine = MadeUpEngine()
    async with OfflineSender(engine, 5.0) as sender:
        line = await sender(_ask())
    assert engine.asked == [("/v1/completions", {"model": "m", "prompt": "p"})]
    assert (line["line"], line["text"], line["finish_reason"], line["usage"]) == (1, "t", "stop", GOOD["usage"])


@pytest.mark.parametrize(
    ("engine", "line", "message"),
    [
        (MadeUpEngine(400, {"error": {"message": "too long"}}), "p", "too long"),
        (MadeUpEngine(), {"prompt": "p", "model": "n"}, "no n"),
        (MadeUpEngine(), {"x": 1}, 'line 1: one of "messages" and "prompt" is needed'),
        (MadeUpEngine(data=None), "p", "no answer within 0.01 s"),
        (MadeUpEngine(data={}), "p", "an answer without text"),
    ],
)
async def test_what_fails_is_an_error_in_its_line(engine: MadeUpEngine, line: Any, message: str) -> None:
    assert (await OfflineSender(engine, 0.01)(_ask(line)))["error"]["message"] == message


async def test_an_engine_that_is_gone_ends_the_run() -> None:
    with pytest.raises(ClusterError, match="the engine ended"):
        await OfflineSender(MadeUpEngine(data=OfflineError("the engine ended")), 5.0)(_ask())
