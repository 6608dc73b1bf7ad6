"""A browser tab's credential: says itself until when it holds, so that every balancer process knows it, also one that
starts later, and nothing is kept of it. Pure."""

from __future__ import annotations

import hashlib
import hmac

#: How long (s) one is good for.
SESSION_S = 12 * 3600.0

_MARK = "ccs"


def secret(token: str, admin_key: str | None) -> bytes:
    """What sessions are signed with: a new token or another admin key ends them all."""
    return hmac.digest(token.encode(), b"session\0" + (admin_key or "").encode(), "sha256")


def issue(key: bytes, nonce: str, now: float) -> str:
    """``now``: seconds since the epoch; ``nonce``: URL-safe and random."""
    content = f"{_MARK}.{int(now + SESSION_S):x}.{nonce}"
    return f"{content}.{_signature(key, content)}"


def is_valid(key: bytes, session: str, now: float) -> bool:
    content, _, signature = session.rpartition(".")
    if not hmac.compare_digest(signature.encode(), _signature(key, content).encode()):
        return False
    mark, _, rest = content.partition(".")
    return mark == _MARK and now < int(rest.partition(".")[0], 16)


def _signature(key: bytes, content: str) -> str:
    return hmac.new(key, content.encode(), hashlib.sha256).hexdigest()
