"""What watches the workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from cluster.instance import Instance
from cluster.watchers import Watchers
from worker.spec import Slot


async def test_one_death_is_swept_once_however_late_the_inbox_is_read() -> None:
    inbox: list[Callable[[], None]] = []
    empty: list[str] = []
    fleet = SimpleNamespace(tree_empty=lambda instance, now: empty.append(instance.id))
    supervisor = SimpleNamespace(post=inbox.append, fleet=fleet, now=lambda: 0.0)
    watchers = Watchers(cast(Any, supervisor))
    instance = Instance("instance_0", Slot(), since=0.0, generation=0)
    instance.last_exit, instance.swept = {"pid": 1}, cast(Any, SimpleNamespace(kill_tree=list))
    try:
        watchers.sweep(instance)
        async with asyncio.timeout(5):
            while not inbox:
                await asyncio.sleep(0)
        watchers.sweep(instance)  # asked for again before the report was read: the process of the next start is not it
        for _ in range(200):
            await asyncio.sleep(0.001)
        assert len(inbox) == 1
        inbox.pop()()
        assert empty == ["instance_0"]
        watchers.sweep(instance)  # of the next death
        async with asyncio.timeout(5):
            while not inbox:
                await asyncio.sleep(0)
    finally:
        await watchers.close()
