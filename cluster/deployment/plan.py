"""From settings and machine to what is going to run. Everything that can be wrong is found here, before anything
starts."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from importlib.util import find_spec

import psutil

from cluster.deployment import backend_urls, cors_flags, extras
from cluster.fleet.groups import DEFAULT
from cluster.fleet.placement import Machine, Placement, choose_gpus
from config import tls
from config.errors import UsageError
from config.models import ModelDefinition
from config.paths import StateDir
from config.settings import Settings, visible_gpus
from worker import engine_spec, gpus
from worker.drivers.base import KUBERNETES, LOCAL, RAY
from worker.drivers.nodes import WorkerNeed
from worker.engines import base, flags
from worker.engines.base import Engine
from worker.spec import SLEEP_FLAG, EngineSpec


@dataclass(frozen=True, slots=True)
class Plan:
    """The checked set-up of one group of workers. ``most``: no more workers than this. ``adapter_cap``: as many
    adapters a worker holds at a time. ``need``: what each takes of the node it runs on, elsewhere.
    ``foreign_adapters`` came with the engine's own flags. ``definition``: of the model, where it is one of several;
    its ``settings`` are the cluster's with what that says. ``broken``: why no worker of it can be started, where
    that was found when it was too late to refuse it. ``leaving``: the model was unloaded, and its last workers are
    on their way out."""

    settings: Settings
    engine: Engine
    spec: EngineSpec
    placement: Placement
    least: int
    most: int
    adapter_cap: int = 32
    foreign_adapters: frozenset[str] = frozenset()
    dynamic_loading: bool = True
    group: str = DEFAULT
    driver: str = LOCAL
    need: WorkerNeed = field(default_factory=WorkerNeed)
    definition: ModelDefinition | None = None
    broken: str = ""
    leaving: bool = False

    @property
    def can_sleep(self) -> bool:
        """Whether its workers, once nobody asks for the model, are put to sleep in place of ended."""
        wanted = self.definition is not None and flags.has(self.spec.extra_args, SLEEP_FLAG)
        return wanted and self.engine.capabilities.sleep

    @property
    def no_lora(self) -> str:
        """Why its workers take no adapters; empty: they do."""
        if not self.engine.capabilities.lora:
            return f"engine {self.engine.name} takes no adapters"
        given = flags.has(self.spec.extra_args, "--no-enable-lora")
        return "the workers run with --no-enable-lora and take no adapters" if given else ""


def look_at_machine(engine: Engine) -> Machine:
    """What this machine has for workers of ``engine``. Raises UsageError for GPUs that are named as no GPU is."""
    found = gpus.detect(visible_gpus()) if engine.finds_gpus else []
    return Machine(
        gpus=tuple((g.index, str(g)) for g in found),
        cores=tuple(sorted(os.sched_getaffinity(0))),
        memory=psutil.virtual_memory().total,
    )


def make(settings: Settings, machine: Machine | None = None) -> Plan:
    """Raises UsageError with one line for everything that would not work."""
    engine = base.load(settings.engine)
    if settings.backend or settings.backend_discovery:
        backend_urls.parse(settings.backend, settings.backend_key_file, 0)
    if any(place.startswith("dns:") for place in settings.backend_discovery) and find_spec("dns") is None:
        raise UsageError("--backend-discovery dns needs dnspython, which is not installed: "
                         "pip install 'clusterctl[dns]'")
    if settings.own_instances:
        engine.check()
    extras.check(settings.otlp_endpoint, settings.limits_store, settings.grpc_port)
    cors_flags.read(settings.engine_args, settings.cors_origin)
    if (files := settings.tls()) is not None:
        tls.check(files, StateDir(settings.state_directory()).tls)
    spec = engine_spec.from_settings(settings)
    made = placed(settings, engine, spec, settings.own_instances, machine or look_at_machine(engine))
    return replace(made, placement=replace(made.placement, crowd=crowd(settings)))


def placed(settings: Settings, engine: Engine, spec: EngineSpec, count: int, machine: Machine) -> Plan:
    """For ``count`` workers by ``spec`` on ``machine``. Raises UsageError where they do not fit."""
    memory = engine.memory_estimate(spec)
    ranks = spec.tensor_parallel_size * flags.integer(spec.extra_args, "--pipeline-parallel-size", 1)
    need = WorkerNeed()
    if settings.driver != LOCAL:
        machine, memory = _elsewhere(settings), 0
    if settings.driver == RAY:
        need = needed(settings, engine, ranks)
    apart = settings.driver == KUBERNETES  # a pod has the GPUs that its StatefulSet asks for, and they are its own
    on_gpu = engine.uses_gpu and (engine.finds_gpus if apart else bool(machine.gpus))
    if settings.gpus is not None and not on_gpu:
        raise UsageError(f"--gpus: engine {engine.name} can use no GPU here")
    chosen = choose_gpus(machine.gpus, settings.gpus) if on_gpu and not apart else ()
    placement = Placement(
        machine=Machine(chosen, machine.cores[: settings.max_cpu_threads], machine.memory), ranks=ranks,
        per_gpu=settings.instances_per_gpu, on_gpu=on_gpu, memory_each=memory, planned=count,
        spares=settings.spares if count else 0, apart=apart,
    )
    placement.require(count, placement.spares)
    placement.require_memory()
    if settings.max_instances is not None:
        placement.require(settings.max_instances)
    most = settings.max_instances or max(placement.capacity, count)
    least = min(settings.minimum.usual, count)
    foreign = frozenset(text.partition("=")[0] for text in flags.values(spec.extra_args, "--lora-modules") or ())
    return Plan(
        settings, engine, spec, placement, least, most, spec.max_cpu_loras, foreign, spec.dynamic_loading,
        driver=settings.driver, need=need,
    )


def _elsewhere(settings: Settings) -> Machine:
    """Of workers on other machines nothing is pinned, and what fits there is not known here. Raises UsageError."""
    if settings.gpus is not None or (settings.driver == KUBERNETES and settings.instances_per_gpu != 1):
        raise UsageError(
            "--gpus is of this machine: Ray chooses GPUs of its nodes" if settings.driver == RAY else
            "--gpus and --instances-per-gpu are of this machine: a pod has the GPUs that its StatefulSet asks for"
        )  # fmt: skip
    return Machine((), (), 0)


def needed(settings: Settings, engine: Engine, ranks: int) -> WorkerNeed:
    """What a worker of ``ranks`` takes of its node. Raises UsageError."""
    resources = dict(settings.ray_resources)
    gpus = resources.pop("GPU", None)
    if gpus is None:
        gpus = ranks / settings.instances_per_gpu if engine.uses_gpu and engine.finds_gpus else 0.0
    if gpus > 1 and gpus % 1:
        raise UsageError(f"{gpus:g} GPUs for a worker: whole ones are needed, or a part of one")
    return WorkerNeed(gpus, resources, settings.ray_labels)


def crowd(settings: Settings) -> int:
    """Workers that may be up at the same time, of all models; 0 where there is one."""
    if not settings.models:
        return 0
    beside = settings.max_concurrent_models
    if beside is not None and settings.own_instances:
        beside = max(0, beside - 1)
    counts = sorted((model.instances + model.spares for model in settings.models.values()), reverse=True)
    own = settings.own_instances + (settings.spares if settings.own_instances else 0)
    return own + sum(counts[:beside])
