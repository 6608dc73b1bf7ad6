"""The order of those that wait: what it promises, for any tenants, weights, kinds and moments of coming and going."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from config.identity.api_keys import Priority
from lb.admission.fair_order import FairOrder, Means, ServeResult
from lb.protocol.tenant import Tenant


@dataclass(eq=False)
class One:
    tenant: Tenant
    kind: Hashable = "base"
    cost: float = 1.0
    again: bool = False
    background: bool = False
    number: int = 0
    ahead: int = 0
    passed: int = 0

    @property
    def priority(self) -> Priority:
        return Priority.LOW if self.background else self.tenant.priority


class Server:
    """Serves so many of an order at a time as it is told, if they are of a kind that it can."""

    def __init__(self, order: FairOrder[One]) -> None:
        self.order, self.served = order, list[One]()

    def serve(
        self, count: int, able: frozenset[Hashable] | None = None, ready: frozenset[Hashable] | None = None
    ) -> None:
        left = [count]

        def turn(one: One) -> ServeResult:
            if able is not None and one.kind not in able:
                return ServeResult.IN_VAIN
            left[0] -= 1
            self.order.discard(one)
            self.served.append(one)
            return ServeResult.SERVED

        self.order.serve(Means(turn, lambda: left[0] > 0, ready=lambda kind: ready is None or kind in ready))


def tenant(name: str, weight: float = 1.0, priority: Priority = Priority.NORMAL) -> Tenant:
    return Tenant(name, weight=weight, priority=priority)


def names(served: list[One]) -> Counter[str]:
    return Counter(one.tenant.name for one in served)


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=30), st.integers(1, 5))
def test_of_one_tenant_whoever_came_first_is_served_first(kinds: list[str], at_once: int) -> None:
    order: FairOrder[One] = FairOrder()
    server, waiting = Server(order), [One(tenant("a"), kind) for kind in kinds]
    for one in waiting:
        order.add(one)
    while len(order):
        server.serve(at_once)
    assert server.served == waiting


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=30), st.sets(st.sampled_from(["a", "b", "c"])))
def test_who_cannot_be_served_holds_up_none_of_another_kind(kinds: list[str], able: set[str]) -> None:
    order: FairOrder[One] = FairOrder()
    server, waiting = Server(order), [One(tenant("a"), kind) for kind in kinds]
    for one in waiting:
        order.add(one)
    server.serve(99, frozenset(able))
    assert server.served == [one for one in waiting if one.kind in able]
    assert sorted(order, key=lambda one: one.number) == [one for one in waiting if one.kind not in able]


@pytest.mark.parametrize("flood", [1, 10, 100])
def test_shares_follow_the_weights_whoever_floods(flood: int) -> None:
    """In tokens, and each answer of another size."""
    random, order = Random(flood), FairOrder[One]()
    server = Server(order)
    tenants = [tenant("a", 1.0), tenant("b", 2.0), tenant("c", 5.0)]
    for each in tenants:
        for _ in range(2000 * (flood if each.name == "a" else 1)):
            order.add(One(each, cost=random.randint(1, 200)))
    server.serve(2000)
    tokens: Counter[str] = Counter()
    for one in server.served:
        tokens[one.tenant.name] += int(one.cost)
    whole = sum(tokens.values())
    for each in tenants:
        assert tokens[each.name] / whole == pytest.approx(each.weight / 8.0, rel=0.05)


def test_what_an_answer_cost_in_the_end_is_what_counts() -> None:
    """One tenant's answers are ten times as long as had been expected."""
    order: FairOrder[One] = FairOrder()
    server, long, short = Server(order), tenant("long"), tenant("short")
    for _ in range(4000):
        order.add(One(long, cost=10))
        order.add(One(short, cost=10))
    for _ in range(2200):
        server.serve(1)
        if server.served[-1].tenant is long:
            order.charge(long, Priority.NORMAL, 90)
    found = names(server.served)
    assert found["short"] / found["long"] == pytest.approx(10, rel=0.05)


def test_nobody_saves_up() -> None:
    """Whoever asked for nothing for long gets its share from then on, and not what it did not ask for."""
    order: FairOrder[One] = FairOrder()
    server, busy, late = Server(order), tenant("busy"), tenant("late")
    order.add(One(late))
    server.serve(1)
    for _ in range(1000):
        order.add(One(busy))
    server.serve(500)
    for _ in range(500):
        order.add(One(late))
    del server.served[:]
    server.serve(100)
    assert abs(names(server.served)["late"] - 50) <= 1


def test_nobody_is_forgotten_between_two_requests() -> None:
    """A tenant that has one waiting at a time, and at once the next, gets no more than one that has many."""
    order: FairOrder[One] = FairOrder()
    server, single, many = Server(order), tenant("single"), tenant("many")
    for _ in range(300):
        order.add(One(many, cost=7))
    order.add(One(single, cost=7))
    for _ in range(200):
        server.serve(1)
        if server.served[-1].tenant is single:
            order.add(One(single, cost=7))
    assert abs(names(server.served)["single"] - 100) <= 2


def test_who_lost_its_worker_goes_before_all_others() -> None:
    order: FairOrder[One] = FairOrder()
    server = Server(order)
    order.add(One(tenant("a", priority=Priority.HIGH)))
    order.add(lost := One(tenant("b", priority=Priority.LOW), again=True))
    server.serve(1)
    assert server.served == [lost]


@pytest.mark.measured
def test_whose_turn_it_is_is_known_without_a_look_at_every_key() -> None:
    order: FairOrder[One] = FairOrder()
    began = time.process_time()
    for number in range(15_000):
        order.add(one := One(tenant(f"key{number}")))
        assert order.before(one) == (number, "key0" if number else "")
    assert time.process_time() - began < 2.0


def test_a_full_queue_gives_up_the_latest_of_the_longest_line() -> None:
    order: FairOrder[One] = FairOrder()
    flooding, modest, low = tenant("flooding"), tenant("modest"), tenant("low", priority=Priority.LOW)
    many = [One(flooding, kind) for kind in "abab"]
    for one in many:
        order.add(one)
    assert order.surplus(One(flooding)) is None
    assert order.surplus(One(low)) is None
    assert order.surplus(One(modest)) is many[-1]
    assert order.surplus(One(tenant("heavy", weight=9.0))) is many[-1]
    order.add(last := One(low))
    assert order.surplus(One(flooding)) is last


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), min_size=1, max_size=40), st.data())
def test_nobody_lets_more_go_first_than_were_there_before(coming: list[tuple[str, str]], data: st.DataObject) -> None:
    """One tenant: without slots in short supply each would be served after those that came before it."""
    order: FairOrder[One] = FairOrder()
    server, waiting = Server(order), [One(tenant("a"), kind) for _, kind in coming]
    for one in waiting:
        order.add(one)
    # More come all the time, of the kind that is ready.
    ready = frozenset({data.draw(st.sampled_from("xyz"))})
    for turn in range(3 * len(waiting)):
        order.add(One(tenant("a"), next(iter(ready))))
        server.serve(1, ready=ready)
        for place, one in enumerate(waiting):
            if one not in server.served:
                assert turn + 1 <= 2 * place + 1, "it has waited more than twice as long"


class Waits(RuleBasedStateMachine):
    """Any sequence of what may happen."""

    def __init__(self) -> None:
        super().__init__()
        self.order: FairOrder[One] = FairOrder()
        self.waiting: list[One] = []
        self.server = Server(self.order)

    @rule(
        name=st.sampled_from("abcd"), priority=st.sampled_from(Priority), kind=st.sampled_from("xyz"),
        cost=st.floats(0, 1000), weight=st.sampled_from([0.1, 1.0, 3.0]), again=st.booleans(),
        background=st.booleans(),
    )  # fmt: skip
    def come(
        self, name: str, priority: Priority, kind: str, cost: float, weight: float, again: bool, background: bool
    ) -> None:
        one = One(tenant(name, weight, priority), kind, cost, again, background)
        self.order.add(one)
        self.waiting.append(one)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(one)
        self.order.discard(one)
        self.order.discard(one)

    @rule(name=st.sampled_from("abcd"), tokens=st.floats(-500, 500))
    def settle(self, name: str, tokens: float) -> None:
        self.order.charge(tenant(name), Priority.NORMAL, tokens)

    @rule(count=st.integers(1, 4), able=st.sets(st.sampled_from("xyz")), ready=st.sets(st.sampled_from("xyz")))
    def serve(self, count: int, able: set[str], ready: set[str]) -> None:
        before = len(self.server.served)
        self.server.serve(count, frozenset(able), frozenset(ready))
        served = self.server.served[before:]
        servable = [one for one in self.waiting if one.kind in able]
        assert len(served) == min(count, len(servable)), "nobody waits while there is something to be had"
        for one in served:
            self.waiting.remove(one)
        left = [one for one in self.waiting if one.kind in able]
        ranks = [_class(one) for one in served]
        assert ranks == sorted(ranks)
        if left and served:
            assert max(ranks) <= min(map(_class, left)), "no priority is turned round"

    @invariant()
    def all_that_wait_are_there(self) -> None:
        assert len(self.order) == len(self.waiting)
        assert set(self.order) == set(self.waiting)


def _class(one: One) -> int:
    return 0 if one.again else 1 + list(Priority).index(one.priority)


TestWaits = Waits.TestCase


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(1, 50)), min_size=1, max_size=60))
def test_nobody_starves(coming: list[tuple[str, int]]) -> None:
    """Whatever the others ask for meanwhile, a tenant's turn comes before any other has had twice the tokens of the
    largest request more than it."""
    order: FairOrder[One] = FairOrder()
    server = Server(order)
    patient = One(tenant("patient"), cost=1)
    for name, cost in coming:
        order.add(One(tenant(name), cost=cost))
    order.add(patient)
    for _ in range(500):
        if patient in server.served:
            break
        server.serve(1)
        order.add(One(server.served[-1].tenant, cost=server.served[-1].cost))  # they never let off
    assert patient in server.served
    most = max(cost for _, cost in coming)
    tokens: Counter[str] = Counter()
    for one in server.served[:-1]:
        tokens[one.tenant.name] += int(one.cost)
    assert all(count <= 2 * most for count in tokens.values())
