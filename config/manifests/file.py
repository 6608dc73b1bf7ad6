"""Manifests in files: the one that comes with this package, and one that somebody names."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from config.disk import locations
from config.errors import UsageError
from config.manifests import schema
from config.manifests.schema import ManifestEntry
from config.sources.yaml_file import read_mapping

#: What comes with this package.
SHIPPED = Path(__file__).with_name("models.yaml")


def entries(named: Path | None) -> dict[str, ManifestEntry]:
    """The models that are known by name: those of the shipped manifest, and over them those of the file ``named``.
    Relative paths in it begin in its folder. Raises UsageError with one line that names file and key."""
    return {**_shipped(), **(read(named) if named is not None else {})}


def read(path: Path) -> dict[str, ManifestEntry]:
    """One manifest. Raises UsageError."""
    try:
        found = schema.parse(read_mapping(path))
        return {name: _located(entry, path.absolute().parent) for name, entry in found.items()}
    except ValueError as error:
        raise UsageError(f"{path}: {error}", exit_code=2) from None


def _located(entry: ManifestEntry, base: Path) -> ManifestEntry:
    def at(path: str | None) -> str | None:
        found: str | None = locations.setting("model", path, base)
        return found

    profiles = tuple(profile.model_copy(update={"path": at(profile.path)}) for profile in entry.profiles)
    return entry.model_copy(update={"path": at(entry.path), "profiles": profiles})


@cache
def _shipped() -> dict[str, ManifestEntry]:
    return read(SHIPPED)
