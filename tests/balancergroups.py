"""Groups of balancer processes, without a supervisor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.balancers.group import BalancerGroup
from cluster.storage.store import Store
from config.link import Phase
from config.paths import StateDir
from config.topology import BalancerConfig
from fakes import soon

Report = tuple[tuple[int, int], dict[str, int], dict[str, float]]


@dataclass
class Heard:
    """What the keeper says."""

    reports: list[Report] = field(default_factory=list)
    losses: int = 0
    told: list[tuple[str, str]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)

    def reported(
        self, version: tuple[int, int], counts: Mapping[str, int], used: Mapping[str, float],
        work: Mapping[str, float],
    ) -> None:
        self.reports.append((version, dict(counts), dict(used)))

    def lost(self) -> None:
        self.losses += 1

    def wanted(self, adapter: str) -> None:
        self.names.append(adapter)

    def wanted_model(self, model: str) -> None:
        self.models.append(model)

    def changed(self) -> None:
        """Asked for when it is looked at."""

    def outcome(self, message: Mapping[str, Any]) -> None:
        """Passed on as it is."""


def group_of(folder: Path, store: Store, heard: Heard, processes: int = 3, **fields: Any) -> BalancerGroup:
    state = StateDir(folder / "state")
    state.create()
    config = BalancerConfig(-1, str(state.root), "127.0.0.1", 1, 5, processes=processes)
    return BalancerGroup(
        state, config, store, heard, lambda who, what, **_: heard.told.append((who, what)), **fields,
    )


def pid_of(keeper: BalancerGroup, number: int) -> int | None:
    process = keeper.slots[number].current
    return process.pid if process else None


async def serving(keeper: BalancerGroup, count: int) -> None:
    await soon(
        lambda: [bool(slot.current and slot.current.phase is Phase.SERVING) for slot in keeper.slots] == [True] * count,
        f"{count} serve",
    )  # fmt: skip
