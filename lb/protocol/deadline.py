"""How long a client waits for its answer to begin, as it says in ``X-Request-Timeout``: a number of seconds. Pure."""

from __future__ import annotations

import math

from lb.protocol.errors import ProxyError
from lb.protocol.http1.request import RequestHead

_NAME, _MOST_LENGTH = b"x-request-timeout", 32


def of(head: RequestHead) -> float | None:
    """None where it does not say. Raises ProxyError (400) for what is no number of seconds."""
    given = head.find(_NAME)
    if given is None:
        return None
    try:
        seconds = float(given) if len(given) <= _MOST_LENGTH else math.nan
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ProxyError(400, "X-Request-Timeout has to be a number of seconds", param="X-Request-Timeout")
    return seconds
