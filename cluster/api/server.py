"""The supervisor's own HTTP API, on a Unix socket in the state directory: only the user who runs it gets there.

The balancer passes on to it what comes to ``/v1/cluster`` and is a change; the command line uses it when there is no
balancer to ask.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

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
from cluster.keys.registry import KeyRegistry
from cluster.storage.store import NotSaved
from config.disk.files import NO_ROOM
from config.identity.principal import Principal, Scope
from config.link import CHANGE_BYTES, SEQUENCE_HEADER, bind_unix

log = logging.getLogger(__name__)

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
    adapters: AdapterReport
    keys: KeyRegistry
    auditor: Auditor
    names: NameCommands
    models: ModelCommands
    model_cards: Callable[[], list[dict[str, Any]]]
    jobs: JobCommands
    joining: JoinCommands


_SERVICES = web.AppKey("services", Services)


def routes(services: Services) -> web.RouteTableDef:
    """Longer than a function should be: it is a table, a line or two a route."""
    table, commands = web.RouteTableDef(), services.commands

    @table.get("/v1/cluster/snapshot")
    async def snapshot(_: web.Request) -> web.Response:
        return web.json_response(services.snapshot())

    def change(
        method: str, path: str, kind: type[schemas.Body], do: Callable[..., dict[str, Any]], status: int
    ) -> None:
        async def handler(request: web.Request) -> web.Response:
            body = schemas.parse(kind, await request.read())
            arguments = (*request.match_info.values(), body)
            return _done(services, await services.run(lambda: do(*arguments)), status)

        table.route(method, path)(handler)

    change("POST", "/v1/cluster/scale", schemas.Scale, commands.scale, 202)
    change("POST", "/v1/cluster/strategy", schemas.SetStrategy, commands.set_strategy, 200)
    change("POST", "/v1/cluster/restart", schemas.Restart, commands.restart, 202)
    change("PATCH", "/v1/cluster/instances/{name}", schemas.Weight, commands.set_weight, 200)
    change("POST", "/v1/cluster/instances/{name}/drain", schemas.DrainBody, commands.drain, 202)
    change("DELETE", "/v1/cluster/instances/{name}/drain", schemas.NoFields, commands.undrain, 200)
    change("POST", "/v1/cluster/shutdown", schemas.Shutdown, commands.shut_down, 202)
    _adapter_routes(table, services)
    _key_routes(table, services.keys)
    _model_routes(table, services)
    _job_routes(table, services)
    _joining_routes(table, services)
    names = services.names

    @table.get("/v1/cluster/{kind:aliases|routes}")
    async def every_name(request: web.Request) -> web.Response:
        return web.json_response(names.every(request.match_info["kind"]))

    change("PUT", "/v1/cluster/aliases/{name}", schemas.AliasBody, names.set_alias, 200)
    change("PUT", "/v1/cluster/routes/{name}", schemas.RouteBody, names.set_route, 200)
    for kind in ("aliases", "routes"):
        delete, undo = functools.partial(names.delete, kind), functools.partial(names.undo, kind)
        change("DELETE", f"/v1/cluster/{kind}/{{name}}", schemas.NoFields, delete, 200)
        change("POST", f"/v1/cluster/{kind}/{{name}}/undo", schemas.NoFields, undo, 200)

    @table.get("/v1/cluster/audit")
    async def audit(request: web.Request) -> web.Response:
        authority.check(_who(request), Scope.ADMIN)
        return await services.auditor.answer(request)

    @table.post("/v1/cluster/apply")
    async def apply_settings(request: web.Request) -> web.Response:
        result = await services.applier.apply(schemas.parse(Apply, await request.read()), _who(request))
        return _done(services, result, 202 if result["changes"] and not result["dry_run"] else 200)

    return table


def _adapter_routes(table: web.RouteTableDef, services: Services) -> None:
    rollouts = services.rollouts

    async def answer(result: dict[str, Any], status: int = 200) -> web.Response:
        await services.settled()
        return _done(services, result, status)

    @table.get("/v1/lora_adapters")
    async def every(_: web.Request) -> web.Response:
        return web.json_response({"adapters": services.adapters.every()})

    @table.get("/v1/lora_adapters/{name}")
    async def one(request: web.Request) -> web.Response:
        return web.json_response(services.adapters.find(request.match_info["name"]))

    @table.post("/v1/load_lora_adapter")
    async def load(request: web.Request) -> web.Response:
        body = schemas.parse(schemas.LoadAdapter, await request.read())
        authority.check_path(_who(request), body.lora_path, services.adapter_places(body.lora_path))
        status, result = await rollouts.load(
            body.lora_name, body.lora_path, body.load_inplace, body.description, body.allow_no_effect,
            body.model,
        )
        return await answer(result, status)

    @table.post("/v1/unload_lora_adapter")
    async def unload(request: web.Request) -> web.Response:
        body = schemas.parse(schemas.UnloadAdapter, await request.read())
        return await answer(await rollouts.unload(body.lora_name))

    @table.post("/v1/lora_adapters/{name}/rollback")
    async def rollback(request: web.Request) -> web.Response:
        body = schemas.parse(schemas.RollbackAdapter, await request.read())
        return await answer(await rollouts.rollback(request.match_info["name"], body.version))


def _model_routes(table: web.RouteTableDef, services: Services) -> None:
    models = services.models

    @table.get("/v1/cluster/models")
    async def every(_: web.Request) -> web.Response:
        return web.json_response({"models": services.model_cards()})

    @table.post("/v1/models/load")
    async def load(request: web.Request) -> web.Response:
        authority.check(_who(request), Scope.OWNER)
        status, answer = await models.load(schemas.parse(LoadModel, await request.read()))
        return _done(services, answer, status)

    @table.delete("/v1/models/{name}")
    async def unload(request: web.Request) -> web.Response:
        schemas.parse(schemas.NoFields, await request.read())
        return _done(services, await models.unload(request.match_info["name"]), 202)

    for verb, do, status in (
        ("pin", lambda name: models.pin(name, True), 200), ("unpin", lambda name: models.pin(name, False), 200),
        ("sleep", models.sleep, 202), ("wake", models.wake, 202),
    ):
        table.post(f"/v1/models/{{name}}/{verb}")(_model_change(services, do, status))


def _job_routes(table: web.RouteTableDef, services: Services) -> None:
    """To start one is the owner's: it names paths of this machine, and takes what it needs of it."""
    jobs = services.jobs

    @table.get("/v1/cluster/jobs")
    async def every(_: web.Request) -> web.Response:
        return web.json_response(jobs.every())

    @table.post("/v1/cluster/jobs")
    async def start(request: web.Request) -> web.Response:
        authority.check(_who(request), Scope.OWNER)
        return _done(services, await jobs.start(schemas.parse(StartJob, await request.read()), _who(request)), 202)

    @table.get("/v1/cluster/jobs/{name}")
    async def one(request: web.Request) -> web.Response:
        return web.json_response(await jobs.find(request.match_info["name"]))

    @table.get("/v1/cluster/jobs/{name}/events")
    async def said(request: web.Request) -> web.Response:
        since = request.query.get("since", "0")
        if not (since.isascii() and since.isdecimal() and len(since) < 16):
            raise Refused(400, "since: the next of an earlier answer is needed", "since")
        return web.json_response(await jobs.said(request.match_info["name"], int(since)))

    @table.delete("/v1/cluster/jobs/{name}")
    async def cancel(request: web.Request) -> web.Response:
        schemas.parse(schemas.NoFields, await request.read())
        return _done(services, jobs.cancel(request.match_info["name"]), 202)


def _joining_routes(table: web.RouteTableDef, services: Services) -> None:
    """Whoever joins is told all secrets of the cluster: to let somebody in is the owner's."""
    joining = services.joining

    @table.get("/v1/cluster/balancers")
    async def every(_: web.Request) -> web.Response:
        return web.json_response(joining.every())

    @table.delete("/v1/cluster/balancers/{name}")
    async def evict(request: web.Request) -> web.Response:
        schemas.parse(schemas.NoFields, await request.read())
        return _done(services, await joining.evict(request.match_info["name"]), 200)

    @table.post("/v1/cluster/join_tokens")
    async def invite(request: web.Request) -> web.Response:
        authority.check(_who(request), Scope.OWNER)
        return _done(services, await joining.invite(schemas.parse(InviteBalancers, await request.read())), 201)

    @table.delete("/v1/cluster/join_tokens/{name}")
    async def revoke(request: web.Request) -> web.Response:
        schemas.parse(schemas.NoFields, await request.read())
        return _done(services, await joining.revoke(request.match_info["name"]), 200)


def _model_change(services: Services, do: Callable[[str], dict[str, Any]], status: int) -> Handler:
    async def change(request: web.Request) -> web.StreamResponse:
        schemas.parse(schemas.NoFields, await request.read())
        name = request.match_info["name"]
        return _done(services, await services.run(lambda: do(name)), status)

    return change


def _key_routes(table: web.RouteTableDef, keys: KeyRegistry) -> None:
    """Whatever they answer is for administrators: also which keys there are."""

    @table.get("/v1/cluster/keys")
    async def every(request: web.Request) -> web.Response:
        authority.check(_who(request), Scope.ADMIN)
        return web.json_response({"keys": keys.every()})

    @table.get("/v1/cluster/keys/{name}")
    async def one(request: web.Request) -> web.Response:
        authority.check(_who(request), Scope.ADMIN)
        return web.json_response(keys.find(request.match_info["name"]))

    @table.post("/v1/cluster/keys")
    async def create(request: web.Request) -> web.Response:
        given = schemas.parse(schemas.CreateKey, await request.read()).given
        return web.json_response(await keys.create(_who(request), given.pop("name"), given), status=201)

    @table.patch("/v1/cluster/keys/{name}")
    async def update(request: web.Request) -> web.Response:
        given = schemas.parse(schemas.UpdateKey, await request.read()).given
        return web.json_response(await keys.update(_who(request), request.match_info["name"], given))

    @table.delete("/v1/cluster/keys/{name}")
    async def revoke(request: web.Request) -> web.Response:
        schemas.parse(schemas.NoFields, await request.read())
        return web.json_response(await keys.revoke(_who(request), request.match_info["name"]))

    @table.post("/v1/cluster/keys/{name}/rotate")
    async def rotate(request: web.Request) -> web.Response:
        grace = schemas.parse(schemas.RotateKey, await request.read()).grace
        return web.json_response(await keys.rotate(_who(request), request.match_info["name"], grace))


def _done(services: Services, result: dict[str, Any], status: int) -> web.Response:
    return web.json_response(result, status=status, headers={SEQUENCE_HEADER: services.sequence()})


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
