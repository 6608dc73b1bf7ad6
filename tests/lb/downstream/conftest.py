"""A balancer and one worker that remembers every byte."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from httpforms import MAX_BODY
from lbfakes import Balanced, spec
from strictreader import ANSWER, Pair, running_recorder

StartBalancer = Callable[..., Awaitable[Balanced]]
StartPair = Callable[..., Awaitable[Pair]]


@pytest.fixture
async def start_pair(start_balancer: StartBalancer) -> AsyncIterator[StartPair]:
    async with contextlib.AsyncExitStack() as exits:

        async def start(answer: bytes = ANSWER, **config: object) -> Pair:
            worker = await exits.enter_async_context(running_recorder(answer))
            balancer = await start_balancer(**config)
            balancer.push(spec(port=worker.port))
            return Pair(balancer, worker)

        yield start


@pytest.fixture
async def pair(start_pair: StartPair) -> Pair:
    return await start_pair(max_body=MAX_BODY)
