"""Keeps the balancer processes alive on one listening socket that stays open, replaces them without closing it, and
talks to all of them as if they were one.

The next supervisor takes the listening socket back from any of them that lives before it could die as well.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from cluster.balancers import reports
from cluster.balancers.adoption import adopt
from cluster.balancers.feed import Feed
from cluster.balancers.process import BalancerProcess, give_room_back, in_words
from cluster.balancers.replacements import Replacements
from cluster.balancers.reports import LatestReport
from cluster.balancers.slot import BalancerSlot
from cluster.balancers.starter import Starter
from cluster.events import Emit
from cluster.fleet.autoscaler import Demand
from cluster.models.record import ModelUse
from cluster.storage.store import Records
from config.link import Phase, descriptor_path, grpc_path
from config.paths import StateDir
from config.topology import BalancerConfig

RECORD = "balancer"


class GroupObserver(Protocol):
    """What comes of the reports of all processes together."""

    def reported(
        self, version: tuple[int, int], in_flight: Mapping[str, int], used: Mapping[str, float],
        work: Mapping[str, float],
    ) -> None:
        """The ``version`` that every process has confirmed, what is in flight in all of them, by backend, the last use
        of adapters (s since the epoch) and what was done for them since one of them last said (tokens)."""

    def lost(self) -> None:
        """The last process that may have had requests is gone."""

    def refused(self, refusals: Sequence[Mapping[str, Any]]) -> None:
        """Who was, for want of a right (`lb.records.refusals`)."""

    def wanted(self, adapter: str) -> None:
        """It is asked for, and no worker holds it."""

    def wanted_model(self, model: str) -> None:
        """It is asked for, and is not up."""

    def changed(self) -> None:
        """`BalancerGroup.describe` says something else."""

    def outcome(self, message: Mapping[str, Any]) -> None:
        """What became of requests on a lost worker, see `config.link`."""


class BalancerGroup:
    """``config.processes`` balancer processes, and those that were replaced and finish what they have. ``emit`` gets
    sentences for people. ``drain_timeout``: how long (s) a request may go on in one that was replaced; ``standby``:
    whether another process waits to take the place of one that dies. ``feed``: what they are told.

    More methods than a class should have: slots, replacements, adoption and the standby have classes of their own, and
    this is where what one of them does meets the others."""

    def __init__(
        self, state: StateDir, config: BalancerConfig, store: Records, observer: GroupObserver, emit: Emit,
        feed: Feed | None = None, *, drain_timeout: float = 30.0, standby: bool = False,
    ) -> None:
        self._state, self._store, self._observer, self.emit = state, store, observer, emit
        self.drain_timeout, self.config = drain_timeout, config
        #: A replacement that was begun under an earlier supervisor, and came to nothing with it.
        self.unfinished = False
        self.feed = feed or Feed()
        self.processes = self.feed.processes
        self.starter = Starter(state, store, self, self.feed, emit, observer.changed, standby)
        self.slots = [self._slot(number, config) for number in range(config.processes)]
        self.replacements = Replacements(self._replace_all, emit, observer.changed)
        self.replaced = self.lost_requests = 0
        self._limits_are_local = False
        self.ends: Counter[str] = Counter()

    def _slot(self, number: int, config: BalancerConfig) -> BalancerSlot:
        return BalancerSlot(f"{RECORD}-{number}" if number else RECORD, config, self, self.starter)

    @property
    def connected(self) -> bool:
        """Whether requests may be in flight in any of them."""
        return self.feed.connected

    @property
    def logs(self) -> list[str]:
        """Names of the logs they write to."""
        return [*(slot.name for slot in self.slots), "standby"]

    @property
    def pids(self) -> dict[str, int]:
        """Of those that take connections, and of the standby, by the names of their logs."""
        current = {slot.name: slot.current.pid for slot in self.slots if slot.current is not None}
        found = {**current, "standby": self.starter.standby.pid}
        return {name: pid for name, pid in found.items() if pid is not None}

    def describe(self) -> dict[str, Any]:
        """For status and metrics."""
        return {
            "restarts": sum(slot.restarts for slot in self.slots),
            "replacements": self.replaced,
            "replacing": self.replacements.under_way,
            "failure": self.replacements.failure,
            "standby": self.starter.standby.pid,
            "processes": [_process(slot) for slot in self.slots],
            "draining": [{"pid": p.pid, "in_flight": p.requests} for p in self.processes if p.retiring is not None],
            "lost_requests": self.lost_requests,
            "ends": dict(self.ends),
            **({"joined": joined} if (joined := [each.describe() for each in self.feed.joined]) else {}),
        }

    async def adopt(self) -> bool:
        """Takes over what an earlier supervisor started, and the listening sockets. False: nothing of it runs."""
        left = await adopt(self, self._state, self._store)
        self.processes += left.processes
        self.starter.listeners, self.unfinished = left.listeners, left.unfinished
        self.starter.order = max((process.order for process in self.processes), default=0)
        slots = {slot.name: slot for slot in self.slots}
        for process in self.processes:
            what = "adopted" if process.retiring is None else "adopted, finishes what it has"
            self.emit(process.slot, f"pid {process.pid} {what}", kind="balancer.adopted", data={"pid": process.pid})
            if process.slot not in slots:
                process.retiring = process.retiring or self.drain_timeout
            elif process.retiring is None:
                slots[process.slot].line.append(process)
        for slot in self.slots:
            if len(slot.line) == 1:
                slot.line[0].phase = Phase.SERVING  # it may not have said so before it dies
        return left.listeners.http is not None

    def start(self) -> None:
        """Runs them from now on. Needs a listener."""
        kept = {process.link for process in self.processes}
        kept |= {beside(link) for link in kept if link is not None for beside in (descriptor_path, grpc_path)}
        for path in self._state.root.glob("lb-*.sock*"):
            if path not in kept:  # left by a cluster that was killed as a whole
                path.unlink(missing_ok=True)
        for process in self.processes:
            process.follow()
        for slot in self.slots:
            slot.start()

    # another in its place

    def request_replacement(self, config: BalancerConfig | None = None) -> None:
        """Of every process, in the background, see `Replacements.replace`."""
        self.replacements.request(config)

    async def _replace_all(self, config: BalancerConfig | None) -> None:
        config = config or self.config
        for slot in self.slots:
            await slot.replace(config)
        await self._resize(config)
        self.config = config
        self._tell_terms()
        self.starter.standby.renew()  # what is installed may be another version by now

    def drain_within(self, timeout: float) -> None:
        """From now on a request may go on for so long (s) in one that is replaced, also on machines that joined."""
        self.drain_timeout = timeout
        self._tell_terms()

    def terms(self) -> dict[str, Any]:
        """By what balancers here and on machines that have joined are kept."""
        return {
            "config": self.config.to_json(), "drain_timeout": self.drain_timeout,
            "standby": self.starter.keeps_standby,
        }  # fmt: skip

    def _tell_terms(self) -> None:
        for each in self.feed.joined:
            each.tell({"type": "config", **self.terms()})

    async def _resize(self, config: BalancerConfig) -> None:
        """More processes than before, or fewer."""
        for number in range(len(self.slots), config.processes):
            self.slots.append(self._slot(number, config))
            self.slots[-1].start()
        while len(self.slots) > config.processes:
            slot = self.slots.pop()
            await slot.close()
            for process in slot.line:
                successor = self.slots[0].current
                if successor is not None:
                    await process.retire(self.drain_timeout, successor)

    async def stop(self, grace: float) -> None:
        """Ends them all: asked first, killed after ``grace`` seconds."""
        await self.replacements.close()
        await asyncio.gather(self.starter.standby.stop(), *(slot.close() for slot in self.slots))
        await asyncio.gather(*(process.stop(grace) for process in self.processes))
        give_room_back(self._state)
        self.starter.listeners.close()

    async def close(self) -> None:
        """Leaves them running and lets go of them; the standby ends."""
        await self.replacements.close()
        await asyncio.gather(self.starter.standby.close(), *(slot.close() for slot in self.slots))
        for process in self.processes:
            await process.close()

    def load(self, backend: str) -> tuple[int, int, int]:
        """See `reports.load`."""
        return reports.load(self.reporters, backend)

    def demand(self, backends: Collection[str], model: str | None = None) -> Demand:
        """See `reports.demand`."""
        return reports.demand(self.reporters, backends, model)

    def models(self) -> dict[str, ModelUse]:
        """By model, by the last reports."""
        return reports.models(self.reporters)

    @property
    def reporters(self) -> list[LatestReport]:
        """Processes, and machines that have joined, in which requests may be in flight."""
        return [each for each in (*self.processes, *self.feed.joined) if each.engaged]

    # for its slots and processes

    def lost(self, requests: int, how: str) -> None:
        self.lost_requests += requests
        self.ends[how] += 1

    def on_message(self, process: BalancerProcess, message: Mapping[str, Any]) -> None:
        kind = message["type"]
        if kind in ("hello", "phase"):
            self._phase(process, message)
        elif kind == "limits":
            self._limits(process, message["limits"])
        elif kind == "attempts":
            self.feed.pass_on(message)
        else:
            self.hear(message)

    def hear(self, message: Mapping[str, Any]) -> None:
        """What a process says, or a machine that has joined, of what is not itself."""
        kind = message["type"]
        if kind == "report":
            self._report(message.get("used", {}), message.get("work", {}))
        elif kind == "want" and "model" in message:
            self._observer.wanted_model(message["model"])
        elif kind == "want":
            self._observer.wanted(message["adapter"])
        elif kind == "outcome":
            self._observer.outcome(message)
        elif kind == "refused":
            self._observer.refused(message["refusals"])

    def parted(self) -> None:
        """A process has ended, or a machine that had joined is not heard any more: what was in flight there does not
        count."""
        if self.connected:
            self._report({}, {})
        else:
            self._observer.lost()
        self._observer.changed()

    def ended(self, process: BalancerProcess, status: int | None) -> None:
        """What was in flight in it is over; what the others have is not."""
        self.processes.remove(process)
        if process.phase is Phase.STARTING and not process.asked:
            self.starter.standby.failures += 1  # another would come to the same end
        self.starter.standby.look()
        if process.retiring is not None and not process.asked:
            self._finished(process, status)
        for slot in self.slots:
            slot.ended(process, status)
        self.parted()

    def _limits(self, process: BalancerProcess, told: Mapping[str, Any]) -> None:
        """Says when the first cannot share them with other machines, and when all can again."""
        process.limits_kept = str(told["reason"])
        now = any(each.limits_kept for each in self.processes)
        if now != self._limits_are_local:
            self._limits_are_local = now
            data = {"store": told["store"], "reason": told["reason"]}
            if now:
                words = f"{told['reason']}; keys' limits hold on this machine by itself"
                self.emit(told["store"], words, kind="limits.local", data=data)
            else:
                self.emit(told["store"], "answers: keys' limits are shared again", kind="limits.shared", data=data)

    def _phase(self, process: BalancerProcess, message: Mapping[str, Any]) -> None:
        if process.phase is Phase.DRAINING and process.successor is not None and message["type"] == "phase":
            self.replaced += 1
            self.emit(
                process.slot, f"replaced: pid {process.pid} -> pid {process.successor}; "
                f"{message['requests']} requests finish on the old one", kind="balancer.replaced",
                data={"pid": process.successor, "before": process.pid, "requests": message["requests"]},
            )  # fmt: skip
        for slot in self.slots:
            if slot.name == process.slot:
                slot.phase_of(process)
        if process.phase is Phase.SERVING:
            self.starter.serving()
        self._observer.changed()

    def _finished(self, process: BalancerProcess, status: int | None) -> None:
        if status in (0, None) and not process.requests:
            self.emit(
                process.slot, f"pid {process.pid}, which was replaced, has finished", kind="balancer.finished",
                data={"pid": process.pid},
            )
            return
        self.lost(process.requests, in_words(status))
        self.emit(
            process.slot, f"pid {process.pid}, which was replaced, ended ({in_words(status)}) "
            f"with {process.requests} requests in flight, which are lost", kind="balancer.lost",
            data={"pid": process.pid, "requests": process.requests},
        )  # fmt: skip

    def _report(self, used: Mapping[str, float], work: Mapping[str, float]) -> None:
        """One that has not said a word yet has confirmed nothing: it was adopted, and may be at anything."""
        version = min(each.version for each in self.reporters)
        self._observer.reported(version, reports.in_flight(self.reporters), used, work)


def _process(slot: BalancerSlot) -> dict[str, Any]:
    process = slot.current
    return {
        "pid": process.pid if process else None,
        "restarts": slot.restarts,
        "in_flight": process.requests if process else 0,
    }
