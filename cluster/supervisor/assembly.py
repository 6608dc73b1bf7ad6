"""The supervisor's parts, each made with what it uses: one property a part, made when it is first asked for.

Only here do they all meet. Where two need each other, one is given a function that asks for the other later.

Longer than a file should be: it is one list, a few lines a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from random import Random
from typing import Any

from cluster.adapters.agent import Agents
from cluster.adapters.conversion import AdapterConversions
from cluster.adapters.effect import Effects
from cluster.adapters.intake import Intake
from cluster.adapters.intended import AdapterLoadIntent, log_of_loads
from cluster.adapters.inventory import Inventory
from cluster.adapters.report import AdapterReport
from cluster.adapters.residency import Residency
from cluster.adapters.rollout import Rollouts
from cluster.api.apply import Applier
from cluster.api.audit import Auditor
from cluster.api.handlers import ClusterCommands
from cluster.api.jobs import JobCommands
from cluster.api.joining import JoinCommands
from cluster.api.models import ModelCommands
from cluster.api.names import NameCommands
from cluster.api.server import Services
from cluster.api.status import View, snapshot
from cluster.balancers.config import balancer_config
from cluster.balancers.feed import Feed
from cluster.balancers.group import BalancerGroup
from cluster.deployment.plan import Plan
from cluster.deployment.revisions import Revisions, SettingsInForce, by_plans
from cluster.discovery.discovery import BackendDiscovery
from cluster.events import EventLog
from cluster.fleet.fleet import Fleet
from cluster.fleet.groups import WorkerGroup
from cluster.fleet.restart import Backoff, RestartPolicy
from cluster.fleet.states import DesiredState
from cluster.jobs.intents import IntentLog
from cluster.jobs.pulls import SourceFetcher
from cluster.jobs.registry import JobRegistry
from cluster.jobs.resources import MachineUse
from cluster.jobs.runner import JobRunner
from cluster.joining.listener import JoinListener
from cluster.joining.members import Members
from cluster.keys.file import KeyFile
from cluster.keys.registry import KeyRegistry
from cluster.models.catalogue import Catalogue
from cluster.models.intended import ModelLoadIntent
from cluster.models.offers import Offers
from cluster.models.record import ModelRecords
from cluster.models.swapping import Swapping
from cluster.monitoring.ejection_limit import EjectionLimit
from cluster.monitoring.external import ExternalBackend
from cluster.monitoring.hang_detector import Work
from cluster.monitoring.hang_monitors import HangMonitors
from cluster.monitoring.node_moves import NodeMoves
from cluster.monitoring.nodes import NodeWatch
from cluster.monitoring.recovery_times import RecoveryTimes
from cluster.monitoring.usage import UsageSampler
from cluster.storage.store import Store
from cluster.storage.write_behind import WriteBehind
from cluster.supervisor.autoscaling import Autoscaling
from cluster.supervisor.backends import Backends
from cluster.supervisor.bootstrap import Bootstrap
from cluster.supervisor.clock import Clocks
from cluster.supervisor.executor import Executor
from cluster.supervisor.exits import WorkerExits
from cluster.supervisor.loop import Inbox, Supervisor
from cluster.supervisor.publisher import BalancerReports, Publisher
from cluster.supervisor.transactions import Transactions
from cluster.supervisor.workers import WorkerMonitors
from cluster.supervisor.zygotes import Zygotes, wanted_forks
from config.errors import UsageError
from config.paths import StateDir
from config.settings import inherited_environment, visible_gpus
from config.topology import ADAPTIVE
from config.values import discovery
from config.values.references import is_reference
from worker.drivers.base import Drivers
from worker.drivers.local import LocalDriver
from worker.drivers.nodes import WorkerNeed
from worker.gpus import Monitor, detect
from worker.sources.selection import ADAPTER
from worker.sources.store import SourceStore


class Assembly:
    """Of the supervisor's run ``epoch`` on ``state``; ``plans``: one for each group of workers. More methods than a
    class should have: one a part."""

    def __init__(
        self, plans: Sequence[Plan], state: StateDir, store: Store, drivers: Drivers,
        external: list[ExternalBackend], epoch: int, *, clock: Clocks | None = None, random: Random | None = None,
    ) -> None:
        self.state, self.store, self.drivers, self.external, self.epoch = state, store, drivers, external, epoch
        self.clock, self.random = clock or Clocks(), random or Random()
        self.revisions = Revisions(*plans)
        self.inbox = Inbox()
        self.recovery = RecoveryTimes()
        self.usage = UsageSampler(Monitor(visible_gpus()))
        self.events = EventLog(self.clock.wall)
        self.emit = self.events.emit
        self._started_at = self.clock.wall()

    # what there is, and what is wanted

    @cached_property
    def supervisor(self) -> Supervisor:
        return Supervisor(
            self.inbox, self.fleet, self.revisions, self.transactions, self.executor, self.publisher, self.publish,
            self.exits, self.emit, self.clock.now, lambda: self.jobs.end_all(),
        )

    @cached_property
    def fleet(self) -> Fleet:
        settings = self.revisions.settings
        fleet = Fleet(
            by_plans(DesiredState(), self.revisions),
            RestartPolicy(Backoff(first=settings.restart_delay)), self.random.random, self.emit,
            settings.strategy,
        )
        for plan in self.revisions.plans.values():
            if plan.definition is None or (plan.group in settings.models and plan.definition.from_the_start):
                fleet.intent.scale(plan.placement.planned, plan.group)  # others are brought up where there is room
        fleet.intent.names.given = settings.model_names
        return fleet

    @cached_property
    def settings(self) -> SettingsInForce:
        return SettingsInForce(self.revisions, self.fleet, [self.monitors.retime, self.hangs.retime])

    @cached_property
    def write_behind(self) -> WriteBehind:
        return WriteBehind(self.store, self.emit, self.clock.now)

    @cached_property
    def transactions(self) -> Transactions:
        return Transactions(
            self.fleet.intent, self.revisions, self.settings, self.events, self.write_behind, self.state,
            self.drivers,
        )

    @cached_property
    def bootstrap(self) -> Bootstrap:
        return Bootstrap(
            self.state, self.store, self.drivers, self.clock, self.events, self.write_behind, self.fleet,
            self.revisions, self.inventory, self.rollouts, self.balancers, self.publisher, self.transactions,
            self.keys, self.key_file,
        )

    @cached_property
    def executor(self) -> Executor:
        return Executor(
            self.fleet, self.revisions, self.drivers, self.monitors, self.exits, self.publisher, self.publish,
            self.write_behind, self.state, self.emit, self.clock, self.zygotes,
        )

    @cached_property
    def zygotes(self) -> Zygotes:
        zygotes = Zygotes(
            self.state, lambda: self.revisions.settings.zygote, lambda: wanted_forks(self.fleet, self.revisions),
            self.emit, self.inbox.wake, self.clock.now,
        )
        for driver in self.drivers.values():
            if isinstance(driver, LocalDriver):
                driver.on_failed_fork = zygotes.failed
        return zygotes

    @cached_property
    def autoscaling(self) -> Autoscaling:
        return Autoscaling(
            self.fleet, lambda: self.revisions.plans, self.balancers.demand,
            lambda name: self.hangs.finding(name).reading, self.supervisor.command, self.emit, self.clock,
        )

    @cached_property
    def exits(self) -> WorkerExits:
        return WorkerExits(self.fleet, self.recovery, self.emit, self.feed, self.clock)

    # adapters

    @cached_property
    def inventory(self) -> Inventory:
        return Inventory(self.revisions, self.write_behind.save_adapters, lambda: self.fleet.intent.names)

    @cached_property
    def residency(self) -> Residency:
        return Residency(
            self.inventory, lambda: [each for each in self._everybody() if self.agents.get(each.id) is not None],
            lambda name: name in self.fleet.intent.cordons or name in self.fleet.intent.desired.standbys,
            lambda: self.backends.strategy() == ADAPTIVE and len(self.revisions.plans) == 1, self.agents.look_again,
            self.clock.now,
        )

    @cached_property
    def effects(self) -> Effects:
        return Effects(self.inventory.may_do_nothing, self.emit)

    @cached_property
    def intake(self) -> Intake:
        conversions = AdapterConversions(self.state.adapters, inherited_environment)
        return Intake(
            self.state.adapters, self.clock.wall, conversions, lambda text: self.sources.folder(text, ADAPTER),
            SourceStore(self.state.sources),
        )  # fmt: skip

    @cached_property
    def agents(self) -> Agents:
        return Agents(
            self._everybody, self.inventory.wanted, self.effects, self._withheld, self.inbox.wake,
            self.inventory.foreign, self.clock.now,
        )

    @cached_property
    def adapters(self) -> AdapterReport:
        return AdapterReport(self.inventory, self.agents)

    @cached_property
    def rollouts(self) -> Rollouts:
        return Rollouts(
            self.inventory, self.agents, self.intake, self.effects, self.adapters, self.revisions, self.emit,
            self.clock.wall,
        )

    @cached_property
    def loads(self) -> IntentLog[AdapterLoadIntent]:
        return log_of_loads(self.rollouts, self.write_behind, self.emit)

    # models

    @cached_property
    def records(self) -> ModelRecords:
        records = ModelRecords()
        for name, model in self.revisions.definitions.items():
            records.of(name).wanted = not model.on_demand
        return records

    @cached_property
    def offers(self) -> Offers:
        return Offers(self.revisions, self.fleet, self.records, self.inventory.names_of)

    @cached_property
    def catalogue(self) -> Catalogue:
        return Catalogue(
            self.fleet, self.revisions, self.settings, self.inventory, self.records, self.offers, self.emit,
            self.swapping.wake,
        )

    @cached_property
    def swapping(self) -> Swapping:
        return Swapping(
            self.fleet, self.revisions, self.records, self.offers, self.balancers.models, self.supervisor.command,
            self.emit, self.clock.now, self.clock.wall,
        )

    @cached_property
    def model_commands(self) -> ModelCommands:
        return ModelCommands(
            self.catalogue, self.rollouts, self.inventory, lambda: self.revisions.settings, self.offers.card,
            self.commands.check_not_ending, self.supervisor.command, self.sources.folder,
        )

    @cached_property
    def model_loads(self) -> IntentLog[ModelLoadIntent]:
        return IntentLog("model_loads", ModelLoadIntent, self.model_commands.load, self.write_behind, self.emit)

    # jobs

    @cached_property
    def jobs(self) -> JobRunner:
        return JobRunner(
            self.state.jobs, LocalDriver().boot(), JobRegistry(lambda: self.revisions.settings.jobs_at_once),
            self.write_behind, self._serving, inherited_environment, self.emit, self.clock.wall,
        )

    @cached_property
    def sources(self) -> SourceFetcher:
        return SourceFetcher(self.state.sources, self.jobs, lambda: self.revisions.settings)

    def _serving(self) -> MachineUse:
        """What jobs have to leave to workers."""
        plans = self.revisions.plans.values()
        return MachineUse(
            self._gpus,
            {gpu for one in self.fleet.instances.values() if one.handle is not None for gpu in one.slot.gpus},
            any(not plan.placement.on_gpu for plan in plans),
            max((len(plan.placement.machine.cores) for plan in plans), default=1),
        )

    @cached_property
    def _gpus(self) -> tuple[int, ...]:
        """Whole ones, whether workers may use them or not."""
        try:
            return tuple(gpu.index for gpu in detect(visible_gpus()))
        except UsageError:
            return ()

    # keys

    @cached_property
    def keys(self) -> KeyRegistry:
        return KeyRegistry(self.write_behind, self._publish_keys, self.emit, self.clock.wall, self.epoch)

    @cached_property
    def key_file(self) -> KeyFile:
        return KeyFile(lambda: self.revisions.settings.api_keys, self.keys, self.emit)

    # who watches

    @cached_property
    def limit(self) -> EjectionLimit:
        return EjectionLimit(self._everybody, self.clock.now, self.emit)

    @cached_property
    def hangs(self) -> HangMonitors:
        return HangMonitors(
            self.limit, self.fleet, self.recovery, lambda: self.revisions.settings,
            lambda name: Work(*self.balancers.load(name), *self.agents.activity(name)), self.inbox.post,
            self.clock.now,
        )

    @cached_property
    def monitors(self) -> WorkerMonitors:
        return WorkerMonitors(
            self.fleet, self.revisions, self.agents, self.hangs, self.exits, self.limit, self.recovery, self.emit,
            self.inbox.post, self.clock.now,
        )

    @cached_property
    def nodes(self) -> NodeWatch:
        def need(group: str) -> WorkerNeed:
            return plan.need if (plan := self.revisions.plans.get(group)) is not None else WorkerNeed()

        return NodeWatch(self.drivers, self.fleet.instances, need, self.emit)

    @cached_property
    def moves(self) -> NodeMoves:
        def usual(group: str) -> WorkerGroup:
            return by_plans(self.fleet.intent.desired, self.revisions).groups[group]

        return NodeMoves(self.fleet, self.nodes.crowded, usual, self.emit)

    # balancers

    @cached_property
    def feed(self) -> Feed:
        return Feed(lambda: self.events.events)

    @cached_property
    def balancers(self) -> BalancerGroup:
        plan, settings = self.revisions.latest, self.revisions.settings
        reports = BalancerReports(
            self.inbox.post, self.fleet, self.publisher, self.exits, self.inventory, self.residency,
            self.rollouts, lambda model: self.swapping.ask(model), self.auditor.refused,
        )
        return BalancerGroup(
            self.state, balancer_config(plan, self.state), self.write_behind, reports, self.emit,
            self.feed, drain_timeout=settings.drain_timeout,
            standby=settings.lb_standby and plan.most > 0,
        )

    @cached_property
    def members(self) -> Members:
        return Members(self.write_behind, self.emit, self.clock.wall)

    @cached_property
    def joining(self) -> JoinListener:
        return JoinListener(self.balancers, self.members, self.state, self.emit, self.clock.now)

    @cached_property
    def backends(self) -> Backends:
        return Backends(self.fleet, self.external, self.inventory, self.revisions, self.offers.every)

    @cached_property
    def publisher(self) -> Publisher:
        return Publisher(self.epoch, self.backends.as_of, self.snapshot, self.feed, self.clock.now)

    async def publish(self) -> None:
        """Tells balancers and store what changed, if anything did."""
        self.residency.look()
        self.discovery.settle(self.publisher)
        self.publisher.publish()
        for instance in self.fleet.instances.values():
            self.write_behind.process(instance.id, instance.record())
        await self.write_behind.flush()

    @cached_property
    def discovery(self) -> BackendDiscovery:
        return BackendDiscovery(
            list(map(discovery.parse, self.revisions.settings.backend_discovery)), self.external, self.epoch,
            self.fleet.intent, lambda kept: self.write_behind.value(discovered=kept), self.emit, self.inbox.post,
            self.clock.now,
        )

    # for clients

    @cached_property
    def commands(self) -> ClusterCommands:
        return ClusterCommands(
            self.fleet, self.revisions, self.external, self.balancers, self.emit,
            lambda: self.publisher.next_version, self.supervisor.shut_down, self.clock.now,
        )

    @cached_property
    def services(self) -> Services:
        applier = Applier(
            self.fleet, self.revisions, self.settings, self.commands, self.balancers, self.inventory, self.intake,
            self.state, self.emit, self.supervisor.command,
        )
        return Services(
            self.supervisor.command, self.supervisor.settled, self.snapshot,
            lambda: f"{self.epoch}.{self.publisher.sequence}", self.write_behind.check,
            self._allowed_places, self.commands, applier, self.rollouts, self.loads, self.adapters,
            self.keys, self.auditor,
            NameCommands(
                self.fleet, lambda: self.inventory.registry, self._model_names, self.agents.look_again, self.emit
            ),
            self.model_commands, self.model_loads, self.offers.cards,
            JobCommands(self.jobs, self.commands.check_not_ending),
            JoinCommands(self.members, lambda: self.joining.machines, self.clock.wall),
        )

    @cached_property
    def auditor(self) -> Auditor:
        return Auditor(
            self.store, lambda: self.fleet.intent, self.revisions, self.inventory, self.keys, self.emit,
            self.clock.wall,
        )  # fmt: skip

    def _allowed_places(self, text: str) -> Sequence[object]:
        """Where somebody who is not the owner may have adapters from."""
        settings = self.revisions.settings
        return settings.source_hosts if is_reference(text) else settings.adapter_root

    def _model_names(self) -> list[str]:
        """Of the models that are no adapters of the registry."""
        own = [name for plan in self.revisions.served for name in plan.spec.served_names]
        shown = [card["id"] for one in self.fleet.instances.values() for card in one.models]
        return [*own, *shown, *(card["id"] for backend in self.external for card in backend.spec.models)]

    def snapshot(self) -> dict[str, Any]:
        return snapshot(View(
            now=self.clock.now(), wall=self.clock.wall(), started_at=self._started_at,
            sequence=(self.epoch, self.publisher.sequence), state_dir=str(self.state.root),
            unsaved=self.write_behind.unsaved, revertible=bool(self.revisions.before), plan=self.revisions.leading,
            fleet=self.fleet, external=self.external, balancers=self.balancers.describe(),
            adapters=self.adapters.totals(self.fleet.instances), adapter_states=self.adapters.states(),
            recovery=self.recovery.to_json(), usage=self.usage.latest, cards=self.backends.cards,
            finding=self.hangs.finding, exempt=self.limit.exempts, autoscale=self.autoscaling.describe(),
            models=self.offers.cards(), zygotes=self.zygotes.describe(self.usage.latest["processes"]),
            jobs=self.jobs.describe(), discovery=self.discovery.describe(), nodes=self.nodes.describe(),
        ))  # fmt: skip

    async def _publish_keys(self, message: dict[str, Any]) -> None:
        """Returns when the balancers go by them."""
        await self.supervisor.command(lambda: self.publisher.publish_keys(message))
        await self.publisher.confirmation(self.publisher.version)

    def _everybody(self) -> list[Any]:
        """Workers, and servers that are not ours."""
        return [*self.fleet.instances.values(), *self.external]

    async def _withheld(self, name: str) -> None:
        """Returns when the balancer has confirmed that it sends the worker nothing for that adapter any more."""
        await self.supervisor.settled()
        await self.publisher.confirmation(self.publisher.version)
