"""Whose a response is: the balancer gives it an id that is signed for who asks for it. So every balancer process knows
it, also one that starts later, and nothing is kept of it. Pure but for the chance in `new`."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

_RANDOM_BYTES, _SIGNATURE_BYTES = 16, 16

#: Characters of a signature.
_SIGNATURE = 22


class ResponseMarks:
    """``secret``: the same in all processes. A ``mark`` is `lb.protocol.tenant.Tenant.mark`."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def of(cls, token: str | None) -> ResponseMarks:
        """Signed with what follows from ``token``; without one nobody else knows what is signed here."""
        made = secrets.token_bytes(32) if token is None else hmac.digest(token.encode(), b"response marks", "sha256")
        return cls(made)

    def new(self, mark: str) -> str:
        """An id for a response."""
        content = f"resp_{secrets.token_hex(_RANDOM_BYTES)}"
        return content + self._sign(mark, content)

    def owns(self, mark: str, response: str) -> bool:
        """Whether whoever has ``mark`` has asked for ``response``. An empty mark owns them all."""
        content, signature = response[:-_SIGNATURE], response[-_SIGNATURE:]
        return not mark or hmac.compare_digest(signature.encode(), self._sign(mark, content).encode())

    def _sign(self, mark: str, content: str) -> str:
        made = hmac.new(self._secret, f"{mark}\0{content}".encode(), hashlib.sha256).digest()[:_SIGNATURE_BYTES]
        return base64.urlsafe_b64encode(made).rstrip(b"=").decode()
