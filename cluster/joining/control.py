"""The supervisor's API on a machine that has joined: what balancers ask goes to the supervisor over the uplink.
Who asks past them, and so owns this machine, may ask for what is its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from cluster.joining.uplink import Uplink
from config.identity.principal import PEER_HEADER, PRINCIPAL_HEADER
from config.link import CHANGE_BYTES, SEQUENCE_HEADER, bind_unix


class OwnMachine(Protocol):
    """What `down` and `status` of this machine ask, as those of a cluster ask its supervisor."""

    def shut_down(self, now: bool) -> None: ...

    def snapshot(self) -> dict[str, Any]: ...


class RemoteControl:
    """A Unix socket as the supervisor's own (`cluster.api.server`), which answers 503 while that one is away."""

    def __init__(self, uplink: Uplink, machine: OwnMachine) -> None:
        self._uplink, self._machine = uplink, machine
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        app = web.Application(client_max_size=CHANGE_BYTES)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)

    async def start(self, path: Path) -> None:
        """Raises OSError."""
        await self._runner.setup()
        await web.SockSite(self._runner, bind_unix(path)).start()

    async def close(self) -> None:
        self.parted()
        await self._runner.cleanup()

    def answered(self, message: Mapping[str, Any]) -> None:
        """An answer has come."""
        waiting = self._waiting.get(message["id"])
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    def parted(self) -> None:
        """None will come any more."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result({"status": 503, "sequence": "", "text": ""})

    async def _pass_on(self, request: web.Request) -> web.Response:
        body = await request.text()
        if PRINCIPAL_HEADER not in request.headers and (own := self._own(request.method, request.path, body)):
            return own
        if not self._uplink.connected:
            return _away()
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._uplink.say({
                "type": "call", "id": number, "method": request.method, "path": request.raw_path, "body": body,
                "principal": request.headers.get(PRINCIPAL_HEADER, ""), "peer": request.headers.get(PEER_HEADER, ""),
            })  # fmt: skip
            found = await self._waiting[number]
        finally:
            del self._waiting[number]
        if found["status"] == 503 and not found["text"]:
            return _away()
        headers = {SEQUENCE_HEADER: str(found["sequence"])} if found["sequence"] else {}
        return web.Response(
            status=int(found["status"]), text=str(found["text"]), content_type="application/json", headers=headers
        )

    def _own(self, method: str, path: str, body: str) -> web.Response | None:
        """None for what is not this machine's own."""
        if (method, path) == ("GET", "/v1/cluster/snapshot"):
            return web.json_response(self._machine.snapshot())
        if (method, path) == ("POST", "/v1/cluster/shutdown"):
            try:
                now = json.loads(body or "{}").get("now") is True
            except (ValueError, AttributeError):
                return web.json_response({"error": {"message": "the body is no JSON object"}}, status=400)
            self._machine.shut_down(now)
            return web.json_response({"shutting_down": True}, status=202)
        return None


def _away() -> web.Response:
    message = "the supervisor is away; traffic is served, changes are not possible"
    error = {"message": message, "type": "ServiceUnavailableError", "param": None, "code": 503}
    return web.json_response({"error": error}, status=503)
