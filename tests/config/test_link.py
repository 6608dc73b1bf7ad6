"""The link between supervisor and balancer: lines, sockets and a descriptor that goes over."""

from __future__ import annotations

import asyncio
import socket
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from config import link


async def _read(data: bytes, limit: int = 2**16) -> list[dict[str, Any]]:
    reader = asyncio.StreamReader(limit=limit)
    reader.feed_data(data)
    reader.feed_eof()
    return [message async for message in link.messages(reader)]


async def test_messages_arrive_as_they_were_sent() -> None:
    sent = [{"type": "hello", "pid": 1}, {"text": "two\nlines ü", "n": None}]
    assert await _read(b"".join(map(link.encode, sent))) == sent


def test_a_message_is_one_line() -> None:
    line = link.encode({"a": "x\ny"})
    assert line.endswith(b"\n") and line.count(b"\n") == 1


async def test_a_last_line_cut_short_is_dropped() -> None:
    assert await _read(link.encode({"a": 1}) + b'{"b": 2}') == [{"a": 1}]


async def test_a_line_over_the_limit_ends_the_link() -> None:
    assert await _read(link.encode({"a": 1}) + link.encode({"b": "x" * 200}), limit=64) == [{"a": 1}]


async def test_a_connection_that_breaks_ends_the_link() -> None:
    reader = asyncio.StreamReader()
    reader.set_exception(ConnectionResetError())
    assert [m async for m in link.messages(reader)] == []


def test_a_socket_takes_the_place_of_what_an_earlier_one_left(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    link.bind_unix(path).close()
    with link.bind_unix(path) as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert listener.getblocking() is False


def _hand_over(path: Path, descriptors: list[int]) -> threading.Thread:
    channel = link.bind_unix(link.descriptor_path(path))
    channel.setblocking(True)

    def serve() -> None:
        with channel:
            peer, _ = channel.accept()
            with peer:
                socket.send_fds(peer, [b"x"], descriptors)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_the_listening_socket_goes_over_to_another_process(tmp_path: Path) -> None:
    path = tmp_path / "lb.sock"
    with socket.create_server(("127.0.0.1", 0)) as served:
        thread = _hand_over(path, [served.fileno()])
        with link.receive_listeners(path)[0] as got:
            assert got.getsockname() == served.getsockname()
            assert got.fileno() != served.fileno()
            assert got.getblocking() is False
        thread.join()


def test_a_balancer_that_hands_over_nothing_is_an_error(tmp_path: Path) -> None:
    thread = _hand_over(tmp_path / "lb.sock", [])
    with pytest.raises(OSError, match="no listening socket"):
        link.receive_listeners(tmp_path / "lb.sock")
    thread.join()


def test_a_balancer_that_is_hung_is_given_up_in_time(tmp_path: Path) -> None:
    with link.bind_unix(link.descriptor_path(tmp_path / "lb.sock")), pytest.raises(OSError, match="timed out"):
        link.receive_listeners(tmp_path / "lb.sock", timeout=0.05)


def test_a_balancer_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        link.receive_listeners(tmp_path / "lb.sock")
