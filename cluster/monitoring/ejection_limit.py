"""How many may be taken out of rotation for slowness: never more than half of a group at a time. Pure.

If everything makes no progress at once it is the machine and not the workers, and killing them all would make an outage
of a hiccup. Who cannot be connected to is another matter: it serves nobody, whatever the others do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol

from cluster.events import Emit
from cluster.fleet.groups import group_of
from cluster.fleet.states import WorkerState

#: What makes no progress is found so again within this time (s): by its hang detector many times, by probes once or
#: more.
_EXEMPT_S = 30.0


class RotationMember(Protocol):
    """A worker, or a server that is not ours. ``slow``: it was taken out for slowness and has not been back since."""

    @property
    def id(self) -> str: ...

    @property
    def group(self) -> str: ...

    @property
    def state(self) -> WorkerState: ...

    @property
    def slow(self) -> bool: ...


def may_take_out(ready: int, out: int) -> bool:
    """Whether one of ``ready`` may be taken out of rotation for slowness while ``out`` are: half of all, rounded
    down, but at least one."""
    return out < max(1, (ready + out) // 2)


class EjectionLimit:
    """Of all workers and servers of one cluster, each group by itself; servers that are not ours are of the default
    one. ``now``: s, monotonic."""

    def __init__(self, members: Callable[[], Iterable[RotationMember]], now: Callable[[], float], emit: Emit) -> None:
        self._members, self._now, self._emit = members, now, emit
        #: Who makes no progress and is exempt from ejection, and when that was last decided.
        self._exempt: dict[str, float] = {}

    def admits(self, member: RotationMember, why: str) -> bool:
        """Whether ``member`` may be taken out of rotation for slowness; if not, that is told, once."""
        group = member.group
        members = [one for one in self._members() if one.group == group]
        ready = sum(m.state is WorkerState.READY and not m.slow for m in members)
        out = sum(m.slow for m in members)
        if member.state is not WorkerState.READY or may_take_out(ready, out):
            self._exempt.pop(member.id, None)
            return True
        known, self._exempt[member.id] = self.exempts(member.id), self._now()
        if not known:
            exempt = sum(self.exempts(name) for name in self._exempt if group_of(name) == group)
            still, total = out + exempt, ready + out
            self._emit(
                member.id,
                f"{why}; exempt from ejection, as {still} of {total} make no progress at once: that looks like the "
                f"machine, and no more than half are taken out at a time",
            )
        return False

    def exempts(self, name: str) -> bool:
        """Whether it makes no progress, or did so a moment ago, and is left in rotation."""
        return self._now() - self._exempt.get(name, -math.inf) < _EXEMPT_S
