"""The supervisor's API on a machine that has joined: what balancers ask goes to the supervisor over the uplink."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from aiohttp import web

from cluster.joining.uplink import Uplink
from config.identity.principal import PEER_HEADER, PRINCIPAL_HEADER
from config.link import CHANGE_BYTES, SEQUENCE_HEADER, bind_unix


class RemoteControl:
    """A Unix socket as the supervisor's own (`cluster.api.server`), which answers 503 while that one is away."""

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink
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


def _away() -> web.Response:
    message = "the supervisor is away; traffic is served, changes are not possible"
    error = {"message": message, "type": "ServiceUnavailableError", "param": None, "code": 503}
    return web.json_response({"error": error}, status=503)
