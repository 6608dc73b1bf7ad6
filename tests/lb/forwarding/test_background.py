"""What says that it is in no hurry, through a whole balancer, asked as `eval` and `data generate` ask."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from cluster.tools.batch.lines import Defaults, ask_of
from cluster.tools.batch.run import BACKGROUND, RequestSender
from fakes import soon
from lbfakes import Balanced


async def test_other_requests_overtake_it(
    balancer: Balanced, start_worker: Callable[..., Awaitable[Any]]
) -> None:
    turn = asyncio.Semaphore(0)

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/completions":
            await turn.acquire()
        return web.json_response({"choices": [{"text": "t", "finish_reason": "stop"}]})

    worker = await start_worker(answer=answer)
    balancer.push(worker.spec())
    balancer.parts.pool.backends["instance_0"].limit = 1

    def asked() -> list[str]:
        return [json.loads(seen.body)["prompt"] for seen in worker.seen if seen.target == "/v1/completions"]

    def waiting() -> int:
        return int(balancer.metric("clusterctl_queued_requests") or 0)

    def prompts(name: str) -> list[Any]:
        lines = [json.dumps(f"{name} {number}").encode() for number in range(3)]
        return [ask_of(number, line, Defaults("base")) for number, line in enumerate(lines, 1)]

    async with (
        RequestSender(balancer.url, None, 8, headers=BACKGROUND) as slow, RequestSender(balancer.url, None, 8) as quick,
        asyncio.TaskGroup() as tasks,
    ):
        for number, ask in enumerate(prompts("background")):
            tasks.create_task(slow(ask))
            await soon(lambda number=number: len(asked()) + waiting() == number + 1)
        for number, ask in enumerate(prompts("other")):
            tasks.create_task(quick(ask))
            await soon(lambda number=number: waiting() == number + 3)
        for _ in range(6):
            turn.release()
    assert asked() == ["background 0", "other 0", "other 1", "other 2", "background 1", "background 2"]
