"""Whose turn it is in the queue: limits of keys and models, and what runs in the background."""

from __future__ import annotations

import asyncio
import time

import pytest

from config.identity.api_keys import Priority
from lb.admission.concurrency import AllTerms, Claim, Concurrency, ConcurrencyLimits
from lb.admission.queue import WaitingQueue
from lb.admission.rate_limits import OwnCells, RateLimits
from lb.protocol.tenant import ANYBODY, Tenant
from lb.routing.backend import Backend
from lb.routing.strategies.base import RequestInfo
from lbfakes import spec
from queuehouse import BACKGROUND, KEY, OTHER, House, limited, open_house, turn


class CountedCells(OwnCells):
    """``changes``: what was taken, each time that something was."""

    changes: list[int]

    def flow(self, filled: int, change: int) -> int:
        self.changes.append(change // 1000)
        return super().flow(filled, change)


async def test_what_requests_took_is_settled_once_for_a_turn_of_the_event_loop() -> None:
    cells = CountedCells()
    cells.changes = []
    tenants = [Tenant("a", tpm=10_000), Tenant("b")]
    async with open_house(rates=RateLimits(lambda: 1000.0, lambda name: cells)) as house:
        house.push(spec())
        askers = [house.ask(tenant=tenant)[0] for tenant in tenants * 3]
        assert cells.changes == [100] * 3, "400 bytes of prompt each"
        for asker, made in zip(askers, range(1, 7), strict=True):
            assert asker.claim is not None
            house.admission.over(asker.claim, 90, made)
            house.admission.over(asker.claim, 90, 0)  # once more
        assert cells.changes == [100] * 3
        await asyncio.sleep(0)
        assert cells.changes == [100] * 3 + [3 * -10 + 1 + 3 + 5]


def test_what_runs_counts_on_terms_that_are_made_anew() -> None:
    concurrency = Concurrency(ConcurrencyLimits(per_adapter=1))
    terms = AllTerms(concurrency, RateLimits(lambda: 0.0))
    claim = Claim(terms[KEY, "sql"])
    assert concurrency.free(claim.terms) and concurrency.begin(claim)
    terms.clear()
    assert not concurrency.free(terms[Tenant("other"), "sql"]) and concurrency.free(terms[KEY, "pirate"])
    concurrency.end(claim)
    terms.clear()
    assert concurrency.free(terms[KEY, "sql"])


async def test_a_key_at_its_limit_waits_and_holds_up_nobody(house: House) -> None:
    house.push(spec())
    askers = [house.ask(number, tenant=KEY)[0] for number in range(4)]
    other, ticket = house.ask(9, tenant=OTHER)
    assert ticket is None and other.leases
    assert [asker.name for asker in house.served] == [0, 1, 9]
    askers[0].end(house)
    askers[0].end(house)  # counts once
    await turn()
    assert [asker.name for asker in house.served] == [0, 1, 9, 2]


@pytest.mark.parametrize("tenant", [ANYBODY, Tenant("high", priority=Priority.HIGH)])
async def test_others_overtake_what_runs_in_the_background(house: House, tenant: Tenant) -> None:
    house.push(spec())
    limited(house, 1)
    askers = [house.ask(number, tenant=tenant, head=BACKGROUND)[0] for number in range(3)]
    askers += [house.ask(number)[0] for number in (3, 4)]
    for place in range(4):
        house.served[place].end(house)
        await turn()
    assert [asker.name for asker in house.served] == [0, 3, 4, 1, 2]


async def test_what_runs_in_the_background_is_counted_there(house: House) -> None:
    """A key's own requests, and those of others beside them, are served as if there were none."""
    house.push(spec())
    limited(house, 1)
    house.ask(0, tenant=KEY, head=BACKGROUND)
    house.ask(1, tenant=OTHER, head=BACKGROUND)
    house.served[0].end(house, made=5000)
    await turn()
    for number in (2, 3):
        house.ask(number, tenant=OTHER)
        house.ask(number + 10, tenant=KEY)
    for place in range(1, 5):
        house.served[place].end(house)
        await turn()
    assert [asker.name for asker in house.served] == [0, 1, 2, 12, 3, 13]


async def test_more_workers_would_help_those_that_want_room_and_no_key_at_its_limit(house: House) -> None:
    queue = house.admission
    assert isinstance(queue, WaitingQueue)
    house.push(spec("instance_0"))
    limited(house, 2)
    key = Tenant("key", max_concurrent=1)
    first, _ = house.ask(0, tenant=key)
    house.ask(1, tenant=key)
    assert queue.for_want_of_room() == 0
    house.ask(2)
    for name in (3, 4, 5):
        house.ask(name)
    assert (len(queue), queue.for_want_of_room()) == (4, 3)
    first.end(house)
    await turn()
    assert queue.for_want_of_room() > 0


async def test_who_waits_is_told_how_many_do_and_whose_turn_it_is(house: House) -> None:
    house.push(spec())
    limited(house, 0)
    house.ask(0, tenant=OTHER)
    house.ask(1, tenant=OTHER)
    _, ticket = house.ask(2, tenant=KEY)
    assert ticket is not None
    (stay,) = ticket.info.stays
    assert (stay.ahead, stay.behind, stay.until) == (2, "other", None)
    house.admission.leave(ticket)
    assert stay.until is not None and stay.until >= stay.since


async def test_a_request_that_is_made_again_keeps_its_place(house: House) -> None:
    house.push(spec())
    askers = [house.ask(number, tenant=KEY)[0] for number in range(3)]
    askers[0].leases[0].release()
    again = house.admission.admit(
        askers[0].claim, RequestInfo("base"), frozenset(), None, time.monotonic(), askers[0], again=True
    )
    assert isinstance(again, Backend)
    await turn()
    assert [asker.name for asker in house.served] == [0, 1]


async def test_all_and_each_model_have_limits_of_their_own() -> None:
    async with open_house(limits=ConcurrencyLimits(total=3, per_adapter=2, adapters={"poet": 1})) as house:
        house.push(spec(models=("base", "poet")))
        poets = [house.ask(number, "poet")[0] for number in range(2)]
        base = [house.ask(number, "base")[0] for number in range(10, 13)]
        assert [asker.name for asker in house.served] == [0, 10, 11]  # one poet; then all three
        base[0].end(house)
        await turn()
        assert [asker.name for asker in house.served] == [0, 10, 11, 12]
        poets[0].end(house)
        await turn()
        assert [asker.name for asker in house.served] == [0, 10, 11, 12, 1]
