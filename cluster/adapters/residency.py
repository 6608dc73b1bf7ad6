"""Who holds which adapters now: all workers the same, or each its own (`cluster.adapters.homes`), where adapters
outnumber places and the strategy goes by homes. A home is announced when the adapter is there; what leaves stays until
its new home has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from cluster.adapters.agent import Holder
from cluster.adapters.homes import Homes, HomeWorker
from cluster.adapters.inventory import Assigned, Inventory
from cluster.fleet.states import WorkerState

#: Seconds between two rounds while nobody comes or goes.
ROUND_S = 5.0

#: Seconds for which what leaves waits for its new home at the most.
_LEAVING_S = 10.0


@dataclass(slots=True)
class _Under:
    """While homes are in force. ``at``: of the latest round (s); ``about``: what is rounded anew for at once;
    ``leaving``: until when a worker keeps an adapter that belongs elsewhere."""

    homes: Homes
    at: float
    about: object = None
    leaving: dict[tuple[str, str], float] = field(default_factory=dict)


class Residency:
    """``holders()``: who has adapters of ours; ``cordoned(id)``: whether a person has drained it; ``wanted()``: whether
    the strategy in force goes by homes. ``changed()`` is called when workers should hold something else; ``now``: s,
    monotonic."""

    def __init__(
        self, inventory: Inventory, holders: Callable[[], Iterable[Holder]], cordoned: Callable[[str], bool],
        wanted: Callable[[], bool], changed: Callable[[], None], now: Callable[[], float],
    ) -> None:
        self._inventory, self._holders, self._cordoned = inventory, holders, cordoned
        self._wanted, self._changed, self._now = wanted, changed, now
        self._work: Counter[str] = Counter()
        self._under: _Under | None = None

    def report_work(self, work: Mapping[str, float]) -> None:
        """What balancers have sent for each adapter since they last said, in tokens."""
        if self._under is not None:
            self._work.update(work)

    def look(self) -> None:
        """Whether it is time for a round, or somebody came, went, or has got what another may let go."""
        ranks = self._ranks() if self._wanted() else {}
        if not ranks:
            if self._under is not None:
                self._under, self._inventory.homes, self._inventory.assigned = None, {}, None
                self._changed()
            return
        holders, now = list(self._holders()), self._now()
        under = self._under
        if under is None:
            self._inventory.homes = _as_held(holders, ranks)
            self._work.clear()
            under = self._under = _Under(Homes(self._inventory.homes), now - ROUND_S)
        about = ranks, [(e.id, e.incarnation, self._takes(e), frozenset(e.adapters.refused)) for e in holders]
        if about != under.about or now - under.at >= ROUND_S:
            self._round(under, ranks, holders, now)
            under.about = about
        elif self._settle(under, holders, now):
            self._assign(under, holders)

    def _ranks(self) -> dict[str, int]:
        """Of the adapters that have to be spread; none where every worker can hold all."""
        every = self._inventory.everything.adapters
        others = {name: adapter.current.rank for name, adapter in every.items() if not adapter.pinned}
        return others if len(every) > self._inventory.places() else {}

    def _takes(self, holder: Holder) -> bool:
        return holder.state is WorkerState.READY and not self._cordoned(holder.id)

    def _round(self, under: _Under, ranks: Mapping[str, int], holders: list[Holder], now: float) -> None:
        inventory, before = self._inventory, self._inventory.homes
        pinned = len(inventory.everything.adapters) - len(ranks)
        places, slots = max(1, inventory.places() - pinned), inventory.slots()
        up = [HomeWorker(each.id, slots, places) for each in holders if self._takes(each)]
        inventory.homes = under.homes.round(self._work, now - under.at, ranks, up)
        self._work.clear()
        under.at = now
        for name, ids in before.items():
            for worker in set(ids).difference(inventory.homes.get(name, ())):
                under.leaving[worker, name] = now + _LEAVING_S
        self._settle(under, holders, now)
        self._assign(under, holders)

    def _settle(self, under: _Under, holders: list[Holder], now: float) -> bool:
        """Lets go what has arrived where it belongs; whether there was any."""
        if not under.leaving:
            return False
        held, homes, before = {each.id: each.adapters for each in holders}, self._inventory.homes, len(under.leaving)
        under.leaving = {
            (worker, name): until
            for (worker, name), until in under.leaving.items()
            if now < until and worker in held and name in held[worker].loaded and worker not in homes.get(name, ())
            and not any(id in held and held[id].serves(name) for id in homes.get(name, ()))
        }  # fmt: skip
        return len(under.leaving) != before

    def _assign(self, under: _Under, holders: list[Holder]) -> None:
        at: dict[str, set[str]] = {each.id: set() for each in holders}
        leaving: dict[str, set[str]] = {each.id: set() for each in holders}
        refused = {each.id: each.adapters.refused for each in holders}
        for name, ids in self._inventory.homes.items():
            for worker in refused if all(name in refused[id] for id in ids) else ids:
                at[worker].add(name)  # whoever takes it, where no home does
        for worker, name in under.leaving:
            leaving[worker].add(name)
        self._inventory.assigned = {
            each.id: Assigned(frozenset(at[each.id]), frozenset(leaving[each.id]), each.adapters) for each in holders
        }
        self._changed()


def _as_held(holders: Iterable[Holder], ranks: Iterable[str]) -> dict[str, tuple[str, ...]]:
    ready = [each for each in holders if each.state is WorkerState.READY]
    return {name: tuple(each.id for each in ready if each.adapters.serves(name)) for name in ranks}
