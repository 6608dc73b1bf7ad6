"""The agents of all workers and servers whose adapters are ours to manage."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol

from cluster.adapters.agent import AdapterAgent, AgentTotals
from cluster.adapters.effect import Effects
from cluster.fleet.held_adapters import HeldAdapters
from cluster.fleet.states import WorkerState
from worker.probe import Target

#: Seconds that one load or unload of an adapter may take.
_ADAPTER_S = 120.0


class Holder(Protocol):
    """A worker, or a server that is not ours. ``settings``: the number of those it was started with."""

    @property
    def id(self) -> str: ...

    @property
    def state(self) -> WorkerState: ...

    @property
    def incarnation(self) -> int: ...

    @property
    def settings(self) -> int: ...

    @property
    def adapters(self) -> HeldAdapters: ...


class Agents:
    """``holders()``: everybody that could have one. ``wanted(name)``: what that one should hold; ``withhold`` and
    ``changed`` as of an agent; ``foreign(name)``: adapters that came with the engine's own flags; ``now``: s,
    monotonic."""

    def __init__(
        self, holders: Callable[[], Iterable[Holder]], wanted: Callable[[str], Mapping[str, str]], effects: Effects,
        withhold: Callable[[str], Awaitable[None]], changed: Callable[[], None],
        foreign: Callable[[str], frozenset[str]],
        now: Callable[[], float],
    ) -> None:
        self._holders, self._wanted, self._effects, self._withhold = holders, wanted, effects, withhold
        self._changed, self._foreign, self._now = changed, foreign, now
        self._agents: dict[str, AdapterAgent] = {}
        self._past = AgentTotals()

    def begin(self, holder: Holder, target: Target) -> AdapterAgent:
        agent = self._agents[holder.id] = AdapterAgent(
            target, lambda: self._wanted(holder.id), self._withhold, self._changed, self._now, _ADAPTER_S,
            self._foreign(holder.id), self._effects.asked_of(holder.settings), holder.adapters,
        )
        return agent

    def end(self, name: str) -> None:
        """That worker has ended."""
        if (agent := self._agents.pop(name, None)) is not None:
            self._past += agent.totals

    def get(self, name: str) -> AdapterAgent | None:
        return self._agents.get(name)

    def ready(self) -> list[tuple[Holder, AdapterAgent]]:
        """Who takes requests, and has an agent."""
        found = ((holder, self._agents.get(holder.id)) for holder in self._holders())
        return [(h, agent) for h, agent in found if agent is not None and h.state is WorkerState.READY]

    def look_again(self) -> None:
        """What workers should hold is not what it was."""
        for agent in self._agents.values():
            agent.dirty.set()
        self._changed()

    def activity(self, name: str) -> tuple[bool, int]:
        """Whether an adapter is being loaded there now, and how many loads it has answered."""
        agent = self._agents.get(name)
        return (agent.loading, agent.totals.loads + agent.totals.failures) if agent is not None else (False, 0)

    def totals(self, workers: Iterable[str]) -> AgentTotals:
        """What was done to ``workers``, and to those that are gone, since the supervisor started."""
        return sum((self._agents[name].totals for name in workers if name in self._agents), self._past)
