"""Who may call the management API. Pure.

A web page somebody has open must not be able to scale their cluster: a browser sends ``Origin``, and a name that was
rebound to 127.0.0.1 shows in ``Host``. A proxy in front makes every peer look like loopback: ``X-Forwarded-For``
says that it is not.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping

from lb.errors import ProxyError

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class Guard:
    """``names``: further host names by which the API may be called (the machine's, those set by the user)."""

    def __init__(self, admin_key: str | None, names: tuple[str, ...] = ()) -> None:
        self._key = admin_key.encode() if admin_key else None
        self._names = _LOOPBACK_NAMES | {name.lower() for name in names}

    def check(self, *, peer: str, local: str, headers: Mapping[str, str]) -> None:
        """Raises ProxyError: 401 or 403. ``peer`` and ``local`` are the connection's two IP addresses."""
        self._check_host(headers.get("Host", ""), local)
        if (origin := headers.get("Origin")) is not None:
            self._check_origin(origin, headers.get("Host", ""))
        if self._key is not None:
            self._check_key(headers.get("Authorization", ""))
        elif not is_loopback(peer) or "X-Forwarded-For" in headers or "Forwarded" in headers:
            raise ProxyError(403, "only local clients may manage this cluster; CLUSTERCTL_ADMIN_KEY opens it to others")

    def _check_key(self, authorization: str) -> None:
        assert self._key is not None
        scheme, _, given = authorization.partition(" ")
        key = given.strip().encode(errors="surrogateescape")
        if scheme.lower() != "bearer" or not hmac.compare_digest(key, self._key):
            raise ProxyError(401, "missing or wrong admin key: Authorization: Bearer … is needed")

    def _check_host(self, host: str, local: str) -> None:
        name = host_name(host)
        if name not in self._names and name != local.removeprefix("::ffff:"):
            raise ProxyError(403, f"Host {host!r} is not a name of this cluster (see allowed_hosts)")

    def _check_origin(self, origin: str, host: str) -> None:
        """The same host and port as the request itself, and so already checked."""
        if origin.lower().partition("://")[2] != host.lower():
            raise ProxyError(403, f"Origin {origin!r} may not manage this cluster")


def require_json(method: str, content_type: str, has_body: bool) -> None:
    """A change has to be declared as what no form of a web page can send. Raises ProxyError (415)."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and (has_body or method != "DELETE"):
        raise ProxyError(415, "the body has to be declared as Content-Type: application/json")


def is_loopback(address: str) -> bool:
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return bool((mapped or ip).is_loopback)


def host_name(host: str) -> str:
    """The name in a ``Host`` header, lower case, without port and brackets."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if host.count(":") == 1 else host
