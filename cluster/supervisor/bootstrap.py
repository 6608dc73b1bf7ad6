"""Before a supervisor runs: what the state says, and what an earlier one left running."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from cluster.adapters.inventory import Inventory
from cluster.adapters.rollout import Rollouts
from cluster.balancers.group import BalancerGroup
from cluster.deployment import exposure
from cluster.deployment.revisions import Revisions
from cluster.events import EPOCH_IDS, KEPT, EventLog
from cluster.fleet.fleet import Fleet
from cluster.fleet.states import WorkerState
from cluster.keys.file import KeyFile
from cluster.keys.registry import KeyRegistry
from cluster.storage.store import NotSaved, Store
from cluster.storage.transfer import IMPORTED
from cluster.storage.write_behind import WriteBehind
from cluster.supervisor import adoption
from cluster.supervisor.clock import Clocks
from cluster.supervisor.publisher import Publisher
from cluster.supervisor.transactions import Transactions
from config.disk.strategy_file import StrategyWriter
from config.errors import UsageError
from config.identity import api_keys
from config.paths import StateDir
from worker import fetched
from worker.adapters.files import AdapterRejected
from worker.drivers.base import Drivers


@dataclass(frozen=True)
class Bootstrap:
    """Fills what a supervisor works on, once."""

    state: StateDir
    store: Store
    drivers: Drivers
    clock: Clocks
    events: EventLog
    write_behind: WriteBehind
    fleet: Fleet
    revisions: Revisions
    inventory: Inventory
    rollouts: Rollouts
    balancers: BalancerGroup
    publisher: Publisher
    transactions: Transactions
    keys: KeyRegistry
    key_file: KeyFile

    async def prepare(self, adopt: bool) -> None:
        """Reads the state and, with ``adopt``, takes over what runs. Raises UsageError where no cluster can be
        started."""
        epoch = self.publisher.epoch
        self.events.begin(epoch, await self.store.events())
        for event in self.events.events:
            if event.id > epoch * EPOCH_IDS:
                self.write_behind.event(event)
        self.events.listeners += [self.write_behind.event, self.balancers.feed.on_event]
        self.inventory.registry = await self.store.registry()
        self.fleet.intent.names.restore(await self.store.get("model_names"))
        await self._load_keys(adopt)
        if adopt:
            await self._adopt()
        else:  # what a running cluster's start named was taken in then, and may be unloaded since
            await self._take_in_given()
            if imported := await self.store.get(IMPORTED):
                self.fleet.intent.weights = dict(imported["weights"])
        await self._save(adopt)
        self.transactions.known()

    def take_room(self) -> None:
        """Before the first start: for what has to be written on a full disk too. Raises UsageError where there is
        none."""
        try:
            self.transactions.take_room()
            StrategyWriter(self.state.strategy).close()
        except OSError as error:
            raise UsageError(f"no cluster can be started on {self.state.root}: {error}") from None

    async def _load_keys(self, adopt: bool) -> None:
        """Raises UsageError for a broken file; a cluster that runs goes on by what the file said before."""
        filed = [api_keys.from_json(key) for key in await self.store.get("file_keys") or ()]
        self.keys.load(await self.store.keys(), filed, bool(await self.store.get("keyed")))
        await self.key_file.begin(strict=not adopt)
        if not adopt:
            exposure.check(self.revisions.settings, bool(self.keys.keys))
        self.balancers.feed.publish(keys=self.keys.message())

    async def _save(self, adopt: bool) -> None:
        values = {
            **adoption.boots(self.drivers), **self.transactions.durable, IMPORTED: None,
        }  # fmt: skip
        if adopt:
            self.write_behind.value(**values)  # on a full disk: what is saved there is as good
            await self.write_behind.flush()
            return
        try:
            gone = dict.fromkeys(await self.store.processes())
            await self.store.save(gone, [], KEPT)
            await self.store.put(**values)
        except NotSaved as error:
            raise UsageError(f"no cluster can be started on {self.state.root}: {error}") from None

    async def _take_in_given(self) -> None:
        """The adapters that this start names. Raises UsageError for one that is none."""
        plan = self.revisions.latest
        if (given := plan.spec.adapters) and plan.no_lora:
            raise UsageError(f"{plan.no_lora}, and {', '.join(given)} would need that: leave one of them away")
        try:
            for plan in self.revisions.plans.values():
                if not plan.broken:
                    await self.rollouts.take_in_given(plan)
        except AdapterRejected as error:
            raise UsageError(f"adapter {error}") from None
        except (NotSaved, OSError) as error:
            raise UsageError(f"the adapters cannot be stored in {self.state.adapters}: {error}") from None
        await asyncio.to_thread(self.rollouts.sweep)
        await asyncio.to_thread(fetched.sweep, self.revisions.settings, self.revisions.definitions.values())

    async def _adopt(self) -> None:
        fleet, now = self.fleet, self.clock.now()
        kept = await self.store.get("desired") or {}
        fleet.intent.restore(kept, await self.store.get("strategy"))
        self.revisions.restore(await self.store.get("plans"))
        for instance in await adoption.adopt_instances(self.store, self.drivers, now, self.state.runs):
            fleet.instances[instance.id] = instance
            self.write_behind.known("incarnations", instance.incarnation)
            for name in instance.adapters.loaded:
                self.inventory.used.setdefault(name, self.clock.wall())
            if instance.state is WorkerState.DRAINING:
                instance.in_flight, instance.drain_version = None, self.publisher.next_version
            if instance.handle is not None:
                self.events.emit(
                    instance.id, f"adopted (pid {instance.handle.pid}, {instance.state})", kind="worker.adopted",
                    data={"pid": instance.handle.pid, "incarnation": instance.incarnation},
                )
        await self.balancers.adopt()
        for name, grace in kept.get("drained", {}).items():  # the first backend set of this epoch says so
            fleet.intent.cordon(name, grace, self.clock.now(), self.publisher.next_version, self.publisher.connected)
