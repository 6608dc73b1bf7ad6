"""Has a data set written, and keeps every answer: a later run reads them and asks what is missing.

The journal has an answer a line, in the order of the requests; the rows follow from it. What is killed loses the
answers that had not come. Failures are not in it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

from cluster.client import ClusterError
from cluster.tools.batch.files import BatchStep, Output
from cluster.tools.batch.lines import BatchRequest, line_of, written
from cluster.tools.batch.run import in_order
from cluster.tools.dataset.progress import Writing
from cluster.tools.dataset.prompts import DataPlan
from config.errors import UsageError

Work = Callable[[BatchRequest], Awaitable[Mapping[str, Any]]]

#: Errors that no other request would be spared.
_HOPELESS = frozenset({400, 401, 402, 403, 404, 405, 422})


class DataRun:
    """``journal``, ``out``: the files that grow; ``system``: the first message of each row, or empty; ``look`` is
    called when something has come."""

    def __init__(
        self, plan: DataPlan, writing: Writing, journal: Output, out: Output, system: str = "",
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self._plan, self._writing, self._journal, self._out = plan, writing, journal, out
        self._system, self._look = system, look
        self._next, self._under_way, self._changed = 0, 0, asyncio.Event()
        writing.know(plan.examples)

    def resume(self) -> None:
        """What is there already. Raises UsageError for files of another run, OSError."""
        there = self._out.kept()
        for line in self._journal.kept():
            number, answer = self._read(line)
            for row in self._take(number, answer):
                if (kept := next(there, None)) is None:
                    self._out.write(row)
                elif kept != row:
                    raise UsageError(f"{self._out.name} was changed since; name another file, or --overwrite it")
            self._next = number + 1
        if next(there, None) is not None:
            raise UsageError(f"{self._out.name} has other rows than are wanted; name another file, or --overwrite it")
        self._writing.barren = 0  # it is tried again

    def _read(self, line: bytes) -> tuple[int, Mapping[str, Any]]:
        kept, answer = written(line), {}
        if kept is not None:
            answer = json.loads(line)
        number = answer.get("line")
        if kept is None or not isinstance(number, int) or (number == 0) != (self._next == 0):
            raise UsageError(f"{self._journal.name}: not the answers of a run; --overwrite begins anew")
        if kept.hash != self._plan.ask(number, self._writing.topics).hash:
            raise UsageError(
                f"{self._journal.name} has answers to other requests: the domain or the options have changed; name "
                "another file, or --overwrite it"
            )
        return number, answer

    async def go(self, work: Work, concurrency: int) -> None:
        """Raises ClusterError, OSError."""
        if self._next == 0 and not self._writing.ended():
            ask = self._plan.ask(0, ())
            self._given(BatchStep(0, ask=ask), await _hopeful(work, ask))
        await in_order(self._steps(), lambda ask: _hopeful(work, ask), concurrency, self._given)
        self._journal.complete()
        self._out.complete()

    async def _steps(self) -> AsyncIterator[BatchStep]:
        while not self._writing.ended(self._under_way):
            if self._writing.wants_more(self._under_way):
                number, self._next = self._next, self._next + 1
                self._under_way += 1
                yield BatchStep(number, ask=self._plan.ask(number, self._writing.topics))
            else:
                self._changed.clear()
                await self._changed.wait()

    def _given(self, step: BatchStep, answer: Mapping[str, Any] | None) -> None:
        assert answer is not None
        number = step.offset
        if number == 0:
            self._next = 1
        else:
            self._under_way -= 1
        if not answer.get("error"):
            self._journal.write(line_of(answer))
        for row in self._take(number, answer):
            self._out.write(row)
        self._changed.set()
        self._look()

    def _take(self, number: int, answer: Mapping[str, Any]) -> Iterator[bytes]:
        if number == 0:
            self._writing.take_topics(answer, self._plan.domain)
            return
        for row in self._writing.take(answer):
            yield row.line(self._system)


async def _hopeful(work: Work, ask: BatchRequest) -> Mapping[str, Any]:
    """The answer. Raises ClusterError for one that says that nothing will come of any request."""
    answer = await work(ask)
    error = answer.get("error")
    if error and (error["status"] in _HOPELESS or ask.number == 0):
        raise ClusterError(error["message"], error["status"])
    return answer
