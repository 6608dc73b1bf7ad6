"""A plain HTTP/1.1 client: keeps its connection, honours ``Connection: close``, and never asks twice.

Clients of other people try again behind one's back, which hides what a balancer does to them.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from harness import sse


@dataclass
class Answer:
    status: int
    closes: bool
    body: bytes


@dataclass
class KeepAlive:
    """One connection at a time to 127.0.0.1:``port``."""

    port: int
    opened: int = 0
    _streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """Raises OSError, EOFError (`asyncio.IncompleteReadError`) or ValueError where no whole answer comes."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
            self.opened += 1
        reader, writer = self._streams
        data = b"" if body is None else json.dumps(body).encode()
        writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n".encode() + data
        )
        try:
            answer = await _answer(reader)
        except BaseException:
            self.close()
            raise
        if answer.closes:
            self.close()
        return answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = b""
    if fields.get("transfer-encoding") == "chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
    else:
        body = await reader.readexactly(int(fields["content-length"]))
    return Answer(int(head[0].split()[1]), fields.get("connection", "").lower() == "close", body)


@dataclass
class Load:
    """Clients that ask until told to stop: ``plain`` short requests, ``streams`` of ``tokens`` tokens each. ``wrong``:
    whatever was not a whole right answer."""

    port: int
    plain: int = 4
    streams: int = 4
    tokens: int = 60
    right: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    _stop: bool = False
    _running: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Load:
        short = {"model": "demo", "prompt": "hi", "max_tokens": 2, "ignore_eos": True}
        long = {**short, "max_tokens": self.tokens, "stream": True}
        for kind, count, body in (("plain", self.plain, short), ("stream", self.streams, long)):
            self._running += [asyncio.ensure_future(self._ask(kind, body)) for _ in range(count)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await asyncio.gather(*self._running)

    async def _ask(self, kind: str, body: dict[str, Any]) -> None:
        client = KeepAlive(self.port)
        while not self._stop:
            began = time.monotonic()
            try:
                answer = await client.ask("POST", "/v1/completions", body)
                why = self._fault(kind, answer)
            except (OSError, EOFError, ValueError) as error:
                why = repr(error)
            if why:
                self.wrong.append(f"{kind} after {time.monotonic() - began:.2f} s: {why}")
            else:
                self.right[kind] += 1
        client.close()

    def _fault(self, kind: str, answer: Answer) -> str:
        if answer.status != 200:
            return f"{answer.status}: {answer.body[:200]!r}"
        if kind == "plain":
            return "" if json.loads(answer.body)["usage"]["completion_tokens"] == 2 else f"{answer.body!r}"
        events = sse(answer.body.decode())
        texts = [event["choices"][0]["text"] for event in events[:-1] if event.get("choices")]
        whole = events[-1] == "[DONE]" and len(texts) >= self.tokens
        return "" if whole else f"{len(texts)} events, then {events[-1:]}"
