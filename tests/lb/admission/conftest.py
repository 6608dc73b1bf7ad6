"""A queue for tests of what it does."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from lb.admission.queue import WaitingQueue
from queuehouse import House, open_house


@pytest_asyncio.fixture(params=[WaitingQueue])  # the next admission is held to the same
async def house(request: pytest.FixtureRequest) -> AsyncIterator[House]:
    async with open_house(request.param) as made:
        yield made
