"""Which models are brought up, and which make room: with a clock that is told the time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.models.policy import ModelNow, ModelStep, StepKind, SwapRules, decide

MIN_UP, AGE = 10.0, 20.0


def rules(most: int | None = 1, **more: Any) -> SwapRules:
    return SwapRules(most, MIN_UP, AGE, **{"fit": lambda names: True, **more})


def up(name: str, **more: Any) -> ModelNow:
    return ModelNow(name, "up", **{"up": 100.0, "idle": 50.0, **more})


def asked(name: str, oldest: float = 1.0, state: str = "down", **more: Any) -> ModelNow:
    return ModelNow(name, state, **{"waiting": 1, "oldest": oldest, **more})


def steps(models: Iterable[ModelNow], by: SwapRules | None = None) -> list[tuple[str, str]]:
    return [(str(step.kind), step.model) for step in decide(models, by or rules())]


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ([], []),
        ([ModelNow("a", "down")], []),
        ([asked("a")], [("start", "a")]),
        ([ModelNow("a", "down", asked=True)], [("start", "a")]),
        ([ModelNow("a", "down", pinned=True)], [("start", "a")]),
        ([asked("a", state="asleep")], [("wake", "a")]),
        ([asked("a", state="failed")], [("start", "a")]),
        ([asked("a", state="failed", retry_in=3.0)], []),
        ([asked("a", state="starting")], []),
        ([asked("a", state="stopping")], []),
        # who waits longest first
        ([asked("a", 1), asked("b", 2)], [("start", "b")]),
        # nobody asks for b: it goes, and a is started when it has gone
        ([asked("a"), up("b")], [("unload", "b")]),
        ([asked("a"), ModelNow("b", "stopping")], []),
        ([asked("a"), up("b", can_sleep=True)], [("sleep", "b")]),
        ([asked("a"), ModelNow("b", "asleep")], [("start", "a")]),
        # not one with requests, unless others have waited long enough
        ([asked("a"), up("b", in_flight=1)], []),
        ([asked("a", AGE), up("b", in_flight=1)], [("unload", "b")]),
        ([asked("a", AGE), up("b", waiting=1)], [("unload", "b")]),
        # not one that has just come up, however long others wait
        ([asked("a", 1000), up("b", up=MIN_UP - 1)], []),
        # never a pinned one
        ([asked("a", 1000), up("b", pinned=True)], [("refuse", "a")]),
        # one that starts is not taken away again
        ([asked("a", 1000), ModelNow("b", "starting")], []),
    ],
)
def test_with_room_for_one(models: list[ModelNow], expected: list[tuple[str, str]]) -> None:
    assert steps(models) == expected


@pytest.mark.parametrize(
    ("others", "goes"),
    [
        ([up("b", idle=5), up("c", idle=9)], "c"),
        ([up("b", idle=5, priority=-1), up("c", idle=9)], "b"),
        ([up("b", idle=5), up("c", idle=9, in_flight=1, priority=-9)], "b"),
        ([up("b", idle=5), up("c", idle=9, pinned=True)], "b"),
        ([up("b", idle=5), up("c", idle=9, up=1)], "b"),
        ([up("b", idle=5), up("c", idle=9, asked=True)], "b"),
    ],
)
def test_of_two_the_one_that_is_missed_less_makes_room(others: list[ModelNow], goes: str) -> None:
    assert steps([asked("a"), *others], rules(2)) == [("unload", goes)]


def test_only_as_many_make_room_as_are_needed() -> None:
    sizes = {"a": 3, "b": 1, "c": 3, "d": 1}
    by = rules(None, fit=lambda names: sum(sizes[name] for name in names) <= 5)
    models = [asked("a"), up("b", idle=9), up("c", idle=8), up("d", idle=7)]
    assert steps(models, by) == [("unload", "c")], "b alone is not enough, and with c it is not needed"


def test_one_that_never_fits_is_refused_and_the_next_is_not_kept_waiting() -> None:
    by = rules(None, fit=lambda names: "big" not in names)
    found = decide([asked("big", 99), asked("a", 1)], by)
    assert [(step.kind, step.model) for step in found] == [(StepKind.REFUSE, "big"), (StepKind.START, "a")]
    assert found[0].why == "this machine has no room for it"
    pinned = decide([asked("a"), up("b", pinned=True)], rules())
    assert pinned == [ModelStep(StepKind.REFUSE, "a", "there is no room for it beside b, which stay up")]


def test_who_has_waited_long_is_not_overtaken_by_one_that_would_fit() -> None:
    sizes = {"big": 2, "small": 1, "there": 1}
    by = rules(None, fit=lambda names: sum(sizes[name] for name in names) <= 2)
    there = up("there", up=MIN_UP - 1)
    assert steps([asked("big", AGE - 1), asked("small"), there], by) == [("start", "small")]
    assert steps([asked("big", AGE), asked("small"), there], by) == []


def test_room_that_is_promised_is_not_given_to_the_next() -> None:
    models = [asked("a", 9), asked("c", 8), ModelNow("b", "stopping")]
    assert steps(models) == []
    assert steps(models, rules(2)) == [("start", "a")]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (up("a", idle_timeout=50.0), [("unload", "a")]),
        (up("a", idle_timeout=50.0, can_sleep=True), [("sleep", "a")]),
        (up("a", idle_timeout=51.0), []), (up("a"), []),
        (up("a", idle_timeout=50.0, in_flight=1), []), (up("a", idle_timeout=50.0, pinned=True), []),
        (up("a", idle_timeout=50.0, up=1.0), []), (up("a", idle_timeout=50.0, asked=True), []),
        (ModelNow("a", "starting", idle=99.0, idle_timeout=50.0), []),
    ],
)
def test_after_a_while_unasked(model: ModelNow, expected: list[tuple[str, str]]) -> None:
    assert steps([model]) == expected


# over time


@dataclass
class World:
    """Models that start in ``start`` s and end requests in ``service`` s; each new request waits until its model is up,
    and one that is given no more goes when its requests are done."""

    names: tuple[str, ...]
    by: SwapRules
    start: float = 3.0
    service: float = 2.0
    pinned: tuple[str, ...] = ()
    now: float = 0.0
    states: dict[str, str] = field(default_factory=dict)
    since: dict[str, float] = field(default_factory=dict)
    waits: dict[str, list[float]] = field(default_factory=dict)
    ends: dict[str, list[float]] = field(default_factory=dict)
    used: dict[str, float] = field(default_factory=dict)
    waited: list[float] = field(default_factory=list)
    starts: int = 0

    def __post_init__(self) -> None:
        for name in self.names:
            self.states[name], self.since[name], self.used[name] = "down", 0.0, 0.0
            self.waits[name], self.ends[name] = [], []

    def ask(self, name: str) -> None:
        self.waits[name].append(self.now)

    def seen(self) -> list[ModelNow]:
        return [
            ModelNow(
                name, self.states[name], pinned=name in self.pinned, in_flight=len(self.ends[name]),
                waiting=len(self.waits[name]),
                oldest=self.now - self.waits[name][0] if self.waits[name] else 0.0,
                idle=self.now - self.used[name], up=self.now - self.since[name],
            )
            for name in self.names
        ]

    def enter(self, name: str, state: str) -> None:
        self.states[name], self.since[name] = state, self.now

    def step(self, seconds: float = 0.5) -> None:
        self.now += seconds
        for name in self.names:
            self.ends[name] = [end for end in self.ends[name] if end > self.now]
            if self.states[name] == "starting" and self.now - self.since[name] >= self.start:
                self.enter(name, "up")
            if self.states[name] == "stopping" and not self.ends[name]:
                self.enter(name, "down")
            if self.states[name] == "up":
                self.waited += [self.now - at for at in self.waits[name]]
                self.ends[name] += [self.now + self.service] * len(self.waits[name])
                if self.waits[name]:
                    self.used[name] = self.now
                self.waits[name] = []
        for step in decide(self.seen(), self.by):
            if step.kind is StepKind.START:
                assert self.states[step.model] in ("down", "failed")
                self.enter(step.model, "starting")
                self.starts += 1
            elif step.kind is StepKind.UNLOAD:
                assert step.model not in self.pinned, "pinned"
                assert self.states[step.model] == "up" and self.now - self.since[step.model] >= self.by.min_up
                self.enter(step.model, "stopping")
        there = [name for name in self.names if self.states[name] != "down"]
        assert self.by.most is None or len(there) <= self.by.most, there


def test_two_models_asked_in_turn_with_room_for_one_are_not_swapped_for_each_request() -> None:
    world = World(("a", "b"), rules())
    for turn in range(400):
        world.ask("ab"[turn % 2])
        world.step()
    assert world.starts <= 200 / AGE + 2, "once in each age, not 400 times"
    assert max(world.waited) <= AGE + MIN_UP + world.start + world.service + 1


def test_one_that_is_always_asked_for_makes_room_for_the_other_in_time() -> None:
    world = World(("a", "b"), rules())
    for turn in range(200):
        world.ask("a")
        if turn == 100:
            world.ask("b")
        world.step()
    assert world.waits["b"] == [] and world.starts == 3, "b came, and a came again"


def test_an_idle_one_makes_room_as_soon_as_it_has_been_up_for_long_enough() -> None:
    world = World(("a", "b"), rules())
    world.ask("a")
    while not world.waited:
        world.step()
    world.ask("b")
    began = world.now
    while world.waits["b"]:
        world.step()
    assert world.now - began <= MIN_UP + world.start + 2


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3), st.integers(2, 5), st.booleans(),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=120),
)
def test_none_starves_never_more_are_up_and_a_pinned_one_stays(
    most: int, count: int, pinned: bool, asks: list[tuple[int, int]]
) -> None:
    names = tuple("abcde"[:count])
    world = World(names, rules(most), pinned=("a",) if pinned else ())
    for which, steps_between in asks:
        world.ask(names[which % count])
        for _ in range(steps_between):
            world.step()
    refused = pinned and most == 1
    # one turn of all others before it at the most, each as long as it may take
    bound = (count + 1) * (AGE + MIN_UP + world.start + world.service + 2)
    for _ in range(int(bound * 2)):
        world.step()
    assert max(world.waited, default=0.0) <= bound
    left = {name for name, waits in world.waits.items() if waits}
    assert left <= (set(names[1:]) if refused else set())
    assert not pinned or world.states["a"] in ("up", "starting")


def test_what_is_known_is_handed_in() -> None:
    """The same again says the same again."""
    models = [asked("a"), up("b"), replace(up("c"), idle_timeout=5.0)]
    assert decide(models, rules(3)) == decide(models, rules(3))
