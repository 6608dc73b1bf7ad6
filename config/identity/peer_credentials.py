"""Asks the kernel whose socket the other end of a loopback connection is, as PostgreSQL's `ident` asks a daemon.

One question to NETLINK_SOCK_DIAG (sock_diag(7)) about one four-tuple: the cost does not depend on how many sockets
there are, and the kernel answers within the call that asks, so the event loop never waits for it.

**Which answers count.** A socket that its owner has closed, or that is in TIME_WAIT, belongs to nobody any more: the
kernel reports uid 0 and inode 0 for it. Taken at its word, sending a request and closing would make anybody root. Only
an answer with an inode counts, for exactly this four-tuple, in a state in which that socket can have sent us something:
where there is no such connection the kernel may name a listener of the same port instead, and a new connection of
somebody else may be trying to get the same port.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import socket
import struct
from pathlib import Path

#: linux/netlink.h, linux/sock_diag.h.
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1

#: struct nlmsghdr; inet_diag_req_v2 and inet_diag_msg (linux/inet_diag.h) around the same inet_diag_sockid.
_HEADER = struct.Struct("=IHHII")
_QUESTION = struct.Struct("=BBBBI")
_ID = struct.Struct("!HH16s16s")
_ID_REST = struct.Struct("=III")
_ANSWER = struct.Struct("=BBBB")
_ANSWER_REST = struct.Struct("=IIIII")
_NO_COOKIE = 0xFFFFFFFF

_LISTEN = 10

#: Of include/net/tcp_states.h: ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING.
_HAS_SENT = frozenset({1, 4, 5, 8, 9, 11})

Address = tuple[str, int]


def uid_of_peer(peer: Address, local: Address) -> int | None:
    """The user whose socket is the other end of the connection between ``local`` (ours) and ``peer``. None where the
    kernel does not tell: another system, another network namespace, a socket that nobody holds any more."""
    return _uid(peer, local, _HAS_SENT)


def uid_of_listener(address: Address) -> int | None:
    """The user whose socket listens on ``address`` of this machine; None where none does, or the kernel does not
    tell."""
    nobody = "::" if ":" in address[0] else "0.0.0.0"
    return _uid(address, (nobody, 0), frozenset({_LISTEN}))


def kernel_tells() -> bool:
    """Whether there is anything to ask on this system, whatever it knows of one connection."""
    try:
        _ask(_question(*_four_tuple(("127.0.0.1", 1), ("127.0.0.1", 1))))
    except (OSError, ValueError):
        return False
    return True


@functools.cache
def owners() -> frozenset[int]:
    """Whose connections are the owner's: root's, and those of the user that this process runs as."""
    uids = {0, os.geteuid()}
    try:
        whole = Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
        # In a user namespace of its own everybody from outside of it shows as this one.
        return frozenset(uids if whole else uids - {int(Path("/proc/sys/kernel/overflowuid").read_text())})
    except (OSError, ValueError):
        return frozenset(uids)


def _uid(source: Address, destination: Address, states: frozenset[int]) -> int | None:
    try:
        family, ends = _four_tuple(source, destination)
        answer = _ask(_question(family, ends))
        return _read(answer, ends, states)
    except (OSError, ValueError, struct.error):
        return None


def _four_tuple(source: Address, destination: Address) -> tuple[int, bytes]:
    """The address family to ask for, and the ends as the kernel writes them. Raises ValueError for what is no pair of
    addresses of one family."""
    ips = [_unmapped(address) for address, _ in (source, destination)]
    if ips[0].version != ips[1].version:
        raise ValueError("ends of two families")
    family = socket.AF_INET if ips[0].version == 4 else socket.AF_INET6
    return family, _ID.pack(source[1], destination[1], ips[0].packed, ips[1].packed)


def _unmapped(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An IPv4 connection to a socket of both families is one of IPv4 to the kernel, whichever family the client's own
    socket is of."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    return getattr(ip, "ipv4_mapped", None) or ip


def _question(family: int, ends: bytes) -> bytes:
    body = _QUESTION.pack(family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
    body += ends + _ID_REST.pack(0, _NO_COOKIE, _NO_COOKIE)
    return _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0) + body


def _ask(question: bytes) -> bytes:
    """Raises OSError where the kernel cannot be asked."""
    family = getattr(socket, "AF_NETLINK", None)
    if family is None:
        raise OSError("no netlink on this system")
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with socket.socket(family, kind, _NETLINK_SOCK_DIAG) as kernel:
        kernel.sendto(question, (0, 0))
        return kernel.recv(4096)


def _read(answer: bytes, ends: bytes, states: frozenset[int]) -> int | None:
    """Raises struct.error for what is cut short."""
    _, kind, _, _, _ = _HEADER.unpack_from(answer)
    if kind != _SOCK_DIAG_BY_FAMILY:
        return None  # an error: there is no such socket
    family, state, _, _ = _ANSWER.unpack_from(answer, _HEADER.size)
    at = _HEADER.size + _ANSWER.size
    if state not in states or (state != _LISTEN and not _same(family, answer[at : at + _ID.size], ends)):
        return None
    _, _, _, uid, inode = _ANSWER_REST.unpack_from(answer, at + _ID.size + _ID_REST.size)
    return int(uid) if inode else None


def _same(family: int, found: bytes, asked: bytes) -> bool:
    """A client's socket of IPv6 that speaks IPv4 tells its ends as mapped addresses."""
    ports, *addresses = found[:4], found[4:20], found[20:]
    prefix = bytes(10) + b"\xff\xff"
    plain = [a[12:] + bytes(12) if family == socket.AF_INET6 and a[:12] == prefix else a for a in addresses]
    return ports + b"".join(plain) == asked
