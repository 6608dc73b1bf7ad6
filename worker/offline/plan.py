"""From settings to what an offline engine runs: what a cluster by the same settings would give one worker here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from config.errors import UsageError
from config.settings import Settings, inherited_environment, visible_gpus
from worker import engine_spec, gpus
from worker.adapters import engine_side, files
from worker.adapters.files import AdapterRejected
from worker.engines import base, flags
from worker.engines.vllm import NOT_INSTALLED, EngineSetup, VllmEngine
from worker.offline.values import Expert
from worker.spec import EngineSpec, Slot


@dataclass(frozen=True, slots=True)
class OfflinePlan:
    """``experts`` are checked and stand by their names."""

    spec: EngineSpec
    setup: EngineSetup
    experts: Mapping[str, Expert]


def make(settings: Settings) -> OfflinePlan:
    """Reads the model's and the adapters' files: blocking. Raises UsageError, for an adapter that a cluster would
    refuse with the same sentence."""
    if settings.models:
        raise UsageError("an offline engine runs one model: name it (model), without `models`", 2)
    engine = base.load(settings.engine)
    if not isinstance(engine, VllmEngine):
        raise UsageError(f"only vLLM runs without a server, and the engine of these settings is {engine.name}", 2)
    spec = _quiet(engine_spec.from_settings(settings))
    try:
        engine.check()
    except UsageError:
        raise UsageError(NOT_INSTALLED) from None
    slot = _slot(settings, spec, engine)
    return OfflinePlan(spec, engine.setup(spec, slot, inherited_environment()), _experts(settings, spec))


def _quiet(spec: EngineSpec) -> EngineSpec:
    """Its log goes where the program writes its own: warnings only, unless somebody said otherwise."""
    if spec.log.level is not None or spec.log.config is not None or "VLLM_LOGGING_LEVEL" in inherited_environment():
        return spec
    return replace(spec, log=replace(spec.log, level="warning"))


def _experts(settings: Settings, spec: EngineSpec) -> dict[str, Expert]:
    if spec.adapters and flags.has(spec.extra_args, "--no-enable-lora"):
        raise UsageError(f"with --no-enable-lora there are no experts: leave {', '.join(spec.adapters)} away", 2)
    shapes, side = files.read_base(spec.model), engine_side.read(spec)
    found, roots = {}, files.allowed_roots(settings.adapter_root)
    for name, path in spec.adapters.items():
        try:
            facts = files.inspect(
                Path(path), base=shapes, served_names=spec.served_names, max_rank=spec.max_lora_rank, roots=roots,
                allow_no_effect=settings.allow_no_effect, side=side,
            )
        except (AdapterRejected, OSError) as error:
            raise UsageError(f"adapter {error}") from None
        words = spec.descriptions.get(name, "")
        found[name] = Expert(name, facts.rank, facts.base_model, words, path, facts.unchecked)
    return found


def _slot(settings: Settings, spec: EngineSpec, engine: VllmEngine) -> Slot:
    """The whole machine, as far as the settings leave it to us."""
    ranks = spec.tensor_parallel_size * flags.integer(spec.extra_args, "--pipeline-parallel-size", 1)
    there = [gpu.index for gpu in gpus.detect(visible_gpus())] if engine.finds_gpus else []
    if settings.gpus is not None:
        if missing := [index for index in settings.gpus if index not in there]:
            raise UsageError(f"--gpus {missing[0]}: there is no such GPU; there are: {there or 'none'}")
        there = list(settings.gpus)
    if there:
        if len(there) < ranks:
            raise UsageError(f"not enough GPUs: the model spans {ranks}, there are {len(there)}")
        return Slot(gpus=tuple(there[:ranks]))
    cores = sorted(os.sched_getaffinity(0))[: settings.max_cpu_threads]
    share = len(cores) // ranks
    return Slot(cores=tuple(tuple(cores[rank * share : (rank + 1) * share]) for rank in range(ranks)) if share else ())
