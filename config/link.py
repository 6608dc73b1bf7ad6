"""The link between supervisor and balancer: JSON lines over a Unix socket on which the balancer listens.

supervisor -> balancer: ``{"type": "set", "set": BackendSet}``, ``{"type": "change", "base": [epoch, revision], "gone":
[backend], "set": BackendSet with those of its backends that are not as in the set ``base``}`` (to one that says it
hears ``changes``; one that has not got ``base`` says ``resend``), ``{"type": "snapshot", "snapshot": {...}}``,
``{"type": "keys", "version": [epoch, number], "keyed": whether there has ever been one for models, "keys": [ApiKey]}``
(the next set is confirmed by who has both), ``{"type": "retire", "timeout": seconds}`` to one that another has taken
the place of, ``{"type": "events", "events": [...]}`` (rising ids; the latest again for whoever is new), ``{"type":
"loads", "loads": {backend: requests}}`` (what is in flight through balancers on other machines, again and again while
there are any), ``{"type": "attempts", "who": n, "anew": nothing that it said before counts, "records": base64 of 64-bit
values}`` (which requests these are, of each process there, in the words of `lb.routing.others`), ``{"type":
"supervisor", "there": whether it can be reached}`` (on a machine that has joined)
balancer -> supervisor: ``attempts`` of its own while there are ``loads``, ``{"type": "hello", "pid": n, "phase": Phase,
"changes": true}``, ``{"type": "resend"}`` (the whole set, please), ``{"type": "phase", "phase": Phase, "requests": in
flight}`` when that changes, ``{"type": "report", "version": [epoch, revision], "in_flight": {backend: requests},
"waiting": {backend: [requests without a first byte of an answer, bytes of the largest body among them]}, "used":
{adapter: seconds since the epoch}, "queued": requests that wait for room on a worker, "unread": s of one worker's time
that prompts take which are not read yet, "models": {name: [requests in flight, requests that wait, s for which the
oldest of these has, s since the epoch of the latest request]}}`` (an earlier balancer leaves out the last three; the
last is said only where there may be several models), ``{"type": "want", "adapter": name}``, ``{"type": "outcome",
"backend": id, "incarnation": n, "requests": n, "moved": n, "retried": n, "failed": n}`` (once for each incarnation that
is lost: what was in flight on it there, and what became of that)
balancer -> balancer: ``{"type": "metrics"}``, answered with ``{"type": "metrics", "text": exposition}``; ``{"type":
"why", "request_id": id or null, "limit": n}``, answered with ``{"type": "why", "decisions": [...]}``

The listening sockets of the cluster (HTTP's, and gRPC's if it is spoken) go over a second Unix socket (``….fd``): a
plain one, as neither asyncio's nor uvloop's transports carry descriptors.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from config.paths import short_socket_path

#: In the supervisor's answer to a change: the snapshot from which on the change shows. The balancer passes the
#: answer on when it has that one, so that whoever asks afterwards sees what was just changed.
SEQUENCE_HEADER = "X-Cluster-Sequence"

#: Bytes of a change's body: more than any set of settings takes, and nothing to parse.
CHANGE_BYTES = 256 * 1024


class Phase(StrEnum):
    """Of a balancer process: takes no connections yet, takes them, takes no more and finishes what it has."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


#: A set of 1,024 backends with tens of adapters each is a few MB in one line.
LINE_LIMIT = 64 * 1024 * 1024


def encode(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


async def messages(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """The messages until the other side is gone; a last line cut short is dropped."""
    while True:
        try:
            line = await reader.readline()
        except (ConnectionError, ValueError):
            return
        if not line.endswith(b"\n"):
            return
        yield json.loads(line)


def descriptor_path(link: Path) -> Path:
    return link.with_name(f"{link.name}.fd")


def grpc_path(link: Path) -> Path:
    """Where the gRPC server of the balancer behind ``link`` is reached by its own process."""
    return link.with_name(f"{link.name}.grpc")


def receive_listeners(link: Path, timeout: float = 2.0) -> list[socket.socket]:
    """The listening sockets that the balancer behind ``link`` serves: HTTP's, and gRPC's if there is one. Blocks.
    Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(timeout)
        channel.connect(short_socket_path(descriptor_path(link)))
        _, descriptors, _, _ = socket.recv_fds(channel, 1, 2)
    if not descriptors:
        raise ConnectionError("the balancer sent no listening socket")
    listeners = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    for listener in listeners:
        listener.setblocking(False)
    return listeners


def bind_unix(path: Path) -> socket.socket:
    """A non-blocking listening Unix socket at ``path``, whatever lay there before. Raises OSError."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    os.fchmod(listener.fileno(), 0o600)  # before it has a name: nobody else gets in between (unix(7), Linux)
    listener.bind(short_socket_path(path))
    listener.listen(64)
    listener.setblocking(False)
    return listener
