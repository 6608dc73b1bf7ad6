"""A closed-loop load generator on bare sockets. ``python load.py PORT '{"connections": …}'`` prints one JSON line.

Scenarios: ``small`` (requests, connections), ``streams`` (connections, chunks, gap, rounds, slow: whether one further
client asks for 50 MB and stops reading). ``key``: what clients show, ``body``: more of what they ask.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from typing import Any

import uvloop

_MESSAGE = {"role": "user", "content": "word " * 100}


def request(body: dict[str, Any], key: str = "none") -> bytes:
    data = json.dumps({"messages": [_MESSAGE], "model": "base", **body}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n"
        f"User-Agent: OpenAI/Python 1.0\r\nContent-Type: application/json\r\nAuthorization: Bearer {key}\r\n"
        f"Accept-Encoding: identity\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


class Client(asyncio.Protocol):
    """Sends the same request ``times`` times over one connection."""

    def __init__(self, data: bytes, times: int, streamed: bool, results: Results) -> None:
        self._data, self._left, self._streamed, self._results = data, times, streamed, results
        self._sent = self._last = 0.0
        self._body = 0
        self._tail = b""
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.finished.done():
            self._results.errors += 1
            self.finished.set_result(None)

    def _next(self) -> None:
        if not self._left:
            self.finished.set_result(None)
            self._transport.close()
            return
        self._left -= 1
        self._body, self._tail, self._last = -1, b"", 0.0
        self._sent = time.perf_counter()
        self._transport.write(self._data)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self._last:
            self._results.first.append(now - self._sent)
            if b" 200 " not in data[:16]:
                self._results.errors += 1
        elif self._streamed:
            self._results.gaps.append(now - self._last)
        self._last = now
        self._tail = (self._tail + data)[-2048:] if self._streamed else self._tail + data
        if self._streamed:
            if self._tail.endswith(b"0\r\n\r\n"):
                self._next()
        elif self._complete():
            self._next()

    def _complete(self) -> bool:
        head, separator, body = self._tail.partition(b"\r\n\r\n")
        if not separator:
            return False
        lower = head.lower()
        at = lower.find(b"content-length:")
        if at < 0:
            return self._tail.endswith(b"0\r\n\r\n")
        return len(body) >= int(lower[at + 15 :].split(b"\r\n", 1)[0])


class Results:
    def __init__(self) -> None:
        self.first: list[float] = []
        self.gaps: list[float] = []
        self.errors = 0


async def run(port: int, wanted: dict[str, Any]) -> dict[str, Any]:
    loop, results = asyncio.get_running_loop(), Results()
    streamed = wanted["scenario"] == "streams"
    body: dict[str, Any] = {**wanted.get("body", {}), "max_tokens": 16}
    if streamed:
        body |= {"stream": True, "max_tokens": wanted["chunks"], "temperature": wanted["gap"]}
    data = request(body, wanted.get("key", "none"))
    slow = await _slow_client(port) if wanted.get("slow") else None
    began = time.perf_counter()
    clients = []
    for _ in range(wanted["connections"]):
        _, client = await loop.create_connection(
            lambda: Client(data, wanted["times"], streamed, results), "127.0.0.1", port
        )
        clients.append(client)
        if streamed:
            await asyncio.sleep(wanted["gap"] / wanted["connections"])  # spreads the chunks over the gap
    await asyncio.gather(*(client.finished for client in clients))
    seconds = time.perf_counter() - began
    if slow is not None:
        slow.close()
    requests = wanted["connections"] * wanted["times"]
    return {
        "requests": requests, "errors": results.errors, "seconds": seconds, "per_second": requests / seconds,
        "first_ms": _percentiles(results.first), "gap_ms": _percentiles(results.gaps), "chunks": len(results.gaps),
    }  # fmt: skip


async def _slow_client(port: int) -> socket.socket:
    """Asks for 50 MB and reads nothing of it."""
    client = socket.socket()
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", port))
    await loop.sock_sendall(client, request({"stream": True, "max_tokens": 1, "temperature": 0, "n": 50}))
    return client


def _percentiles(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    ordered = sorted(seconds)
    return {
        name: round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 3)
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(int(sys.argv[1]), json.loads(sys.argv[2])))))
