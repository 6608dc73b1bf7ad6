"""What of a state a person would want on another machine, as one tar: a manifest and the adapters' files. API keys are
in it as the state has them, without their secrets; so are routes and aliases that were changed at run time, and what
the agents of other machines ask for: whoever has that could speak to them. Processes, other tokens and settings of a
machine are not.

The manifest comes first, and names all that follows: what it does not name is refused, and so is content that has not
the hash it is named by. On the way in files come first, then the rows that need them, in one transaction.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Self

from pydantic import ValidationError

from cluster.adapters.registry import Adapter, Version
from cluster.fleet.groups import DEFAULT, group_of
from cluster.fleet.model_names import Definition
from cluster.storage.manifest import Manifest, VersionRecord
from cluster.storage.store import Store, read_keys, read_registry, read_values
from config import bounded
from config.errors import UsageError
from config.identity import api_keys
from config.identity.api_keys import ApiKey
from config.paths import StateDir
from config.settings import Settings
from worker.adapters import files as adapter_files
from worker.adapters import store as adapter_store
from worker.adapters.content import FILES, MAX_BYTES, content_hash
from worker.adapters.tensors import AdapterRejected

FORMAT = "clusterctl state"
VERSION = 1

#: Under this key the store has what was imported, until the next start takes it over.
IMPORTED = "imported"

_MANIFEST = "manifest.json"
_MANIFEST_MOST = 16 * 1024 * 1024  # bytes
_HEAD_MOST = 1 << 20  # bytes of what a tar says of one member, such as its long name
_DESCRIBING = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
_MEMBER = re.compile(rf"adapters/([0-9a-f]{{64}})/({'|'.join(map(re.escape, FILES))})")


@dataclass(frozen=True, slots=True)
class Contents:
    """``instances``: how many workers; None where no cluster has run on the state yet."""

    instances: int | None
    weights: dict[str, int]
    strategy: str | None
    adapters: tuple[Adapter, ...]
    keys: tuple[ApiKey, ...] = ()
    #: Routes and aliases that were changed at run time, as `cluster.fleet.model_names` keeps them.
    names: dict[str, list[Definition]] = field(default_factory=dict)
    #: What agents of other machines ask for: beside the database, see `config.paths.StateDir.agent_key`.
    agent_key: str | None = None
    #: Models beside the first one. They name paths of the machine and stay there.
    models: tuple[str, ...] = ()

    @property
    def changed_names(self) -> list[str]:
        """Of ``names``, those that stand for something now; the others were deleted."""
        return sorted(name for name, (now, *_) in self.names.items() if now is not None)

    @property
    def empty(self) -> bool:
        return self.instances is None and not self.adapters and not self.keys and not self.names

    def means(self) -> Any:
        """The same for two states that stand for the same, wherever their files lie."""
        adapters = [
            replace(a, versions=tuple(replace(v, path="", created=0.0, source="") for v in a.versions))
            for a in self.adapters
        ]
        keys = {key.name: key for key in self.keys}
        return (self.instances, self.weights, self.strategy, {a.name: a for a in adapters}, keys, self.names)


def contents(db: sqlite3.Connection) -> Contents:
    """What is in a state."""
    values = read_values(db)
    adapters = tuple(read_registry(db).adapters.values())
    known = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'keys'").fetchone()  # not in a state of before
    keys = tuple(read_keys(db)) if known else ()
    imported, desired, names = values.get(IMPORTED), values.get("desired") or {}, values.get("model_names") or {}
    models = tuple(sorted(values.get("models") or {}))
    if imported:
        wanted_now = imported["instances"], imported["weights"], imported["strategy"]
        return Contents(*wanted_now, adapters, keys, names, models=models)
    wanted = desired.get("instances")
    instances = None if wanted is None else sum(group_of(name) == DEFAULT for name in wanted)
    strategy = values.get("strategy") or None
    return Contents(instances, desired.get("weights", {}), strategy, adapters, keys, names, models=models)


def damaged(found: Contents) -> list[str]:
    """What is wrong with the adapters' files, in sentences. Reads them all."""
    wrong = []
    for adapter in found.adapters:
        for version in adapter.versions:
            try:
                whole = content_hash(Path(version.path)) == version.hash
                why = "" if whole else f"{version.path} has not the content that it had"
            except (AdapterRejected, OSError) as error:
                why = str(error)
            if why:
                wrong.append(f"adapter {adapter.name} version {version.number}: {why}")
    return wrong


def write(found: Contents, out: IO[bytes]) -> None:
    """Writes the tar. Raises UsageError for adapters whose files are not what they were; OSError."""
    if wrong := damaged(found):
        raise UsageError(f"not exported: {wrong[0]}")
    folders = {v.hash: Path(v.path) for adapter in found.adapters for v in adapter.versions}
    manifest = json.dumps(_to_json(found), indent=2).encode()
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(_member(_MANIFEST, len(manifest)), io.BytesIO(manifest))
        for content, folder in folders.items():
            for name in FILES:
                with (folder / name).open("rb") as file:
                    size = (folder / name).stat().st_size
                    tar.addfile(_member(f"adapters/{content}/{name}", size), file)


def _member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info


def _to_json(found: Contents) -> dict[str, Any]:
    names = VersionRecord.model_fields
    return {
        "format": FORMAT, "version": VERSION, "instances": found.instances, "weights": found.weights,
        "strategy": found.strategy,
        "adapters": [
            {
                "name": a.name, "active": a.active, "description": a.description, "auto_load": a.auto_load,
                "pinned": a.pinned, **({} if a.group == DEFAULT else {"group": a.group}),
                "versions": [{name: getattr(v, name) for name in names} for v in a.versions],
            }
            for a in found.adapters
        ],
        # Only where there are any: a clusterctl of before knows no such fields.
        **({"keys": [key.to_json() for key in found.keys]} if found.keys else {}),
        **({"names": found.names} if found.names else {}),
        **({"agent_key": found.agent_key} if found.agent_key else {}),
    }  # fmt: skip


class _Member(tarfile.TarInfo):
    """What describes a member is read whole, whatever size it claims."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.type in _DESCRIBING and found.size > _HEAD_MOST:
            raise tarfile.ReadError(f"a head of {found.size} bytes")
        return found


class Incoming:
    """An export that is being read. `close` removes what was unpacked."""

    def __init__(self, source: IO[bytes], state: StateDir) -> None:
        """Unpacks beside the adapters and checks everything; nothing else has changed then. Raises UsageError for what
        is no such export, is damaged or holds more than it names; OSError."""
        self._folder = Path(tempfile.mkdtemp(prefix=".incoming-", dir=state.adapters))
        self._store = state.adapters
        try:
            self.contents = self._unpack(source)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def take_in(self) -> None:
        """Puts the files where workers load them from. Raises OSError; UsageError for one that changed meanwhile."""
        for content in _hashes(self.contents):
            try:
                adapter_store.take_in(self._folder / content, self._store, content)
            except AdapterRejected as error:
                raise UsageError(f"not imported: {error}") from None

    def _unpack(self, source: IO[bytes]) -> Contents:
        try:
            with tarfile.open(fileobj=source, mode="r|*", tarinfo=_Member) as tar:
                manifest: Manifest | None = None
                seen: set[str] = set()
                for member in tar:
                    if not member.isreg() or member.issparse():
                        raise UsageError(f"not imported: {member.name[:200]!r} is no plain file")
                    file = tar.extractfile(member)
                    assert file is not None
                    if manifest is None:
                        manifest = _manifest(member, file)
                        wanted = {v.hash for a in manifest.adapters for v in a.versions}
                        continue
                    match = _MEMBER.fullmatch(member.name)
                    if match is None or match[1] not in wanted or member.name in seen:
                        raise UsageError(f"not imported: {member.name[:200]!r} does not belong there")
                    if member.size > MAX_BYTES:
                        raise UsageError(f"not imported: {member.name} has more than {MAX_BYTES} bytes")
                    seen.add(member.name)
                    target = self._folder / match[1]
                    target.mkdir(exist_ok=True)
                    with (target / match[2]).open("xb") as out:
                        shutil.copyfileobj(file, out)
        except (tarfile.TarError, EOFError, ValueError, UnicodeError) as error:
            raise UsageError(f"not imported: it is no export or was cut short ({error})") from None
        if manifest is None:
            raise UsageError("not imported: it is empty")
        found = _from_manifest(manifest, self._store)
        for content in _hashes(found):
            try:
                if content_hash(self._folder / content) != content:
                    raise UsageError(f"not imported: adapters/{content} has not the content that it is named by")
            except AdapterRejected:
                raise UsageError(f"not imported: the files of adapters/{content} are not all in it") from None
            try:
                adapter_files.check_numbers(self._folder / content)
            except AdapterRejected as error:
                raise UsageError(f"not imported: adapters/{content}: {error}") from None
        return found


def _hashes(found: Contents) -> list[str]:
    return list(dict.fromkeys(v.hash for a in found.adapters for v in a.versions))


def _manifest(member: tarfile.TarInfo, file: IO[bytes]) -> Manifest:
    if member.name != _MANIFEST or member.size > _MANIFEST_MOST:
        raise UsageError(f"not imported: it is no export ({_MANIFEST} has to come first)")
    try:
        data = bounded.parse_json(bounded.read(file, _MANIFEST_MOST))
    except ValueError as error:
        raise UsageError(f"not imported: {_MANIFEST}: {error}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UsageError(f"not imported: {_MANIFEST} is not of {FORMAT!r}")
    if data.get("version") != VERSION:
        raise UsageError(
            f"not imported: it is of version {data.get('version')}, this clusterctl reads version {VERSION}"
        )
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"not imported: {_MANIFEST}: {where}: {first['msg']}") from None
    names = [adapter.name for adapter in manifest.adapters]
    if len(set(names)) != len(names):
        raise UsageError(f"not imported: {_MANIFEST}: an adapter is in it twice")
    return manifest


def _from_manifest(manifest: Manifest, store: Path) -> Contents:
    adapters = []
    for given in manifest.adapters:
        versions = tuple(
            Version(**{**v.model_dump(), "target_modules": tuple(v.target_modules)}, path=str(store / v.hash))
            for v in sorted(given.versions, key=lambda v: v.number)
        )
        adapters.append(Adapter(
            given.name, given.active, versions, description=given.description, auto_load=given.auto_load,
            pinned=given.pinned, group=given.group,
        ))  # fmt: skip
    try:
        keys = tuple(api_keys.from_json(key) for key in manifest.keys)
    except ValueError as error:
        raise UsageError(f"not imported: {_MANIFEST}: keys: {error}") from None
    if len({key.name for key in keys}) != len(keys):
        raise UsageError(f"not imported: {_MANIFEST}: a key is in it twice")
    return Contents(
        manifest.instances, manifest.weights, manifest.strategy, tuple(adapters), keys, manifest.names,
        manifest.agent_key,
    )  # fmt: skip


async def bring_in(store: Store, new: Contents) -> None:
    """Replaces what `Contents` are of. Raises NotSaved: nothing was changed then."""
    imported = {"instances": new.instances, "weights": new.weights, "strategy": new.strategy}
    await store.replace_all(new.adapters, new.keys, **{
        IMPORTED: imported, "desired": None, "strategy": new.strategy, "model_names": new.names
    })  # fmt: skip


def with_imported(settings: Settings, imported: dict[str, Any] | None) -> Settings:
    """``settings`` with what was imported, where they say nothing else themselves."""
    given = {"instances": (imported or {}).get("instances"), "strategy": (imported or {}).get("strategy")}
    fields = Settings.model_fields
    changed = {
        name: value for name, value in given.items()
        if value is not None and getattr(settings, name) == fields[name].default
    }  # fmt: skip
    return settings.model_copy(update=changed)


def words(found: Contents) -> Iterable[str]:
    """For people, a line each."""
    count = "no cluster has run on it" if found.instances is None else f"{found.instances} instances"
    yield f"{count}, strategy {found.strategy or 'not set'}"
    if found.weights:
        yield "weights: " + ", ".join(f"{name} {weight}" for name, weight in sorted(found.weights.items()))
    for adapter in found.adapters:
        kept = ", ".join(str(version.number) for version in adapter.versions)
        yield f"adapter {adapter.name}: version {adapter.active} of {kept}"
    if found.keys:
        yield f"API keys: {', '.join(sorted(key.name for key in found.keys))}"
    if found.models:
        yield f"models: {', '.join(found.models)}"
    deleted = sorted(found.names.keys() - found.changed_names)
    for what, names in (("changed", found.changed_names), ("deleted", deleted)):
        if names:
            yield f"routes and aliases, {what} at run time: {', '.join(names)}"
