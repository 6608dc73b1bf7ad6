"""The supervisor's own HTTP API, on a Unix socket in the state directory: only the user who runs it gets there.

The balancer passes on to it what comes to ``/v1/cluster`` and is a change; the command line uses it when there is no
balancer to ask.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler

from cluster.adapters.intended import AdapterLoadIntent
from cluster.adapters.report import AdapterReport
from cluster.adapters.rollout import Rollouts
from cluster.api import authority, schemas
from cluster.api.apply import Applier, Apply, Run
from cluster.api.audit import Auditor
from cluster.api.handlers import ClusterCommands
from cluster.api.jobs import JobCommands, StartJob
from cluster.api.joining import InviteBalancers, JoinCommands
from cluster.api.models import LoadModel, ModelCommands
from cluster.api.names import NameCommands
from cluster.errors import Refused
from cluster.jobs.intents import IntentLog
from cluster.keys.registry import KeyRegistry
from cluster.models.intended import ModelLoadIntent
from cluster.storage.store import NotSaved
from config.disk.files import NO_ROOM
from config.identity.principal import Principal, Scope
from config.link import CHANGE_BYTES, SEQUENCE_HEADER, bind_unix

log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: What comes of a request and its body: an answer, or a status and an answer.
_Deed = Callable[[web.Request, Any], Awaitable[dict[str, Any] | tuple[int, dict[str, Any]]]]

_KINDS = {
    403: "PermissionDeniedError", 404: "NotFoundError", 405: "MethodNotAllowedError", 409: "ConflictError",
    413: "RequestTooLargeError", 502: "BadGatewayError", 507: "InsufficientStorageError",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes pass requests on to. ``run`` does a change in the task that owns the state; ``settled()``
    returns when the balancers know of all changes so far; ``sequence()`` is that of the newest snapshot;
    ``check_room`` raises NotSaved; ``adapter_places(text)``: where adapters may come from that are
    named like that."""

    run: Run
    settled: Callable[[], Awaitable[None]]
    snapshot: Callable[[], dict[str, Any]]
    sequence: Callable[[], str]
    check_room: Callable[[], None]
    adapter_places: Callable[[str], Sequence[object]]
    commands: ClusterCommands
    applier: Applier
    rollouts: Rollouts
    loads: IntentLog[AdapterLoadIntent]
    adapters: AdapterReport
    keys: KeyRegistry
    auditor: Auditor
    names: NameCommands
    models: ModelCommands
    model_loads: IntentLog[ModelLoadIntent]
    model_cards: Callable[[], list[dict[str, Any]]]
    jobs: JobCommands
    joining: JoinCommands


_SERVICES = web.AppKey("services", Services)


class RouteTable:
    """Routes that answer with JSON, a call each. ``scope``: what who asks needs besides what `_errors` wants of all."""

    def __init__(self, services: Services) -> None:
        self.made, self._services = web.RouteTableDef(), services

    def look(self, path: str, find: Callable[..., Any], scope: Scope = Scope.READ) -> None:
        """What ``find`` finds under the names in ``path``."""

        async def handler(request: web.Request) -> web.Response:
            authority.check(_who(request), scope)
            found = find(*request.match_info.values())
            return web.json_response(await found if inspect.isawaitable(found) else found)

        self.made.get(path)(handler)

    def act(
        self, method: str, path: str, kind: type[schemas.Body], do: _Deed, status: int = 200,
        scope: Scope = Scope.ADMIN,
    ) -> None:
        """What ``do`` does with the request and its body, which is one of ``kind``. ``status``: unless it says one."""

        async def handler(request: web.Request) -> web.Response:
            authority.check(_who(request), scope)
            done = await do(request, schemas.parse(kind, await request.read()))
            code, result = done if isinstance(done, tuple) else (status, done)
            return web.json_response(result, status=code, headers={SEQUENCE_HEADER: self._services.sequence()})

        self.made.route(method, path)(handler)

    def change(
        self, method: str, path: str, kind: type[schemas.Body], do: Callable[..., dict[str, Any]], status: int
    ) -> None:
        """What ``do`` does, in the task that owns the state, with the names in ``path`` and the body."""
        run = self._services.run
        self.act(method, path, kind, lambda asked, body: run(lambda: do(*asked.match_info.values(), body)), status)


def routes(services: Services) -> web.RouteTableDef:
    table, commands, names = RouteTable(services), services.commands, services.names
    table.look("/v1/cluster/snapshot", services.snapshot)
    table.change("POST", "/v1/cluster/scale", schemas.Scale, commands.scale, 202)
    table.change("POST", "/v1/cluster/strategy", schemas.SetStrategy, commands.set_strategy, 200)
    table.change("POST", "/v1/cluster/restart", schemas.Restart, commands.restart, 202)
    table.change("PATCH", "/v1/cluster/instances/{name}", schemas.Weight, commands.set_weight, 200)
    table.change("POST", "/v1/cluster/instances/{name}/drain", schemas.DrainBody, commands.drain, 202)
    table.change("DELETE", "/v1/cluster/instances/{name}/drain", schemas.NoFields, commands.undrain, 200)
    table.change("POST", "/v1/cluster/shutdown", schemas.Shutdown, commands.shut_down, 202)
    _adapter_routes(table, services)
    _key_routes(table, services.keys)
    _model_routes(table, services)
    _job_routes(table, services.jobs)
    _joining_routes(table, services.joining)
    table.look("/v1/cluster/{kind:aliases|routes}", names.every)
    table.change("PUT", "/v1/cluster/aliases/{name}", schemas.AliasBody, names.set_alias, 200)
    table.change("PUT", "/v1/cluster/routes/{name}", schemas.RouteBody, names.set_route, 200)
    for kind in ("aliases", "routes"):
        delete, undo = functools.partial(names.delete, kind), functools.partial(names.undo, kind)
        table.change("DELETE", f"/v1/cluster/{kind}/{{name}}", schemas.NoFields, delete, 200)
        table.change("POST", f"/v1/cluster/{kind}/{{name}}/undo", schemas.NoFields, undo, 200)

    @table.made.get("/v1/cluster/audit")
    async def audit(request: web.Request) -> web.Response:
        authority.check(_who(request), Scope.ADMIN)
        return await services.auditor.answer(request)

    async def apply_settings(request: web.Request, body: Apply) -> tuple[int, dict[str, Any]]:
        result = await services.applier.apply(body, _who(request))
        return 202 if result["changes"] and not result["dry_run"] else 200, result

    table.act("POST", "/v1/cluster/apply", Apply, apply_settings)
    return table.made


def _adapter_routes(table: RouteTable, services: Services) -> None:
    rollouts = services.rollouts

    async def load(request: web.Request, body: schemas.LoadAdapter) -> tuple[int, dict[str, Any]]:
        authority.check_path(_who(request), body.lora_path, services.adapter_places(body.lora_path))
        return await settled(services.loads.carry_out(AdapterLoadIntent(
            body.lora_name, body.lora_path, body.load_inplace, body.description, body.allow_no_effect, body.model,
        )))  # fmt: skip

    async def settled(change: Awaitable[_T]) -> _T:
        result = await change
        await services.settled()
        return result

    table.look("/v1/lora_adapters", lambda: {"adapters": services.adapters.every()})
    table.look("/v1/lora_adapters/{name}", services.adapters.find)
    table.act("POST", "/v1/load_lora_adapter", schemas.LoadAdapter, load)
    table.act("POST", "/v1/unload_lora_adapter", schemas.UnloadAdapter,
              lambda _, body: settled(rollouts.unload(body.lora_name)))  # fmt: skip
    table.act("POST", "/v1/lora_adapters/{name}/rollback", schemas.RollbackAdapter,
              lambda asked, body: settled(rollouts.rollback(_name(asked), body.version)))  # fmt: skip


def _model_routes(table: RouteTable, services: Services) -> None:
    models, nothing = services.models, schemas.NoFields

    async def load(_: web.Request, body: LoadModel) -> tuple[int, dict[str, Any]]:
        return await services.model_loads.carry_out(await models.intended(body))

    table.look("/v1/cluster/models", lambda: {"models": services.model_cards()})
    table.act("POST", "/v1/models/load", LoadModel, load, scope=Scope.OWNER)
    table.act("DELETE", "/v1/models/{name}", nothing, lambda asked, _: models.unload(_name(asked)), 202)
    table.change("POST", "/v1/models/{name}/pin", nothing, lambda name, _: models.pin(name, True), 200)
    table.change("POST", "/v1/models/{name}/unpin", nothing, lambda name, _: models.pin(name, False), 200)
    table.change("POST", "/v1/models/{name}/sleep", nothing, lambda name, _: models.sleep(name), 202)
    table.change("POST", "/v1/models/{name}/wake", nothing, lambda name, _: models.wake(name), 202)


def _job_routes(table: RouteTable, jobs: JobCommands) -> None:
    """To start one is the owner's: it names paths of this machine, and takes what it needs of it."""

    async def said(request: web.Request) -> web.Response:
        since = request.query.get("since", "0")
        if not (since.isascii() and since.isdecimal() and len(since) < 16):
            raise Refused(400, "since: the next of an earlier answer is needed", "since")
        return web.json_response(await jobs.said(_name(request), int(since)))

    async def cancel(request: web.Request, _: schemas.NoFields) -> dict[str, Any]:
        return jobs.cancel(_name(request))

    table.look("/v1/cluster/jobs", jobs.every)
    table.look("/v1/cluster/jobs/{name}", jobs.find)
    table.made.get("/v1/cluster/jobs/{name}/events")(said)
    table.act("POST", "/v1/cluster/jobs", StartJob,
              lambda asked, body: jobs.start(body, _who(asked)), 202, Scope.OWNER)  # fmt: skip
    table.act("DELETE", "/v1/cluster/jobs/{name}", schemas.NoFields, cancel, 202)


def _joining_routes(table: RouteTable, joining: JoinCommands) -> None:
    """Whoever joins is told all secrets of the cluster: to let somebody in is the owner's."""
    nothing = schemas.NoFields
    table.look("/v1/cluster/balancers", joining.every)
    table.act("DELETE", "/v1/cluster/balancers/{name}", nothing, lambda asked, _: joining.evict(_name(asked)))
    table.act("POST", "/v1/cluster/join_tokens", InviteBalancers,
              lambda _, body: joining.invite(body), 201, Scope.OWNER)  # fmt: skip
    table.act("DELETE", "/v1/cluster/join_tokens/{name}", nothing, lambda asked, _: joining.revoke(_name(asked)))


def _key_routes(table: RouteTable, keys: KeyRegistry) -> None:
    """Whatever they answer is for administrators: also which keys there are."""

    async def create(request: web.Request, body: schemas.CreateKey) -> dict[str, Any]:
        given = body.given
        return await keys.create(_who(request), given.pop("name"), given)

    table.look("/v1/cluster/keys", lambda: {"keys": keys.every()}, Scope.ADMIN)
    table.look("/v1/cluster/keys/{name}", keys.find, Scope.ADMIN)
    table.act("POST", "/v1/cluster/keys", schemas.CreateKey, create, 201)
    table.act("PATCH", "/v1/cluster/keys/{name}", schemas.UpdateKey,
              lambda asked, body: keys.update(_who(asked), _name(asked), body.given))  # fmt: skip
    table.act("DELETE", "/v1/cluster/keys/{name}", schemas.NoFields,
              lambda asked, _: keys.revoke(_who(asked), _name(asked)))  # fmt: skip
    table.act("POST", "/v1/cluster/keys/{name}/rotate", schemas.RotateKey,
              lambda asked, body: keys.rotate(_who(asked), _name(asked), body.grace))  # fmt: skip


def _name(request: web.Request) -> str:
    return request.match_info["name"]


def _who(request: web.Request) -> Principal:
    """Whom `_errors` has found to ask."""
    found: Principal = request[authority.WHO]
    return found


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        reads = request.method in ("GET", "HEAD")
        request[authority.WHO] = who = authority.who(request.headers)
        authority.check(who, Scope.READ if reads else Scope.ADMIN)
        if not reads and request.path != "/v1/cluster/shutdown":
            request.app[_SERVICES].check_room()
        return await handler(request)
    except NotSaved as error:
        return _full(str(error))
    except Refused as error:
        body = {"message": str(error), "type": _kind(error.status), "param": error.param, "code": error.status}
        return web.json_response({"error": body}, status=error.status)
    except web.HTTPException as error:
        body = {"message": error.text or error.reason, "type": _kind(error.status), "param": None, "code": error.status}
        return web.json_response({"error": body}, status=error.status)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return _full(f"the change failed: {error}")
        log.exception("%s %s", request.method, request.path)
        body = {"message": f"the change failed: {error}", "type": "InternalServerError", "param": None, "code": 500}
        return web.json_response({"error": body}, status=500)


def _full(message: str) -> web.Response:
    body = {"message": message, "type": "InsufficientStorageError", "param": None, "code": 507}
    return web.json_response({"error": body}, status=507)


def _kind(status: int) -> str:
    return _KINDS.get(status, "BadRequestError")


async def serve(services: Services, socket: Path) -> web.AppRunner:
    """Listens on ``socket``; the caller cleans the runner up. Raises OSError."""
    app = web.Application(middlewares=[services.auditor.middleware, _errors], client_max_size=CHANGE_BYTES)
    app[_SERVICES] = services
    app.add_routes(routes(services))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.SockSite(runner, bind_unix(socket)).start()
    return runner
