"""Cross-origin requests of browsers (the CORS protocol of the Fetch standard), answered as vLLM's API server answers
them: by the rules of starlette's CORSMiddleware. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lb.protocol.errors import Answered
from lb.protocol.http1.request import RequestHead
from lb.protocol.messages import Grant

_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY")
_ALWAYS_ALLOWED = frozenset({"Accept", "Accept-Language", "Content-Language", "Content-Type"})

_PREFLIGHT_VARY = (
    "Origin, Access-Control-Request-Method, Access-Control-Request-Headers, Access-Control-Request-Private-Network"
)

#: Seconds for which a browser may keep the answer to a preflight.
_MAX_AGE = "600"


class Cors:
    """``origins``, ``methods`` and request ``headers`` that are allowed, "*" for all; ``credentials``: cookies and the
    like may be sent. ``expose``: fields of answers that a page may read besides."""

    def __init__(
        self, origins: Sequence[str], methods: Sequence[str], headers: Sequence[str], credentials: bool,
        expose: Sequence[str] = (),
    ) -> None:
        self._exposed = [("Access-Control-Expose-Headers", ", ".join(expose))] if expose else []
        self._origins, self._credentials = frozenset(origins), credentials
        self._methods = _METHODS if "*" in methods else tuple(methods)
        self._any_origin, self._any_header = "*" in origins, "*" in headers
        self._headers = sorted(_ALWAYS_ALLOWED | set(headers))
        self._lower = frozenset(name.lower() for name in self._headers)

    def admit(self, head: RequestHead, applies_to: Callable[[str], bool]) -> Grant | None:
        """What the answer to ``head`` says to its origin, if it is for one of the paths that this ``applies_to``.
        Raises Answered for a browser that asks what another origin may do."""
        if head.method == "OPTIONS" and applies_to(head.path) and (ready := self.preflight(head.find)) is not None:
            raise Answered(*ready)
        if Grant not in head.notes:
            head.notes[Grant] = self.grant(head.find(b"origin")) if applies_to(head.path) else None
        grant: Grant | None = head.notes[Grant]
        return grant

    def grant(self, origin: str | None) -> Grant:
        """For a request from ``origin``; None: it names none."""
        if origin is None or not origin.isascii():
            return Grant()
        fields = []
        if self.allows(origin):
            everybody = self._any_origin and not self._credentials
            fields = [("Access-Control-Allow-Origin", "*" if everybody else origin), *self._exposed]
        if self._credentials:
            fields.append(("Access-Control-Allow-Credentials", "true"))
        return Grant(tuple(fields))

    def preflight(self, find: Callable[[bytes], str | None]) -> tuple[int, str, dict[str, str]] | None:
        """Status, text and fields of the answer to a request of the method OPTIONS; None if it is no preflight.
        ``find``: a field's value by its lower-case name."""
        origin, method = find(b"origin"), find(b"access-control-request-method")
        if origin is None or method is None or not origin.isascii():
            return None
        wanted = find(b"access-control-request-headers")
        fields = {"Vary": _PREFLIGHT_VARY}
        failures = []
        if not self.allows(origin):
            failures.append("origin")
        elif self._any_origin and not self._credentials:
            fields["Access-Control-Allow-Origin"] = "*"
        else:
            fields["Access-Control-Allow-Origin"] = origin
        fields["Access-Control-Allow-Methods"] = ", ".join(self._methods)
        fields["Access-Control-Max-Age"] = _MAX_AGE
        if not self._any_header:
            fields["Access-Control-Allow-Headers"] = ", ".join(self._headers)
        if self._credentials:
            fields["Access-Control-Allow-Credentials"] = "true"
        if method not in self._methods:
            failures.append("method")
        if wanted is not None:
            if self._any_header and wanted.isascii():
                fields["Access-Control-Allow-Headers"] = wanted
            elif any(name.strip() not in self._lower for name in wanted.lower().split(",")):
                failures.append("headers")
        if find(b"access-control-request-private-network") is not None:
            failures.append("private-network")
        if failures:
            return 400, "Disallowed CORS " + ", ".join(failures), fields
        return 200, "OK", fields

    def allows(self, origin: str) -> bool:
        return self._any_origin or origin in self._origins
