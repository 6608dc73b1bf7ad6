"""Whether a connection is read at the moment."""

from __future__ import annotations

import asyncio

from lb.admission.allowance import Allowance


class ReadGate:
    """Of ``transport``. ``held``: whoever takes the body cannot keep up; ``busy``: what has come of it is still read;
    memory may be waited for, as ``allowance`` tells. ``paused``: nothing is read."""

    __slots__ = ("_allowance", "_transport", "busy", "held", "paused")

    def __init__(self, transport: asyncio.Transport, allowance: Allowance) -> None:
        self._transport, self._allowance = transport, allowance
        self.busy = self.held = self.paused = False

    def pause(self) -> None:
        if not self.paused and not self._transport.is_closing():
            self._transport.pause_reading()
            self.paused = True

    def resume(self) -> None:
        """If nothing speaks against it."""
        if not self.paused or self.busy or self._allowance.waiting:
            return
        if not self._transport.is_closing():
            self._transport.resume_reading()
            self.paused = False
