"""One worker's adapters against what is wanted of it: in which order, what a refusal leads to, what is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from adapterfakes import FakeTarget
from cluster.adapters.agent import AdapterAgent
from fakes import Clock
from worker.probe import ProbeFailed


class Bench:
    """A worker, what is wanted of it, and its agent."""

    def __init__(self, foreign: frozenset[str] = frozenset()) -> None:
        self.clock, self.events = Clock(), list[str]()
        self.target, self.wanted = FakeTarget(self.events), dict[str, str]()
        self.changes = 0
        self.before_withheld: Callable[[], None] = lambda: None
        self.agent = AdapterAgent(
            self.target,  # type: ignore[arg-type]
            lambda: self.wanted, self._withhold, self._changed, self.clock, 5.0, foreign,
        )  # fmt: skip

    async def _withhold(self, name: str) -> None:
        await asyncio.sleep(0)  # the balancer confirms later
        self.before_withheld()
        self.events.append(f"withheld {name}")
        assert name in self.agent.held.withheld

    def _changed(self) -> None:
        self.changes += 1

    def holds(self, **held: str) -> None:
        """The worker and the agent agree on it."""
        self.target.held = dict(held)
        self.agent.held.loaded = self.agent._shown(self.target.cards())

    def refuse(self, *names: str, words: str = "500 no") -> None:
        async def on_load(name: str, path: str) -> str | None:
            return words if name in names else None

        self.target.on_load = on_load

    @property
    def loads(self) -> int:
        return sum(event.startswith("load") for event in self.events)


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_what_is_missing_is_loaded_from_its_path(bench: Bench) -> None:
    bench.wanted = {"a": "/a1", "b": "/b1"}
    await bench.agent.sync()
    assert bench.target.held == bench.agent.held.loaded == bench.wanted
    assert (bench.agent.totals.loads, bench.agent.totals.failures, bench.agent.totals.drift_repairs) == (2, 0, 0)


async def test_what_is_as_it_should_be_is_left_alone(bench: Bench) -> None:
    bench.holds(a="/a1")
    bench.wanted = {"a": "/a1"}
    await bench.agent.sync()
    assert bench.events == []


async def test_what_goes_goes_before_anything_is_loaded(bench: Bench) -> None:
    bench.holds(old="/old", stale="/stale")
    bench.wanted = {"new": "/new"}
    await bench.agent.sync()
    assert bench.events == ["withheld old", "unload old", "withheld stale", "unload stale", "load new /new"]


async def test_a_new_version_is_withheld_unloaded_and_loaded_in_that_order(bench: Bench) -> None:
    bench.holds(a="/a1")
    bench.wanted = {"a": "/a2"}
    assert await bench.agent.apply("a") is None
    assert bench.events == ["withheld a", "unload a", "load a /a2"]


async def test_nothing_is_unloaded_before_the_balancer_has_confirmed(bench: Bench) -> None:
    held: list[dict[str, str]] = []
    bench.before_withheld = lambda: held.append(dict(bench.target.held))
    bench.holds(a="/a1")
    await bench.agent.sync()
    assert held == [{"a": "/a1"}]
    assert bench.target.held == {}


async def test_apply_touches_that_one_only(bench: Bench) -> None:
    bench.holds(other="/old")
    bench.wanted = {"a": "/a1", "other": "/new"}
    await bench.agent.apply("a")
    assert bench.events == ["load a /a1"]


async def test_every_change_is_told(bench: Bench) -> None:
    bench.holds(a="/a1")
    bench.wanted = {"a": "/a2"}
    await bench.agent.apply("a")
    assert bench.changes == 2, "once without it, once with it"


async def test_an_unload_that_fails_leaves_nothing_withheld_once_the_old_one_is_wanted_again(bench: Bench) -> None:
    """A rollout whose unload fails goes back to the version that is still there; it has to get requests again."""

    async def failing(name: str, path: str) -> str | None:
        return "500 not now"

    bench.holds(a="/a1")
    bench.wanted = {"a": "/a2"}
    bench.target.on_unload = failing
    with pytest.raises(ProbeFailed, match="500"):
        await bench.agent.apply("a")
    bench.wanted = {"a": "/a1"}
    await bench.agent.apply("a")
    await bench.agent.sync()
    assert bench.target.held == {"a": "/a1"}
    assert bench.agent.held.withheld == set()


# refusals


async def test_a_refusal_is_told_and_counted_and_the_others_are_loaded(bench: Bench) -> None:
    bench.wanted = {"bad": "/bad", "good": "/good"}
    bench.refuse("bad", words="500 too big")
    await bench.agent.sync()
    assert bench.target.held == {"good": "/good"}
    assert bench.agent.held.refused["bad"].reason == "500 too big"
    assert (bench.agent.totals.loads, bench.agent.totals.failures) == (1, 1)


async def test_what_cannot_be_brought_to_its_machine_is_refused_and_tried_again(bench: Bench) -> None:
    bench.wanted = {"a": "/a"}
    bench.target.not_provided = "no room"
    await bench.agent.sync()
    assert bench.agent.held.refused["a"].reason == "no room" and bench.events == []
    bench.target.not_provided = ""
    bench.clock.advance(5)
    await bench.agent.sync()
    assert bench.target.held == {"a": "/a"} and not bench.agent.held.refused


async def test_a_refused_one_is_not_tried_again_before_its_time(bench: Bench) -> None:
    bench.wanted = {"bad": "/bad"}
    bench.refuse("bad")
    await bench.agent.sync()
    bench.clock.advance(4.9)
    assert bench.agent.look(bench.target.cards()) is False
    assert not bench.agent.dirty.is_set()
    await bench.agent.sync()
    assert bench.loads == 1


async def test_a_refused_one_is_tried_again_later_and_later(bench: Bench) -> None:
    bench.wanted = {"bad": "/bad"}
    bench.refuse("bad")
    waits = []
    for _ in range(9):
        await bench.agent.sync()
        waits.append(bench.agent.held.refused["bad"].retry_at - bench.clock())
        bench.clock.advance(waits[-1])
        assert not bench.agent.look(bench.target.cards())
        assert bench.agent.dirty.is_set()
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]


async def test_a_second_try_that_succeeds_forgets_the_refusal(bench: Bench) -> None:
    bench.wanted = {"bad": "/bad"}
    bench.refuse("bad")
    await bench.agent.sync()
    bench.target.on_load = None
    bench.clock.advance(5)
    await bench.agent.sync()
    assert bench.agent.held.refused == {}
    assert bench.target.held == {"bad": "/bad"}


async def test_another_version_of_a_refused_one_is_tried_at_once(bench: Bench) -> None:
    bench.wanted = {"bad": "/v1"}
    bench.refuse("bad")
    await bench.agent.sync()
    bench.target.on_load, bench.wanted = None, {"bad": "/v2"}
    await bench.agent.sync()
    assert bench.target.held == {"bad": "/v2"}


async def test_somebody_who_asks_for_it_is_not_made_to_wait_for_the_backoff(bench: Bench) -> None:
    bench.wanted = {"bad": "/bad"}
    bench.refuse("bad")
    assert await bench.agent.apply("bad") == "500 no"
    assert await bench.agent.apply("bad") == "500 no"
    assert bench.loads == 2


@pytest.mark.parametrize("how", ["sync", "apply"])
async def test_a_refused_one_that_is_not_wanted_any_more_is_forgotten(bench: Bench, how: str) -> None:
    bench.wanted = {"bad": "/bad"}
    bench.refuse("bad")
    await bench.agent.sync()
    bench.wanted = {}
    await (bench.agent.sync() if how == "sync" else bench.agent.apply("bad"))
    assert bench.agent.held.refused == {}


async def test_one_that_is_there_already_without_our_knowing_is_replaced(bench: Bench) -> None:
    bench.target.held = {"a": "/theirs"}
    bench.wanted = {"a": "/ours"}
    assert await bench.agent.apply("a") is None
    assert bench.events == ["load a /ours", "unload a", "load a /ours"]
    assert bench.target.held == bench.agent.held.loaded == {"a": "/ours"}


async def test_a_400_that_stays_is_a_refusal(bench: Bench) -> None:
    bench.wanted = {"a": "/a1"}
    bench.refuse("a", words="400 no such thing")
    assert await bench.agent.apply("a") == "400 no such thing"
    assert bench.agent.totals.failures == 1


async def test_a_worker_that_does_not_answer_is_an_error_and_no_refusal(bench: Bench) -> None:
    bench.wanted, bench.target.silent = {"a": "/a1"}, True
    with pytest.raises(ProbeFailed):
        await bench.agent.sync()
    with pytest.raises(ProbeFailed):
        await bench.agent.apply("a")
    assert (bench.agent.held.refused, bench.agent.held.loaded) == ({}, {})
    bench.target.silent = False
    await asyncio.wait_for(bench.agent.sync(), 5)  # whoever failed has let go of it
    assert bench.target.held == {"a": "/a1"}


async def test_an_unload_of_one_that_is_gone_already_is_as_good(bench: Bench) -> None:
    bench.holds(a="/a1")
    bench.target.held.clear()
    assert await bench.agent.apply("a") is None
    assert bench.agent.held.loaded == {}


# drift


@pytest.mark.parametrize(
    "held", [{}, {"a": "/theirs"}, {"a": "/a1", "stray": "/s"}], ids=["unloaded", "replaced", "added"]
)
async def test_what_is_changed_behind_our_back_is_seen_and_repaired(bench: Bench, held: dict[str, str]) -> None:
    bench.wanted = {"a": "/a1"}
    bench.holds(a="/a1")
    bench.target.held = held
    assert bench.agent.look(bench.target.cards()) is True
    assert bench.agent.dirty.is_set()
    await bench.agent.sync()
    assert bench.target.held == bench.wanted
    assert bench.agent.totals.drift_repairs == 1
    assert not bench.agent.dirty.is_set()
    assert bench.agent.look(bench.target.cards()) is False


async def test_one_that_is_wanted_and_missing_is_work_but_no_drift(bench: Bench) -> None:
    bench.wanted = {"a": "/a1"}
    assert bench.agent.look(bench.target.cards()) is False
    assert bench.agent.dirty.is_set()


async def test_one_that_is_there_and_not_wanted_is_work_but_no_drift(bench: Bench) -> None:
    """An adopted worker holds what was unloaded in the registry just before the last supervisor was killed."""
    bench.holds(gone="/g1")
    assert bench.agent.look(bench.target.cards()) is False
    assert bench.agent.dirty.is_set()


async def test_a_look_says_nothing_while_a_change_of_ours_is_under_way(bench: Bench) -> None:
    began, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(name: str, path: str) -> str | None:
        began.set()
        await goes_on.wait()
        return None

    bench.target.on_load, bench.wanted = slow, {"a": "/a1"}
    loading = asyncio.ensure_future(bench.agent.sync())
    await began.wait()
    bench.target.held["a"] = "/a1"
    assert bench.agent.look(bench.target.cards()) is False
    assert not bench.agent.dirty.is_set()
    del bench.target.held["a"]
    goes_on.set()
    await loading


async def test_a_change_that_is_wanted_in_the_middle_of_a_sync_is_not_forgotten(bench: Bench) -> None:
    began, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(name: str, path: str) -> str | None:
        began.set()
        await goes_on.wait()
        return None

    bench.target.on_load, bench.wanted = slow, {"a": "/a1"}
    loading = asyncio.ensure_future(bench.agent.sync())
    await began.wait()
    bench.wanted = {"b": "/b1"}
    bench.agent.dirty.set()
    goes_on.set()
    await loading
    assert bench.agent.dirty.is_set()
    await bench.agent.sync()
    assert bench.target.held == {"b": "/b1"}


async def test_two_at_once_do_not_load_the_same_twice(bench: Bench) -> None:
    bench.wanted = {"a": "/a1"}
    await asyncio.gather(bench.agent.sync(), bench.agent.apply("a"), bench.agent.apply("a"))
    assert bench.loads == 1


# what is not ours, and what was there before us


async def test_the_engines_own_adapters_are_left_alone() -> None:
    bench = Bench(frozenset({"theirs"}))
    bench.holds(theirs="/t", ours="/o")
    assert bench.agent.held.loaded == {"ours": "/o"}
    await bench.agent.sync()
    assert bench.target.held == {"theirs": "/t"}
    assert not bench.agent.look(bench.target.cards())


async def test_the_base_model_is_no_adapter(bench: Bench) -> None:
    bench.agent.held.loaded = bench.agent._shown(bench.target.cards())
    assert bench.agent.held.loaded == {}


async def test_what_an_adopted_worker_holds_is_not_loaded_again(bench: Bench) -> None:
    bench.holds(a="/a1")
    bench.wanted = {"a": "/a1", "b": "/b1"}
    assert bench.agent.look(bench.target.cards()) is False
    assert bench.agent.dirty.is_set()
    await bench.agent.sync()
    assert bench.events == ["load b /b1"]
    assert bench.agent.totals.drift_repairs == 0


async def test_loads_are_timed(bench: Bench) -> None:
    async def slow(name: str, path: str) -> str | None:
        bench.clock.advance(2.5)
        return None

    bench.target.on_load, bench.wanted = slow, {"a": "/a1"}
    await bench.agent.sync()
    assert bench.agent.totals.load_seconds == 2.5
