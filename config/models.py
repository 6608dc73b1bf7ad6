"""The models of a cluster that has several: how each is written in ``models:`` of the configuration, in a request that
loads one, and in the state. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from config.errors import nearest
from config.identity.api_keys import duration
from config.values import setting_types as t

#: Of a model, which names its group of workers too: no slash. Dots alone would be a step up in a path.
MODEL_NAME = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,96}")

#: A path that means the model which is part of this package, whatever lies in the working directory.
DEMO = "demo"

#: As many models one cluster may know.
MOST_MODELS = 256


def _seconds(value: Any) -> Any:
    """Of a time as people write it, such as 15m."""
    return duration(value.strip()) if isinstance(value, str) and not value.strip()[-1:].isdigit() else value


_Time = Annotated[float | None, BeforeValidator(_seconds)]


class ModelDefinition(BaseModel):
    """One model. What is None is as the cluster's settings have it. ``instances`` workers are started when it is
    loaded; times are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    path: t.ModelPlace = Field(
        description="folder, file, reference such as hf://org/name, hub id or name in a manifest, such as demo"
    )
    profile: t.TextOrNone = Field(None, description="profile of the manifest; default the one that fits best")
    engine: t.EngineName | None = Field(None, description="what its workers run")
    instances: int = Field(1, ge=1, le=1024, description="workers that it has when it is up")
    spares: int = Field(0, ge=0, le=64, description="workers beside these that take the place of a lost one")
    min: int | None = Field(None, ge=1, le=1024, description="fewest workers that scaling leaves it while it is up")
    max: int | None = Field(None, ge=1, le=1024, description="most workers that scaling gives it")
    gpus: t.Gpus = Field(None, description="GPU indices that it may use")
    instances_per_gpu: int | None = Field(None, ge=1, le=64, description="workers of it that share a GPU")
    tensor_parallel_size: int | None = Field(None, ge=1, le=1024, description="GPUs that a worker spans")
    ray_resources: t.Amounts | None = Field(None, description="what Ray holds for each worker of it")
    ray_labels: t.WordsByName | None = Field(None, description="labels of the nodes of Ray that it may run on")
    cpu_kv_gib: float | None = Field(None, gt=0, description="KV cache of a worker without GPU, GiB")
    args: t.EngineArgs = Field((), description="the engine's own flags")
    adapters: t.Adapters = Field({}, description="LoRA adapters of it, name: path")
    strategy: t.Strategy | None = Field(None, description="how requests are spread over its workers")
    served_names: t.Texts = Field((), description="what clients may call it as well")
    idle_timeout: _Time = Field(None, gt=0, description="unloaded, or put to sleep, after that time unasked: 900, 15m")
    queue_timeout: float | None = Field(None, ge=0, description="how long requests wait for it; default: its start")
    startup_timeout: float | None = Field(None, gt=0, description="how long a worker of it may take to be ready")
    pinned: bool = Field(False, description="up from the start, and never unloaded to make room")
    priority: int = Field(0, ge=-1000, le=1000, description="of two that could be unloaded, the lower goes first")
    on_demand: bool = Field(True, description="started when it is first asked for, not with the cluster")

    @model_validator(mode="after")
    def _agree(self) -> ModelDefinition:
        if self.min is not None and self.min > self.instances:
            raise ValueError(f"min {self.min} is above instances {self.instances}")
        if self.max is not None and self.max < self.instances:
            raise ValueError(f"max {self.max} is below instances {self.instances}")
        return self

    @property
    def from_the_start(self) -> bool:
        """Whether it is up before anybody asks for it."""
        return self.pinned or not self.on_demand

    def to_json(self) -> dict[str, Any]:
        """What differs from the defaults; `definition` reads it."""
        return self.model_dump(mode="json", exclude_defaults=True)


def definition(given: object) -> ModelDefinition:
    """Of one model. ``given``: a mapping, or the path alone. Raises ValueError with one sentence that names the key."""
    if isinstance(given, str):
        given = {"path": given}
    if not isinstance(given, Mapping):
        raise ValueError("a path, or keys and values, are needed")
    fields = ModelDefinition.model_fields
    keyed = {str(key).replace("-", "_"): value for key, value in given.items()}
    for key in keyed:
        if key not in fields:
            raise ValueError(f"unknown key {key!r}{nearest(key, tuple(fields))}")
    try:
        return ModelDefinition(**keyed)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        message = str(first["msg"]).removeprefix("Value error, ")
        raise ValueError(": ".join([*map(str, first["loc"][:1]), message])) from None


def definitions(given: object) -> dict[str, ModelDefinition]:
    """Of all models, by name. Raises ValueError with one sentence that names the model and the key."""
    if not isinstance(given, Mapping):
        raise ValueError("name: path, or name: {path: ..., ...}, is needed")
    if len(given) > MOST_MODELS:
        raise ValueError(f"{len(given)} models are more than {MOST_MODELS}")
    found = {}
    for name, what in given.items():
        if name == "default":
            raise ValueError("'default' is no name of a model: the workers of a cluster with one model are called so")
        if not isinstance(name, str) or not MODEL_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a model: [A-Za-z0-9._-], 1 to 96 characters")
        try:
            found[name] = what if isinstance(what, ModelDefinition) else definition(what)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    _check_names(found)
    return found


def names_of(name: str, model: ModelDefinition) -> tuple[str, ...]:
    """By which clients may call it, first its own."""
    return (name, *(other for other in model.served_names if other != name))


def _check_names(models: Mapping[str, ModelDefinition]) -> None:
    """Raises ValueError where one name stands for two."""
    seen: dict[str, str] = {}
    for name, model in models.items():
        for taken in (*names_of(name, model), *model.adapters):
            if taken in seen:
                raise ValueError(f"{name}: {taken!r} is a name of {seen[taken]} already")
            seen[taken] = name


#: As a setting.
Models = Annotated[dict[str, ModelDefinition], BeforeValidator(definitions)]
