"""What is said to a zygote, over a Unix socket that keeps messages apart (SOCK_SEQPACKET): one JSON object a message.

`who` is answered with `identity`. `start` comes with the descriptor of the worker's log, and is answered by the worker
itself: with `identity`, as soon as it stands in its run file, or with `error`. When it ends, the zygote says `exit`,
its status as `subprocess` counts it, over the same connection.

A worker whose answer nobody takes ends before it has become one. So whoever stops waiting shuts the connection down,
and then either finds the answer there, or knows that there will be no worker.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Mapping
from typing import Any

#: Bytes of a message at most: an environment, and the words of a command. The kernel's default buffer takes it whole.
MOST = 128 * 1024

_CREDENTIALS = struct.Struct("3i")


def encode(message: Mapping[str, Any]) -> bytes:
    """Raises ValueError for one that is too long."""
    text = json.dumps(message).encode()
    if len(text) > MOST:
        raise ValueError(f"a message of {len(text)} bytes, and {MOST} are the most")
    return text


def decode(text: bytes) -> dict[str, Any]:
    """Raises ValueError for what is no message."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def peer(connection: socket.socket) -> tuple[int, int]:
    """Pid and uid of who connected, or of who listens, as the kernel knows them. Raises OSError."""
    pid, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid


def is_ours(connection: socket.socket) -> bool:
    """Whether the other end is of our own user, or root."""
    try:
        return peer(connection)[1] in (0, os.geteuid())
    except OSError:
        return False
