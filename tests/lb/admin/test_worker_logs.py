from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from lb.admin.worker_logs import _since, _tail, follow
from lbfakes import Balanced

StartBalancer = Callable[..., Awaitable[Balanced]]


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lb.admin.worker_logs._LOOK_EVERY", 0.02)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "x.log"
    path.write_text("".join(f"line {n}\n" for n in range(50_000)))
    return path


@pytest.mark.parametrize("lines", [0, 1, 3, 5_000, 40_000])
def test_the_tail_is_the_last_lines_and_where_they_end(log: Path, lines: int) -> None:
    text, offset = _tail(log, lines)
    assert text.decode() == "".join(f"line {n}\n" for n in range(50_000 - lines, 50_000))
    assert offset == log.stat().st_size


def test_more_lines_than_there_are_is_all_of_them(log: Path) -> None:
    assert _tail(log, 99_999)[0] == log.read_bytes()


def test_a_last_line_without_its_end_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"one\ntwo\nthr")
    assert _tail(tmp_path / "x", 2)[0] == b"two\nthr"


def test_a_progress_bar_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"start\nloading 1%\rloading 50%\rloading 100%\nready\n")
    assert _tail(tmp_path / "x", 2)[0] == b"loading 1%\rloading 50%\rloading 100%\nready\n"


def test_a_log_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    assert _tail(tmp_path / "x", 5) == (b"", 0)
    assert _since(tmp_path / "x", 7) == (b"", 0)


def test_what_was_written_since_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"one\n")
    _, offset = _tail(path, 9)
    with path.open("ab") as file:
        file.write(b"two\n")
    assert _since(path, offset) == (b"two\n", 8)
    assert _since(path, 8) == (b"", 8)


def test_after_a_rotation_it_goes_on_at_the_new_beginning(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"new\n")
    assert _since(tmp_path / "x", 1000) == (b"new\n", 4)


@asynccontextmanager
async def following(path: Path, over: Callable[[], bool] = lambda: False) -> AsyncIterator[asyncio.StreamReader]:
    """A plain connection on which the log is followed from its last line on."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return await follow(request, path, 1, True, over)

    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    reader, writer = await asyncio.open_connection(*runner.addresses[0])
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        yield reader
    finally:
        writer.close()
        await runner.cleanup()


async def test_what_is_written_later_comes_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"zero\none\n")
    async with following(path) as reader:
        assert b"zero" not in await asyncio.wait_for(reader.readuntil(b"one\n"), 5)
        with path.open("ab") as file:
            file.write(b"two\n")
        await asyncio.wait_for(reader.readuntil(b"two\n"), 5)


async def test_it_ends_whole_with_all_streams_of_its_balancer(tmp_path: Path) -> None:
    """Whoever follows goes on at the next one, and does not hold up the one that is to end."""
    path, over = tmp_path / "x", asyncio.Event()
    path.write_bytes(b"one\n")
    async with following(path, over.is_set) as reader:
        await asyncio.wait_for(reader.readuntil(b"one\n"), 5)
        over.set()
        assert await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 5)


async def test_a_log_that_begins_later_is_followed_too(tmp_path: Path) -> None:
    async with following(tmp_path / "x") as reader:
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        (tmp_path / "x").write_bytes(b"hello\n")
        await asyncio.wait_for(reader.readuntil(b"hello\n"), 5)
