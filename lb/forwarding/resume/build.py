"""What servers say of their build (``system_fingerprint``) at a stream's end: for an end that we write ourselves.
Pure."""

from __future__ import annotations

from dataclasses import dataclass

#: Models that are kept in mind: adapters come and go.
_MOST = 4096


@dataclass(slots=True)
class Build:
    """``fingerprint``: the latest word of the servers of one model; empty: nothing yet."""

    fingerprint: str = ""

    def fields(self) -> dict[str, str]:
        """What the last event of a stream has besides."""
        return {"system_fingerprint": self.fingerprint} if self.fingerprint else {}


class Builds:
    """One for each model."""

    def __init__(self) -> None:
        self._known: dict[str | None, Build] = {}

    def of(self, model: str | None) -> Build:
        if (known := self._known.get(model)) is None:
            if len(self._known) >= _MOST:
                self._known.clear()
            known = self._known[model] = Build()
        return known
