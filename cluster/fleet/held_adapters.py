"""Which adapters a worker or a server holds, as far as is known. Pure; written by its agent (`cluster.adapters.agent`).
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field


@dataclass(slots=True)
class Refusal:
    """What a worker said to an adapter that the others hold. ``retry_at`` in seconds of the agent's clock."""

    reason: str
    path: str
    attempts: int
    retry_at: float


@dataclass(slots=True)
class HeldAdapters:
    """By name: paths of those that are ``loaded``; those ``withheld`` are on their way out and are sent no requests;
    ``refused`` it should hold, and does not take."""

    loaded: dict[str, str] = field(default_factory=dict)
    withheld: set[str] = field(default_factory=set)
    refused: dict[str, Refusal] = field(default_factory=dict)

    def state(self, name: str, wanted: Container[str]) -> str:
        """``loaded``, ``loading``, ``refused``, or ``lazy``: until somebody asks for it. ``wanted``: what it should
        hold."""
        if name in self.loaded:
            return "loading" if name in self.withheld else "loaded"
        if name in self.refused:
            return "refused"
        return "loading" if name in wanted else "lazy"

    def reasons(self) -> dict[str, str]:
        """Of the refused ones, in the worker's words."""
        return {name: refusal.reason for name, refusal in self.refused.items()}
