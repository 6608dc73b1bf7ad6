"""The agents on nodes that no worker uses: they listen, and nothing of ours is there that Ray knows of.

An actor there, even one that needs nothing, makes the node one in use to Ray.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

#: How long (s) one may take to accept a connection.
_ACCEPT_S = 2.0


class IdleAgents:
    """Where they listened last."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, int]] = {}

    def note(self, host: str, node: str, port: int) -> None:
        """``node``: Ray's name of this start of the raylet at ``host``."""
        self._known[host] = node, port

    def listening(self, hosts: Mapping[str, str], used: Collection[str] | None) -> dict[str, int]:
        """The ports of those on ``hosts`` (each with its node) that still do; the others are forgotten, as are those
        on hosts that are ``used``. Blocks."""
        self._known = {
            host: (node, port) for host, (node, port) in self._known.items()
            if hosts.get(host) == node and host not in (used or ())
        }  # fmt: skip
        with ThreadPoolExecutor(32) as pool:
            listen = list(pool.map(_listens, self._known, [port for _, port in self._known.values()]))
        self._known = {host: known for (host, known), there in zip(self._known.items(), listen, strict=True) if there}
        return {host: port for host, (_, port) in self._known.items()}


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), _ACCEPT_S).close()
    except OSError:
        return False
    return True
