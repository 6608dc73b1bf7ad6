"""A Redis of the test's own, on a Unix socket in its folder, ended with the test."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

DEADLINE_S = 10.0


class RedisServer:
    """Nothing of it is on the disk: one that is started again has forgotten everything."""

    def __init__(self, folder: Path, password: str = "") -> None:
        self._socket, self._password = folder / "redis.sock", password
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        secret = f"?password={self._password}" if self._password else ""
        return f"unix://{self._socket}{secret}"

    async def start(self) -> None:
        options = ("--port", "0", "--unixsocket", str(self._socket), "--save", "", "--dir", str(self._socket.parent))
        password = ("--requirepass", self._password) if self._password else ()
        self._process = await asyncio.create_subprocess_exec(
            "redis-server", *options, *password, stdout=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(DEADLINE_S):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_unix_connection(self._socket)
                    writer.close()
                    return
                await asyncio.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None


@contextlib.asynccontextmanager
async def running_redis(folder: Path, password: str = "") -> AsyncIterator[RedisServer]:
    server = RedisServer(folder, password)
    try:
        await server.start()
        yield server
    finally:
        await server.kill()
