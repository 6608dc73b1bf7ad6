"""What many that wait cost, and whom."""

from __future__ import annotations

import time
from random import Random

import pytest

from fakes import soon
from lb.admission.request_admission import QueueLimits
from lb.protocol.errors import ProxyError
from lb.protocol.tenant import Tenant
from lb.routing.backend import Backend
from lbfakes import spec
from queuehouse import KEY, OTHER, TIMEOUT_S, House, limited, open_house, turn


async def test_one_release_makes_one_choice_a_model_not_one_for_each_that_waits(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.push(spec())
    limited(house, 1)
    first, _ = house.ask()
    for number in range(1000):
        house.ask(number)
    choices, choose = [], house.router.choose

    def counted(*args: object) -> Backend | None:
        choices.append(args)
        return choose(*args)

    monkeypatch.setattr(house.router, "choose", counted)
    first.leases[0].release()
    await soon(lambda: len(house.served) == 2)
    assert len(choices) == 1  # for the one that is served: there is no more room then


async def test_a_full_queue_says_so_at_once_and_the_flood_pays() -> None:
    async with open_house(queue_limits=QueueLimits(TIMEOUT_S, most=4)) as house:
        house.push(spec())
        limited(house, 0)
        flood = [house.ask(number, tenant=KEY)[0] for number in range(4)]
        with pytest.raises(ProxyError) as full:
            house.ask(4, tenant=KEY)
        assert (full.value.status, full.value.retry_after) == (503, 1)
        house.ask(5, tenant=OTHER)
        assert [asker.name for asker in flood if asker.error] == [3]
        limited(house, 9)
        house.admission.serve_soon()
        await turn()
        assert sorted(asker.name for asker in house.served) == [0, 1, 5]  # 2 waits: KEY has its two
        # What a key has too many of itself is told as such.
        blocked = [house.ask(number, tenant=KEY) for number in range(6, 9)]
        assert all(ticket for _, ticket in blocked)
        with pytest.raises(ProxyError) as own:
            house.ask(9, tenant=KEY)
        assert own.value.status == 429


async def test_ten_thousand_that_leave_while_they_wait_leave_nothing_behind() -> None:
    async with open_house(queue_limits=QueueLimits(TIMEOUT_S, most=20_000)) as house:
        house.push(spec(models=("base", "poet")))
        backend = limited(house, 1)
        first, _ = house.ask(0)
        tenants = [Tenant(f"key{number}", max_concurrent=3) for number in range(50)]
        tickets = [
            house.ask(number, ("base", "poet")[number % 2], tenant=tenants[number % 50])[1] for number in range(10_000)
        ]
        Random(1).shuffle(tickets)
        for ticket in tickets:
            assert ticket is not None
            house.admission.leave(ticket)
        first.end(house)
        await turn()
        assert [asker.name for asker in house.served] == [0]
        assert not +house.waiting and not len(house.admission) and backend.load == 0
        after = [house.ask(number, tenant=tenants[0])[0] for number in range(2)]
        assert [bool(asker.leases) for asker in after] == [True, False]


async def test_the_wait_of_others_does_not_grow_with_one_that_floods() -> None:
    """Fifty keys, one of which asks for ten times its share, served one after the other."""

    async def waits(flood: int) -> list[int]:
        async with open_house(queue_limits=QueueLimits(TIMEOUT_S, most=100_000)) as house:
            house.push(spec())
            limited(house, 1)
            running, _ = house.ask(-1)
            asked: dict[int, int] = {}
            found, number = list[int](), 0
            for round_ in range(40):
                for key in range(50):
                    for _ in range(flood if key == 0 else 1):
                        asked[number] = round_ * 50
                        house.ask(number, tenant=Tenant(f"key{key}"))
                        number += 1
                for _ in range(50):
                    running.end(house)
                    await turn()
                    running = house.served[-1]
                    if running.claim.tenant.name != "key0":
                        found.append(len(house.served) - asked[running.name])
            return sorted(found)

    calm, flooded = await waits(1), await waits(10)
    assert flooded[int(len(flooded) * 0.99)] <= 1.1 * calm[int(len(calm) * 0.99)]


@pytest.mark.measured
async def test_a_flood_of_one_key_costs_a_look_a_key_not_one_a_request(house: House) -> None:
    house.push(spec())
    limited(house, 1)
    running, _ = house.ask(-1)
    for number in range(5000):
        house.ask(number, tenant=Tenant(f"key{number % 10}"))
    began = time.process_time()
    for _ in range(200):
        running.end(house)
        await turn()
        running = house.served[-1]
    assert time.process_time() - began < 1.0
