"""Keys in a file (``--api-keys``), for those who keep their configuration in a repository: names and hashes."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cluster.events import Emit
from cluster.keys.registry import KeyRegistry
from config.disk import private
from config.errors import UsageError
from config.identity import api_keys
from config.identity.api_keys import ApiKey
from config.sources.yaml_file import read_mapping

#: Seconds between two looks whether it has changed.
_EVERY_S = 1.0

_Signature = tuple[int, int, int]


class KeyFile:
    """``path()`` is where it lies now, None for nowhere."""

    def __init__(self, path: Callable[[], Path | None], keys: KeyRegistry, emit: Emit) -> None:
        self._path, self._keys, self._emit = path, keys, emit
        self._seen: tuple[Path | None, _Signature | None] | None = None

    async def begin(self, *, strict: bool) -> None:
        """Reads it before there are balancers. Raises UsageError, if ``strict``, for one that cannot be read; else what
        it said before holds."""
        self._seen = await asyncio.to_thread(self._look)
        try:
            found = await asyncio.to_thread(self._read)
            self._keys.check_file(found)
        except UsageError as error:
            if strict:
                raise
            self._broken(error)
        else:
            self._keys.hold_file(found)

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            seen = await asyncio.to_thread(self._look)
            if seen == self._seen:
                continue
            self._seen = seen
            try:
                await self._keys.take_file(await asyncio.to_thread(self._read))
            except UsageError as error:
                self._broken(error)

    def _broken(self, error: UsageError) -> None:
        self._emit(
            "keys", f"the file of keys is not taken, what it said before holds: {error}", kind="key.unread",
            data={"reason": str(error)},
        )

    def _look(self) -> tuple[Path | None, _Signature | None]:
        path = self._path()
        try:
            found = None if path is None else path.stat()
        except OSError:
            found = None
        return path, None if found is None else (found.st_ino, found.st_size, found.st_mtime_ns)

    def _read(self) -> dict[str, ApiKey]:
        path = self._path()
        return {} if path is None else read(path)


def read(path: Path) -> dict[str, ApiKey]:
    """The keys by name. Raises UsageError, one sentence that repeats no hash, for what is no such file, or one that
    somebody else could change: whoever writes in it makes administrators."""
    try:
        private.require_unchanged(path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", exit_code=2) from None
    except UsageError as error:
        raise UsageError(f"{path}: {error}", exit_code=2) from None
    found = read_mapping(path)
    keys = {}
    for name, value in found.items():
        try:
            key = _key(name, value)
        except ValueError as error:
            raise UsageError(f"{path}: {str(name)[:64]}: {error}", exit_code=2) from None
        keys[key.name] = key
    return keys


def _key(name: object, value: Any) -> ApiKey:
    """A hash or a list of such, or an object with such a ``sha256`` and limits."""
    given = dict(value) if isinstance(value, Mapping) else {"sha256": value}
    if not {"name", "digests", "created"}.isdisjoint(given):
        raise ValueError("name, digests and created are not given here")
    hashes = given.pop("sha256", None)
    given["digests"] = [{"sha256": one} for one in (hashes if isinstance(hashes, list) else [hashes])]
    if (expires := given.get("expires")) is not None:
        given["expires"] = _instant(expires)
    return api_keys.from_json({"name": name, **given})


def _instant(value: Any) -> Any:
    """YAML reads 2027-01-31 as a date: the key holds until it begins, in UTC."""
    if isinstance(value, datetime.datetime):
        return (value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp()
    if isinstance(value, datetime.date):
        return datetime.datetime(value.year, value.month, value.day, tzinfo=datetime.UTC).timestamp()
    return value
