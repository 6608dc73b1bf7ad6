"""The keys of a cluster: those that were made on it, which the state keeps, and those of a file."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

from cluster.errors import Refused
from cluster.events import Emit
from cluster.keys import changes
from config.errors import UsageError, nearest
from config.identity import api_keys
from config.identity.api_keys import MOST_KEYS, ApiKey
from config.identity.principal import Principal, Scope

#: Most names of models in all keys together: balancers are told all of them in one message.
_MOST_GRANTS = 20_000

TOO_MANY = f"more than {MOST_KEYS} keys, or {_MOST_GRANTS} models named in them"


def has_room(keys: Mapping[str, ApiKey]) -> bool:
    """Whether there may be so many."""
    return len(keys) <= MOST_KEYS and sum(len(key.models or ()) for key in keys.values()) <= _MOST_GRANTS


class KeyStore(Protocol):
    """`cluster.storage.write_behind.WriteBehind`."""

    async def save_keys(self, changed: list[ApiKey], gone: list[str]) -> None: ...

    def value(self, **values: Any) -> None: ...


class KeyRegistry:
    """Of the supervisor's run ``epoch``. ``publish(message)`` tells the balancers, and returns once they go by it;
    ``wall()``: s since the epoch."""

    def __init__(
        self, store: KeyStore, publish: Callable[[dict[str, Any]], Awaitable[None]], emit: Emit,
        wall: Callable[[], float], epoch: int,
    ) -> None:
        self._store, self._publish, self._emit, self._wall, self._epoch = store, publish, emit, wall, epoch
        self._made: dict[str, ApiKey] = {}
        self._filed: dict[str, ApiKey] = {}
        #: Whether there has ever been a key for models: from then on nobody on another machine goes without one.
        self._keyed = False
        self._number = 0
        self._lock = asyncio.Lock()

    def load(self, made: Iterable[ApiKey], filed: Iterable[ApiKey], keyed: bool) -> None:
        """What an earlier supervisor knew."""
        self._made, self._filed = {key.name: key for key in made}, {key.name: key for key in filed}
        self._keyed = keyed or self._has_inference()

    @property
    def keys(self) -> Mapping[str, ApiKey]:
        return {**self._filed, **self._made}

    def message(self) -> dict[str, Any]:
        """For balancers, see `config.link`."""
        self._number += 1
        return {
            "type": "keys", "version": [self._epoch, self._number], "keyed": self._keyed,
            "keys": [key.to_json() for key in self.keys.values()],
        }  # fmt: skip

    # what clients ask for

    def every(self) -> list[dict[str, Any]]:
        return [self._shown(key) for key in sorted(self.keys.values(), key=lambda key: key.name)]

    def find(self, name: str) -> dict[str, Any]:
        """Raises Refused (404)."""
        return self._shown(self._known(name))

    async def create(self, who: Principal, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """The new key with its secret. Raises Refused, NotSaved."""
        async with self._lock:
            now, keys = self._wall(), self.keys
            by, (secret, digest) = changes.maker(who, keys, now), api_keys.mint()
            key = changes.made(name, given, digest, by, now)
            if name in keys:
                raise Refused(409, f"there is a key {name!r} already", "name")
            if not has_room({**keys, name: key}):
                raise Refused(409, TOO_MANY)
            await self._keep(key, who, kind="key.created")
            return {**self._shown(key), "secret": secret}

    async def update(self, who: Principal, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Raises Refused, NotSaved."""
        async with self._lock:
            now = self._wall()
            by, key = changes.maker(who, self.keys, now), self._changeable(name)
            new = changes.updated(key, given, by, now)
            if not has_room({**self.keys, name: new}):
                raise Refused(409, TOO_MANY)
            if new != key:
                await self._keep(new, who, kind="key.updated")
            return self._shown(new)

    async def rotate(self, who: Principal, name: str, grace: float | str | None) -> dict[str, Any]:
        """The key with its new secret. Raises Refused, NotSaved."""
        async with self._lock:
            now = self._wall()
            by, key, (secret, digest) = changes.maker(who, self.keys, now), self._changeable(name), api_keys.mint()
            new = changes.rotated(key, digest, grace, by, now)
            await self._keep(new, who, kind="key.rotated")
            return {**self._shown(new), "secret": secret}

    async def revoke(self, who: Principal, name: str) -> dict[str, Any]:
        """It lets nobody in any more when this returns. Raises Refused, NotSaved."""
        async with self._lock:
            by, key = changes.maker(who, self.keys, self._wall()), self._changeable(name)
            changes.may_change(key, by)
            await self._store.save_keys([], [name])
            del self._made[name]
            self._tell(name, who, kind="key.revoked")
            await self._publish(self.message())
            return {"name": name, "revoked": True}

    # what a file says

    def check_file(self, filed: Mapping[str, ApiKey]) -> None:
        """Raises UsageError for a name that is in the state as well."""
        if twice := next((name for name in filed if name in self._made), None):
            raise UsageError(f"{twice}: a key of that name was made on the cluster: revoke that, or rename this")
        if not has_room({**self._made, **filed}):
            raise UsageError(TOO_MANY)

    async def take_file(self, filed: Mapping[str, ApiKey]) -> None:
        """Puts ``filed`` in the place of what the file said before. Raises UsageError as `check_file`."""
        async with self._lock:
            self.check_file(filed)
            if filed == self._filed:
                return
            self.hold_file(filed)
            count = len(filed)
            self._emit("keys", f"{count} are read from their file", kind="key.file", data={"keys": count})
            await self._publish(self.message())

    def hold_file(self, filed: Mapping[str, ApiKey]) -> None:
        """The same before there is anybody to be told. It is saved for a supervisor that finds the file broken."""
        self._filed = dict(filed)
        self._keyed = self._keyed or self._has_inference()
        self._store.value(file_keys=[key.to_json() for key in filed.values()])
        if self._keyed:
            self._store.value(keyed=True)

    async def _keep(self, key: ApiKey, who: Principal, kind: str) -> None:
        await self._store.save_keys([key], [])
        self._made[key.name] = key
        self._keyed = self._keyed or self._has_inference()
        self._tell(key.name, who, kind)
        await self._publish(self.message())

    def _tell(self, name: str, who: Principal, kind: str) -> None:
        by, done = who.name or "somebody", kind.partition(".")[2]
        self._emit("keys", f"{name} {done} by {by}", kind, {"key": name, "by": by})

    def _has_inference(self) -> bool:
        return any(key.scope is Scope.INFERENCE for key in self.keys.values())

    def _shown(self, key: ApiKey) -> dict[str, Any]:
        return changes.shown(key, self._wall(), "state" if key.name in self._made else "file")

    def _known(self, name: str) -> ApiKey:
        keys = self.keys
        if name not in keys:
            raise Refused(404, f"no key {name!r}{nearest(name, keys)}", "name")
        return keys[name]

    def _changeable(self, name: str) -> ApiKey:
        key = self._known(name)
        if name not in self._made:
            raise Refused(409, f"{name} stands in the file that --api-keys names: change it there", "name")
        return key
