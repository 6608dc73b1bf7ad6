"""Composition root of the balancer process."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from config.paths import StateDir
from config.topology import BalancerConfig
from lb.admin import PROTECTED, Admin
from lb.counters import Counters
from lb.errors import ProxyError, error_body
from lb.forward import ClientGone
from lb.guard import Guard
from lb.link import Link
from lb.metrics import Metrics
from lb.pool import Pool
from lb.proxy import Proxy
from lb.upstream import Upstream
from lb.waiting import Changes

log = logging.getLogger(__name__)

#: Seconds a balancer that is asked to end gives its streams; the supervisor has drained before.
_SHUTDOWN_S = 3.0


def _errors(admin: Admin, metrics: Metrics) -> Middleware:
    """The one place where an error becomes an answer."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.path.startswith(PROTECTED):
                admin.check(request)
            return await handler(request)
        except ProxyError as error:
            metrics.refused(str(error.source), error.status)
            headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
            return web.json_response(error.body(), status=error.status, headers=headers)
        except web.HTTPException as error:
            metrics.refused("client", error.status)
            headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
            message = error.reason or error.text or ""
            return web.json_response(error_body(error.status, message), status=error.status, headers=headers)
        except (ClientGone, ConnectionError):
            if request.transport is not None:
                request.transport.close()
            return web.Response(status=499)
        except Exception:
            log.exception("%s %s", request.method, request.path)
            metrics.refused("internal", 500)
            return web.json_response(error_body(500, "internal error of the balancer; its log has it"), status=500)

    return middleware


@dataclass(frozen=True, slots=True)
class Balancer:
    """The parts of one balancer, put together; `close` ends them all."""

    pool: Pool
    counters: Counters
    upstream: Upstream
    link: Link
    admin: Admin
    runner: web.AppRunner

    async def close(self) -> None:
        await self.runner.cleanup()
        await self.link.close()
        await self.admin.close()
        await self.upstream.close()
        self.counters.close()


def make(config: BalancerConfig, listener: socket.socket, link_path: Path) -> Balancer:
    """A balancer that does nothing yet. Raises OSError if its counters cannot be opened."""
    state = StateDir(Path(config.state_dir))
    changes, metrics = Changes(), Metrics()
    pool = Pool(changes.notify)
    counters = Counters(state.counters)
    upstream = Upstream(lambda: {b.spec.host: b.spec.ip for b in pool.backends.values()})
    link = Link(pool, listener, link_path, counters.recently_used)
    names = (socket.gethostname(), config.host, *config.allowed_hosts)
    admin = Admin(pool, link, counters, metrics, upstream, Guard(config.admin_key, names), state)
    proxy = Proxy(
        pool, upstream, counters, metrics, changes, queue_timeout=config.queue_timeout, want=link.want,
        random=random.Random(),
    )
    app = web.Application(middlewares=[_errors(admin, metrics)], client_max_size=config.max_body)
    admin.add_routes(app.router)
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    runner = web.AppRunner(
        app, access_log=None, handler_cancellation=True, auto_decompress=False, shutdown_timeout=_SHUTDOWN_S,
        keepalive_timeout=75.0,
    )
    return Balancer(pool, counters, upstream, link, admin, runner)


async def serve(config: BalancerConfig, link_path: Path) -> None:
    """Until SIGTERM. Raises OSError if the link's sockets cannot be made."""
    listener = socket.socket(fileno=config.listen_fd)
    listener.setblocking(False)
    balancer = make(config, listener, link_path)
    stop = asyncio.Event()
    try:
        await balancer.runner.setup()
        await balancer.link.start()
        await web.SockSite(balancer.runner, listener, backlog=4096).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await stop.wait()
    finally:
        await balancer.close()
