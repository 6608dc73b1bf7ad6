"""What is asked and what is answered, as bytes: every request says in its body what its worker is to do."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import zlib

MIB = 1024 * 1024
MAX_BODY = 2 * MIB

#: Seconds after which a request counts as lost.
PATIENCE_S = 20.0

#: Seconds until idle connections to workers have been closed: they live 3 s.
SETTLED_S = 10.0

#: In a head: how long its body is.
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)

_RESET = struct.pack("ii", 1, 0)


def reset(transport: asyncio.Transport) -> None:
    """Ends a connection with a TCP reset."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


def asked(kind: str, n: int, model: str = "base", size: int = 0) -> bytes:
    """A body that tells the worker what to do. ``size`` in bytes, if it is to be larger than it has to be."""
    start = b'{"model": "%b", "kind": "%b", "n": %d, "prompt": "' % (model.encode(), kind.encode(), n)
    return start + b"p" * max(n % 300, size - len(start) - 2) + b'"}'


def request(body: bytes, *fields: str, path: str = "/v1/completions", length: int | None = None) -> bytes:
    """``length``: the one that is announced, if it is not the body's."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *fields]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def in_chunks(*pieces: bytes) -> bytes:
    """A request whose body comes in chunks; the last one is missing."""
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked"
    return head + b"\r\n\r\n" + b"".join(chunk(piece) for piece in pieces)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def small_answer(n: int) -> bytes:
    return b'{"n": %d, "text": "%b"}' % (n, b"t" * (n % 700))


def events(n: int, count: int) -> list[bytes]:
    return [*(b'data: {"n": %d, "event": %d}\n\n' % (n, number) for number in range(count)), b"data: [DONE]\n\n"]


def event_count(n: int) -> int:
    return 2 + n % 5


def upload_answer(n: int, body: bytes) -> bytes:
    return b'{"n": %d, "bytes": %d, "crc": %d}' % (n, len(body), zlib.crc32(body))


class Chunks:
    """Takes a chunked body apart that arrives in a buffer, bit by bit. ``at``: how far it has come."""

    def __init__(self, at: int) -> None:
        self.at, self.ended = at, False
        self.parts: list[bytes] = []

    def read(self, buffer: bytearray) -> bool:
        """Whether the body has ended."""
        while not self.ended:
            line = buffer.find(b"\r\n", self.at)
            if line < 0:
                return False
            size = int(buffer[self.at : line], 16)
            end = line + 2 + size + 2
            if len(buffer) < end:
                return False
            assert buffer[end - 2 : end] == b"\r\n"
            self.parts.append(bytes(buffer[line + 2 : end - 2]))
            self.at, self.ended = end, size == 0
        return True
