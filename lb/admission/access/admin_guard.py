"""Who may call the management API. Pure.

Over loopback the kernel says whose connection it is (`config.identity.peer_credentials`): the user that the cluster
runs as, and root, are its owner. A web page that the owner has open is not: a browser sends ``Origin``, and a name that
was rebound to 127.0.0.1 shows in ``Host``. Nor is who comes through a proxy (`lb.admission.access.proxy_signs`).
Whoever is not known that way needs a bearer token; where an admin key is set, everybody does.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from config.identity.principal import ANYBODY, Principal, Scope, owner
from lb.protocol import routes
from lb.protocol.errors import ProxyError

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

_REMEDY = (
    "ask as the user who runs the cluster (or root) on its machine, or send the token in admin.token of its state "
    "directory as Authorization: Bearer; `clusterctl ui` opens the page, CLUSTERCTL_ADMIN_KEY the cluster to others"
)


@dataclass(frozen=True, slots=True)
class Caller:
    """What a connection and a head tell of who asks. ``peer`` and ``local``: the connection's two IP addresses;
    ``api_key``: what ``x-api-key`` says; ``proxy``: the sign of a proxy, empty without one; ``uid()``: whose the other
    end is, None where the kernel does not tell."""

    peer: str
    local: str
    host: str
    uid: Callable[[], int | None]
    origin: str | None = None
    authorization: str = ""
    api_key: str = ""
    proxy: str = ""


class Bearers(Protocol):
    """`lb.admission.access.credentials.Credentials`."""

    @property
    def has_key(self) -> bool: ...
    @property
    def has_api_keys(self) -> bool: ...
    def principal(self, bearer: str) -> Principal | None: ...


class Guard:
    """``names``: further host names by which the API may be called (the machine's, those set by the user); ``owners``:
    users whose connections are the owner's; ``protect_metrics``: /metrics is management on loopback too."""

    def __init__(
        self, bearers: Bearers, owners: frozenset[int], names: tuple[str, ...] = (), protect_metrics: bool = False
    ) -> None:
        self._bearers, self._owners, self._protect_metrics = bearers, owners, protect_metrics
        self._names = LOOPBACK_NAMES | {name.lower() for name in names}

    def admit(self, path: str, method: str, caller: Caller) -> Principal:
        """Who asks a route of ours that is not open. Raises ProxyError: 401 or 403."""
        if path == routes.METRICS:
            return self._check_metrics(caller)
        self._check_site(caller)
        if path == routes.SESSION:
            return ANYBODY
        return _check_scope(self._identify(caller), _scope(path, method))

    def _check_metrics(self, caller: Caller) -> Principal:
        """Whoever is on this machine may see them, others need a credential. A scraper knows the cluster by any name,
        and sends no ``Origin``."""
        shown = self._bearers.has_api_keys and (caller.authorization or caller.api_key)
        if self._protect_metrics or shown or caller.proxy or not is_loopback(caller.peer):
            return _check_scope(self._identify(caller), Scope.READ)
        return ANYBODY

    def _check_site(self, caller: Caller) -> None:
        """No page of another site may ask."""
        name = host_name(caller.host)
        if name not in self._names and name != caller.local.removeprefix("::ffff:"):
            raise ProxyError(403, f"Host {caller.host!r} is not a name of this cluster (see allowed_hosts)")
        # The same host and port as the request itself, and so already checked.
        if caller.origin is not None and caller.origin.lower().partition("://")[2] != caller.host.lower():
            raise ProxyError(403, f"Origin {caller.origin!r} may not manage this cluster")

    def _identify(self, caller: Caller) -> Principal:
        scheme, _, given = caller.authorization.partition(" ")
        if caller.api_key:
            if caller.authorization:
                raise ProxyError(401, "Authorization and x-api-key are both sent: one of them is needed")
            scheme, given = "bearer", caller.api_key
        if scheme.lower() == "bearer" and (known := self._bearers.principal(given.strip())) is not None:
            return known
        if self._bearers.has_key:
            raise ProxyError(
                401, "missing or wrong admin key: Authorization: Bearer … is needed (`clusterctl ui` opens the page)"
            )
        if scheme and self._bearers.has_api_keys:
            raise ProxyError(401, "the key is not known, or does not hold any more")
        if not (why := self._not_owner(caller)):
            return owner("owner")
        if given:
            raise ProxyError(401, f"the bearer token is wrong or has expired, and {why}: {_REMEDY}")
        raise ProxyError(403, f"{why}: {_REMEDY}")

    def _not_owner(self, caller: Caller) -> str:
        """Why the connection itself does not show its owner; empty if it does."""
        if caller.proxy:
            return f"the request came through a proxy ({caller.proxy[:100]})"
        if not is_loopback(caller.peer):
            return "the request came from another machine"
        uid = caller.uid()
        if uid is None:
            return "the system does not say whose connection this is"
        return "" if uid in self._owners else f"user {uid} does not own this cluster"


def _scope(path: str, method: str) -> Scope:
    """What a route needs. Who may look sees status, figures and events; who has keys, and what workers wrote about what
    clients sent, is for administrators."""
    if method in ("GET", "HEAD") and not path.startswith("/v1/cluster/keys") and not path.endswith("/logs"):
        return Scope.READ
    return Scope.ADMIN


def _check_scope(principal: Principal, scope: Scope) -> Principal:
    if not principal.may(scope):
        raise ProxyError(403, f"this needs the scope {scope}, which {principal.name} has not got")
    return principal


def require_json(method: str, content_type: str, has_body: bool) -> None:
    """A change has to be declared as what no form of a web page can send. Raises ProxyError (415)."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and (has_body or method != "DELETE"):
        raise ProxyError(415, "the body has to be declared as Content-Type: application/json")


@functools.lru_cache(maxsize=4096)  # asked for each request
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
