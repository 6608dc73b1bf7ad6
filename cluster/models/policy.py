"""Which models are brought up, and which make room for them. Pure: all is handed in, and nothing happens here.

Who waits longest comes first. Room is made by those nobody asks for, the lowest priority first and of these the one
that was not asked for the longest; by one that has requests only when the others have waited for `SwapRules.age` s: it
is given no more then, and goes when those it has are done. Never by one that is pinned, nor by one that has been up for
less than `SwapRules.min_up` s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from enum import StrEnum


class StepKind(StrEnum):
    """What is done to a model. ``REFUSE``: it is not started, as there can never be room for it."""

    START = "start"
    WAKE = "wake"
    UNLOAD = "unload"
    SLEEP = "sleep"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class ModelStep:
    kind: StepKind
    model: str
    why: str


@dataclass(frozen=True, slots=True)
class ModelNow:
    """One model at one moment. ``state``: one of `config.topology.MODEL_STATES`. ``waiting`` requests, the oldest for
    ``oldest`` s; ``asked``: somebody wants it up, whether a request waits or not. Seconds: ``idle`` since the latest
    request, ``up`` since it answers, ``retry_in`` until it may be started again."""

    name: str
    state: str
    pinned: bool = False
    priority: int = 0
    idle_timeout: float | None = None
    can_sleep: bool = False
    in_flight: int = 0
    waiting: int = 0
    oldest: float = 0.0
    asked: bool = False
    idle: float = 0.0
    up: float = 0.0
    retry_in: float = 0.0

    @property
    def busy(self) -> bool:
        return self.in_flight > 0 or self.waiting > 0


@dataclass(frozen=True, slots=True)
class SwapRules:
    """``most`` models are up at the same time, None: as many as fit. Seconds: ``min_up`` that a model stays up, ``age``
    that requests wait before a model with requests makes room for theirs. ``fit(names)``: whether the machine has room
    for these at the same time, in that order."""

    most: int | None
    min_up: float
    age: float
    fit: Callable[[Iterable[str]], bool]

    def room(self, names: Iterable[str]) -> bool:
        together = list(names)
        return (self.most is None or len(together) <= self.most) and self.fit(together)


#: States in which a model takes room.
_THERE = frozenset({"up", "starting", "stopping"})


def decide(models: Iterable[ModelNow], rules: SwapRules) -> list[ModelStep]:
    """What is to be done now, most urgent first."""
    every = {model.name: model for model in models}
    there = [name for name, model in every.items() if model.state in _THERE]
    room = _Room(every, rules, there, [name for name in there if every[name].state != "stopping"])
    pinned = [name for name, model in every.items() if model.pinned]
    waiting = [m for m in every.values() if m.state not in _THERE and m.retry_in <= 0 and _wanted(m)]
    for model in sorted(waiting, key=lambda m: (not m.pinned, -m.oldest, m.name)):
        if not rules.room([*(name for name in pinned if name != model.name), model.name]):
            beside = ", ".join(name for name in pinned if name != model.name)
            room.steps.append(ModelStep(StepKind.REFUSE, model.name, _no_room(beside)))
        elif not room.let_in(model) and model.oldest >= rules.age:
            break  # whoever comes later is not let past it
    going = {step.model for step in room.steps}
    return [*room.steps, *(step for m in every.values() if m.name not in going and (step := _idled(m, rules)))]


def _wanted(model: ModelNow) -> bool:
    return model.pinned or model.asked or model.waiting > 0


def _no_room(beside: str) -> str:
    return f"there is no room for it beside {beside}, which stay up" if beside else "this machine has no room for it"


def _idled(model: ModelNow, rules: SwapRules) -> ModelStep | None:
    """Nobody has asked for it for long enough."""
    if model.state != "up" or model.pinned or model.busy or model.asked or model.idle_timeout is None:
        return None
    if model.idle < model.idle_timeout or model.up < rules.min_up:
        return None
    return ModelStep(_going(model), model.name, f"not asked for in {model.idle_timeout:g} s")


def _going(model: ModelNow) -> StepKind:
    return StepKind.SLEEP if model.can_sleep else StepKind.UNLOAD


class _Room:
    """``now``: who takes room; ``then``: who will, when all that go are gone and all that were promised room are
    there."""

    def __init__(self, every: dict[str, ModelNow], rules: SwapRules, now: list[str], then: list[str]) -> None:
        self._every, self._rules, self._now, self._then = every, rules, now, then
        self.steps: list[ModelStep] = []

    def let_in(self, model: ModelNow) -> bool:
        """Starts it, or promises it the room that others make; False: nobody can make room yet."""
        if not self._rules.room([*self._then, model.name]):
            leaving = self._leaving(model)
            if leaving is None:
                return False
            for other in leaving:
                self._then.remove(other.name)
                self.steps.append(ModelStep(_going(other), other.name, f"makes room for {model.name}"))
        self._then.append(model.name)
        if self._rules.room([*self._now, model.name]):
            self._now.append(model.name)
            kind = StepKind.WAKE if model.state == "asleep" else StepKind.START
            self.steps.append(ModelStep(kind, model.name, _why(model)))
        return True

    def _leaving(self, model: ModelNow) -> list[ModelNow] | None:
        """The fewest, and the least missed, whose room is enough."""
        able = sorted(
            (other for name in self._then if self._may_go(other := self._every[name], model)), key=_missed
        )
        gone: list[ModelNow] = []
        for other in able:
            gone.append(other)
            if self._enough(gone, model):
                for kept in reversed(gone[:-1]):
                    if self._enough([one for one in gone if one is not kept], model):
                        gone.remove(kept)
                return gone
        return None

    def _enough(self, gone: list[ModelNow], model: ModelNow) -> bool:
        names: Set[str] = {other.name for other in gone}
        return self._rules.room([*(name for name in self._then if name not in names), model.name])

    def _may_go(self, other: ModelNow, model: ModelNow) -> bool:
        if other.state != "up" or other.pinned or other.up < self._rules.min_up:
            return False
        return not (other.busy or other.asked) or model.oldest >= self._rules.age


def _missed(model: ModelNow) -> tuple[bool, int, float]:
    return (model.busy or model.asked, model.priority, -model.idle if not model.busy else -model.up)


def _why(model: ModelNow) -> str:
    if model.waiting:
        return f"{model.waiting} request{'s' * (model.waiting != 1)} for it"
    return "asked for" if model.asked else "pinned"
