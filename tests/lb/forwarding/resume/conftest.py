"""Workers of a balancer, whose streams go wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from brokenengines import Engine, StartRaw
from lbfakes import Balanced


@pytest.fixture
def engines(balancer: Balanced, start_raw: StartRaw) -> Callable[..., Awaitable[list[Engine]]]:
    async def start(count: int, *plan: tuple[int, str], **fields: Any) -> list[Engine]:
        shared = list(plan)
        made = [Engine(f"instance_{number}", shared) for number in range(count)]
        for engine in made:
            engine.worker = await start_raw(engine.answer, engine.name)
        balancer.push(*(engine.spec(**fields) for engine in made))
        return made

    return start
