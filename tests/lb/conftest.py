"""Workers and balancers that are gone after the test, on the event loop that the balancer's process uses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import uvloop

import lbfakes
from lb.forwarding.retry import poison, recovery


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as exits:
        yield exits


@pytest.fixture
def start_worker(stack: AsyncExitStack) -> Callable[..., Awaitable[lbfakes.Worker]]:
    async def start(name: str = "instance_0", answer: lbfakes.Handler | None = None) -> lbfakes.Worker:
        return await stack.enter_async_context(lbfakes.running_worker(name, answer))

    return start


@pytest.fixture
def start_raw(stack: AsyncExitStack) -> Callable[..., Awaitable[lbfakes.RawWorker]]:
    async def start(answer: lbfakes.RawHandler, name: str = "instance_0") -> lbfakes.RawWorker:
        return await stack.enter_async_context(lbfakes.running_raw_worker(name, answer))

    return start


@pytest.fixture
def start_balancer(stack: AsyncExitStack, tmp_path: Path) -> Callable[..., Awaitable[lbfakes.Balanced]]:
    async def start(**config: object) -> lbfakes.Balanced:
        return await stack.enter_async_context(lbfakes.running_balancer(tmp_path, **config))

    return start


@pytest.fixture
async def balancer(start_balancer: Callable[..., Awaitable[lbfakes.Balanced]]) -> lbfakes.Balanced:
    return await start_balancer()


@pytest.fixture
def nobody_says_who_died(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests without a supervisor: its word on two workers that failed is not waited for."""
    monkeypatch.setattr(poison, "_WORD_S", 0.01)


@pytest.fixture
def settles_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests whose workers die at once: a request that may have killed one is soon given to another."""
    monkeypatch.setattr(recovery, "_SETTLED_S", 0.05)
