"""Fakes for the control plane's tests: what a part is given in place of the others, and a supervisor that is not run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from cluster.adapters.registry import Adapter
from cluster.balancers.feed import Feed
from cluster.balancers.group import BalancerGroup
from cluster.deployment import backend_urls, plan
from cluster.deployment.plan import Plan
from cluster.fleet.placement import Machine
from cluster.models.record import ModelUse
from cluster.monitoring.external import ExternalBackend
from cluster.storage.store import Store
from cluster.supervisor.assembly import Assembly
from cluster.supervisor.clock import Clocks
from cluster.supervisor.loop import Supervisor
from config.paths import StateDir
from config.settings import load
from config.topology import BalancerConfig
from fakedriver import FakeDriver
from fakes import Clock
from worker.drivers.base import LOCAL

T = TypeVar("T")


def sim_plan(**settings: Any) -> Plan:
    """Of simulated workers on a machine of two cores without a GPU."""
    return plan.make(load({"engine": "sim", **settings}), Machine((), (0, 1), 2**34))


def external(url: str, key_file: Path | None = None, epoch: int = 1) -> ExternalBackend:
    """A server that the cluster did not start."""
    (found,) = backend_urls.parse((url,), key_file, epoch)
    return ExternalBackend(found)


class Told:
    """An `Emit` that remembers who did what."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def __call__(self, subject: str, text: str, kind: str = "note", data: Mapping[str, Any] | None = None) -> None:
        self.events.append((subject, text))


class FakeBalancers:
    """As many balancers as anybody but their own group can tell. ``replaced``: the settings of each replacement;
    ``drain_timeout``: what it was changed to."""

    drain_timeout: float | None = None

    def __init__(self, connected: bool = True) -> None:
        self.connected = connected
        self.replaced: list[BalancerConfig | None] = []

    @property
    def engaged(self) -> int:
        return int(self.connected)

    def models(self) -> dict[str, ModelUse]:
        return {}

    def drain_within(self, timeout: float) -> None:
        self.drain_timeout = timeout

    def request_replacement(self, config: BalancerConfig | None = None) -> None:
        self.replaced.append(config)

    def publish(self, backends: dict[str, Any] | None = None, snapshot: dict[str, Any] | None = None) -> None:
        """There is nobody to tell."""


class NoStore:
    """A store that takes everything and has nothing."""

    path = Path("/nowhere")

    async def save_adapters(self, changed: Iterable[Adapter], gone: Iterable[str] = ()) -> None:
        """Nothing of it is kept."""

    async def append_audit(self, records: Sequence[str]) -> None:
        """Nor of this."""


class AtOnce:
    """A supervisor that makes changes at once. ``ended``: whether each shutdown was to be one without patience."""

    def __init__(self) -> None:
        self.ended: list[bool] = []

    async def command(self, change: Callable[[], T]) -> T:
        return change()

    async def settled(self) -> None:
        pass

    def shut_down(self, now: bool = False) -> None:
        self.ended.append(now)


class Unrun(Assembly):
    """The parts of a supervisor whose loop does not run, with balancers and workers that are none."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.time, self.replaceable = Clock(), FakeBalancers()
        super().__init__(
            [sim_plan(**settings)], StateDir(folder), cast(Store, NoStore()), {LOCAL: FakeDriver()}, [], 1,
            clock=Clocks(self.time, self.time),
        )
        self.supervisor = cast(Supervisor, AtOnce())
        self.balancers, self.feed = cast(BalancerGroup, self.replaceable), cast(Feed, self.replaceable)
