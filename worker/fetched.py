"""Where what references mean lies on this machine, and which of them a configuration names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from config import lora_config
from config.errors import UsageError
from config.models import ModelDefinition
from config.paths import StateDir
from config.settings import Settings
from config.values.references import is_reference, parse
from worker.sources.selection import ADAPTER, MODEL
from worker.sources.store import SourceStore


def store(settings: Settings) -> SourceStore:
    return SourceStore(StateDir(settings.state_directory()).sources)


def model(settings: Settings, text: str) -> str:
    """The folder of a model that was fetched; what is no reference stays. Raises UsageError."""
    return _folder(settings, text, MODEL, "the model")


def adapters(settings: Settings, given: Mapping[str, str]) -> dict[str, str]:
    """The same for adapters by name."""
    return {name: _folder(settings, text, ADAPTER, f"--lora {name}") for name, text in given.items()}


def name_of(text: str) -> str:
    """What clients call a model, where nobody says it."""
    return parse(text).name if is_reference(text) else text


def named_by(settings: Settings) -> dict[str, str]:
    """The references in a configuration, each with what it is, `ADAPTER` or `MODEL`. Raises UsageError."""
    file = lora_config.read(settings.lora_config) if settings.lora_config else lora_config.LoraFile()
    given = [settings.model or file.base_model or ""] if not settings.only_models else []
    found = of_models(settings.models.values()) | dict.fromkeys(_references(given), MODEL)
    paths = [*(entry.path for entry in file.entries), *settings.lora.values()]
    return found | dict.fromkeys(_references(paths), ADAPTER)


def of_models(models: Iterable[ModelDefinition]) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in models:
        found |= dict.fromkeys(_references([one.path]), MODEL)
        found |= dict.fromkeys(_references(one.adapters.values()), ADAPTER)
    return found


def missing(settings: Settings, named: Mapping[str, str]) -> dict[str, str]:
    """Those of ``named`` that have to be fetched."""
    there = store(settings)
    return {text: what for text, what in named.items() if there.find(parse(text), what) is None}


def sweep(settings: Settings, models: Iterable[ModelDefinition]) -> None:
    """Removes what neither ``settings`` nor ``models`` name. Blocks; only while no worker reads it. Raises
    UsageError."""
    needed = {**named_by(settings), **of_models(models)}
    store(settings).sweep({parse(text).key for text in needed})


def _references(texts: Iterable[str]) -> list[str]:
    return [text for text in texts if is_reference(text)]


def _folder(settings: Settings, text: str, what: str, of: str) -> str:
    if not is_reference(text):
        return text
    try:
        reference = parse(text)
    except ValueError as error:
        raise UsageError(f"{of}: {error}", exit_code=2) from None
    found = store(settings).find(reference, what)
    if found is None:
        raise UsageError(f"{of}: {reference} was not fetched yet: `clusterctl up` does that")
    return found.folder
