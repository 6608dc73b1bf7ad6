"""What the process may use."""

from __future__ import annotations

import resource


def raise_open_files() -> int:
    """As many open files as the system lets us have: every stream takes two. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


#: Files that are no connections of requests: logs, links, links to itself, the reserve of connections.
_OTHERS = 256


def most_connections() -> int:
    """Of clients, for whom there are open files: each may need one to a worker as well."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return max(16, (hard - _OTHERS) // 2)
