"""What every admission keeps to, and the queue of today: first come, first served."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest
import pytest_asyncio

from config.identity.api_keys import Priority
from config.topology import BackendSpec, OfferedModel
from lb.admission.concurrency import FREE, AllTerms, Claim, Concurrency, ConcurrencyLimits, SharedCount
from lb.admission.model_demand import ModelDemand
from lb.admission.queue import WaitingQueue
from lb.admission.rate_limits import OwnCells, RateLimits
from lb.admission.request_admission import QueueLimits, RequestAdmission, Ticket
from lb.protocol.errors import ProxyError
from lb.protocol.http1.request import RequestHead, parse
from lb.protocol.messages import Request
from lb.protocol.tenant import ANYBODY, Tenant
from lb.routing import ejection
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
    wait: float | None = None
    claim: Claim = FREE
    model: str | None = None

    def granted(self, backend: Backend) -> None:
        if self.fails:
            self.fails = False
            raise RuntimeError("a mistake")
        self.served.append(self)
        self.leases.append(backend.lease(lambda reason: None, model=self.model))

    def refused(self, error: ProxyError) -> None:
        self.error = error

    def patience(self) -> float | None:
        return self.wait

    def end(self, house: House, made: int = 10) -> None:
        """Its answer is complete."""
        self.leases[0].release()
        house.admission.over(self.claim, 100, made)


@dataclass
class Heard:
    """What is counted of a queue."""

    waiting: Counter[str | None]
    waits: list[tuple[str, float]] = field(default_factory=list)
    drops: Counter[tuple[str, str]] = field(default_factory=Counter)
    absent: list[str | None] = field(default_factory=list)

    def queued(self, model: str | None, change: int) -> None:
        self.waiting.update({model: change})

    def waited(self, tenant: str, seconds: float, absent: str | None) -> None:
        self.waits.append((tenant, seconds))
        self.absent.append(absent)

    def dropped(self, tenant: str, reason: str) -> None:
        self.drops[tenant, reason] += 1


@dataclass
class Wanted:
    """What the supervisor is told that somebody waits for."""

    adapters: list[str]
    models: list[str]

    def want(self, adapter: str) -> None:
        self.adapters.append(adapter)

    def want_model(self, name: str) -> None:
        self.models.append(name)


HEAD = parse(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n\r\n")
BACKGROUND = parse(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nPriority: u=7\r\n\r\n")


@dataclass
class House:
    """An admission over a pool that a test fills."""

    pool: Pool
    admission: RequestAdmission
    router: Router
    heard: Heard
    wanted: Wanted
    served: list[Asker] = field(default_factory=list)
    revision: int = 0

    @property
    def waiting(self) -> Counter[str | None]:
        return self.heard.waiting

    def push(self, *specs: BackendSpec, **fields: object) -> None:
        self.revision += 1
        assert self.pool.apply(backend_set(*specs, revision=self.revision, **fields))

    def ask(
        self, name: int = 0, model: str | None = "base", pinned: Pinned | None = None, came: float | None = None,
        fails: bool = False, tenant: Tenant = ANYBODY, wait: float | None = None,
        head: RequestHead = HEAD,
    ) -> tuple[Asker, Ticket | None]:
        request = Request(head, "10.0.0.9")
        request.body, request.tenant = b"x" * 400, tenant
        claim = self.admission.claim(request, model)
        asker = Asker(name, self.served, fails=fails, wait=wait, claim=claim, model=model)
        came = time.monotonic() if came is None else came
        found = self.admission.admit(claim, RequestInfo(model), frozenset(), pinned, came, asker)
        if isinstance(found, Ticket):
            return asker, found
        asker.granted(found)
        return asker, None


@contextlib.asynccontextmanager
async def open_house(
    queue_class: type[WaitingQueue] = WaitingQueue, limits: ConcurrencyLimits | None = None,
    queue_limits: QueueLimits | None = None, share: Callable[[str], SharedCount | None] = lambda name: None,
    rates: RateLimits | None = None,
) -> AsyncIterator[House]:
    def changed() -> None:
        router.pool_changed()
        queue.serve_soon()

    heard, wanted = Heard(Counter()), Wanted([], [])
    pool = Pool(changed, on_room=lambda: queue.serve_soon(room=True))
    router = Router(pool, lambda version, named: named, time.monotonic, Random(1))
    queue = queue_class(
        router, pool, heard, Concurrency(limits or ConcurrencyLimits(), share), queue_limits or QueueLimits(TIMEOUT_S),
        wants=wanted, clock=time.monotonic, rates=rates,
    )  # fmt: skip
    yield House(pool, queue, router, heard, wanted)
    queue.close()


@pytest_asyncio.fixture(params=[WaitingQueue])  # the next admission is held to the same
async def house(request: pytest.FixtureRequest) -> AsyncIterator[House]:
    async with open_house(request.param) as made:
        yield made


def with_adapters(made: BackendSpec, *names: str) -> BackendSpec:
    cards = tuple({**card, "parent": "base"} if card["id"] in names else card for card in made.models)
    return replace(made, models=cards)


def limited(house: House, limit: int, name: str = "instance_0") -> Backend:
    backend = house.pool.backends[name]
    backend.limit = limit
    return backend


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
    assert len(choices) == 1  # for the one that is served: there is no more room then


async def test_who_waits_for_one_model_holds_up_nobody_who_wants_another(house: House) -> None:
    house.push(spec(), spec("instance_1", models=("poet",), state="starting"))
    _, ticket = house.ask(1, "poet")
    assert ticket is not None
    assert house.ask(2)[1] is None


async def test_the_end_of_an_ejection_serves_at_that_time_and_not_before(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ejection, "FIRST", 0.2)
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
    house.pool.backends["instance_0"].missing_models["base"] = end = time.monotonic() + 0.1
    house.ask()
    await until(lambda: house.served)
    assert 0 <= time.monotonic() - end < 0.1


async def test_a_pinned_request_waits_for_its_own_backend_only(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ejection, "FIRST", 0.2)
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


async def test_the_supervisor_hears_again_and_again_of_an_adapter_that_is_waited_for(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lb.admission.wait_rules._WANT_AGAIN", 0.02)
    house.push(spec(), registered=({"id": "poet"},))
    house.ask(model="poet")
    await until(lambda: len(house.wanted.adapters) >= 3)
    assert set(house.wanted.adapters) == {"poet"}
    house.push(spec(models=("base", "poet")), registered=({"id": "poet"},))
    await until(lambda: house.served)
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
    await until(lambda: len(house.wanted.models) >= 3)
    assert set(house.wanted.models) == {"b"} and not house.wanted.adapters
    await asyncio.sleep(0.15)  # longer than a worker is waited for that comes back by itself
    assert not house.served
    workers = spec(models=("a",), group="a"), spec("b/instance_0", models=("b", "poet"), group="b")
    house.push(*workers, models=(offer("a", "up"), offer("b", "up")), registered=(poet,))
    await until(lambda: len(house.served) == 2)
    assert {asker.leases[0].backend.id for asker in house.served} == {"b/instance_0"}
    assert house.heard.absent == ["b", "b"]


async def test_no_longer_than_the_model_says(house: House) -> None:
    house.push(models=(offer("b", "starting", wait=0.1),))
    asker, _ = house.ask(model="b")
    await until(lambda: asker.error)
    assert asker.error is not None and asker.error.status == 503
    assert "no worker for model b became ready within 0.1 s" in str(asker.error)


async def test_a_start_that_fails_is_told_to_those_who_wait_and_who_come_meanwhile(house: House) -> None:
    house.push(models=(offer("b", "starting"),))
    asker, _ = house.ask(1, model="b")
    failed = offer("b", "failed", why="no such file", retry_at=time.time() + 30)
    house.push(models=(failed,))
    await until(lambda: asker.error)
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


async def test_a_task_can_wait_too_and_leaves_when_it_is_cancelled(house: House) -> None:
    house.push(spec(state="starting"))
    waits = [
        asyncio.ensure_future(house.admission.wait(FREE, RequestInfo("base"), frozenset(), time.monotonic()))
        for _ in range(2)
    ]
    await until(lambda: house.waiting["base"] == 2)
    waits[0].cancel()
    await until(lambda: house.waiting["base"] == 1)
    house.push(spec())
    assert (await waits[1]).id == "instance_0"
    assert not +house.waiting


async def turn() -> None:
    """What was to be done soon is done."""
    for _ in range(4):
        await asyncio.sleep(0)


KEY, OTHER = Tenant("key", max_concurrent=2), Tenant("other")


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


async def test_a_deadline_that_passes_in_the_queue_ends_the_wait(house: House) -> None:
    house.push(spec())
    limited(house, 1)
    first, _ = house.ask(0)
    late, _ = house.ask(1, wait=0.05)
    never, _ = house.ask(2, wait=0.05)
    await until(lambda: late.error is not None)
    first.end(house)
    await turn()
    assert [asker.name for asker in house.served] == [0]
    assert late.error is not None and late.error.status == 504 and never.error is not None
    assert house.heard.drops["anybody", "deadline"] == 2
    with pytest.raises(ProxyError) as passed:
        limited(house, 0)
        house.ask(3, wait=0.0)
    assert passed.value.status == 504


async def test_a_request_waits_longer_for_room_than_for_a_worker_to_be_there() -> None:
    async with open_house(queue_limits=QueueLimits(timeout=0.05, patience=0.3)) as house:
        house.push(spec())
        limited(house, 0)
        began, (asker, _) = time.monotonic(), house.ask()
        await until(lambda: asker.error is not None)
        assert asker.error is not None and asker.error.status == 503 and "had room within 0.3 s" in str(asker.error)
        assert 0.3 <= time.monotonic() - began < 1.0
        other, _ = house.ask()
        await asyncio.sleep(0.1)
        house.push(spec(state="unhealthy"))  # from now on nobody is there
        await asyncio.sleep(0.01)
        assert other.error is None, "a worker that is away for a moment is waited for"
        await until(lambda: other.error is not None)
        assert "became ready" in str(other.error)


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
