"""The bodies of the changes that a client may ask for, checked as they are read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from cluster.errors import LONGEST, Refused
from config import bounded
from config.errors import nearest
from config.lora_config import DESCRIPTION

#: Values in a change's body.
MOST_VALUES = 10_000

def _whole(value: Any) -> Any:
    """In JSON 3.0 is 3."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[StrictInt, BeforeValidator(_whole)]


#: Which of several models is meant, by one of its names.
ModelName = Annotated[StrictStr | None, Field(min_length=1, max_length=256)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Scale(Body):
    action: Literal["scale_up", "scale_down"] | None = None
    count: Whole | None = Field(None, ge=1)
    instances: Whole | None = Field(None, ge=0)
    model: ModelName = None

    @model_validator(mode="after")
    def _one_way(self) -> Scale:
        if (self.instances is None) == (self.action is None):
            raise ValueError('either {"action": "scale_up"|"scale_down", "count": k} or {"instances": n} is needed')
        if self.instances is not None and self.count is not None:
            raise ValueError('"count" goes with "action", not with "instances"')
        return self


class SetStrategy(Body):
    strategy: StrictStr
    model: ModelName = None


class Restart(Body):
    """``spare``: whether a spare worker is started first; None leaves it to the settings."""

    instance_id: StrictStr | None = None
    rolling: StrictBool | None = None
    spare: StrictBool | None = None
    model: ModelName = None

    @model_validator(mode="after")
    def _one_way(self) -> Restart:
        if self.model is not None and not self.rolling:
            raise ValueError('"model" goes with "rolling"')
        if (self.instance_id is None) == (not self.rolling):
            raise ValueError('either {"instance_id": id} or {"rolling": true} is needed')
        if self.spare is not None and not self.rolling:
            raise ValueError('"spare" goes with "rolling"')
        return self


class DrainBody(Body):
    """``grace`` in seconds; None: the drain timeout."""

    grace: float | None = Field(None, ge=0, strict=True, allow_inf_nan=False)


class NoFields(Body):
    """Of a change that says all in its path."""


class Weight(Body):
    weight: Whole = Field(ge=0, le=1000)


class LoadAdapter(Body):
    lora_name: StrictStr = Field(min_length=1, max_length=256)
    lora_path: StrictStr = Field(min_length=1, max_length=4096)
    load_inplace: StrictBool = False
    description: StrictStr | None = Field(None, max_length=DESCRIPTION)
    allow_no_effect: StrictBool = False
    model: ModelName = None


class UnloadAdapter(Body):
    lora_name: StrictStr = Field(min_length=1)


class RollbackAdapter(Body):
    version: Whole | None = Field(None, ge=1)


class UpdateKey(Body):
    """What each field may be is said where it is read (`config.identity.api_keys`). ``expires``: s since the epoch,
    or a time from now on such as ``30d``. None takes a limit away."""

    scope: StrictStr = ""
    models: list[StrictStr] | None = None
    rpm: Whole | None = None
    tpm: Whole | None = None
    max_concurrent: Whole | None = None
    priority: StrictStr = ""
    weight: StrictInt | StrictFloat = 1.0
    expires: StrictInt | StrictFloat | StrictStr | None = None
    budget: StrictStr | None = None

    @property
    def given(self) -> dict[str, Any]:
        """What was named."""
        return self.model_dump(include=self.model_fields_set)


class CreateKey(UpdateKey):
    name: StrictStr = Field(min_length=1, max_length=64)


class RotateKey(Body):
    """``grace``: for how long (s, or a time such as ``24h``) the secrets before hold; None: a day."""

    grace: StrictInt | StrictFloat | StrictStr | None = None

    @model_validator(mode="after")
    def _not_negative(self) -> RotateKey:
        if isinstance(self.grace, int | float) and not 0 <= self.grace <= 1e9:
            raise ValueError("grace: seconds, 0 or more, are needed")
        return self


class AliasBody(Body):
    """``sides``: weights by model."""

    sides: dict[StrictStr, float]
    shadow: StrictBool = False


class RouteBody(Body):
    """See `config.model_names.route`."""

    rules: list[dict[str, Any]] = Field(default_factory=list)
    default: StrictStr


class Shutdown(Body):
    now: StrictBool = False


def parse(kind: type[Body], body: bytes) -> Any:
    """Raises Refused (400) saying what is wrong and where."""
    try:
        bounded.measure(body, MOST_VALUES)
    except bounded.Unfit as error:
        raise Refused(400, f"the body {error}") from None
    try:
        return kind.model_validate_json(body or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part)[:LONGEST] for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = f"unknown field{nearest(where, kind.model_fields)}"
        raise Refused(400, f"{where}: {message}" if where else message, where or None) from None
