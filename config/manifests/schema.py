"""How a manifest is written. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from config.errors import nearest
from config.models import MODEL_NAME, MOST_MODELS
from config.values import setting_types as t

#: Of one model.
MOST_PROFILES = 32

#: Whose flags the limits of a profile are (`HardwareProfile.flags`).
VLLM_LIKE = ("vllm", "sim")


def _texts(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _underscored(value: Any) -> Any:
    return {str(k).replace("-", "_"): v for k, v in value.items()} if isinstance(value, Mapping) else value


Names = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=64)], ...], BeforeValidator(_texts)]
Sentence = Annotated[str, Field(max_length=256)]


class _ByHand(BaseModel):
    """What people write: keys with dashes are those with underscores, and none is unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    _dashes = model_validator(mode="before")(_underscored)


class MachineCondition(_ByHand):
    """What a machine needs to have; nothing at all is any machine. GB are those that are sold (10^9 bytes)."""

    gpu: Names = Field((), description="words in the name of a GPU, such as H100, or a list of such")
    count: int | None = Field(None, ge=1, le=1024, description="as many of them at least")
    memory_gb: float | None = Field(None, gt=0, le=65536, description="memory of each of them at least, GB")
    cpu: bool = Field(False, description="a machine without GPUs")
    cores: int | None = Field(None, ge=1, le=65536, description="cores at least")
    ram_gb: float | None = Field(None, gt=0, le=1 << 20, description="main memory at least, GB")
    platform: Names = Field((), description="beginning of system and processor, such as darwin-arm64, or a list")

    @property
    def wants_gpu(self) -> bool:
        return bool(self.gpu or self.count or self.memory_gb)

    @model_validator(mode="after")
    def _agree(self) -> MachineCondition:
        if self.cpu and self.wants_gpu:
            raise ValueError("cpu is a machine without GPUs, and gpu, count and memory_gb say which GPUs")
        return self


_ANY = MachineCondition.model_validate({})


class HardwareProfile(_ByHand):
    """How a model is served on a machine that fits ``when``. What is None is as the cluster's settings have it."""

    name: str = Field(description="by which it is chosen")
    when: MachineCondition = Field(_ANY, description="the machines that it is for")
    description: Sentence = Field("", description="for people")
    path: t.TextOrNone = Field(None, description="folder, file or hub id, where it is another than the model's")
    engine: t.EngineName = Field("vllm", description="what its workers run")
    tensor_parallel_size: int = Field(1, ge=1, le=1024, description="GPUs that a worker spans")
    instances_per_gpu: int | None = Field(None, ge=1, le=64, description="workers that share a GPU")
    cpu_kv_gib: float | None = Field(None, gt=0, description="KV cache of a worker without GPU, GiB")
    quantization: t.TextOrNone = Field(None, description="how weights are quantised, as the engine names it")
    dtype: t.TextOrNone = Field(None, description="what it is served in")
    max_model_len: int | None = Field(None, ge=1, le=1 << 24, description="tokens of prompt and answer at most")
    max_loras: int | None = Field(None, ge=0, le=1024, description="adapters in use at a time; 0: none are taken")
    max_lora_rank: int | None = Field(None, ge=1, le=512, description="their largest rank")
    max_cpu_loras: int | None = Field(None, ge=1, le=4096, description="adapters that a worker holds")
    args: t.EngineArgs = Field((), description="more of the engine's own flags")

    @field_validator("name")
    @classmethod
    def _is_name(cls, value: str) -> str:
        if not MODEL_NAME.fullmatch(value):
            raise ValueError(f"{value!r} is no name of a profile: [A-Za-z0-9._-], 1 to 96 characters")
        return value

    @model_validator(mode="after")
    def _agree(self) -> HardwareProfile:
        if self.tensor_parallel_size > 1 and self.tensor_parallel_size > (self.when.count or 1):
            raise ValueError(f"tensor_parallel_size {self.tensor_parallel_size} needs a count of that in when")
        limits = [name for name in ("quantization", "dtype", "max_model_len", "max_loras", "max_lora_rank",
                                    "max_cpu_loras") if getattr(self, name) is not None]  # fmt: skip
        if limits and self.engine not in VLLM_LIKE:
            raise ValueError(f"{limits[0]} is a flag of vLLM; engine {self.engine} has its own in args")
        return self

    @property
    def flags(self) -> dict[str, tuple[str, ...]]:
        """The engine's own flags that follow from it, beside ``args``; values by flag."""
        found = {
            "--quantization": self.quantization, "--dtype": self.dtype, "--max-model-len": self.max_model_len,
            "--max-loras": self.max_loras or None, "--max-lora-rank": self.max_lora_rank,
            "--max-cpu-loras": self.max_cpu_loras,
        }  # fmt: skip
        flags = {flag: (str(value),) for flag, value in found.items() if value is not None}
        return {**flags, **({"--no-enable-lora": ()} if self.max_loras == 0 else {})}


class ManifestEntry(_ByHand):
    """One model."""

    path: t.ModelPlace = Field(
        description="folder, file, reference or hub id; `demo` is the model that comes with this package"
    )
    description: Sentence = Field("", description="for people")
    profiles: tuple[HardwareProfile, ...] = Field((), max_length=MOST_PROFILES, description="how it is served, where")

    @field_validator("profiles")
    @classmethod
    def _once(cls, value: tuple[HardwareProfile, ...]) -> tuple[HardwareProfile, ...]:
        names = [profile.name for profile in value]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"the profile {twice!r} is there twice")
        return value


class ModelsFile(_ByHand):
    """A whole ``models.yaml``."""

    version: Literal[1] = Field(1, description="of this form")
    models: dict[str, ManifestEntry] = Field({}, max_length=MOST_MODELS, description="models by name")

    @field_validator("models", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        for name in value if isinstance(value, Mapping) else ():
            if name == "default" or not isinstance(name, str) or not MODEL_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a model: [A-Za-z0-9._-], 1 to 96 characters, not 'default'")
        return {name: {"path": one} if isinstance(one, str) else one for name, one in value.items()} if isinstance(
            value, Mapping) else value


def parse(data: Mapping[Any, Any]) -> dict[str, ManifestEntry]:
    """The models of a manifest by name. Raises ValueError with one sentence that names the place and what is wrong."""
    try:
        return ModelsFile.model_validate(data).models
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    where, message = first["loc"], str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = tuple(_at(where[:-1]).model_fields)
        message = f"unknown key {str(where[-1])!r}{nearest(str(where[-1]), known)}"
        where = where[:-1]
    raise ValueError(": ".join(filter(None, [_place(where), message])))


def _at(where: tuple[int | str, ...]) -> type[_ByHand]:
    """What is written at that place."""
    if not where:
        return ModelsFile
    if len(where) == 2:
        return ManifestEntry
    return MachineCondition if where[-1] == "when" else HardwareProfile


def _place(where: tuple[int | str, ...]) -> str:
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
