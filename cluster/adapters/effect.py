"""Does an adapter change what a worker answers? Asked once for each content and each set of the engine's flags.

What an engine drops without a word (modules it knows by another name, or is told not to adapt) leaves an adapter that
loads and answers as the base model does. One token's log-probabilities for a few prompts tell them apart; a worker
that cannot be asked for those is asked for vectors or classes instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from cluster.events import Emit
from worker.probe import NotNumbers, ProbeFailed, Target

#: Seconds for one answer: the first forward pass of an engine can take many.
_ANSWER_S = 30.0

#: How often, and with which pause (s), a worker is asked anew that answered alike: vLLM on a CPU was seen to answer so
#: while streams of an adapter's earlier version were running. To refuse an adapter that works is the worse mistake.
_AGAIN, _PAUSE_S = 4, 0.5

#: Of an answer that says nothing of the adapter: the worker has no room just now.
_BUSY = (429, 503)

#: With what a worker was started: its group, and the number of its settings (`cluster.deployment.revisions`).
Started = tuple[str, int]

NONE = "the worker answers with it as the base model does, to the last digit"
NOT_ASKED = "whether it has an effect: the workers serve nothing that tells"
NO_ANSWER = "whether it has an effect: the worker that was asked was too busy, or could not answer without it either"


class Effects:
    """``allowed(path)``: whether the adapter in that folder may have none. ``settings``: those that the worker was
    started with."""

    def __init__(self, allowed: Callable[[str], bool], emit: Emit) -> None:
        self._allowed, self._emit = allowed, emit
        self._seen: set[tuple[Started, str]] = set()
        self._without: dict[tuple[Started, str], str] = {}
        self._locks: dict[tuple[Started, str], asyncio.Lock] = {}
        self._not_asked: dict[str, str] = {}

    def without(self, path: str) -> str | None:
        """What was found wrong with the adapter in ``path`` on some worker."""
        return next((words for (_, known), words in self._without.items() if known == path), None)

    def unchecked(self, path: str) -> tuple[str, ...]:
        return (self._not_asked[path],) if path in self._not_asked else ()

    def known(self, settings: Started, path: str) -> str | None:
        """What is wrong with it, so that it need not be loaded to see it again."""
        return None if self._allowed(path) else self._without.get((settings, path))

    async def refusal(self, settings: Started, target: Target, name: str, path: str) -> str | None:
        """Why the adapter that ``target`` has just loaded is not to be used. Raises ProbeFailed."""
        key = (settings, path)
        if key in self._seen or self._allowed(path):
            return None
        async with self._locks.setdefault(key, asyncio.Lock()):  # workers load at once, and one is enough
            if key in self._seen or (words := self.known(settings, path)):
                return None if key in self._seen else words
            try:
                words = await _difference(target, name)
                for _ in range(_AGAIN):
                    if words != NONE:
                        break
                    await asyncio.sleep(_PAUSE_S)
                    words = await _difference(target, name)
            except ProbeFailed as error:
                if error.status not in _BUSY and not error.slow:
                    raise
                words = NO_ANSWER
            if words in (None, NOT_ASKED, NO_ANSWER):
                self._seen.add(key)
                if words is not None:
                    self._not_asked[path] = words
                return None
            self._without[key] = words
            self._emit("adapters", f"{name} is not used: {words}", kind="adapter.failed", data={"reason": words})
            return words


async def _difference(target: Target, name: str) -> str | None:
    """None where there is one; else what there is instead. Raises ProbeFailed."""
    base = next((str(card["id"]) for card in await target.models() if not card.get("parent")), None)
    try:
        expected: Any = None if base is None else await target.numbers(base, _ANSWER_S)
    except ProbeFailed as error:
        if error.status is None:
            raise
        return NO_ANSWER  # it cannot answer without the adapter either
    if expected is None:
        return NOT_ASKED
    try:
        found = await target.numbers(name, _ANSWER_S)
    except NotNumbers as error:
        return f"the worker answers with what is no number: {error}"
    except ProbeFailed as error:
        if error.status is None or error.status in _BUSY:
            raise  # it is gone, or has no time: that is not the adapter's fault
        return f"the worker loads it and cannot answer with it: {error}"
    return NONE if found == expected else None
