"""Composition root of the supervisor process: lock, store, what is adopted, sockets, signals, and the way out."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable

from cluster.api import server as control
from cluster.balancers.listener import listen
from cluster.balancers.standby import end_left
from cluster.deployment import plan
from cluster.deployment.plan import Plan
from cluster.fleet.placement import Machine, Placement
from cluster.monitoring import external
from cluster.storage import transfer
from cluster.storage.lock import lock
from cluster.storage.store import NotSaved, Store
from cluster.supervisor import adoption
from cluster.supervisor.loop import Supervisor
from config import admin_token
from config.paths import StateDir
from config.settings import Settings, from_json
from config.strategy_file import last_epoch
from worker.drivers.base import Driver
from worker.drivers.local import LocalDriver
from worker.engines import base
from worker.spec import EngineSpec

log = logging.getLogger(__name__)

#: How long (s) the balancer may take to end once every worker has stopped.
_BALANCER_GRACE = 5.0


async def serve(settings: Settings, ready: Callable[[Supervisor], None] = lambda supervisor: None) -> None:
    """Runs a cluster until it has been shut down. ``ready`` is called once with the supervisor before it starts
    anything. Raises UsageError before that for everything that cannot work."""
    state = StateDir(settings.state_directory())
    driver = LocalDriver()
    with lock(state):
        store = await Store.open(state.database)
        try:
            await end_left(state, store)
            adopt = await adoption.anything_alive(store, driver, state.runs)
            if adopt:
                settings = from_json(await store.get("settings"))
            else:
                settings = transfer.with_imported(settings, await store.get(transfer.IMPORTED))
            await _serve(settings, plan.make(settings), state, store, driver, adopt, ready)
        finally:
            await store.close()


async def end(state: StateDir) -> None:
    """Ends what a supervisor that is gone left running on ``state``. Raises UsageError if another one lives."""
    driver = LocalDriver()
    with lock(state):
        store = await Store.open(state.database)
        try:
            await end_left(state, store)
            if await adoption.anything_alive(store, driver, state.runs):
                settings = from_json(await store.get("settings"))
                await _serve(settings, _plan_to_end(settings), state, store, driver, True, Supervisor.shut_down)
        finally:
            await store.close()


async def _serve(
    settings: Settings, checked: Plan, state: StateDir, store: Store, driver: Driver, adopt: bool,
    ready: Callable[[Supervisor], None],
) -> None:
    ending = checked.most == 0
    if not ending:
        _make_token(state)
    epoch = await _epoch(state, store)
    backends = external.parse(settings.backend, settings.backend_key_file, epoch)
    supervisor = Supervisor(checked, state, store, driver, [] if ending else backends)
    await supervisor.prepare(epoch, adopt)
    if supervisor.balancer.listener is None and not ending:
        supervisor.balancer.listener = listen(settings.host, settings.port)
    if not adopt:
        supervisor.take_room()
    server = await control.serve(supervisor, state)
    try:
        _handle_signals(supervisor)
        ready(supervisor)
        await supervisor.run()
        await supervisor.balancer.stop(_BALANCER_GRACE)
    finally:
        await supervisor.balancer.close()
        await server.cleanup()
        state.control.unlink(missing_ok=True)


def _make_token(state: StateDir) -> None:
    try:
        admin_token.ensure(state.admin_token)
    except OSError as error:  # the disk is full: the owner is still known by the kernel, or by the admin key
        log.warning("%s cannot be written: %s", state.admin_token, error.strerror)


async def _epoch(state: StateDir, store: Store) -> int:
    """The number of this supervisor's run: above all before it, those included that could not be saved."""
    before = last_epoch(state.strategy)
    try:
        epoch = await store.next_number("epochs")
        if epoch <= before:
            epoch = before + 1
            await store.put(epochs=epoch)
    except NotSaved:
        epoch = max(int(await store.get("epochs") or 0), before) + 1
    return epoch


def _handle_signals(supervisor: Supervisor) -> None:
    """The first SIGINT or SIGTERM drains and stops; a second one, or SIGQUIT, kills. A closed terminal is the first
    one, however often it is told of (its shell and the kernel both do), unless it is to be ignored (nohup)."""
    asked = False

    def on_signal(number: signal.Signals) -> None:
        nonlocal asked
        if number is signal.SIGHUP:
            if not asked:
                supervisor.shut_down(now=False)
            return
        supervisor.shut_down(now=asked or number is signal.SIGQUIT)
        asked = True

    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)


def _plan_to_end(settings: Settings) -> Plan:
    """To end a cluster nothing of what it ran on needs to be there any more: no model, no GPU, no engine."""
    nothing = EngineSpec(engine="sim", model="", served_names=("",))
    placement = Placement(Machine((), (), 0), on_gpu=False)
    return Plan(settings, base.load("sim"), nothing, placement, 0, 0)
