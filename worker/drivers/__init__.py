"""How workers are started, watched and stopped."""

from worker.drivers.base import LOCAL, Driver


def available() -> dict[str, Driver]:
    """One of each kind, by name."""
    from worker.drivers.local import LocalDriver  # here: who only knows of drivers imports none

    return {LOCAL: LocalDriver()}
