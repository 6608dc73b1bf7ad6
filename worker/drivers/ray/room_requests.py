"""Tells an autoscaler of Ray's what workers wait for: for each there is a task without work that needs the same.

Ray counts it as demand for as long as no node has room for it. It holds nothing: where there is room it ends at once,
and leaves that to the worker. It is withdrawn when nobody waits any more, and at the latest with this process.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from worker.drivers.nodes import WorkerNeed
from worker.drivers.ray import room

#: Seconds until the same is asked for again though there was room for it: a new node is used when its agent answers.
_AGAIN_S = 5.0


@dataclass(slots=True)
class RoomRequest:
    """``task``: its answer is to come; ``ended_at``: when it was seen to have come (s, monotonic)."""

    need: WorkerNeed
    task: Any
    ended_at: float | None = None


class RoomRequests:
    """Of the workers of the cluster ``name``. ``ray``: connected; ``now()``: s, monotonic."""

    def __init__(self, ray: Any, name: str, now: Callable[[], float] = time.monotonic) -> None:
        self._ray, self._name, self._now = ray, name, now
        self._asked: dict[str, RoomRequest] = {}

    def ask(self, worker: str, need: WorkerNeed) -> None:
        """There is no room for it. Of no effect while the same is asked for."""
        known = self._asked.get(worker)
        if known is None or known.need != need or self._is_answered(known):
            self.withdraw(worker)
            self._asked[worker] = RoomRequest(need, self._task(worker, need))

    def withdraw(self, worker: str) -> None:
        """It waits for none any more."""
        if (known := self._asked.pop(worker, None)) is not None and known.ended_at is None:
            with contextlib.suppress(Exception):  # Ray raises whatever it likes of one that is just over
                self._ray.cancel(known.task)

    def keep(self, workers: Collection[str]) -> None:
        """Those of all others are withdrawn."""
        for worker in set(self._asked) - set(workers):
            self.withdraw(worker)

    def _is_answered(self, request: RoomRequest) -> bool:
        """Whether there was room some time ago."""
        if request.ended_at is None and self._ray.wait([request.task], timeout=0)[0]:
            request.ended_at = self._now()
        return request.ended_at is not None and self._now() - request.ended_at > _AGAIN_S

    def _task(self, worker: str, need: WorkerNeed) -> Any:
        return self._ray.remote(there_is_room).options(
            name=f"clusterctl-{self._name}/{worker} waits", max_retries=0, **room.options(room.amounts(need)),
            **({"label_selector": dict(need.labels)} if need.labels else {}),
        ).remote()  # fmt: skip


def there_is_room() -> None:
    """The task."""
