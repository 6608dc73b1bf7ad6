"""What a balancer that does not keep up is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.balancers.link_writer import _BEHIND, LinkWriter
from fakes import soon


@pytest.fixture
async def ends(tmp_path: Path) -> AsyncIterator[tuple[asyncio.StreamWriter, asyncio.StreamReader]]:
    """Of one connection: where it is written, and where it is read."""
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accepted.put((reader, writer))

    server = await asyncio.start_unix_server(accept, tmp_path / "s")
    _, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
    reader, other = await accepted.get()
    yield writer, reader
    for each in (writer, other):
        each.close()
    server.close()


async def test_what_is_replaced_is_not_kept_for_who_does_not_read(
    ends: tuple[asyncio.StreamWriter, asyncio.StreamReader],
) -> None:
    writer, reader = ends
    told = LinkWriter(writer)
    sending = asyncio.create_task(told.run())
    large = b"x" * (2 * _BEHIND)
    for number in range(100):
        told.send(b"set %d " % number + large + b"\n", "set", lambda n=number: b"whole %d\n" % n)
        told.send(b"snapshot %d\n" % number, "snapshot")
        told.send(b"event %d\n" % number)
    assert writer.transport.get_write_buffer_size() < 4 * _BEHIND, "the kernel has taken its part of that"
    reader._limit = 4 * _BEHIND  # type: ignore[attr-defined]
    lines = [(await reader.readline()).split()[:2] for _ in range(1 + 100 + 2)]
    await soon(lambda: not told._late)
    assert [line for line in lines if line[0] == b"event"] == [[b"event", b"%d" % n] for n in range(100)]
    others = [b" ".join(line) for line in lines if line[0] != b"event"]
    assert others == [b"set 0", b"whole 99", b"snapshot 99"], "what it leaves out is in the last of them"
    told.send(b"set 100\n", "set")
    assert await reader.readline() == b"set 100\n", "who keeps up is told at once"
    sending.cancel()


async def test_who_is_gone_is_told_nothing(ends: tuple[asyncio.StreamWriter, asyncio.StreamReader]) -> None:
    writer, _ = ends
    told = LinkWriter(writer)
    writer.close()
    await writer.wait_closed()
    told.send(b"set\n", "set")
    told.send(b"event\n")
