"""Plans of the models of a cluster that has several: the cluster's settings with what the model's definition says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cluster.deployment import plan
from cluster.deployment.plan import Plan
from cluster.fleet.placement import Machine, Placement
from config.errors import UsageError
from config.models import DEMO, ModelDefinition, names_of
from config.settings import Settings
from worker import engine_spec
from worker.engines import base, flags
from worker.spec import SLEEP_FLAG, EngineSpec

_GIB = 1024**3

#: Of main memory that workers may take, as `Placement.capacity` counts.
_MEMORY_SHARE = 0.9


def make_group(settings: Settings, name: str, model: ModelDefinition, machine: Machine | None = None) -> Plan:
    """Of the group of workers ``name``, which serves ``model``. Raises UsageError with one line that names the model
    for everything that would not work."""
    try:
        own = overlaid(settings, model)
        engine = base.load(own.engine)
        engine.check()
        spec = _spec(own, name, model)
        made = plan.placed(own, engine, spec, model.instances, machine or plan.look_at_machine(engine))
        if model.adapters and made.no_lora:
            raise UsageError(made.no_lora)
        if flags.has(model.args, SLEEP_FLAG) and engine.uses_gpu and not made.placement.on_gpu:
            raise UsageError(f"args: {SLEEP_FLAG}: engine {engine.name} sleeps on GPUs only, and there is none for it")
        if engine.computes and not made.placement.on_gpu:
            _require_memory(made.placement)
    except UsageError as error:
        raise UsageError(f"model {name}: {str(error).removeprefix('--')}", error.exit_code) from None
    crowd = max(plan.crowd(settings), model.instances + model.spares)
    return replace(made, group=name, definition=model, placement=replace(made.placement, crowd=crowd))


def broken(settings: Settings, name: str, model: ModelDefinition, why: str) -> Plan:
    """In place of a plan that cannot be made any more: what runs by it may go on, and nothing is started."""
    own = overlaid(settings, model)
    spec = EngineSpec(own.engine, model.path, names_of(name, model))
    engine = base.load(own.engine if own.engine in base.names() else settings.engine)
    placement = Placement(Machine((), (), 0), on_gpu=False, planned=model.instances)
    return Plan(own, engine, spec, placement, 0, 0, group=name, definition=model, broken=why)


def make_all(settings: Settings, models: Mapping[str, ModelDefinition], strict: bool = True) -> list[Plan]:
    """One for each of ``models``. Not ``strict``: where one cannot be made, a `broken` one. Raises UsageError."""
    made = []
    for name, model in models.items():
        try:
            made.append(make_group(settings, name, model))
        except UsageError as error:
            if strict:
                raise
            made.append(broken(settings, name, model, str(error)))
    return made


def overlaid(settings: Settings, model: ModelDefinition) -> Settings:
    """What holds for its workers: ``settings``, but for what is said of a model by itself."""
    scaled = model.min is not None or model.max is not None
    given = {
        name: value
        for name in ("engine", "gpus", "instances_per_gpu", "tensor_parallel_size", "cpu_kv_gib", "strategy",
                     "ray_resources", "ray_labels",
                     "startup_timeout")
        if (value := getattr(model, name)) is not None
    }  # fmt: skip
    return settings.model_copy(update={
        **given, "model": model.path, "instances": model.instances, "spares": model.spares,
        "engine_args": model.args, "lora": model.adapters,
        "min_instances": model.min or 1, "max_instances": model.max, "lora_config": None, "models": {},
        "autoscale": "off" if not scaled else "advise" if settings.autoscale == "advise" else "on",
    })  # fmt: skip


def _spec(own: Settings, name: str, model: ModelDefinition) -> EngineSpec:
    if flags.has(model.args, "--served-model-name"):
        raise UsageError("args: --served-model-name is the model's name and its `served_names`", exit_code=2)
    if model.path == DEMO:
        own = own.model_copy(update={"model": None})  # the one that is part of this package
    spec = engine_spec.from_settings(own, "path")
    adapters = {adapter: path for adapter, path in spec.adapters.items() if adapter in model.adapters}
    return replace(spec, served_names=names_of(name, model), adapters=adapters)


def _require_memory(placement: Placement) -> None:
    """Of a model's workers on a machine without GPUs. Raises UsageError that says what would fit."""
    there, each = placement.machine.memory * _MEMORY_SHARE, placement.memory_each
    workers = placement.planned + placement.spares
    if workers * each <= there:
        return
    fits = int(there // each) if each else 0
    would = f"instances {fits} would fit" if fits else "a smaller cpu_kv_gib, or a smaller model, would fit"
    raise UsageError(
        f"{workers} worker{'s' * (workers != 1)} of about {each / _GIB:.1f} GiB each need more "
        f"than the {there / _GIB:.1f} GiB that workers may take of this machine's memory: {would}"
    )
