"""``python -m worker.engines.foreign.reverse SERVING HOST PORT COMMAND [ARGUMENT ...]``: an engine that is no Python,
in a process of its own, with the key guard and `OneModel` in front.

COMMAND listens on a port of this machine that is given to it in place of `PORT`, and is told a key of its own by its
environment. It ends with this process, and this process with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from config.aio import Tasks
from worker.engines.foreign.application import Message, OneModel, Receive, Send
from worker.engines.foreign.models import rules_of
from worker.engines.foreign.rules import Serving
from worker.engines.key_guard import KEY, KeyGuard
from worker.spec import LOOPBACK

#: Stands for the port in the command.
PORT = "{port}"

#: OpenVINO Model Server's routes, by ours.
_ROUTES = {
    "/health": "/v2/health/ready", "/v1/chat/completions": "/v3/chat/completions", "/v1/completions": "/v3/completions",
}  # fmt: skip

#: As `serve` has it; and seconds in which the engine ends when it is asked to.
_KEEP_ALIVE_S, _END_S = 75, 10.0


class Forward:
    """An ASGI application: asks ``url`` with ``key``, and ends what it asked for when its client leaves."""

    def __init__(self, url: str, key: str, http: aiohttp.ClientSession, routes: Mapping[str, str]) -> None:
        self._url, self._http, self._routes = url, http, routes
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        body = (await receive()).get("body", b"") if scope["method"] == "POST" else None
        tasks = Tasks()
        try:
            asking = tasks.start(self._ask(scope, body, send), "the answer")
            leaving = tasks.start(_left(receive), "its client")
            await asyncio.wait({asking, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                asking.result()
        finally:
            await tasks.close()

    async def _ask(self, scope: Message, body: bytes | None, send: Send) -> None:
        """Raises RuntimeError where the answer is cut short: the connection has to end as well."""
        url, started = self._url + self._routes[scope["path"]], False
        try:
            async with self._http.request(scope["method"], url, data=body, headers=self._headers) as answer:
                kind = answer.headers.get("Content-Type", "application/json").encode("latin-1")
                start = {"type": "http.response.start", "status": answer.status, "headers": [(b"content-type", kind)]}
                await send(start)
                started = True
                async for piece in answer.content.iter_any():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        except (aiohttp.ClientError, OSError) as error:
            if started:
                raise RuntimeError(f"the engine's answer broke off: {error}") from None
            wrong = {"message": "the engine does not answer", "type": "ServiceUnavailable", "param": None, "code": 503}
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 503, "headers": headers})
            await send({"type": "http.response.body", "body": json.dumps({"error": wrong}).encode()})
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def run(serving: Serving, host: str, port: int, command: Sequence[str], key: str) -> int:
    """Until SIGTERM, or the engine's end; the exit status."""
    import uvicorn

    inner = _free_port()
    environ = {**{name: value for name, value in os.environ.items() if name != KEY}, "API_KEY": key}
    argv = [str(inner) if word == PORT else word for word in command]
    engine = await asyncio.create_subprocess_exec(*argv, env=environ)
    tasks = Tasks()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as http:
        forward = Forward(f"http://{LOOPBACK}:{inner}", key, http, _ROUTES)
        app: Any = KeyGuard(OneModel(forward, rules_of(serving.engine), serving), serving.seats)
        server = uvicorn.Server(uvicorn.Config(
            app, host=host, port=port, interface="asgi3", lifespan="off", log_level="warning", access_log=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
        ))  # fmt: skip

        server.capture_signals = contextlib.nullcontext  # signals are ours: the engine is ended first

        def end() -> None:
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, end)
        front, gone = tasks.start(server.serve(), "front"), tasks.start(engine.wait(), "engine")
        await asyncio.wait({front, gone}, return_when=asyncio.FIRST_COMPLETED)
        ended_by_itself = gone.done()
        if ended_by_itself:
            print(f"{command[0]} has ended with {engine.returncode}", file=sys.stderr, flush=True)
        else:
            await _end(engine)
        server.should_exit = True
        await tasks.close()
    return 1 if ended_by_itself else 0


async def _end(engine: asyncio.subprocess.Process) -> None:
    engine.terminate()
    try:
        await asyncio.wait_for(engine.wait(), _END_S)
    except TimeoutError:
        engine.kill()
        await engine.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def main(argv: Sequence[str]) -> int:
    """Raises SystemExit."""
    serving = Serving.from_json(json.loads(argv[0]))
    if serving.cores:
        os.sched_setaffinity(0, serving.cores)
    key = os.environ.get(KEY, "")
    if not key:
        raise SystemExit(f"{KEY} is not set")
    return asyncio.run(run(serving, argv[1], int(argv[2]), argv[3:], key))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
