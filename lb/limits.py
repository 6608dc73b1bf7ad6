"""What the process may use."""

from __future__ import annotations

import resource


def raise_open_files() -> int:
    """As many open files as the system lets us have: every stream takes two. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
