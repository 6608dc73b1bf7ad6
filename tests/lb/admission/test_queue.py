"""What every admission keeps to, and the queue of today: first come, first served."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from random import Random

import pytest
import pytest_asyncio

from config.topology import BackendSpec
from lb.admission.queue import RequestAdmission, Ticket, WaitingQueue
from lb.protocol.errors import ProxyError
from lb.protocol.tenant import ANYBODY
from lb.routing.backend import Backend, Lease
from lb.routing.pool import Pool
from lb.routing.router import Pinned, Router
from lb.routing.strategies.base import RequestInfo
from lbfakes import backend_set, spec, until

TIMEOUT_S = 30.0


@dataclass
class Asker:
    """One request: takes a lease on what it is granted."""

    name: int
    served: list[Asker]
    leases: list[Lease] = field(default_factory=list)
    error: ProxyError | None = None
    fails: bool = False

    def granted(self, backend: Backend) -> None:
        if self.fails:
            self.fails = False
            raise RuntimeError("a mistake")
        self.served.append(self)
        self.leases.append(backend.lease(lambda reason: None))

    def refused(self, error: ProxyError) -> None:
        self.error = error


@dataclass
class House:
    """An admission over a pool that a test fills."""

    pool: Pool
    admission: RequestAdmission
    router: Router
    waiting: Counter[str | None]
    wanted: list[str]
    served: list[Asker] = field(default_factory=list)
    revision: int = 0

    def push(self, *specs: BackendSpec, **fields: object) -> None:
        self.revision += 1
        assert self.pool.apply(backend_set(*specs, revision=self.revision, **fields))

    def ask(
        self, name: int = 0, model: str | None = "base", pinned: Pinned | None = None, came: float | None = None,
        fails: bool = False,
    ) -> tuple[Asker, Ticket | None]:
        asker = Asker(name, self.served, fails=fails)
        came = time.monotonic() if came is None else came
        found = self.admission.admit(ANYBODY, RequestInfo(model), frozenset(), pinned, came, asker)
        if isinstance(found, Ticket):
            return asker, found
        asker.granted(found)
        return asker, None


@pytest_asyncio.fixture(params=[WaitingQueue])  # the next admission is held to the same
async def house(request: pytest.FixtureRequest) -> AsyncIterator[House]:
    def changed() -> None:
        router.pool_changed()
        queue.serve_soon()

    waiting: Counter[str | None] = Counter()
    wanted: list[str] = []
    pool = Pool(changed, on_room=lambda: queue.serve_soon())
    router = Router(pool, lambda version, named: named, time.monotonic, Random(1))
    queue = request.param(
        router, pool, lambda model, by: waiting.update({model: by}), timeout=TIMEOUT_S, want=wanted.append,
        clock=time.monotonic,
    )  # fmt: skip
    yield House(pool, queue, router, waiting, wanted)
    queue.close()


def limited(house: House, limit: int, name: str = "instance_0") -> Backend:
    backend = house.pool.backends[name]
    backend.limit = limit
    return backend


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
    await until(lambda: len(house.served) == 50)
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
    for turn in (0, 2, 3, 4):
        askers[turn].leases[0].release()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert backend.load == 2
    assert [asker.name for asker in house.served] == list(range(7))
    assert late.leases


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
    await until(lambda: len(house.served) == 2)
    assert len(choices) == 2  # the one that is served, and the one that shows that there is no more room


async def test_who_waits_for_one_model_holds_up_nobody_who_wants_another(house: House) -> None:
    house.push(spec(), spec("instance_1", models=("poet",), state="starting"))
    _, ticket = house.ask(1, "poet")
    assert ticket is not None
    assert house.ask(2)[1] is None


async def test_the_end_of_an_ejection_serves_at_that_time_and_not_before(house: House) -> None:
    house.push(spec())
    backend = house.pool.backends["instance_0"]
    now = time.monotonic()
    backend.ejection.failed(now)
    house.ask()
    await until(lambda: house.served)
    assert 0 <= time.monotonic() - backend.ejection.until < 0.1


async def test_an_answer_of_an_ejected_backend_serves_at_once(house: House) -> None:
    house.push(spec())
    backend = house.pool.backends["instance_0"]
    backend.ejection.failed(time.monotonic())
    house.ask()
    backend.succeeded()
    await asyncio.sleep(0.01)
    assert house.served


async def test_a_model_that_was_lacking_for_a_moment_is_asked_for_after_it(house: House) -> None:
    house.push(spec())
    house.pool.backends["instance_0"].missing_models["base"] = end = time.monotonic() + 0.2
    house.ask()
    await until(lambda: house.served)
    assert 0 <= time.monotonic() - end < 0.1


async def test_a_pinned_request_waits_for_its_own_backend_only(house: House) -> None:
    house.push(spec(), spec("instance_1"))
    house.pool.backends["instance_1"].ejection.failed(time.monotonic())
    asker, ticket = house.ask(pinned=("instance_1", 1))
    assert ticket is not None
    await until(lambda: house.served)
    assert asker.leases[0].backend.id == "instance_1"


async def test_waiting_ends_at_the_deadline_with_an_error_that_says_so(house: House) -> None:
    house.push(spec(state="starting"))
    asker, _ = house.ask(came=time.monotonic() - TIMEOUT_S + 0.1)
    await until(lambda: asker.error)
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
    await until(lambda: asker.error)
    assert "all of them have failed" in str(asker.error)
    unloaded, _ = (house.push(spec(state="starting", models=("base", "poet"))), house.ask(model="poet"))[1]
    house.push(spec(state="starting"))
    await until(lambda: unloaded.error)
    assert unloaded.error is not None and unloaded.error.status == 404
    ending, _ = house.ask()
    house.push(spec(state="starting"), shutting_down=True)
    await until(lambda: ending.error)
    assert "shutting down" in str(ending.error)


async def test_whoever_leaves_is_not_served(house: House) -> None:
    house.push(spec(state="starting"))
    _, gone = house.ask(1)
    house.ask(2)
    assert gone is not None
    house.admission.leave(gone)
    house.admission.leave(gone)
    house.push(spec())
    await until(lambda: house.served)
    assert [asker.name for asker in house.served] == [2]


async def test_a_mistake_in_one_request_is_its_own_loss(house: House) -> None:
    house.push(spec(state="starting"))
    wrong, _ = house.ask(1, fails=True)
    house.ask(2)
    house.push(spec())
    await until(lambda: house.served)
    assert [asker.name for asker in house.served] == [2]
    assert wrong.error is not None and wrong.error.status == 500


async def test_the_supervisor_hears_again_and_again_of_an_adapter_that_is_waited_for(house: House) -> None:
    house.push(spec(), registered=({"id": "poet"},))
    house.ask(model="poet")
    await until(lambda: len(house.wanted) >= 3)
    assert set(house.wanted) == {"poet"}
    house.push(spec(models=("base", "poet")), registered=({"id": "poet"},))
    await until(lambda: house.served)
    count = len(house.wanted)
    await asyncio.sleep(0.4)
    assert len(house.wanted) == count


async def test_a_task_can_wait_too_and_leaves_when_it_is_cancelled(house: House) -> None:
    house.push(spec(state="starting"))
    waits = [
        asyncio.ensure_future(house.admission.wait(ANYBODY, RequestInfo("base"), frozenset(), time.monotonic()))
        for _ in range(2)
    ]
    await until(lambda: house.waiting["base"] == 2)
    waits[0].cancel()
    await until(lambda: house.waiting["base"] == 1)
    house.push(spec())
    assert (await waits[1]).id == "instance_0"
    assert not +house.waiting
