"""What is known of one node, and of the starts there. Pure: times are arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from worker.drivers.remote.protocol import AgentAddress, NodeReport, StartReport

#: Seconds without a word after which a node counts as lost: what runs there is replaced elsewhere. With the time until
#: a poll is missed it stays below the 6 s in which a loss is to be noticed.
LOST_S = 4.5

#: As much where the machine answers, and only its agent does not: workers are asked for themselves meanwhile.
LOST_AGENT_S = 20.0

#: As much where who knows of all nodes says that this one is not there any more.
LOST_ABSENT_S = 1.5

OnExit = Callable[[int | None], None]


@dataclass(slots=True)
class EndWatch:
    """Who wants to know of the end of a start. ``members``: how many of its other processes had ended before."""

    ended: OnExit
    member: Callable[[], None] | None = None
    members: int = 0


@dataclass(slots=True)
class RemoteNode:
    """``heard_at``: the last word, s, monotonic. ``opened``: there was one. ``up``: workers may be started there;
    ``lost``: nothing was heard for too long.
    ``absent``: who knows of all nodes does not know of it any more; as long as it answers it is used all the same.
    ``mine``: the starts that this supervisor knows of. ``gone``: those of them that count as ended because nothing was
    heard for too long; ``condemned``: those that may still run, and are to be ended when it is back. ``born``: those
    that reports need not know of yet."""

    name: str
    address: AgentAddress
    heard_at: float
    up: bool = False
    lost: bool = False
    opened: bool = False
    absent: bool = False
    only_agent: bool = False
    report: NodeReport | None = None
    condemned: set[str] = field(default_factory=set)
    mine: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    born: dict[str, tuple[int, StartReport]] = field(default_factory=dict)
    watches: dict[str, EndWatch] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """As of a `NodeStatus`."""
        return "up" if self.up else "lost" if self.lost else "waiting"

    def seen(self, start: str) -> StartReport | None:
        return None if self.report is None else self.report.starts.get(start)

    def over(self, start: str) -> bool:
        """Whether nothing of it is to be expected to run: as far as anybody can know."""
        seen = self.seen(start)
        return start in self.gone or (self.up and (seen is None or seen.empty))

    def heard(self, report: NodeReport, now: float) -> list[Callable[[], None]]:
        """What is to be called now."""
        for start, (revision, started) in list(self.born.items()):
            if revision > report.revision:
                report.starts.setdefault(start, started)  # the report was on its way already
            else:
                del self.born[start]
        self.report, self.heard_at, self.opened, self.only_agent = report, now, True, False
        return self._ended() + self._members()

    def started(self, start: str, revision: int, started: StartReport) -> None:
        """The agent has answered that it was, as of that ``revision`` of its reports."""
        self.born[start] = revision, started
        if self.report is not None:
            self.report.starts.setdefault(start, started)

    def silent(self, now: float) -> list[Callable[[], None]]:
        """Nothing is heard: what is to be called, where that is so for too long."""
        patience = LOST_ABSENT_S if self.absent else LOST_AGENT_S if self.only_agent else LOST_S
        return [] if self.lost or now - self.heard_at < patience else self.give_up()

    def give_up(self) -> list[Callable[[], None]]:
        """It counts as lost: what is to be called."""
        self.up, self.lost = False, True
        running = {start for start in self.mine if (seen := self.seen(start)) is None or not seen.empty}
        self.condemned |= running
        self.gone |= self.mine  # those that were empty, too: nobody can be asked any more
        watches, self.watches = self.watches, {}
        return [_call(watch.ended, None) for watch in watches.values()]

    def watch(self, start: str, watch: EndWatch) -> list[Callable[[], None]]:
        self.watches[start] = watch
        if start in self.gone:
            del self.watches[start]
            return [_call(watch.ended, None)]
        return self._ended() if self.report is not None else []

    def orphans(self) -> set[str]:
        """What runs there and nobody here knows of, or has given up."""
        running = {start for start, one in self.report.starts.items() if not one.empty} if self.report else set()
        self.condemned &= running
        return running - (self.mine - self.condemned)

    def _ended(self) -> list[Callable[[], None]]:
        calls = []
        for start, watch in list(self.watches.items()):
            seen = self.seen(start)
            if seen is None or seen.ended:
                del self.watches[start]
                calls.append(_call(watch.ended, None if seen is None else seen.status))
        return calls

    def _members(self) -> list[Callable[[], None]]:
        calls = []
        for start, watch in self.watches.items():
            seen = self.seen(start)
            if seen is not None and seen.members > watch.members and watch.member is not None:
                watch.members = seen.members
                calls.append(watch.member)
        return calls


def _call(tell: OnExit, status: int | None) -> Callable[[], None]:
    return lambda: tell(status)
