"""What every admission keeps to, and the queue of today: who waits, for whom, and for how long."""

from __future__ import annotations

import asyncio
import time

import pytest

from fakes import soon
from lb.admission.concurrency import FREE
from lb.admission.request_admission import QueueLimits
from lb.protocol.errors import ProxyError
from lb.routing import ejection
from lb.routing.strategies.base import RequestInfo
from lbfakes import spec
from queuehouse import TIMEOUT_S, House, limited, open_house, turn


async def test_whoever_can_be_served_does_not_wait(house: House) -> None:
    house.push(spec())
    asker, ticket = house.ask()
    assert (ticket, [lease.backend.id for lease in asker.leases]) == (None, ["instance_0"])
    assert not +house.waiting


async def test_those_that_wait_are_served_in_their_order_when_a_backend_comes(house: House) -> None:
    house.push(spec(state="starting"))
    for number in range(50):
        house.ask(number)
    assert house.waiting["base"] == 50
    house.push(spec())
    await soon(lambda: len(house.served) == 50)
    assert [asker.name for asker in house.served] == list(range(50))
    assert not +house.waiting


async def test_a_full_backend_serves_one_for_each_that_ends_and_nobody_overtakes(house: House) -> None:
    house.push(spec())
    backend = limited(house, 2)
    askers = [house.ask(number)[0] for number in range(6)]
    assert [asker.name for asker in house.served] == [0, 1]
    assert backend.full and not backend.available(time.monotonic())
    askers[1].leases[0].release()
    late, _ = house.ask(6)  # comes before the queue has looked: 2 is first all the same
    assert [asker.name for asker in house.served] == [0, 1, 2]
    for number in (0, 2, 3, 4):
        askers[number].leases[0].release()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert backend.load == 2
    assert [asker.name for asker in house.served] == list(range(7))
    assert late.leases


async def test_who_waits_for_one_model_holds_up_nobody_who_wants_another(house: House) -> None:
    house.push(spec(), spec("instance_1", models=("poet",), state="starting"))
    _, ticket = house.ask(1, "poet")
    assert ticket is not None
    assert house.ask(2)[1] is None


@pytest.mark.measured
async def test_the_end_of_an_ejection_serves_at_that_time_and_not_before(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ejection, "FIRST", 0.2)
    house.push(spec())
    backend = house.pool.backends["instance_0"]
    now = time.monotonic()
    backend.ejection.failed(now)
    house.ask()
    await soon(lambda: house.served)
    assert 0 <= time.monotonic() - backend.ejection.until < 0.1


async def test_an_answer_of_an_ejected_backend_serves_at_once(house: House) -> None:
    house.push(spec())
    backend = house.pool.backends["instance_0"]
    backend.ejection.failed(time.monotonic())
    house.ask()
    backend.succeeded()
    await asyncio.sleep(0.01)
    assert house.served


@pytest.mark.measured
async def test_a_model_that_was_lacking_for_a_moment_is_asked_for_after_it(house: House) -> None:
    house.push(spec())
    house.pool.backends["instance_0"].missing_models["base"] = end = time.monotonic() + 0.1
    house.ask()
    await soon(lambda: house.served)
    assert 0 <= time.monotonic() - end < 0.1


async def test_a_pinned_request_waits_for_its_own_backend_only(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ejection, "FIRST", 0.2)
    house.push(spec(), spec("instance_1"))
    house.pool.backends["instance_1"].ejection.failed(time.monotonic())
    asker, ticket = house.ask(pinned=("instance_1", 1))
    assert ticket is not None
    await soon(lambda: house.served)
    assert asker.leases[0].backend.id == "instance_1"


async def test_waiting_ends_at_the_deadline_with_an_error_that_says_so(house: House) -> None:
    house.push(spec(state="starting"))
    asker, _ = house.ask(came=time.monotonic() - TIMEOUT_S + 0.1)
    await soon(lambda: asker.error)
    assert asker.error is not None
    assert (asker.error.status, asker.error.retry_after) == (503, 5)
    assert "became ready within 30 s" in str(asker.error)
    assert not +house.waiting
    with pytest.raises(ProxyError):  # one that has waited for that long elsewhere
        house.ask(came=time.monotonic() - TIMEOUT_S)


async def test_nobody_waits_for_what_will_not_come(house: House) -> None:
    house.push(spec(state="starting"))
    asker, _ = house.ask()
    house.push(spec(state="failed"))
    await soon(lambda: asker.error)
    assert "all of them have failed" in str(asker.error)
    unloaded, _ = (house.push(spec(state="starting", models=("base", "poet"))), house.ask(model="poet"))[1]
    house.push(spec(state="starting"))
    await soon(lambda: unloaded.error)
    assert unloaded.error is not None and unloaded.error.status == 404
    ending, _ = house.ask()
    house.push(spec(state="starting"), shutting_down=True)
    await soon(lambda: ending.error)
    assert "shutting down" in str(ending.error)


async def test_whoever_leaves_is_not_served(house: House) -> None:
    house.push(spec(state="starting"))
    _, gone = house.ask(1)
    house.ask(2)
    assert gone is not None
    house.admission.leave(gone)
    house.admission.leave(gone)
    house.push(spec())
    await soon(lambda: house.served)
    assert [asker.name for asker in house.served] == [2]


async def test_a_mistake_in_one_request_is_its_own_loss(house: House) -> None:
    house.push(spec(state="starting"))
    wrong, _ = house.ask(1, fails=True)
    house.ask(2)
    house.push(spec())
    await soon(lambda: house.served)
    assert [asker.name for asker in house.served] == [2]
    assert wrong.error is not None and wrong.error.status == 500


async def test_a_task_can_wait_too_and_leaves_when_it_is_cancelled(house: House) -> None:
    house.push(spec(state="starting"))
    waits = [
        asyncio.ensure_future(house.admission.wait(FREE, RequestInfo("base"), frozenset(), time.monotonic()))
        for _ in range(2)
    ]
    await soon(lambda: house.waiting["base"] == 2)
    waits[0].cancel()
    await soon(lambda: house.waiting["base"] == 1)
    house.push(spec())
    assert (await waits[1]).id == "instance_0"
    assert not +house.waiting


async def test_a_deadline_that_passes_in_the_queue_ends_the_wait(house: House) -> None:
    house.push(spec())
    limited(house, 1)
    first, _ = house.ask(0)
    late, _ = house.ask(1, wait=0.05)
    never, _ = house.ask(2, wait=0.05)
    await soon(lambda: late.error is not None)
    first.end(house)
    await turn()
    assert [asker.name for asker in house.served] == [0]
    assert late.error is not None and late.error.status == 504 and never.error is not None
    assert house.heard.drops["anybody", "deadline"] == 2
    with pytest.raises(ProxyError) as passed:
        limited(house, 0)
        house.ask(3, wait=0.0)
    assert passed.value.status == 504


@pytest.mark.measured
async def test_a_request_waits_longer_for_room_than_for_a_worker_to_be_there() -> None:
    async with open_house(queue_limits=QueueLimits(timeout=0.05, patience=0.3)) as house:
        house.push(spec())
        limited(house, 0)
        began, (asker, _) = time.monotonic(), house.ask()
        await soon(lambda: asker.error is not None)
        assert asker.error is not None and asker.error.status == 503 and "had room within 0.3 s" in str(asker.error)
        assert 0.3 <= time.monotonic() - began < 1.0
        other, _ = house.ask()
        await asyncio.sleep(0.1)
        house.push(spec(state="unhealthy"))  # from now on nobody is there
        await asyncio.sleep(0.01)
        assert other.error is None, "a worker that is away for a moment is waited for"
        await soon(lambda: other.error is not None)
        assert "became ready" in str(other.error)
