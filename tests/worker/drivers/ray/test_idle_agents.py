"""Agents on nodes that no worker uses."""

from __future__ import annotations

import socket

import pytest

from harness import free_port
from worker.drivers.ray.idle_agents import IdleAgents

_NODES = {"127.0.0.1": "one", "127.0.0.2": "two"}


def test_those_that_listen_are_known_until_they_do_not() -> None:
    idle = IdleAgents()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        idle.note("127.0.0.1", "one", port)
        idle.note("127.0.0.2", "two", free_port())
        assert idle.listening(_NODES, []) == {"127.0.0.1": port}
        assert idle.listening(_NODES, None) == {"127.0.0.1": port}
    assert idle.listening(_NODES, []) == {}


@pytest.mark.parametrize(
    ("hosts", "used"), [(_NODES, ["127.0.0.1"]), ({"127.0.0.1": "another"}, []), ({}, [])],
    ids=["a worker has come", "the raylet began anew", "the node is gone"],
)  # fmt: skip
def test_an_actor_is_asked_again(hosts: dict[str, str], used: list[str]) -> None:
    idle = IdleAgents()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        idle.note("127.0.0.1", "one", listener.getsockname()[1])
        assert idle.listening(hosts, used) == {}
        assert idle.listening(_NODES, []) == {}, "forgotten"
