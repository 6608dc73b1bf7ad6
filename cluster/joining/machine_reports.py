"""What the balancers of this machine say, said to the supervisor as if they were one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from cluster.balancers import reports
from cluster.balancers.reports import LatestReport


class MachineReports:
    """The observer of a `cluster.balancers.group.BalancerGroup`. ``reporters()``: those of its processes in which
    requests may be in flight; ``version``: of the newest backend set."""

    def __init__(self, say: Callable[[Mapping[str, Any]], None]) -> None:
        self._say = say
        self.reporters: Callable[[], Collection[LatestReport]] = tuple
        self.version = (0, 0)

    def reported(
        self, version: tuple[int, int], in_flight: Mapping[str, int], used: Mapping[str, float],
        work: Mapping[str, float],
    ) -> None:
        self._say({**reports.as_one(self.reporters()), "used": dict(used), "work": dict(work)})

    def lost(self) -> None:
        self._say({**reports.as_one(()), "version": list(self.version), "used": {}, "work": {}})

    def refused(self, refusals: Sequence[Mapping[str, Any]]) -> None:
        self._say({"type": "refused", "refusals": list(refusals)})

    def wanted(self, adapter: str) -> None:
        self._say({"type": "want", "adapter": adapter})

    def wanted_model(self, model: str) -> None:
        self._say({"type": "want", "model": model})

    def changed(self) -> None:
        """Nobody is shown it."""

    def outcome(self, message: Mapping[str, Any]) -> None:
        self._say(message)
