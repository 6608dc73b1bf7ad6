"""The audit: every change that was asked for through the API, with who, when, from where, and what was before and is
after; and everybody who was refused for want of a right. Secrets are in none of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from aiohttp import web
from aiohttp.typedefs import Handler

from cluster.adapters.inventory import Inventory
from cluster.api import authority
from cluster.deployment import setting_changes
from cluster.deployment.revisions import Revisions
from cluster.errors import Refused
from cluster.events import Emit
from cluster.fleet.intent import Intent
from cluster.keys.registry import KeyRegistry
from cluster.storage.audit import AuditRow
from cluster.storage.store import NotSaved
from config.aio import Tasks
from config.identity.api_keys import ApiKey
from config.identity.principal import PEER_HEADER
from config.settings import Settings

log = logging.getLogger(__name__)

#: Rows in one answer, where nobody says how many, and at most.
_USUAL, _MOST = 100, 1000

#: What a change can show itself in: names, and what they stand for.
_Values = Mapping[str, Any]

#: What is changed below a path, of all that a change can show itself in. Others may change something else then.
_ABOUT = {
    "/v1/cluster/scale": ("instances",), "/v1/cluster/strategy": ("strategy", "model"), "/v1/cluster/restart": (),
    "/v1/cluster/instances": ("weight", "drained"), "/v1/cluster/keys": ("key",),
    "/v1/cluster/jobs": (), "/v1/cluster/shutdown": ("shutdown",), "/v1/cluster/apply": ("instances", "strategy"),
    "/v1/lora_adapters": ("adapter",), "/v1/load_lora_adapter": ("adapter",),
    "/v1/unload_lora_adapter": ("adapter",), "/v1/models": ("model", "adapter"),
}  # fmt: skip
_ALL = ("instances", "strategy", "shutdown", "weight", "drained", "name", "adapter", "model", "key")


class AuditStore(Protocol):
    """`cluster.storage.store.Store`. All raise NotSaved."""

    async def append_audit(self, records: Sequence[str]) -> None: ...
    async def audit(self, before: int | None, limit: int) -> list[AuditRow]: ...
    async def audit_broken_at(self) -> int | None: ...


class Auditor:
    """``wall()``: s since the epoch."""

    def __init__(
        self, store: AuditStore, intent: Callable[[], Intent], revisions: Revisions, inventory: Inventory,
        keys: KeyRegistry, emit: Emit, wall: Callable[[], float],
    ) -> None:
        self._store, self._intent, self._revisions, self._inventory = store, intent, revisions, inventory
        self._keys, self._emit, self._wall = keys, emit, wall
        self._tasks = Tasks()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Around all other middlewares: what they answer is the outcome."""
        if request.method in ("GET", "HEAD"):
            return await handler(request)
        about, at, settings = _about(request.path), self._wall(), self._revisions.latest.settings
        before = self._values(about)
        response = await handler(request)
        await self._append([{
            "at": at, "who": request[authority.WHO].name, "from": request.headers.get(PEER_HEADER) or "socket",
            "method": request.method, "path": request.path, "status": response.status,
            "changed": [*_differences(before, self._values(about)), *self._applied(request.path, settings)],
        }])  # fmt: skip
        return response

    def refused(self, refusals: Sequence[Mapping[str, Any]]) -> None:
        """A balancer did."""
        self._tasks.start(self._append([dict(refusal) for refusal in refusals]), "write down who was refused")

    async def answer(self, request: web.Request) -> web.Response:
        """The newest rows first; with ``verify``, whether the chain holds. Raises Refused."""
        before, limit = _number(request, "before", 2**53), _number(request, "limit", _MOST)
        rows = await self._store.audit(before, _USUAL if limit is None else limit)
        made: dict[str, Any] = {
            "entries": [{"id": row.id, **json.loads(row.record), "seal": row.seal} for row in rows]
        }
        if request.query.get("verify"):
            made["broken_at"] = await self._store.audit_broken_at()
        return web.json_response(made)

    async def close(self) -> None:
        await self._tasks.close()

    async def _append(self, entries: Sequence[Mapping[str, Any]]) -> None:
        try:
            await self._store.append_audit([json.dumps(entry, sort_keys=True) for entry in entries])
        except NotSaved as error:
            log.error("not in the audit: %s", error)
            self._emit("state", f"cannot write the audit: {error}", kind="audit.unsaved", data={"reason": str(error)})

    def _values(self, about: Sequence[str]) -> dict[str, Any]:
        return {name: value for kind in about for name, value in self._of_kind(kind).items()}

    def _of_kind(self, kind: str) -> _Values:
        """Of one kind of `_ALL`."""
        intent = self._intent()
        match kind:
            case "instances":
                return {f"instances of {name}": group.count for name, group in intent.desired.groups.items()}
            case "strategy":
                return {"strategy": intent.strategy}
            case "shutdown":
                return {"shutting down": intent.desired.shutting_down}
            case "weight":
                return {f"weight of {name}": weight for name, weight in intent.weights.items()}
            case "drained":
                return {f"drained: {name}": True for name in intent.cordons}
            case "name":
                return {f"name {name}": what for name, what in intent.names.in_force().items()}
            case "adapter":
                return {f"adapter {a.name}": a.active for a in self._inventory.registry.adapters.values()}
            case "model":
                return {f"model {name}": model.to_json() for name, model in self._revisions.definitions.items()}
        return {f"key {name}": key for name, key in self._keys.keys.items()}

    def _applied(self, path: str, before: Settings) -> list[dict[str, Any]]:
        after = self._revisions.latest.settings
        if before is after or path != "/v1/cluster/apply":
            return []
        shown = (change.shown() for change in setting_changes.changes(before, after, {}))
        return [{"what": f"setting {one['setting']}", "before": one["old"], "after": one["new"]} for one in shown]


def _about(path: str) -> tuple[str, ...]:
    return next((kinds for start, kinds in _ABOUT.items() if path.startswith(start)), _ALL)


def _differences(before: _Values, after: _Values) -> list[dict[str, Any]]:
    pairs = ((name, before.get(name), after.get(name)) for name in {**before, **after})
    return [
        {"what": name, "before": _plain(old), "after": _plain(new)}
        for name, old, new in pairs if old is not new and old != new
    ]  # fmt: skip


def _plain(value: object) -> object:
    """Of a key, all but what its secrets are known by."""
    if not isinstance(value, ApiKey):
        return value
    return {**value.to_json(), "digests": len(value.digests)}


def _number(request: web.Request, name: str, most: int) -> int | None:
    text = request.query.get(name)
    if text is None:
        return None
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 16 else 0
    if not 1 <= number <= most:
        raise Refused(400, f"{name} has to be a number from 1 to {most}", name)
    return number
