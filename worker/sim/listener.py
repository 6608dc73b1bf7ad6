"""The listening socket: bound early, open late, and closed for a while by a fault without losing its port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

_BACKLOG = 2048


class Listener:
    """A bound socket that listens only while it is open."""

    def __init__(self, host: str, port: int, uds: str | None) -> None:
        self._address = (host, port)
        self._uds = uds
        self._factory: Callable[[], asyncio.BaseProtocol] | None = None
        self._close_idle: Callable[[], None] | None = None
        self._server: asyncio.Server | None = None
        # vLLM binds before it loads the model: a taken port shows at once.
        self._socket = self._bind()
        if not uds:
            self._address = (host, self._socket.getsockname()[1])

    def _bind(self) -> socket.socket:
        if self._uds:
            made = socket.socket(socket.AF_UNIX)
            made.bind(self._uds)
            return made
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        made = socket.socket(family)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(self._address)
        return made

    @property
    def where(self) -> str:
        """The address, for a log line."""
        return f"unix:{self._uds}" if self._uds else f"http://{self._address[0]}:{self._address[1]}"

    def serve(self, factory: Callable[[], asyncio.BaseProtocol], close_idle: Callable[[], None]) -> None:
        """Set what makes a protocol for each connection, and what closes connections without a request."""
        self._factory = factory
        self._close_idle = close_idle

    async def open(self) -> None:
        """Listen, if it does not yet."""
        if self._server is not None or self._factory is None:
            return
        if self._socket.fileno() < 0:
            self._socket = self._bind()
        loop = asyncio.get_running_loop()
        made = loop.create_unix_server if self._uds else loop.create_server
        self._server = await made(self._factory, sock=self._socket, backlog=_BACKLOG)

    def close(self) -> None:
        """Stop listening; connections stay. Clients are refused until it is opened again."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        self._socket.close()
        if self._uds:
            Path(self._uds).unlink(missing_ok=True)

    def close_for_good(self) -> None:
        """Stop listening and close the connections without a request."""
        self.close()
        if self._close_idle is not None:
            self._close_idle()
