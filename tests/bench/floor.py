"""What is left when a proxy does nothing but copy: no limits, no framing, no record. ``python floor.py FD PORT``.

The cost of this on the same event loop is the least that any proxy in this interpreter can have; no use for anything
but the benchmark.
"""

from __future__ import annotations

import asyncio
import socket
import sys

import uvloop

_IDLE: list[Worker] = []


class Worker(asyncio.Protocol):
    client: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.client.write(data)
        if data.endswith(b"0\r\n\r\n") or b"content-length" in data[:200]:
            _IDLE.append(self)


class Client(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._tasks: set[asyncio.Task[None]] = set()

    def data_received(self, data: bytes) -> None:
        if _IDLE:
            self._send(_IDLE.pop(), data)
        else:
            self._tasks.add(asyncio.get_running_loop().create_task(self._connect(data), name="connect"))

    async def _connect(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        _, worker = await loop.create_connection(Worker, "127.0.0.1", int(sys.argv[2]))
        self._send(worker, data)

    def _send(self, worker: Worker, data: bytes) -> None:
        worker.client = self._transport
        worker.transport.write(data)


async def main() -> None:
    listener = socket.socket(fileno=int(sys.argv[1]))
    listener.setblocking(False)
    server = await asyncio.get_running_loop().create_server(Client, sock=listener, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
