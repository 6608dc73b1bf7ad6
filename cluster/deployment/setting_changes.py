"""Changed settings on a running cluster: which may be, and what each of them does to it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from config.errors import UsageError, nearest
from config.settings import Effect, Settings, effect_of, explain, known_settings
from config.sources.given import Given

#: What does it instead, where something does.
INSTEAD: Mapping[str, str] = {
    "lora": "`clusterctl lora load` brings an adapter", "models": "`clusterctl model load` brings a model",
}

#: Of which only is said that they are there.
SECRET = frozenset({"admin_key", "limits_store"})


@dataclass(frozen=True, slots=True)
class Change:
    """``old`` and ``new`` as they would stand in a file."""

    setting: str
    old: Any
    new: Any

    @property
    def effect(self) -> Effect:
        return effect_of(self.setting)

    def shown(self) -> dict[str, Any]:
        """For people: no secrets."""
        secret = self.setting in SECRET
        old, new = ("(set)" if v and secret else v for v in (self.old, self.new))
        return {"setting": self.setting, "old": old, "new": new, "effect": str(self.effect)}


def merge(current: Settings, given: Mapping[str, Any], defaults: Sequence[str] = ()) -> Settings:
    """``current`` with what is ``given``, and the settings named in ``defaults`` as nobody had given them. Raises
    UsageError that names the setting."""
    for name in (*given, *defaults):
        if name not in Settings.model_fields:
            raise UsageError(f"unknown setting {name!r}{nearest(name, known_settings())}", exit_code=2)
    usual = {name: Settings.model_fields[name].get_default() for name in defaults}
    values = {**json.loads(current.to_json()), **usual, **given}
    try:
        return Settings(**values)
    except ValidationError as error:
        raise UsageError(explain(error, Given(given)), exit_code=2) from None


def changes(old: Settings, new: Settings, running: Mapping[str, Any]) -> list[Change]:
    """What differs, in the order of the settings. ``running`` is what was changed at run time and holds instead of
    what ``old`` says (the number of workers, the strategy)."""
    before, after = {**json.loads(old.to_json()), **running}, json.loads(new.to_json())
    return [
        Change(name, before[name], after[name]) for name in Settings.model_fields if after[name] != before[name]
    ]


def refusal(found: Sequence[Change]) -> str | None:
    """A sentence that names those that cannot be changed, or None."""
    never = [change.setting for change in found if change.effect is Effect.NEVER]
    if not never:
        return None
    hints = "".join(f"; {INSTEAD[name]}" for name in never if name in INSTEAD)
    verb = "is" if len(never) == 1 else "are"
    return (
        f"{', '.join(never)} {verb} not changed on a running cluster: `down`, then `up` with the new "
        f"value{'s' * (len(never) > 1)}; nothing was changed{hints}"
    )
