"""A small name server on loopback, over UDP and TCP, whose records a test changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

#: What fits into one datagram; more is asked for by TCP.
_DATAGRAM = 512


class NameServer:
    """``records``: texts by name and kind; a name without any is none (NXDOMAIN), one with an empty list has none of
    that kind. ``refused``: (name, kind) that it does not answer well. ``ttl``: seconds."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        self.refused: set[tuple[str, str]] = set()
        self.silent = False
        self.ttl = 5
        self.port = 0
        self.asked: list[tuple[str, str]] = []
        self.over_tcp = 0

    def answer(self, wire: bytes) -> dns.message.Message | None:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name, kind = question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        if self.silent:
            return None
        response = dns.message.make_response(query, recursion_available=True)
        found = self.records.get((name, kind))
        if (name, kind) in self.refused:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif found is None and not any(known == name for known, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif found:
            response.answer.append(dns.rrset.from_text(question.name, self.ttl, "IN", kind, *found))
        return response

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.over_tcp += 1
        wire = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        if (response := self.answer(wire)) is not None:
            answer = response.to_wire()
            writer.write(len(answer).to_bytes(2, "big") + answer)
            await writer.drain()
        writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        response = self._server.answer(data)
        if response is None:
            return
        wire = response.to_wire()
        if len(wire) > _DATAGRAM:
            response.answer.clear()
            response.flags |= dns.flags.TC
            wire = response.to_wire()
        self._transport.sendto(wire, addr)


@asynccontextmanager
async def serving() -> AsyncIterator[NameServer]:
    server, loop = NameServer(), asyncio.get_running_loop()
    while True:  # until a port is free for both
        stream = await asyncio.start_server(server.stream, "127.0.0.1", 0)
        server.port = stream.sockets[0].getsockname()[1]
        try:
            transport, _ = await loop.create_datagram_endpoint(
                lambda: _Datagrams(server), local_addr=("127.0.0.1", server.port)
            )
            break
        except OSError:
            stream.close()
    try:
        yield server
    finally:
        transport.close()
        stream.close()
        await stream.wait_closed()
