"""The supervisor's own HTTP API, on a Unix socket in the state directory: only the user who runs it gets there.

The balancer passes on to it what comes to ``/v1/cluster`` and is a change; the command line uses it when there is no
balancer to ask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.typedefs import Handler

from cluster import commands
from cluster.commands import Refused
from config.link import SEQUENCE_HEADER, bind_unix
from config.paths import StateDir

if TYPE_CHECKING:
    from cluster.supervisor import Supervisor


def routes(supervisor: Supervisor) -> web.RouteTableDef:
    table = web.RouteTableDef()

    @table.get("/v1/cluster/snapshot")
    async def snapshot(_: web.Request) -> web.Response:
        return web.json_response(supervisor.snapshot())

    def change(
        method: str, path: str, kind: type[commands._Body], do: Callable[..., dict[str, Any]], status: int
    ) -> None:
        async def handler(request: web.Request) -> web.Response:
            body = commands.parse(kind, await request.read())
            arguments = (*request.match_info.values(), body)
            result = await supervisor.command(lambda: do(supervisor, *arguments))
            sequence = f"{supervisor.epoch}.{supervisor.sequence}"
            return web.json_response(result, status=status, headers={SEQUENCE_HEADER: sequence})

        table.route(method, path)(handler)

    change("POST", "/v1/cluster/scale", commands.Scale, commands.scale, 202)
    change("POST", "/v1/cluster/strategy", commands.Strategy, commands.set_strategy, 200)
    change("POST", "/v1/cluster/restart", commands.Restart, commands.restart, 202)
    change("PATCH", "/v1/cluster/instances/{name}", commands.Weight, commands.set_weight, 200)
    change("POST", "/v1/cluster/shutdown", commands.Shutdown, commands.shut_down, 202)
    return table


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refused as error:
        body = {"message": str(error), "type": _kind(error.status), "param": error.param, "code": error.status}
        return web.json_response({"error": body}, status=error.status)


def _kind(status: int) -> str:
    return {404: "NotFoundError", 409: "ConflictError"}.get(status, "BadRequestError")


async def serve(supervisor: Supervisor, state: StateDir) -> web.AppRunner:
    """Listens; the caller cleans the runner up. Raises OSError."""
    app = web.Application(middlewares=[_errors], client_max_size=1024 * 1024)
    app.add_routes(routes(supervisor))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.SockSite(runner, bind_unix(state.control)).start()
    return runner
