"""Composition root of the balancer process. Longer than a file should be: only here do all parts meet."""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from aiohttp import web

from config.aio import Tasks
from config.disk.strategy_file import StrategyReader
from config.identity import admin_token
from config.identity.peer_credentials import owners
from config.identity.principal import Principal
from config.link import Phase, grpc_path
from config.paths import StateDir
from config.topology import BackendSet, BalancerConfig
from config.values.store_url import StoreUrl
from lb import limits
from lb.admin.api import Admin, served
from lb.admin.bridge import BridgeEndpoint, BridgeExchange
from lb.admin.changes import SupervisorCalls
from lb.admin.event_stream import EventFeed
from lb.admin.explain import RouteTrial, Why
from lb.admin.metrics import MetricsPage
from lb.admin.placement import PlacementPage
from lb.admin.series import cache as cache_series
from lb.admin.series import limits as limits_series
from lb.admin.status import Status
from lb.admin.usage import UsagePage
from lb.admission.access.admin_guard import Caller, Guard
from lb.admission.access.credentials import Credentials
from lb.admission.access.keys import X_API_KEY, Gate, KeyRing
from lb.admission.access.proxy_signs import sign_of_proxy
from lb.admission.access.response_marks import ResponseMarks
from lb.admission.access.socket_origins import SocketOrigins
from lb.admission.access.ui_sessions import UiSessions
from lb.admission.concurrency import Concurrency
from lb.admission.model_demand import ModelDemand
from lb.admission.queue import WaitingQueue
from lb.admission.rate_limits import RateLimits
from lb.admission.request_admission import QueueLimits
from lb.admission.stored_buckets import StoredBuckets
from lb.control.joined_attempts import JoinedAttempts
from lb.control.limits_store import LimitsStore
from lb.control.link import Link
from lb.control.peers import Peers
from lb.downstream.certificate import ServedCertificate
from lb.downstream.server import Handlers, Server
from lb.downstream.service import Client
from lb.forwarding.accounting import Accounting
from lb.forwarding.caching.caching_exchange import CachingExchange
from lb.forwarding.caching.response_cache import ResponseCache
from lb.forwarding.collaborators import Collaborators
from lb.forwarding.exchange import Exchange as WorkerExchange
from lb.forwarding.model_choice import ModelChoices
from lb.forwarding.response_finder import ResponseFinder
from lb.forwarding.resume.plan import Builds
from lb.forwarding.retry.poison import PoisonRules
from lb.forwarding.retry.retry_budget import RetryBudget
from lb.forwarding.route_chat import RouteChat
from lb.forwarding.shadow import Shadows
from lb.protocol.errors import ProxyError
from lb.protocol.http1.request import RequestHead
from lb.protocol.messages import Downstream, Exchange, Request
from lb.protocol.routes import Route
from lb.records.decision_log import Row
from lb.records.loss_report import LossReport
from lb.records.observers import Observers
from lb.records.refusals import Refusals
from lb.records.usage import UsageLedger
from lb.routing.notifier import Notifier
from lb.routing.pool import Pool
from lb.routing.response_owners import ResponseOwners
from lb.routing.router import Router
from lb.telemetry.metrics import Metrics
from lb.telemetry.recorder import Recorder
from lb.telemetry.shared_attempts import SharedAttempts
from lb.telemetry.shared_buckets import SharedBuckets
from lb.telemetry.shared_counters import Counters
from lb.upstream.client import WorkerClient
from lb.upstream.connections import Upstream

if TYPE_CHECKING:
    from lb.rpc.server import RpcServer

log = logging.getLogger(__name__)

#: Seconds a balancer that is asked to end gives its streams; the supervisor has drained before.
_SHUTDOWN_S = 3.0

#: Seconds that a new balancer waits for its supervisor's first word.
_FIRST_WORD_S = 2.0


def _check(guard: Guard) -> Callable[[RequestHead, Client], Principal]:
    def check(head: RequestHead, connection: Client) -> Principal:
        peer = connection.peer
        caller = Caller(
            peer.address, peer.local, head.host, peer.uid, head.find(b"origin"),
            _text(head.ours.get(b"authorization")), _text(head.ours.get(X_API_KEY)), sign_of_proxy(head),
        )  # fmt: skip
        return guard.admit(head.path, head.method, caller)

    return check


def _text(value: bytes | None) -> str:
    """Of a field, as it was sent: in UTF-8."""
    return "" if value is None else value.strip(b" \t").decode(errors="surrogateescape")


@dataclass(frozen=True, slots=True)
class Balancer:
    """The parts of one balancer, put together; `close` ends them all."""

    pool: Pool
    counters: Counters
    buckets: SharedBuckets
    ledger: UsageLedger
    shared: Collaborators
    link: Link
    peers: Peers
    admin: Admin
    runner: web.AppRunner
    server: Server
    observers: Observers
    keys: KeyRing
    limits_store: LimitsStore | None
    rpc: RpcServer | None

    async def start(self, listener: socket.socket, patience: float = 0.0) -> None:
        """Takes connections as soon as a supervisor has said what there is, or ``patience`` seconds have passed: until
        then they are better off with another balancer, or in the socket's queue. Says so to it. Raises OSError."""
        listener = listener.dup()  # the server closes its own; the link hands the socket over as long as there is one
        await self.runner.setup()
        await self.link.start()
        self.peers.start()
        self.admin.recorder.start()
        self.observers.start()
        await self.ledger.start()
        if self.limits_store is not None:
            self.limits_store.start()
        if patience:
            await self.link.first_word(patience)
        await self.server.serve(listener)
        if self.rpc is not None:
            await self.rpc.start()
        self.link.enter(Phase.SERVING)

    def know(
        self, backends: dict[str, Any] | None, snapshot: dict[str, Any] | None, keys: dict[str, Any] | None
    ) -> None:
        """What there was when it was started: should its supervisor die before it has said a word, it can serve."""
        if keys is not None:
            self.keys.apply(keys)
        if backends is not None:
            self.pool.apply(BackendSet.from_json(backends))
        if snapshot is not None:
            self.link.snapshot = snapshot

    async def retire(self) -> None:
        """Waits until another balancer has taken its place, then until its last connection is gone."""
        await self.link.retired.wait()
        self.link.report()  # what is in flight, of which the phase begins
        self.link.enter(Phase.DRAINING)
        self.admin.events.close()  # whoever listens goes on at the next one, from the last event
        if self.rpc is not None:
            self.rpc.retire()
        await self.server.retire(self.link.drain_timeout)
        self.link.report()  # the last word: nothing is in flight

    async def close(self) -> None:
        self.admin.events.close()
        await self.server.close(_SHUTDOWN_S)
        if self.rpc is not None:
            await self.rpc.close()
        await self.runner.cleanup()
        await self.link.close()
        await self.admin.close()
        self.shared.admission.close()
        await self.shared.tasks.close()
        self.shared.upstream.close()
        await self.peers.close()
        await asyncio.to_thread(self.observers.close)
        if self.limits_store is not None:
            await self.limits_store.close()
        self.counters.close()
        self.buckets.close()
        await self.ledger.close()


def make(
    config: BalancerConfig, listener: socket.socket, link_path: Path, rpc_listener: socket.socket | None = None
) -> Balancer:
    """A balancer that does nothing yet; with an ``rpc_listener`` it speaks gRPC as well. Raises OSError if its counters
    cannot be opened, UsageError if there is no certificate to serve. Longer than a function should be: only here do all
    parts meet, each line makes one of what is above it."""
    state = StateDir(Path(config.state_dir))
    changes, metrics, upstream = Notifier(), Metrics(), Upstream()
    counters, buckets = Counters(state.counters), SharedBuckets(state.limits)
    here = SharedAttempts(counters.path, counters.peers) if config.processes > 1 else None
    joined = JoinedAttempts(here, time.monotonic) if config.may_be_joined else None
    board = joined or here
    ledger = UsageLedger(state.usage, time.time)
    losses, events = LossReport(), EventFeed()

    def lost(backend: str, incarnation: int, requests: int) -> None:
        losses.lost(backend, incarnation, requests, asyncio.get_running_loop().time())

    def changed() -> None:
        router.pool_changed()
        queue.serve_soon()
        changes.notify()

    def looked() -> None:
        if board is not None:
            board.look()
            router.hear()

    pool = Pool(changed, counters.share, lost, lambda: queue.serve_soon(room=True))
    observers, peers = Observers(config, state), Peers(counters, link_path, looked)
    why = Why(observers.decision_log, lambda: _under_way(server), peers)
    series, keys = metrics.registry.pieces, KeyRing()
    refusals = Refusals(time.time, time.monotonic)
    store = None if config.limits_store is None else LimitsStore(StoreUrl.parse(config.limits_store), StoredBuckets())
    shared_limits = (lambda: None) if store is None else store.describe
    clock = time.monotonic
    router = Router(pool, StrategyReader(state.strategy).current, clock, Random(), board)
    link = Link(
        pool, [each for each in (listener, rpc_listener) if each is not None], link_path, counters.recently_used,
        series, losses, events.add, why.own, keys.apply,
        refusals.due, shared_limits, router.work,
        lambda: {"queued": queue.for_want_of_room(), "unread": router.unread(), **demand.told()}, counters.hear, joined,
    )
    client, owners_of = WorkerClient(upstream), ResponseOwners()
    queue = WaitingQueue(
        router, pool, metrics, Concurrency(limits.concurrency(config), counters.share_limit),
        QueueLimits(config.queue_timeout, config.max_queue_wait, config.max_queue), wants=link, clock=clock,
        rates=RateLimits(clock, buckets.share, ledger.has_spent, None if store is None else store.buckets.widen),
    )  # fmt: skip
    demand = ModelDemand(pool, queue.waiting, clock, time.time)
    marks = ResponseMarks.of(admin_token.read(state.admin_token))
    tasks = Tasks()
    choices = ModelChoices(pool, metrics, Shadows(pool, client, metrics, tasks, clock), router.unknown)
    shared = Collaborators(
        limits.forwarding(config), pool, router, choices, queue, demand, upstream, client,
        Accounting(pool, counters, metrics, owners_of, losses, observers.decision_log, router, ledger, clock),
        metrics, observers.decision_log, losses, ResponseFinder(pool, owners_of, client, marks),
        PoisonRules(pool, changes, metrics.poisonous.add, clock), RetryBudget(), Builds(), tasks, clock,
    )  # fmt: skip
    metrics.read(
        "clusterctl_access_log_dropped_total", "Lines of the access log that were not written", (),
        lambda: [((), float(observers.dropped()))],
    )
    credentials = Credentials(config.admin_key, state, keys)
    gate = Gate(
        keys, credentials, frozenset(config.anonymous_models), insecure=config.insecure,
        guarded=bool(config.admin_key or (config.tls and config.tls.client_ca)), wall=time.time,
    )
    status = Status(pool, link, counters, lambda: router.strategy, state.root, gate.models_for, shared_limits)
    page = MetricsPage(pool, link, counters, metrics, client, peers, status)
    certificate = _certificate(config, state, metrics, page)
    limits_series.add(store, metrics, page.alike)
    admin = Admin(
        status, page,
        Recorder(state.root, counters, metrics, status.tokens_made), SupervisorCalls(state.control, link, counters),
        link, state, why, UiSessions(credentials), events, UsagePage(ledger, time.time),
        RouteTrial(lambda: pool.named), PlacementPage(pool, router),
    )  # fmt: skip
    runner = served(admin, metrics.refused.add, _SHUTDOWN_S)
    names = (socket.gethostname(), config.host, *config.allowed_hosts)
    guard = Guard(credentials, owners(), names, config.protect_metrics)
    cache = limits.response_cache(config, clock)
    cache_series.add(cache, metrics)
    handlers = _handlers(shared, cache, refusals, BridgeEndpoint(lambda: _server(runner)()))
    cors = limits.cors(config)
    sockets = SocketOrigins(names, (lambda origin: False) if cors is None else cors.allows)
    server = Server(
        handlers, _check(guard), gate.tenant, limits.admission(config), frozenset(config.extra_routes), cors,
        certificate, limits.caps(config), sockets.check,
    )
    return Balancer(
        pool, counters, buckets, ledger, shared, link, peers, admin, runner, server, observers, keys, store,
        None if rpc_listener is None else _rpc(server, link_path, status, changes, certificate, rpc_listener),
    )  # fmt: skip


def _rpc(
    server: Server, link_path: Path, status: Status, changes: Notifier, certificate: ServedCertificate | None,
    listener: socket.socket,
) -> RpcServer:
    from lb.rpc.server import RpcServer  # the extra that it needs may not be there

    return RpcServer(server, grpc_path(link_path), lambda: bool(status.ready()), changes, certificate, listener)


def _certificate(
    config: BalancerConfig, state: StateDir, metrics: Metrics, page: MetricsPage
) -> ServedCertificate | None:
    """Raises UsageError if there is none to serve, where TLS is to be spoken."""
    served = None if config.tls is None else ServedCertificate(config.tls, state.tls)
    if served is None:
        state.tls.unlink(missing_ok=True)  # else commands would ask over TLS
    name = "clusterctl_tls_certificate_expiry_timestamp_seconds"
    page.alike.add(name)
    metrics.read(
        name, "When the certificate of the port expires; nothing without TLS", (),
        lambda: [] if served is None else [((), served.expires)],
    )
    return served


def _handlers(
    shared: Collaborators, cache: ResponseCache | None, refusals: Refusals, bridge: BridgeEndpoint
) -> Handlers:
    def refused(error: ProxyError, request: Request | None, id: str, exchange: Exchange | None) -> None:
        if error.status in (401, 403) and request is not None:
            head = request.head
            refusals.note(request.peer, head.method, head.path, error.status, str(error))
        shared.metrics.refused.add(error.source, error.status)
        routed = isinstance(exchange, WorkerExchange)
        if not (isinstance(exchange, WorkerExchange) and exchange.over):  # else it is in the decision log already
            shared.decision_log.refused(error, request, id, routed, shared.clock())

    def other(client: Downstream, request: Request, route: Route) -> Exchange:
        if route.ours:
            return BridgeExchange(bridge, shared.upstream, shared.tasks, client, request)
        return RouteChat(shared, client, request, route)

    return Handlers(
        other, _for_workers(shared, cache), refused, shared.metrics.slow_readers.add,
        shared.upstream.sweep,
    )  # fmt: skip


def _for_workers(
    shared: Collaborators, cache: ResponseCache | None
) -> Callable[[Downstream, Request, Route], Exchange]:
    if cache is None:
        return functools.partial(WorkerExchange, shared)
    return functools.partial(CachingExchange, cache, shared)


def _under_way(server: Server) -> list[Row]:
    """How the requests were routed that are being answered, or wait for a worker; the oldest first."""
    exchanges = [exchange for exchange in server.under_way() if isinstance(exchange, WorkerExchange)]
    return sorted((x.row() for x in exchanges if not x.over), key=lambda row: row[3])


def _server(runner: web.AppRunner) -> web.Server:
    assert runner.server is not None, "the balancer has not been started"
    return runner.server


async def serve(
    config: BalancerConfig, link_path: Path, backends: dict[str, Any] | None = None,
    snapshot: dict[str, Any] | None = None, keys: dict[str, Any] | None = None,
) -> None:
    """Until SIGTERM, or until it has been replaced and has finished. Raises OSError if the link's sockets cannot be
    made."""
    listener = socket.socket(fileno=config.listen_fd)
    listener.setblocking(False)
    rpc_listener = None if config.grpc_fd is None else socket.socket(fileno=config.grpc_fd)
    balancer, tasks = make(config, listener, link_path, rpc_listener), Tasks()
    balancer.know(backends, snapshot, keys)
    stop = asyncio.Event()

    async def retire() -> None:
        await balancer.retire()
        stop.set()

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await balancer.start(listener, _FIRST_WORD_S)
        tasks.start(retire(), "finish when it is replaced")
        await stop.wait()
    finally:
        await tasks.close()
        await balancer.close()
