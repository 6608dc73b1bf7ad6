"""Free ports for workers, outside the range from which the kernel takes ports for outgoing connections."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator
from pathlib import Path
from random import Random

from worker.spec import LOOPBACK

_LOWEST = 20_000


def free_port(taken: Collection[int], random: Random) -> int:
    """One of the loopback interface that nobody listens on and that is not in ``taken``. Raises OSError if there is
    none.

    Between this look and the worker's own bind somebody else may take it; the worker then fails to start and is
    restarted on another."""
    ports = [p for p in range(_LOWEST, _ephemeral_start()) if p not in taken]
    for port in _some(ports, random):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((LOOPBACK, port))
                return port
            except OSError:
                continue
    raise OSError("no free port for a worker")


def _some(ports: list[int], random: Random) -> Iterator[int]:
    yield from random.sample(ports, min(len(ports), 256))


def _ephemeral_start() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = 32_768
    return first if first > _LOWEST + 1000 else 61_000
