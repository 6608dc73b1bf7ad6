"""Who waits for a model or an adapter that no worker has."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from config.topology import OfferedModel
from fakes import soon
from lb.admission.model_demand import ModelDemand
from lb.admission.queue import WaitingQueue
from lb.admission.request_admission import QueueLimits
from lb.protocol.errors import ProxyError
from lbfakes import spec
from queuehouse import House, limited, open_house, turn, with_adapters


async def test_the_supervisor_hears_again_and_again_of_an_adapter_that_is_waited_for(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lb.admission.wait_rules._WANT_AGAIN", 0.02)
    house.push(spec(), registered=({"id": "poet"},))
    house.ask(model="poet")
    await soon(lambda: len(house.wanted.adapters) >= 3)
    assert set(house.wanted.adapters) == {"poet"}
    house.push(spec(models=("base", "poet")), registered=({"id": "poet"},))
    await soon(lambda: house.served)
    count = len(house.wanted.adapters)
    await asyncio.sleep(0.1)
    assert len(house.wanted.adapters) == count


def offer(name: str, state: str, **fields: Any) -> OfferedModel:
    return OfferedModel(**{"name": name, "names": (name,), "group": name, "state": state, "wait": 60.0, **fields})


async def test_a_model_that_is_not_up_is_waited_for_and_wanted_until_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lb.admission.wait_rules._WANT_MODEL_AGAIN", 0.02)
    async with open_house(queue_limits=QueueLimits(timeout=0.05)) as house:
        await _wait_for_a_model(house)


async def _wait_for_a_model(house: House) -> None:
    poet = {"id": "poet", "parent": "b"}
    house.push(spec(models=("a",), group="a"), models=(offer("a", "up"), offer("b", "down")), registered=(poet,))
    house.ask(1, model="b")
    house.ask(2, model="poet")
    await soon(lambda: len(house.wanted.models) >= 3)
    assert set(house.wanted.models) == {"b"} and not house.wanted.adapters
    await asyncio.sleep(0.15)  # longer than a worker is waited for that comes back by itself
    assert not house.served
    workers = spec(models=("a",), group="a"), spec("b/instance_0", models=("b", "poet"), group="b")
    house.push(*workers, models=(offer("a", "up"), offer("b", "up")), registered=(poet,))
    await soon(lambda: len(house.served) == 2)
    assert {asker.leases[0].backend.id for asker in house.served} == {"b/instance_0"}
    assert house.heard.absent == ["b", "b"]


async def test_no_longer_than_the_model_says(house: House) -> None:
    house.push(models=(offer("b", "starting", wait=0.1),))
    asker, _ = house.ask(model="b")
    await soon(lambda: asker.error)
    assert asker.error is not None and asker.error.status == 503
    assert "no worker for model b became ready within 0.1 s" in str(asker.error)


async def test_a_start_that_fails_is_told_to_those_who_wait_and_who_come_meanwhile(house: House) -> None:
    house.push(models=(offer("b", "starting"),))
    asker, _ = house.ask(1, model="b")
    failed = offer("b", "failed", why="no such file", retry_at=time.time() + 30)
    house.push(models=(failed,))
    await soon(lambda: asker.error)
    assert asker.error is not None and (asker.error.status, asker.error.retry_after) == (503, 30)
    assert str(asker.error) == "model b cannot be started: no such file"
    with pytest.raises(ProxyError, match="no such file"):
        house.ask(2, model="b")
    assert house.wanted.models == ["b"]
    house.push(models=(replace(failed, retry_at=time.time() - 1),))
    _, ticket = house.ask(3, model="b")
    assert ticket is not None and house.wanted.models == ["b", "b"], "it is time to try again"


async def test_what_is_asked_of_each_model_is_told(house: House) -> None:
    now, queue = time.monotonic(), house.admission
    assert isinstance(queue, WaitingQueue)
    demand = ModelDemand(house.pool, queue.waiting, lambda: now + 3, lambda: 1e9)
    assert demand.told() == {}
    poet = {"id": "poet", "parent": "b"}
    house.push(spec(models=("a",), group="a"), models=(offer("a", "up"), offer("b", "down")), registered=(poet,))
    house.ask(1, model="a")
    house.ask(2, model="b", came=now - 2)
    house.ask(3, model="poet", came=now - 4)
    demand.asked("poet")
    demand.asked("nobody's")
    assert demand.told() == {"models": {"a": [1, 0, 0.0, 0.0], "b": [0, 2, 7.0, 1e9]}}


async def test_while_slots_are_short_those_go_first_whose_adapter_is_active() -> None:
    """One slot a worker, for two requests: `pirate` lets one `poet` go first, as one was there before it, then has the
    slot itself."""
    async with open_house() as house:
        cards = ("base", "poet", "pirate")
        house.push(with_adapters(spec(models=cards, slots=1, seats=1), "poet", "pirate"))
        limited(house, 2)
        running = [house.ask(number, "poet")[0] for number in range(2)]
        for number, model in enumerate(["poet", "pirate", "poet", "poet", "poet", "pirate"], 2):
            house.ask(number, model)
        for number in range(6):
            running[number].end(house)
            await turn()
            running.append(house.served[-1])
        assert [asker.name for asker in house.served] == [0, 1, 2, 4, 3, 7, 5, 6]
