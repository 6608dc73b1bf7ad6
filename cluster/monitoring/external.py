"""Backends that this cluster did not start: probed, balanced and shown, never started, stopped or changed."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from cluster.events import Emit
from cluster.fleet.groups import DEFAULT
from cluster.fleet.instance import HeldAdapters
from cluster.fleet.states import WorkerState
from cluster.monitoring.probes import ProbePlan, nothing, watch
from config.topology import BackendSpec
from worker.probe import Cards, ProbeFailed, Target

#: How long (s) an address is believed before its name is asked for again.
RESOLVE_EVERY = 30.0

#: Seconds between two questions to one that has not answered yet.
_AGAIN_S = 1.0


class AdapterKeeper(Protocol):
    """`cluster.adapters.agent.AdapterAgent`."""

    def look(self, cards: Cards) -> bool: ...

    async def sync(self) -> None: ...


class ExternalBackend:
    """One such server, known by ``origin``. ``spec`` is what the balancer is told; ``agent`` brings adapters on it, if
    it is to have ours; ``changed`` is called when ``spec`` changes, ``emit`` with every sentence worth a line in the
    log."""

    def __init__(self, spec: BackendSpec, origin: str = "--backend") -> None:
        self.spec, self.origin = spec, origin
        #: What is wrong with it and, while nothing is, how far it has come on its way to be ready.
        self.reason = self.coming = ""
        #: As of an instance: taken out for slowness; found hung so often.
        self.slow = False
        self.hangs = 0
        #: Of the cluster it has none, and counts as one of the default group.
        self.settings, self.group = 0, DEFAULT
        self.adapters = HeldAdapters()
        self._failing = False
        self.agent: AdapterKeeper | None = None
        self.changed: Callable[[], None] = lambda: None
        self.emit: Emit = _unheard
        #: Whether there is room for it among those that are out for slowness, see `cluster.monitoring.ejection_limit`.
        self.may_take_out: Callable[[ExternalBackend, str], bool] = lambda backend, why: True

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def incarnation(self) -> int:
        return self.spec.incarnation

    @property
    def state(self) -> WorkerState:
        return WorkerState(self.spec.state)

    async def run(self, target: Target, plan: ProbePlan) -> None:
        """Probes it until cancelled."""
        await asyncio.gather(self._resolve(), self._watch(target, plan))

    async def _watch(self, target: Target, plan: ProbePlan) -> None:
        await _first_answer(target, self)
        await watch(target, plan, self, prepare=self.agent.sync if self.agent else nothing)

    async def _resolve(self) -> None:
        """Keeps ``ip`` true, so that no name is looked up on the request path."""
        while True:
            ip = await _address_of(self.spec.host, self.spec.port)
            if ip and ip != self.spec.ip:
                self.spec = replace(self.spec, ip=ip)
                self.changed()
            await asyncio.sleep(RESOLVE_EVERY if ip else 1.0)

    # Reporter

    def phase(self, text: str) -> None:
        self.reason, self.coming = "", text

    def not_yet(self, why: str) -> None:
        self.reason, self.coming = why, ""

    def ready(self, cards: Cards) -> None:
        self.slow = self._failing = False
        self._enter(WorkerState.READY, "", cards)
        self.emit(self.spec.id, f"ready ({self.spec.address})", kind="worker.ready")

    def seats(self, count: int | None) -> None:
        self.spec = replace(self.spec, seats=count)

    def looked(self, cards: Cards) -> None:
        if self.agent is not None:
            self.agent.look(cards)
        if self.spec.state == WorkerState.READY and cards != self.spec.models:
            self._enter(WorkerState.READY, "", cards)

    def unhealthy(self, why: str, lost: bool, slow: bool = False) -> None:
        if slow and not self.may_take_out(self, why):
            return
        self.slow, self._failing = self.slow or (slow and self.state is WorkerState.READY), True
        self._take_out(why)

    # hangs

    def hung(self, why: str) -> None:
        """Out of rotation until `going`: it is not ours to be killed."""
        self.slow = self.slow or self.state is WorkerState.READY
        self._take_out(why)

    def going(self) -> None:
        """It makes progress again."""
        if self.state is WorkerState.UNHEALTHY and not self._failing:
            self.slow = False
            self._enter(WorkerState.READY, "", self.spec.models)
            self.emit(self.spec.id, "back in rotation: it makes progress again", kind="worker.ready")

    def _take_out(self, why: str) -> None:
        self.reason = why
        if self.spec.state != WorkerState.UNHEALTHY:
            self._enter(WorkerState.UNHEALTHY, why, self.spec.models)
            self.emit(
                self.spec.id, f"out of rotation: {why}", kind="worker.unhealthy", data={"reason": why}
            )

    def _enter(self, state: WorkerState, reason: str, models: Cards) -> None:
        self.reason, self.coming = reason, ""
        self.spec = replace(self.spec, state=str(state), models=models)
        self.changed()


def _unheard(subject: str, text: str, kind: str = "", data: Mapping[str, Any] | None = None) -> None:
    """Nobody listens yet."""


async def _first_answer(target: Target, backend: ExternalBackend) -> None:
    while True:
        try:
            await target.models()
            return
        except ProbeFailed as error:
            backend.not_yet(str(error))
            await asyncio.sleep(_AGAIN_S)


async def _address_of(host: str, port: int) -> str | None:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=1)
    except OSError:
        return None
    return str(found[0][4][0])
