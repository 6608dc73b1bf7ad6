"""The memory for all bodies: never negative, given back exactly once, nobody overtaken, nobody woken in vain."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lb.admission.budget import PORTION, SMALL, BodyBudget, Share

MIB = 1024 * 1024
LONGEST = 4 * MIB


@dataclass
class Body:
    budget: BodyBudget
    woken: int = 0
    waits: bool = False
    share: Share = field(init=False)

    def __post_init__(self) -> None:
        self.share = Share(self.budget, self._wake)

    def _wake(self) -> None:
        assert self.waits, "woken although it did not wait"
        self.waits = False
        self.woken += 1

    def grow(self, size: int) -> bool:
        may = self.share.grow(size)
        self.waits = not may
        return may

    def release(self) -> None:
        self.waits = False
        self.share.release()


def test_a_small_body_is_never_held_up() -> None:
    budget = BodyBudget(MIB, LONGEST)
    full = Body(budget)
    full.grow(2 * MIB)
    assert budget.exhausted
    assert Body(budget).grow(SMALL)


def test_a_long_body_waits_for_room_and_is_woken_by_it() -> None:
    budget = BodyBudget(8 * MIB, LONGEST)
    first, privileged, second = Body(budget), Body(budget), Body(budget)
    first.share.keep(8 * MIB)
    assert privileged.grow(SMALL + 1) and not second.grow(SMALL + 1)
    first.release()
    assert (second.woken, second.waits, budget.waiting) == (1, False, 0)


def test_a_release_wakes_those_for_whom_there_is_room_and_no_others() -> None:
    budget = BodyBudget(8 * MIB, LONGEST)
    holding = [Body(budget) for _ in range(8)]
    for body in holding:
        body.share.keep(MIB)
    assert Body(budget).grow(SMALL + 1)  # the one that may always go on
    waiting = [Body(budget) for _ in range(20)]
    assert not any(body.grow(SMALL + 1) for body in waiting)
    for body in holding[:4]:
        body.release()
    woken = [body.woken for body in waiting]
    assert woken == sorted(woken, reverse=True) and 0 < sum(woken) < 20


def test_the_one_that_came_first_goes_on_first_however_often_it_asks() -> None:
    budget = BodyBudget(2 * MIB, LONGEST)
    blocker, privileged, old, young = (Body(budget) for _ in range(4))
    assert privileged.grow(2 * MIB)
    assert not old.grow(SMALL + 1) and not young.grow(SMALL + 1)
    privileged.release()
    assert (old.woken, young.woken) == (1, 1)
    blocker.share.keep(2 * MIB)
    assert young.grow(2 * PORTION)  # the first to ask is the one that may always go on
    assert not old.grow(2 * PORTION)
    young.release()
    assert old.woken == 2


def test_uploads_that_are_half_there_do_not_wait_for_each_other() -> None:
    """Each needs more than there is: one after the other becomes whole."""
    budget = BodyBudget(2 * MIB, LONGEST)
    bodies, done = [Body(budget) for _ in range(6)], 0
    for body in bodies:
        while body.share.held < LONGEST and body.grow(PORTION):
            pass
    while bodies:
        going = [body for body in bodies if not body.waits]
        assert going, "all of them wait"
        for body in going:
            while body.share.held < LONGEST and body.grow(PORTION):
                pass
            if body.share.held >= LONGEST:
                body.share.complete()
                body.release()
                bodies.remove(body)
                done += 1
    assert (done, budget.used) == (6, 0)


def test_what_was_promised_and_did_not_come_is_given_back_when_the_body_is_whole() -> None:
    budget = BodyBudget(8 * MIB, LONGEST)
    body = Body(budget)
    body.grow(SMALL + 1)
    assert budget.used == SMALL + 1 + PORTION
    body.share.complete()
    assert budget.used == body.share.held == SMALL + 1


@pytest.mark.parametrize("size", [1, 1000, MIB])
def test_a_single_body_is_read_whole_however_little_there_is(size: int) -> None:
    budget = BodyBudget(size, LONGEST)
    body = Body(budget)
    assert all(body.grow(PORTION) for _ in range(16))


class Machine(RuleBasedStateMachine):
    """Bodies come, grow, become whole and go, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = BodyBudget(4 * MIB, LONGEST)
        self.bodies: list[Body] = []

    @rule(size=st.integers(1, 2 * SMALL))
    def whole(self, size: int) -> None:
        self.bodies.append(Body(self.budget))
        self.bodies[-1].share.keep(size)

    @rule(size=st.integers(1, PORTION))
    def begin(self, size: int) -> None:
        self.bodies.append(Body(self.budget))
        self.bodies[-1].grow(size)

    @precondition(lambda self: any(not body.waits for body in self.bodies))
    @rule(size=st.integers(1, 2 * PORTION), data=st.data())
    def grow(self, size: int, data: st.DataObject) -> None:
        data.draw(st.sampled_from([body for body in self.bodies if not body.waits])).grow(size)

    @precondition(lambda self: self.bodies)
    @rule(data=st.data(), again=st.booleans(), complete=st.booleans())
    def over(self, data: st.DataObject, again: bool, complete: bool) -> None:
        body = data.draw(st.sampled_from(self.bodies))
        if complete:
            body.waits = False
            body.share.complete()
        body.release()
        if again:
            body.release()
        self.bodies.remove(body)

    @invariant()
    def what_is_used_is_what_bodies_hold(self) -> None:
        held = sum(body.share.held for body in self.bodies)
        granted = self.budget.used - held
        assert 0 <= granted <= PORTION * len(self.bodies)
        assert self.bodies or self.budget.used == 0

    @invariant()
    def who_waits_is_who_was_told_to(self) -> None:
        assert [body.share.waiting for body in self.bodies] == [body.waits for body in self.bodies]

    @invariant()
    def somebody_may_always_go_on(self) -> None:
        if any(body.waits for body in self.bodies):
            assert any(not body.waits and body.share.held > SMALL for body in self.bodies)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=6 * settings.default.max_examples // 10, stateful_step_count=40)


@given(st.lists(st.integers(1, 4 * PORTION), min_size=1, max_size=30))
def test_bodies_that_end_leave_nothing(sizes: list[int]) -> None:
    budget = BodyBudget(2 * MIB, LONGEST)
    bodies = [Body(budget) for _ in sizes]
    for body, size in zip(bodies, sizes, strict=True):
        body.grow(size)
    for body in bodies:
        body.release()
    assert (budget.used, budget.waiting) == (0, 0)
