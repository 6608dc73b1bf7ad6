"""Brings one worker's adapters in line with what is wanted of it. It decides nothing but the order.

A worker is asked what it holds (its ``/v1/models`` names the path of each adapter, and a path is a version), and what
differs is unloaded and loaded. An adapter is withheld from the balancer before it is taken away, so that no request
meets the gap.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from cluster.adapters.effect import Effects, Started
from cluster.fleet.groups import DEFAULT
from cluster.fleet.instance import HeldAdapters, Refusal
from cluster.fleet.states import WorkerState
from config.backoff import doubled
from worker.probe import NotProvided, ProbeFailed, Target

#: Seconds until a refused adapter is tried again: doubled each time.
_RETRY_FIRST, _RETRY_MOST = 5.0, 300.0

#: Seconds that one load or unload of an adapter may take.
_ADAPTER_S = 120.0


@dataclass(slots=True)
class AgentTotals:
    """Counts, and the seconds that loads took."""

    loads: int = 0
    failures: int = 0
    drift_repairs: int = 0
    load_seconds: float = 0.0

    def __add__(self, other: AgentTotals) -> AgentTotals:
        return AgentTotals(
            self.loads + other.loads, self.failures + other.failures, self.drift_repairs + other.drift_repairs,
            self.load_seconds + other.load_seconds,
        )


class AdapterAgent:
    """One incarnation of one worker. ``wanted()`` tells name and path of what it should hold; ``held`` is what it does.
    ``withhold(name)`` returns when the balancer sends nothing for that adapter any more. ``changed`` is called after
    every change. ``foreign``: names that came with the engine's own flags and are left alone. ``effects`` says whether
    what was loaded does anything on a worker of those ``settings``; one that does not is refused as if the worker
    had."""

    def __init__(
        self, target: Target, wanted: Callable[[], Mapping[str, str]], withhold: Callable[[str], Awaitable[None]],
        changed: Callable[[], None], clock: Callable[[], float], timeout: float, foreign: frozenset[str] = frozenset(),
        effects: Effects | None = None, settings: Started = (DEFAULT, 0), held: HeldAdapters | None = None,
    ) -> None:
        self._target, self._wanted, self._withhold, self._changed = target, wanted, withhold, changed
        self._clock, self._timeout, self._foreign = clock, timeout, foreign
        self._effects, self._settings = effects, settings
        self._lock = asyncio.Lock()
        self.held = HeldAdapters() if held is None else held
        self.dirty = asyncio.Event()
        self.totals = AgentTotals()
        #: Its engine is busy with a load: it makes no steps meanwhile.
        self.loading = False

    def look(self, cards: tuple[dict[str, Any], ...]) -> bool:
        """Compares a probe's finding with what should be there; True if somebody changed it behind our back. Says
        nothing while a change of ours is under way."""
        if self._lock.locked():
            return False
        loaded, refused, wanted = self.held.loaded, self.held.refused, self._wanted()
        drifted = self._shown(cards) != loaded
        due = any(self._clock() >= r.retry_at for r in refused.values())
        missing = any(loaded.get(n) != p for n, p in wanted.items() if n not in refused)
        if drifted or due or missing or any(n not in wanted for n in loaded):
            self.dirty.set()
        return drifted

    async def sync(self) -> None:
        """All that differs. Raises ProbeFailed if the worker does not answer."""
        async with self._lock:
            self.dirty.clear()
            shown = self._shown(await self._target.models())
            if shown != self.held.loaded and self.held.loaded:
                self.totals.drift_repairs += 1
            self.held.loaded = shown
            wanted = dict(self._wanted())
            # First what goes: an engine with few places needs them.
            for name in [n for n in shown if n not in wanted] + [n for n in wanted if shown.get(n) != wanted[n]]:
                await self._apply(name, patient=True)
            for name in [n for n in self.held.refused if wanted.get(n) in (None, self.held.loaded.get(n))]:
                del self.held.refused[name]
            self._changed()

    async def take_off(self) -> None:
        """All that it holds, of a worker that is sent no requests; `sync` loads them anew. Raises ProbeFailed."""
        async with self._lock:
            self.held.loaded = self._shown(await self._target.models())
            for name in tuple(self.held.loaded):
                await self._unload(name)

    async def apply(self, name: str) -> str | None:
        """Brings one adapter in line, now. Returns None, or the worker's words where it refuses it. Raises
        ProbeFailed if it does not answer."""
        async with self._lock:
            return await self._apply(name, patient=False)

    async def _apply(self, name: str, patient: bool) -> str | None:
        want, have = self._wanted().get(name), self.held.loaded.get(name)
        if want == have:
            self.held.refused.pop(name, None)
            return None
        refusal = self.held.refused.get(name)
        if patient and refusal is not None and refusal.path == want and self._clock() < refusal.retry_at:
            return refusal.reason
        if have is not None:
            try:
                self.held.withheld.add(name)
                await self._withhold(name)
                await self._unload(name)
            finally:  # gone, or still there and to be used: an unload that failed must not keep it out of rotation
                self.held.withheld.discard(name)
                self._changed()
        return await self._load(name, want) if want is not None else None

    async def _load(self, name: str, path: str) -> str | None:
        began = self._clock()
        words = (self._effects and self._effects.known(self._settings, path)) or await self._try(name, path)
        if words is not None:
            self.totals.failures += 1
            attempts = self.held.refused[name].attempts + 1 if name in self.held.refused else 1
            wait = doubled(_RETRY_FIRST, _RETRY_MOST, attempts - 1)
            self.held.refused[name] = Refusal(words, path, attempts, self._clock() + wait)
            self._changed()
            return words
        self.totals.loads += 1
        self.totals.load_seconds += self._clock() - began
        self.held.refused.pop(name, None)
        self.held.loaded[name] = path
        self._changed()
        return None

    async def _try(self, name: str, path: str) -> str | None:
        """Loads it, and takes it off again where it has no effect: the worker's words, or those that say so."""
        try:
            there = await self._target.provide(path, self.held.loaded.values())
        except NotProvided as error:
            return str(error)
        self.loading = True
        try:
            words = await self._target.load_adapter(name, there, self._timeout)
            if words is not None and words.startswith("400"):
                # Somebody loaded that name behind our back: the registry is right.
                await self._unload(name)
                words = await self._target.load_adapter(name, there, self._timeout)
        finally:
            self.loading = False
        if words is not None or self._effects is None:
            return words
        try:
            words = await self._effects.refusal(self._settings, self._target, name, path)
        except ProbeFailed:
            with contextlib.suppress(ProbeFailed):  # nobody knows what it does
                await self._unload(name)
            raise
        if words is not None:
            await self._unload(name)
        return words

    async def _unload(self, name: str) -> None:
        status, text = await self._target.call("POST", "/v1/unload_lora_adapter", {"lora_name": name}, self._timeout)
        if status not in (200, 404):
            raise ProbeFailed(f"/v1/unload_lora_adapter {name}: {status} {' '.join(text.split())[:200]}")
        self.held.loaded.pop(name, None)

    def _shown(self, cards: tuple[dict[str, Any], ...]) -> dict[str, str]:
        return {
            card["id"]: str(card.get("root"))
            for card in cards
            if card.get("parent") and card["id"] not in self._foreign
        }


class Holder(Protocol):
    """A worker, or a server that is not ours. ``settings``: the number of those it was started with."""

    @property
    def id(self) -> str: ...

    @property
    def group(self) -> str: ...

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
            target, partial(self._wanted, holder.id), self._withhold, self._changed, self._now, _ADAPTER_S,
            self._foreign(holder.id), self._effects, (holder.group, holder.settings), holder.adapters,
        )
        return agent

    def end(self, name: str) -> None:
        """That worker has ended."""
        if (agent := self._agents.pop(name, None)) is not None:
            self._past += agent.totals

    def get(self, name: str) -> AdapterAgent | None:
        return self._agents.get(name)

    def ready(self, group: str | None = None) -> list[tuple[Holder, AdapterAgent]]:
        """Who takes requests, and has an agent; of one group of workers only, if it is named."""
        holders = (each for each in self._holders() if group is None or each.group == group)
        found = ((holder, self._agents.get(holder.id)) for holder in holders)
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
