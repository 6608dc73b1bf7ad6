"""How many connections and uploads there are, and from where. Pure: it counts.

One address may not take the place of all others. An address that many share (loopback, a proxy that is trusted) is not
counted: there it is the total that holds.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable

from lb.protocol.errors import ProxyError, Source

#: An IPv6 customer has at least so many bits of addresses.
_NETWORK = 64


class Crowd:
    """``most`` connections in all, ``from_one`` of them and ``bodies`` uploads from one address; ``shared`` tells of an
    address whether many share it."""

    def __init__(self, most: int, from_one: int, bodies: int, shared: Callable[[str], bool]) -> None:
        self.most, self.from_one, self.bodies = most, from_one, bodies
        self._shared = shared
        self.size = 0
        self._connections: Counter[str] = Counter()
        self._uploads: Counter[str] = Counter()

    def origin(self, peer: str) -> str:
        """What ``peer`` is counted as: an address, a network of IPv6, or "" where it is not counted."""
        if not peer or self._shared(peer):
            return ""
        if ":" not in peer:
            return peer
        address = ipaddress.IPv6Address(peer.partition("%")[0])
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((address, _NETWORK), strict=False))

    def enter(self, origin: str) -> ProxyError | None:
        """One more connection, which `leave` follows; or what to answer if it is one too many."""
        if self.size >= self.most:
            return ProxyError(503, f"more than {self.most} connections", source=Source.INTERNAL, retry_after=1)
        if origin:
            if self._connections[origin] >= self.from_one:
                return ProxyError(429, f"more than {self.from_one} connections from {origin}", retry_after=1)
            self._connections[origin] += 1
        self.size += 1
        return None

    def leave(self, origin: str) -> None:
        self.size -= 1
        _less(self._connections, origin)

    def begin_body(self, origin: str) -> None:
        """One more upload is under way; `end_body` follows. Raises ProxyError (429) if it is one too many."""
        if origin:
            if self._uploads[origin] >= self.bodies:
                raise ProxyError(429, f"more than {self.bodies} uploads at once from {origin}", retry_after=1)
            self._uploads[origin] += 1

    def end_body(self, origin: str) -> None:
        _less(self._uploads, origin)


def _less(counts: Counter[str], origin: str) -> None:
    if origin:
        counts[origin] -= 1
        if counts[origin] <= 0:
            del counts[origin]
