"""The load of a model, as it is written down until it is over (`cluster.jobs.intents`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.events import Emit
from cluster.jobs.intents import LoadIntent
from config.values.references import is_reference
from worker.sources.discreet import discreet


@dataclass(frozen=True)
class ModelLoadIntent(LoadIntent):
    """``definition``: as `config.models.ModelDefinition.to_json` writes it."""

    name: str
    definition: dict[str, Any]

    @property
    def lasts(self) -> bool:
        """While it is fetched, or its adapters are taken in: a supervisor that adopts it does not do that."""
        return is_reference(self.definition["path"]) or bool(self.definition.get("adapters"))

    def tell_resumed(self, emit: Emit) -> None:
        source = self._source
        emit(self.name, f"goes on being loaded from {source}", kind="model.resumed", data={"source": source})

    def tell_failed(self, emit: Emit, why: str) -> None:
        words = f"could not be loaded from {self._source}: {why}"
        emit(self.name, words, kind="model.failed", data={"reason": why})

    @property
    def _source(self) -> str:
        return discreet(self.definition["path"])
