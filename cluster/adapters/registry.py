"""The adapter registry: what should be on every worker, and what follows from it. Pure.

A name has numbered versions, one of them active; content is known by its hash, so that the same content is the same
wherever it came from. Every change makes a new registry; the store writes it in one transaction.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.fleet.groups import DEFAULT


@dataclass(frozen=True, slots=True)
class Version:
    """``size`` in bytes, ``created`` in seconds since the epoch. ``path`` is the immutable copy workers load.
    ``allow_no_effect``: workers may answer with it as without; so for those from before that was asked."""

    number: int
    hash: str
    path: str
    rank: int
    target_modules: tuple[str, ...]
    base_model: str | None
    source: str
    size: int
    created: float
    allow_no_effect: bool = True


@dataclass(frozen=True, slots=True)
class Adapter:
    """``pinned``: on every worker whatever is used. ``auto_load``: on every worker before anybody asks for it, while
    there is room; otherwise from its first use on. ``group``: of the workers of the model that it belongs to."""

    name: str
    active: int
    versions: tuple[Version, ...]
    description: str = ""
    auto_load: bool = True
    pinned: bool = False
    group: str = DEFAULT

    @property
    def current(self) -> Version:
        return self.version(self.active)

    def version(self, number: int) -> Version:
        """Raises KeyError for a number it does not have."""
        for version in self.versions:
            if version.number == number:
                return version
        raise KeyError(number)

    def numbers(self) -> dict[str, int]:
        """Of its versions, by path; where two have the same content, that of the active one."""
        return {v.path: v.number for v in sorted(self.versions, key=lambda v: (v.number == self.active, -v.number))}

    def previous(self) -> int | None:
        """The version before the active one, if it is still kept."""
        return max((v.number for v in self.versions if v.number < self.active), default=None)

    def with_version(self, version: Version, keep: int, needed: Collection[int] = ()) -> Adapter:
        """``version`` added and active; of the others the newest ``keep - 1`` stay, and those that are ``needed``."""
        others = [v for v in self.versions if v.number != version.number]
        newest = sorted(others, key=lambda v: v.number)[-(keep - 1) :] if keep > 1 else []
        kept = [v for v in others if v in newest or v.number in needed]
        return replace(self, active=version.number, versions=(*kept, version))

    def allowing_no_effect(self) -> Adapter:
        """The active version may answer as the base model does."""
        allowed = replace(self.current, allow_no_effect=True)
        return replace(self, versions=tuple(allowed if v.number == self.active else v for v in self.versions))

    def next_number(self) -> int:
        return max((v.number for v in self.versions), default=0) + 1


@dataclass(frozen=True, slots=True)
class Registry:
    """All adapters by name, in the order they were first loaded."""

    adapters: Mapping[str, Adapter] = field(default_factory=dict)

    def with_adapter(self, adapter: Adapter) -> Registry:
        return Registry({**self.adapters, adapter.name: adapter})

    def without(self, name: str) -> Registry:
        return Registry({n: a for n, a in self.adapters.items() if n != name})

    def with_versions(self, wanted: Mapping[tuple[str, int], bool]) -> Registry:
        """And these versions, each by itself as ``NAME@N``, with ``True`` on every worker whatever is used."""
        beside = {
            f"{name}@{number}": Adapter(
                f"{name}@{number}", number, (version,), auto_load=False, pinned=pinned, group=adapter.group
            )
            for (name, number), pinned in wanted.items()
            if (adapter := self.adapters.get(name)) is not None
            for version in adapter.versions if version.number == number
        }  # fmt: skip
        return Registry({**self.adapters, **beside}) if beside else self

    def of(self, group: str) -> Registry:
        """The adapters of one model, by the group of its workers."""
        return Registry({name: adapter for name, adapter in self.adapters.items() if adapter.group == group})

    def hashes(self) -> set[str]:
        """Content that some version still needs."""
        return {v.hash for a in self.adapters.values() for v in a.versions}

    def resident(
        self, used: Mapping[str, float], cap: int, home: Collection[str] | None = None, held: Collection[str] = ()
    ) -> dict[str, str]:
        """Name and path of what every worker should hold: the pinned ones, then the most recently used of the others,
        ``cap`` in all, but at least one of them. ``used``: when each was last asked for (s since the epoch). One that
        is not to be loaded by itself is not there before its first use. ``home``: of a worker that is to hold these
        before others, and of others only what is ``held`` there: None where all hold the same."""
        pinned = [a for a in self.adapters.values() if a.pinned]
        others = [a for a in self.adapters.values() if not a.pinned and (a.auto_load or a.name in used)]
        first: Collection[str] = ()
        if home is not None:
            first, others = home, [a for a in others if a.name in home or a.name in held]
        others.sort(key=lambda a: (a.name in first, used.get(a.name, a.current.created)), reverse=True)
        # One place is for the others in any case: else nothing that is asked for could ever be loaded.
        chosen = [*pinned, *others[: max(1, cap - len(pinned))]]
        return {a.name: a.current.path for a in chosen}


def from_rows(adapters: Iterable[tuple[str, str]], versions: Iterable[tuple[str, str]]) -> Registry:
    """The registry that `to_rows` made rows of. Raises KeyError/TypeError/ValueError for anything else."""
    by_name: dict[str, list[Version]] = {}
    for name, text in versions:
        data = json.loads(text)
        by_name.setdefault(name, []).append(Version(**{**data, "target_modules": tuple(data["target_modules"])}))
    result = {}
    for name, text in adapters:
        found = sorted(by_name.get(name, []), key=lambda v: v.number)
        result[name] = Adapter(name=name, versions=tuple(found), **json.loads(text))
    return Registry(result)


def to_rows(adapter: Adapter) -> tuple[dict[str, Any], list[tuple[int, dict[str, Any]]]]:
    """The adapter's own row and one for each version."""
    own = {
        "active": adapter.active, "description": adapter.description, "auto_load": adapter.auto_load,
        "pinned": adapter.pinned, **({} if adapter.group == DEFAULT else {"group": adapter.group}),
    }  # fmt: skip
    names = Version.__slots__
    return own, [(v.number, {name: getattr(v, name) for name in names}) for v in adapter.versions]


def card(adapter: Adapter, base: str, path: str) -> dict[str, Any]:
    """How `/v1/models` shows it (vLLM's model card)."""
    return {
        "id": adapter.name, "object": "model", "created": int(adapter.current.created), "owned_by": "clusterctl",
        "root": path, "parent": base, "max_model_len": None, "permission": [],
    }  # fmt: skip
