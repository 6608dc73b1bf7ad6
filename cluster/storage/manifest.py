"""What an export of a state says of itself (`cluster.storage.transfer`): what is not so is refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cluster.fleet.groups import DEFAULT
from cluster.fleet.model_names import Definition
from config import model_names
from config.identity import admin_token
from config.identity.api_keys import MOST_KEYS
from config.model_names import NAME
from config.topology import STRATEGIES

#: Routes and aliases that were ever changed.
_MOST_NAMES = 10_000


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class VersionRecord(_Strict):
    number: int = Field(ge=1)
    hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    rank: int = Field(ge=1)
    target_modules: list[str]
    base_model: str | None
    source: str
    size: int = Field(ge=0)
    created: float


class AdapterRecord(_Strict):
    name: str
    active: int
    description: str
    auto_load: bool
    pinned: bool
    group: str = DEFAULT
    versions: list[VersionRecord] = Field(min_length=1)

    @model_validator(mode="after")
    def _whole(self) -> AdapterRecord:
        numbers = [version.number for version in self.versions]
        if not NAME.fullmatch(self.name):
            raise ValueError(f"{self.name[:200]!r} is no adapter name")
        if self.active not in numbers or len(set(numbers)) != len(numbers):
            raise ValueError(f"adapter {self.name!r}: versions {numbers}, active {self.active}")
        return self


class Manifest(_Strict):
    format: str
    version: int
    instances: int | None = Field(ge=0, le=1024)
    weights: dict[str, Annotated[int, Field(ge=0, le=1000)]]
    strategy: Literal[STRATEGIES] | None  # type: ignore[valid-type]
    adapters: list[AdapterRecord]
    keys: list[dict[str, Any]] = Field([], max_length=MOST_KEYS)
    names: dict[str, Annotated[list[Definition], Field(min_length=3, max_length=3)]] = Field({}, max_length=_MOST_NAMES)

    agent_key: str | None = None

    @field_validator("agent_key")
    @classmethod
    def _key(cls, key: str | None) -> str | None:
        if key is not None and not admin_token.is_token(key):
            raise ValueError("it is no key of agents")
        return key

    @field_validator("names")
    @classmethod
    def _readable(cls, names: dict[str, list[Definition]]) -> dict[str, list[Definition]]:
        for name, change in names.items():
            model_names.check_name(name)
            if unread := [what for what in change if what is not None and not model_names.read_all({name: what})]:
                raise ValueError(f"{name}: {str(unread[0])[:200]} is no route and no alias")
        return names
