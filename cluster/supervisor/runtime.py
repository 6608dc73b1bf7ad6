"""Composition root of the supervisor process: lock, store, what is adopted, sockets, signals, and the way out."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import aiohttp

from cluster.api import server as api
from cluster.balancers.config import balancer_config, is_outdated
from cluster.balancers.standby import end_left
from cluster.deployment import backend_urls, model_plans, plan
from cluster.deployment.plan import Plan
from cluster.fleet.groups import DEFAULT
from cluster.fleet.placement import Machine, Placement
from cluster.jobs import runner as jobs
from cluster.joining.members import KEPT as MEMBERS
from cluster.models import startup
from cluster.monitoring.certificate import watch_certificate
from cluster.monitoring.external import ExternalBackend
from cluster.storage import transfer
from cluster.storage.lock import lock
from cluster.storage.store import NotSaved, Store
from cluster.supervisor import adoption, zygote_process
from cluster.supervisor.assembly import Assembly
from cluster.supervisor.drivers import give_back, give_back_of_the_dead, left, opened
from cluster.supervisor.housekeeping import keep_house
from config.aio import Tasks
from config.disk.strategy_file import StrategyWriter, last_epoch
from config.errors import UsageError
from config.identity import admin_token
from config.models import definitions
from config.paths import StateDir
from config.settings import Settings, from_json
from worker.drivers.base import Drivers
from worker.engines import base
from worker.spec import EngineSpec

log = logging.getLogger(__name__)

#: What `clusterctl status` shows, less what only the balancer can count.
Snapshot = Callable[[], dict[str, Any]]

#: How long (s) the balancer may take to end once every worker has stopped.
_BALANCER_GRACE = 5.0

#: Between two looks at whether requests still run (s).
_LOOK_S = 0.1


async def serve(settings: Settings, ready: Callable[[Snapshot], None] = lambda snapshot: None) -> None:
    """Runs a cluster until it has been shut down. ``ready`` is called once, with what tells the status of
    all, before anything is started. Raises UsageError before that for everything that cannot work."""
    state = StateDir(settings.state_directory())
    with lock(state):
        if state.joined.exists():
            raise UsageError(
                f"balancers that have joined another machine's cluster run on {state.root}, or were left there: "
                "`clusterctl balancer down` ends them; another directory is named with --state-dir"
            )
        store = await Store.open(state.database)
        try:
            await end_left(state, store)
            async with left(state, store) as drivers:
                if await adoption.anything_alive(store, drivers, state.runs):
                    settings = adopted(from_json(await store.get("settings")), settings)
                    plans = [plan.make(settings), *await _models(settings, store, True)]
                    await _serve(settings, plans, state, store, drivers, True, lambda parts: ready(parts.snapshot))
                    return
            await _begin(settings, state, store, ready)
        finally:
            await store.close()


async def _begin(settings: Settings, state: StateDir, store: Store, ready: Callable[[Snapshot], None]) -> None:
    """A cluster of which nothing runs yet. Raises as `serve`."""
    settings = transfer.with_imported(settings, await store.get(transfer.IMPORTED))
    plans = [plan.make(settings), *await _models(settings, store, False)]
    startup.check(settings, [made for made in plans if made.group in (DEFAULT, *settings.models)])
    async with opened(state, settings) as drivers:
        await _serve(settings, plans, state, store, drivers, False, lambda parts: ready(parts.snapshot))


def adopted(kept: Settings, given: Settings) -> Settings:
    """Those of a cluster that runs. It goes on by what was ``kept``, whatever this start is ``given``: but for a port
    for gRPC, as that is the supervisor's to listen on. Raises UsageError if it cannot be that one."""
    if given.grpc_port in (None, kept.grpc_port):
        return kept
    if given.grpc_port == kept.port:
        raise UsageError(f"--grpc-port {given.grpc_port} is the port that the cluster speaks HTTP on")
    return kept.model_copy(update={"grpc_port": given.grpc_port})


async def end(state: StateDir, now: bool) -> None:
    """Ends what a supervisor that is gone left running on ``state``; with ``now`` without a drain. Raises UsageError if
    another one lives."""
    with lock(state):
        store = await Store.open(state.database)
        try:
            await end_left(state, store)
            async with left(state, store) as drivers:
                if await adoption.anything_alive(store, drivers, state.runs):
                    settings = from_json(await store.get("settings"))
                    plans = await _plans_to_end(settings, store)
                    await _serve(settings, plans, state, store, drivers, True, _killing if now else _draining)
                else:
                    await give_back_of_the_dead(state, drivers)
            await zygote_process.end_left(state)  # one that is all that is left of a cluster
            await asyncio.to_thread(jobs.end_left, state.jobs)
        finally:
            await store.close()


async def _serve(
    settings: Settings, plans: Sequence[Plan], state: StateDir, store: Store, drivers: Drivers, adopt: bool,
    ready: Callable[[Assembly], None],
) -> None:
    ending = ready in (_draining, _killing)
    if not ending:
        _make_token(state)
    epoch = await _epoch(state, store)
    backends = list(map(ExternalBackend, backend_urls.parse(settings.backend, settings.backend_key_file, epoch)))
    parts = Assembly(plans, state, store, drivers, [] if ending else backends, epoch)
    balancers, intents = parts.balancers, (parts.loads, parts.model_loads)
    if not ending:
        parts.discovery.restore(await store.get("discovered"), backend_urls.read_key(settings.backend_key_file))
        parts.zygotes.begin()  # they import while all else is looked at
    try:
        await _prepare(parts, settings, adopt, ending)
    except BaseException:
        await (parts.zygotes.close() if adopt else parts.zygotes.stop())
        raise
    parts.jobs.begin(await store.get("job_records") or (), ending=ending)
    for each in intents:
        each.begin(await store.get(each.key) or (), ending=ending)
    server, tasks = await api.serve(parts.services, state.control), Tasks()
    try:
        parts.members.load(await store.get(MEMBERS))
        if settings.join_listen is not None and not ending:
            await parts.joining.start(settings.join_listen)
        leaves = settings.leave_workers and not ending
        leave = (lambda: tasks.start(_leave(parts), "leave the workers to the next")) if leaves else None
        has_left = _handle_signals(parts.supervisor.shut_down, leave)
        ready(parts)
        await run(parts)
        for each in intents:
            await each.close(forget=not has_left())
        await parts.jobs.stop()
        await parts.zygotes.stop()
        if not has_left():
            await give_back(state, drivers)
        await balancers.stop(_BALANCER_GRACE)  # last: who looks from another machine sees that all has ended
        state.tls.unlink(missing_ok=True)  # nothing is served any more that a command could trust
    finally:
        await tasks.close()
        await parts.joining.close()
        for each in intents:
            await each.close()
        await parts.jobs.close()
        await parts.zygotes.close()
        await balancers.close()
        await server.cleanup()
        state.control.unlink(missing_ok=True)


async def _leave(parts: Assembly) -> None:
    """Once no request runs any more, or for too long: they end with the balancers, which are ours. Whoever sends us
    SIGTERM has seen to it that no new ones come."""
    until = parts.clock.now() + parts.revisions.settings.drain_timeout
    while parts.clock.now() < until and any(parts.balancers.load(name)[0] for name in parts.fleet.instances):
        await asyncio.sleep(_LOOK_S)
    parts.supervisor.leave()


async def _prepare(parts: Assembly, settings: Settings, adopt: bool, ending: bool) -> None:
    balancers = parts.balancers
    await parts.bootstrap.prepare(adopt)
    if not ending:
        moved = balancers.starter.listeners.make(settings.host, settings.port, settings.grpc_port)
        balancers.unfinished = balancers.unfinished or moved
    if not adopt:
        parts.bootstrap.take_room()


async def run(parts: Assembly) -> None:
    """Until the cluster has been shut down."""
    timeout, tasks = aiohttp.ClientTimeout(total=None), Tasks()
    # A connection for each question: a worker that takes no new ones any more serves nobody, and would answer on an old
    # one. Servers with one thread would have time for nobody else while one is kept, either.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False) as http:
        parts.monitors.use(http)
        try:
            _start(parts, tasks)
            await parts.supervisor.run()
        finally:
            await parts.discovery.close()
            await parts.monitors.close()
            await parts.executor.close()
            await parts.auditor.close()
            await tasks.close()


def _start(parts: Assembly, tasks: Tasks) -> None:
    """Balancers, and whatever watches."""
    balancers = parts.balancers
    if balancers.starter.listeners.http is not None:
        parts.publisher.switch = StrategyWriter(parts.state.strategy)  # before any balancer looks for it
        config = balancer_config(parts.revisions.latest, parts.state)
        outdated = any(is_outdated(process, config) for process in balancers.processes)
        balancers.start()
        if outdated or balancers.unfinished:
            balancers.request_replacement(config)
    for instance in parts.fleet.instances.values():
        parts.monitors.watch(instance)
    for backend in parts.external:
        parts.monitors.attach(backend)
    parts.discovery.begin(parts.monitors)

    def done() -> None:
        parts.write_behind.look()
        parts.nodes.look(parts.clock.now())
        parts.inbox.post(lambda: parts.moves.look(parts.clock.now()))
        parts.publisher.announce()

    house = keep_house(
        parts.fleet.instances, [balancers, parts.zygotes], parts.drivers, parts.usage, parts.state.log,
        parts.clock.now, done,
    )
    tasks.start(house, "usage")
    tasks.start(parts.key_file.watch(), "reread the file of keys")
    tasks.start(parts.autoscaling.run(), "autoscaling")
    tasks.start(parts.swapping.run(), "which models are up")
    tasks.start(watch_certificate(lambda: parts.revisions.settings.tls(), parts.events.emit), "certificate")


def _draining(parts: Assembly) -> None:
    parts.supervisor.shut_down()


def _killing(parts: Assembly) -> None:
    parts.supervisor.shut_down(now=True)


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


def _handle_signals(shut_down: Callable[[bool], None], leave: Callable[[], object] | None) -> Callable[[], bool]:
    """The first SIGINT or SIGTERM drains and stops; a second one, or SIGQUIT, kills. A closed terminal is the first
    one, however often it is told of (its shell and the kernel both do), unless it is to be ignored (nohup). With
    ``leave`` the first SIGTERM leaves workers alone: returns what says whether that is so now."""
    asked = has_left = False

    def on_signal(number: signal.Signals) -> None:
        nonlocal asked, has_left
        if number is signal.SIGTERM and leave is not None and not asked:
            has_left = True
            leave()
        elif number is not signal.SIGHUP or not asked:
            shut_down(asked or number is signal.SIGQUIT)
        asked = asked or number is not signal.SIGHUP

    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    return lambda: has_left


async def _models(settings: Settings, store: Store, adopt: bool) -> list[Plan]:
    """Of the models that an earlier supervisor knew and, at a start, those of the configuration instead of those that
    it named then. What cannot be had any more is said of the models that were loaded later; raises UsageError for one
    of the configuration."""
    kept = definitions(await store.get("models") or {})
    if adopt:
        gone = model_plans.make_all(settings, definitions(await store.get("leaving_models") or {}), strict=False)
        return [*model_plans.make_all(settings, kept, strict=False), *(replace(made, leaving=True) for made in gone)]
    before = json.loads(await store.get("settings") or "{}").get("models", {})
    later = {name: model for name, model in kept.items() if name not in before and name not in settings.models}
    return [*model_plans.make_all(settings, settings.models), *model_plans.make_all(settings, later, strict=False)]


async def _plans_to_end(settings: Settings, store: Store) -> list[Plan]:
    """To end a cluster nothing of what it ran on needs to be there any more: no model, no GPU, no installed engine."""
    models = definitions({**(await store.get("models") or {}), **(await store.get("leaving_models") or {})})
    return [_plan_to_end(settings), *(model_plans.broken(settings, name, m, "") for name, m in models.items())]


def _plan_to_end(settings: Settings) -> Plan:
    nothing = EngineSpec(engine=settings.engine, model="", served_names=("",))
    placement = Placement(Machine((), (), 0), on_gpu=False)
    return Plan(settings, base.load(settings.engine), nothing, placement, 0, 0, driver=settings.driver)
