"""One client of many, and what its answers have to be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random

from exact.client import Answer, Wire, connected
from exact.workers import Workers


@dataclass
class Slot:
    """One of the clients that work side by side; each keeps its connection as long as it may."""

    port: int
    workers: Workers
    chance: Random
    kept: Wire | None = None

    async def wire(self) -> Wire:
        if self.kept is None:
            self.kept = await connected(self.port)
        return self.kept

    def drop(self) -> None:
        wire, self.kept = self.kept, None
        if wire is not None:
            wire.leave()

    async def ask(self, data: bytes) -> Answer:
        """The answer; the connection goes on."""
        wire = await self.wire()
        wire.write(data)
        answer = await wire.answer()
        assert answer.complete and not wire.unread, (answer, wire.unread)
        return answer

    async def ask_last(self, data: bytes) -> Answer:
        """The answer, after which the balancer has to end the connection."""
        wire = await self.wire()
        wire.write(data)
        answer = await wire.answer()
        assert await wire.end() == b"" and answer.complete, answer
        assert b"connection: close" in answer.head.lower(), answer
        self.drop()
        return answer

    def leave(self) -> None:
        """In one way or the other."""
        wire, self.kept = self.kept, None
        assert wire is not None
        if self.chance.random() < 0.5:
            wire.leave()
        else:
            wire.reset()


def is_answer(answer: Answer, body: bytes, status: int = 200) -> None:
    assert (answer.status, answer.body) == (status, body), answer


def is_error(answer: Answer, status: int) -> None:
    assert answer.status == status, answer
    assert json.loads(answer.body)["error"]["code"] == status, answer
