"""What several balancers have in flight, as pool and strategies see it."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb.routing.pool import Pool
from lb.routing.strategies.base import Features
from lb.routing.strategies.registry import STRATEGIES
from lb.telemetry.shared_counters import Counters
from lbfakes import backend_set, spec

ANY = Features()


class Place:
    """Where one incarnation is counted; ``elsewhere`` is what the other processes have."""

    def __init__(self) -> None:
        self.own, self.elsewhere = 0, 0

    def put(self, own: int) -> None:
        self.own = own

    def others(self) -> int:
        return self.elsewhere


class Places:
    def __init__(self) -> None:
        self.of: dict[tuple[str, int], Place] = {}

    def __call__(self, backend: str, incarnation: int) -> Place:
        return self.of.setdefault((backend, incarnation), Place())


def _ignore(_: str) -> None:
    """What a lease does that does not care."""


def test_alone_the_load_is_what_is_in_flight_here() -> None:
    pool = Pool()
    pool.apply(backend_set(spec()))
    pool.backends["instance_0"].lease(_ignore)
    assert (pool.load(), pool.in_flight()) == ({"instance_0": 1}, {"instance_0": 1})


def test_the_load_is_own_and_others_and_only_own_is_put_down() -> None:
    places = Places()
    pool = Pool(share=places)
    pool.apply(backend_set(spec()))
    place, backend = places.of["instance_0", 1], pool.backends["instance_0"]
    lease = backend.lease(_ignore)
    place.elsewhere = 4
    assert (backend.load, backend.in_flight, place.own) == (5, 1, 1)
    assert (pool.load(), pool.in_flight()) == ({"instance_0": 5}, {"instance_0": 1})
    lease.release()
    lease.release()
    assert (backend.load, place.own) == (4, 0)


def test_a_restarted_worker_has_a_place_of_its_own_and_the_old_requests_are_out_of_it() -> None:
    places = Places()
    pool = Pool(share=places)
    pool.apply(backend_set(spec(incarnation=1)))
    lease = pool.backends["instance_0"].lease(_ignore)
    pool.apply(backend_set(spec(incarnation=2), revision=2))
    assert places.of["instance_0", 1].own == 0
    pool.backends["instance_0"].lease(_ignore)
    lease.release()
    assert (places.of["instance_0", 1].own, places.of["instance_0", 2].own) == (0, 1)


def test_one_that_is_gone_leaves_nothing_behind() -> None:
    places = Places()
    pool = Pool(share=places)
    pool.apply(backend_set(spec()))
    lease = pool.backends["instance_0"].lease(_ignore)
    pool.apply(backend_set(revision=2))
    assert places.of["instance_0", 1].own == 0
    lease.release()
    assert places.of["instance_0", 1].own == 0


def test_a_server_that_is_not_ours_has_one_place_for_all_supervisors() -> None:
    places = Places()
    pool = Pool(share=places)
    pool.apply(backend_set(spec("backend_0", managed=False, incarnation=3)))
    pool.backends["backend_0"].lease(_ignore)
    pool.apply(backend_set(spec("backend_0", managed=False, incarnation=4), revision=2))
    assert list(places.of) == [("backend_0", 0)]
    assert places.of["backend_0", 0].own == 1


@pytest.mark.parametrize("name", ["least_connections", "power_of_two", "response_time"])
def test_strategies_that_look_at_what_is_in_flight_look_at_all_of_it(name: str) -> None:
    places = Places()
    pool = Pool(share=places)
    pool.apply(backend_set(spec("instance_0"), spec("instance_1")))
    pool.backends["instance_1"].lease(_ignore)
    places.of["instance_0", 1].elsewhere = 2
    strategy = STRATEGIES[name](Random(1))
    chosen = {strategy.choose(list(pool.backends.values()), ANY)[0].id for _ in range(10)}
    assert chosen == {"instance_1"}


@settings(max_examples=3 * settings.default.max_examples // 10)
@given(st.lists(st.integers(0, 2), max_size=40))
def test_three_balancers_spread_held_requests_as_one_would(
    tmp_path_factory: pytest.TempPathFactory, through: list[int]
) -> None:
    """``through``: which of them takes each request."""
    path = tmp_path_factory.mktemp("counters") / "c"
    counters = [Counters(path) for _ in range(3)]
    pools = [Pool(share=c.share) for c in counters]
    for pool in pools:
        pool.apply(backend_set(*(spec(f"instance_{n}") for n in range(3))))
    for one in counters:
        one.refresh()
    strategies = [STRATEGIES["least_connections"](Random(n)) for n in range(3)]
    for which in through:
        strategies[which].choose(list(pools[which].backends.values()), ANY)[0].lease(_ignore)
        loads = [pool.load() for pool in pools]
        assert loads[0] == loads[1] == loads[2]
        assert max(loads[0].values()) - min(loads[0].values()) <= 1
    assert sum(pools[0].load().values()) == len(through)
    for one in counters:
        one.close()
