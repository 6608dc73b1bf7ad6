"""Routes and aliases that are in force: those of the settings, and what was changed since. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from config.model_names import ModelAlias, read_all, version_of

#: As `config.model_names` writes a route or an alias; None: there is none of the name.
Definition = dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class NameChange:
    """What a name stands for ``now``, what it stood for ``before``, and what the settings said then: a change holds
    until they say something else."""

    now: Definition
    before: Definition
    given: Definition


class ModelNames:
    """``given``: by the settings."""

    def __init__(self, given: Mapping[str, Definition] | None = None) -> None:
        self.given: Mapping[str, Definition] = given or {}
        self._changes: dict[str, NameChange] = {}

    def find(self, name: str) -> Definition:
        change, given = self._changes.get(name), self.given.get(name)
        return change.now if change is not None and change.given == given else given

    def in_force(self) -> dict[str, Any]:
        names = dict.fromkeys((*self.given, *self._changes))
        return {name: found for name in names if (found := self.find(name)) is not None}

    def change(self, name: str, definition: Definition) -> None:
        if definition != self.find(name):
            self._changes[name] = NameChange(definition, self.find(name), self.given.get(name))

    def undoable(self, name: str) -> tuple[Definition, ...]:
        """What it stands for, and stood for before its last change; nothing where none is in force."""
        change = self._changes.get(name)
        return () if change is None or change.given != self.given.get(name) else (change.now, change.before)

    def undo(self, name: str) -> bool:
        """Puts back what it stood for before the last change, also of one that was an undo; whether there was one."""
        if not self.undoable(name):
            return False
        change = self._changes[name]
        self._changes[name] = replace(change, now=change.before, before=change.now)
        return True

    def versions(self) -> dict[tuple[str, int], bool]:
        """The versions of adapters that aliases and routes lead to; False for those that they led to before their last
        change: requests may still ask for them, and an undo will."""
        if not (self.given or self._changes):
            return {}
        before = {name: change.before for name, change in self._changes.items() if change.before is not None}
        found: dict[tuple[str, int], bool] = {}
        for definitions, now in ((before, False), (self.in_force(), True)):
            for named in read_all(definitions).values():
                found |= {version: now for model in named.models if (version := version_of(model)) is not None}
        return found

    def leading_to(self, model: str) -> list[str]:
        """What leads to it or to a version of it, in words: a sentence for each route and alias."""
        found = read_all(self.in_force()) if self.given or self._changes else {}
        return [
            f"the {'alias' if isinstance(named, ModelAlias) else 'route'} {name!r} leads to {chosen!r}"
            for name, named in found.items()
            for chosen in named.models
            if model == chosen or model == (version_of(chosen) or [""])[0]
        ]

    def copy(self) -> ModelNames:
        made = ModelNames(self.given)
        made._changes = dict(self._changes)
        return made

    def durable(self) -> dict[str, Any]:
        """For the store; `restore` reads it."""
        return {name: [change.now, change.before, change.given] for name, change in self._changes.items()}

    def restore(self, kept: Mapping[str, Any] | None) -> None:
        self._changes = {name: NameChange(*change) for name, change in (kept or {}).items()}
