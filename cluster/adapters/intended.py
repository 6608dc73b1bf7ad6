"""The load of an adapter, as it is written down until it is over (`cluster.jobs.intents`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.adapters.rollout import Rollouts
from cluster.events import Emit
from cluster.jobs.intents import IntentLog, IntentStore, LoadIntent
from config.values.references import is_reference
from worker.sources.discreet import discreet


@dataclass(frozen=True)
class AdapterLoadIntent(LoadIntent):
    """What `Rollouts.load` is given."""

    name: str
    source: str
    replaces: bool = False
    description: str | None = None
    allow_no_effect: bool = False
    model: str | None = None

    @property
    def lasts(self) -> bool:
        return is_reference(self.source)

    def tell_resumed(self, emit: Emit) -> None:
        source = discreet(self.source)
        data = {"adapter": self.name, "source": source}
        emit("adapters", f"goes on loading {self.name} from {source}", kind="adapter.resumed", data=data)

    def tell_failed(self, emit: Emit, why: str) -> None:
        words = f"{self.name} could not be loaded from {discreet(self.source)}: {why}"
        emit("adapters", words, kind="adapter.failed", data={"reason": why})


def log_of_loads(rollouts: Rollouts, store: IntentStore, emit: Emit) -> IntentLog[AdapterLoadIntent]:
    async def load(wanted: AdapterLoadIntent) -> tuple[int, dict[str, Any]]:
        return await rollouts.load(
            wanted.name, wanted.source, wanted.replaces, wanted.description, wanted.allow_no_effect, wanted.model
        )

    return IntentLog("adapter_loads", AdapterLoadIntent, load, store, emit)
