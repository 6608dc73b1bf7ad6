"""Which web pages may open a WebSocket. Pure.

A browser opens one to any server for any page, without asking that server first as it does for `fetch`, and from the
machine of whoever looks at the page: where loopback needs no key, the page would need none. So the server has to look
at ``Origin`` (RFC 6455 10.2). Programs that are no browsers send none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from config.values.addresses import is_address
from lb.admission.access.admin_guard import LOOPBACK_NAMES, host_name
from lb.protocol.errors import ProxyError
from lb.protocol.http1.request import RequestHead


class SocketOrigins:
    """``names``: further host names that are the cluster's; ``allows`` says which other origins may ask for models."""

    def __init__(self, names: Iterable[str], allows: Callable[[str], bool]) -> None:
        self._names, self._allows = LOOPBACK_NAMES | {name.lower() for name in names}, allows

    def check(self, head: RequestHead) -> None:
        """Raises ProxyError (403) for a page that is neither of the cluster's own site nor of one that may."""
        origin = head.find(b"origin")
        if origin is not None and not self._allows(origin) and not self._is_own(origin, head.host):
            raise ProxyError(403, f"Origin {origin[:256]!r} may not open a WebSocket here (see cors_origin)")

    def _is_own(self, origin: str, host: str) -> bool:
        """The host that is asked, under a name of ours or its address: another name may lead here for a while only
        (DNS rebinding)."""
        name = host_name(host)
        return origin.lower().partition("://")[2] == host.lower() and (name in self._names or is_address(name))
