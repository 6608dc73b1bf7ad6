from __future__ import annotations

import asyncio

import pytest

from lb.routing.notifier import Notifier


async def test_all_who_wait_are_woken() -> None:
    changes = Notifier()
    waiting = [changes.next() for _ in range(3)]
    changes.notify()
    assert await asyncio.wait_for(asyncio.gather(*waiting), 1) == [None, None, None]


async def test_a_change_before_waiting_is_not_seen() -> None:
    changes = Notifier()
    changes.notify()
    assert not changes.next().done()


async def test_each_change_wakes_once() -> None:
    changes = Notifier()
    first = changes.next()
    changes.notify()
    second = changes.next()
    assert first.done()
    assert not second.done()


async def test_one_who_gives_up_does_not_touch_the_others() -> None:
    changes = Notifier()
    gone, stays = changes.next(), changes.next()
    gone.cancel()
    changes.notify()
    await asyncio.wait_for(stays, 1)
    assert gone.cancelled()


async def test_those_who_gave_up_are_forgotten() -> None:
    changes = Notifier()
    for _ in range(10):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(changes.next(), 0.001)
    await asyncio.sleep(0)
    assert not changes._waiters
