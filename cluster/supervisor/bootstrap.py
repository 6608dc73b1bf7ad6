"""Before a supervisor runs: what the state says, and what an earlier one left running."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.adapters.validation.engine_side import serves_lora
from cluster.adapters.validation.files import AdapterRejected
from cluster.events import EPOCH_IDS, KEPT
from cluster.fleet.states import InstanceDesired, WorkerState
from cluster.storage.store import NotSaved, Store
from cluster.storage.transfer import IMPORTED
from cluster.supervisor import adoption
from config.errors import UsageError
from worker.drivers.base import Driver

if TYPE_CHECKING:
    from cluster.supervisor.loop import Supervisor


async def prepare(supervisor: Supervisor, store: Store, driver: Driver, adopt: bool) -> None:
    """Reads the state and, with ``adopt``, takes over what runs. Raises UsageError where no cluster can be started."""
    supervisor.events.begin(supervisor.epoch, await store.events())
    for event in supervisor.events.events:
        if event.id > supervisor.epoch * EPOCH_IDS:
            supervisor.write_behind.event(event)
    supervisor.events.on_event = supervisor.happened
    supervisor.rollouts.registry = await store.registry()
    if adopt:
        await _adopt(supervisor, store, driver)
    else:  # what a running cluster's start named was taken in then, and may be unloaded since
        await _take_in_given(supervisor)
        if imported := await store.get(IMPORTED):
            supervisor.fleet.weights = dict(imported["weights"])
    values = {
        "boot_id": driver.boot(), "settings": supervisor.plan.settings.to_json(), IMPORTED: None,
        **supervisor.transactions.durable,
    }  # fmt: skip
    if adopt:
        supervisor.write_behind.value(**values)  # on a full disk: what is saved there is as good
        await supervisor.write_behind.flush()
    else:
        try:
            gone = dict.fromkeys(await store.processes())
            await store.save(gone, [], KEPT)
            await store.put(**values)
        except NotSaved as error:
            raise UsageError(f"no cluster can be started on {supervisor.state.root}: {error}") from None
    supervisor.transactions.known()


async def _take_in_given(supervisor: Supervisor) -> None:
    """The adapters that this start names. Raises UsageError for one that is none."""
    spec, rollouts = supervisor.plan.spec, supervisor.rollouts
    given = {name: Path(path) for name, path in spec.adapters.items()}
    if given and not serves_lora(spec):
        raise UsageError(f"with --no-enable-lora no worker could hold {', '.join(given)}: leave one of them away")
    try:
        await rollouts.take_in_given(given, spec.lazy, spec.descriptions)
    except AdapterRejected as error:
        raise UsageError(f"adapter {error}") from None
    except (NotSaved, OSError) as error:
        raise UsageError(f"the adapters cannot be stored in {supervisor.state.adapters}: {error}") from None
    await asyncio.to_thread(rollouts.sweep)


async def _adopt(supervisor: Supervisor, store: Store, driver: Driver) -> None:
    now, fleet = supervisor.now(), supervisor.fleet
    kept = await store.get("desired") or {}
    supervisor.strategy = await store.get("strategy") or supervisor.strategy
    fleet.weights = dict(kept.get("weights", {}))
    if kept.get("instances") is not None:
        wanted = {name: InstanceDesired(**value) for name, value in kept["instances"].items()}
        spares = {name: InstanceDesired(**value) for name, value in kept.get("spares", {}).items()}
        fleet.desired = replace(fleet.desired, instances=wanted, spares=spares)
    supervisor.revisions.restore(await store.get("plans"))
    for instance in await adoption.adopt_instances(store, driver, now, supervisor.state.runs):
        fleet.instances[instance.id] = instance
        supervisor.write_behind.known("incarnations", instance.incarnation)
        for name in instance.held:
            supervisor.rollouts.used.setdefault(name, supervisor.wall())
        if instance.state is WorkerState.DRAINING:
            instance.in_flight, instance.drain_version = None, supervisor.next_version
        if instance.handle is not None:
            supervisor.events.emit(
                instance.id, f"adopted (pid {instance.handle.pid}, {instance.state})", kind="worker.adopted",
                data={"pid": instance.handle.pid, "incarnation": instance.incarnation},
            )
    await supervisor.balancer.adopt()
    for name, grace in kept.get("drained", {}).items():  # the first backend set of this epoch says so
        supervisor.drain_by_hand(name, grace)
