"""Puts one worker to sleep, and brings it back: what it answers then is compared with what it answered before.

Engines were seen to wake without the adapters that they name (vllm-project/vllm#53888): each is taken off and loaded
once more, and none serves before its answer is as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cluster.adapters.agent import AdapterAgent
from cluster.models import canary
from cluster.models.canary import BASE, AnswerSample
from worker.probe import NotNumbers, ProbeFailed, Target

#: Seconds that an engine may take to fall asleep or to wake, and for one answer.
_SLEEP_S, _ANSWER_S = 120.0, 60.0


async def fall_asleep(target: Target) -> dict[str, Any]:
    """Of a worker on which nothing runs. Returns what it answered before, as `Wakening` takes it. Raises
    ProbeFailed."""
    await target.wake(_SLEEP_S)  # whoever was here before may have been killed when it slept already
    before = await _answers(target)
    await target.sleep(_SLEEP_S)
    return canary.to_json(before)


class Wakening:
    """Of one worker that sleeps, or was told to wake by a supervisor before this one. ``before``: what `fall_asleep`
    returned. ``altered(why)`` is called where it answers otherwise."""

    def __init__(
        self, target: Target, agent: AdapterAgent, before: Mapping[str, Any], altered: Callable[[str], None]
    ) -> None:
        self._target, self._agent, self._before, self._altered = target, agent, before, altered
        self._fresh = False

    async def prepare(self) -> None:
        """Until it answers as before. Raises ProbeFailed if it does not, or not at all."""
        if not self._fresh:
            await self._target.wake(_SLEEP_S)
            await self._agent.take_off()
            self._fresh = True
        await self._agent.sync()
        names = canary.altered(canary.from_json(self._before), await _answers(self._target))
        if names:
            who = ", ".join(name or "the base model" for name in names)
            why = f"answers otherwise than before it slept: {who}"
            self._altered(why)
            raise ProbeFailed(why)


async def _answers(target: Target) -> dict[str, AnswerSample]:
    """Of the base model and of each adapter. Raises ProbeFailed."""
    found: dict[str, AnswerSample] = {}
    for card in await target.models():
        name, adapter = str(card["id"]), bool(card.get("parent"))
        if not adapter and BASE in found:
            continue  # another name of the same
        try:
            numbers = await target.numbers(name, _ANSWER_S)
        except NotNumbers as error:
            numbers = str(error)
        found[name if adapter else BASE] = AnswerSample(str(card.get("root")) if adapter else "", numbers)
    return found
