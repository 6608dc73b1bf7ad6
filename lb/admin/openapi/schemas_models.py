"""What answers and requests are made of that concern the models of a cluster that has several."""

from __future__ import annotations

from collections.abc import Mapping

from config.models import MODEL_NAME, ModelDefinition
from config.topology import MODEL_STATES, STRATEGIES
from lb.admin.openapi.parts import (
    COUNT,
    FLAG,
    NUMBER,
    TEXT,
    WHOLE,
    Json,
    answer,
    array,
    described,
    one_of,
    or_null,
    ref,
)

MODEL_STATE = one_of(*MODEL_STATES)
#: The name or the path of one.
MODEL: Json = {"type": "string", "minLength": 1, "maxLength": 512}

MODEL_SCHEMAS: Mapping[str, Json] = {
    "ClusterModels": answer({"models": array(ref("ClusterModel"))}),
    "ClusterModel": answer({
        "name": TEXT, "names": described(array(TEXT), "By which clients may call it"), "group": TEXT, "path": TEXT,
        "engine": TEXT, "state": MODEL_STATE, "why": described(TEXT, "Of the latest start, if it failed"),
        "retry_at": or_null(NUMBER, "Seconds since 1970"), "is_default": described(FLAG, "Requests name no model"),
        "managed": described(FLAG, "It can be unloaded"), "pinned": FLAG, "priority": WHOLE,
        "idle_timeout": or_null(NUMBER, "Seconds"), "on_demand": FLAG,
        "strategy": or_null(one_of(*STRATEGIES), "null: as in the whole cluster"),
        "instances": described(COUNT, "Workers when it is up"), "wanted": described(COUNT, "Workers now"),
        "ready": COUNT, "min": COUNT, "max": COUNT,
        "memory_bytes": described(COUNT, "Main memory that its workers are estimated to take; 0 on GPUs"),
        "gpus": described(array(COUNT), "Those that its workers have"),
        "swaps": described(COUNT, "How often it was brought up"), "failures": described(COUNT, "Starts, in a row"),
        "in_flight": COUNT, "waiting": described(COUNT, "Requests that wait until it is up"),
        "oldest_wait_s": NUMBER, "last_used": or_null(NUMBER, "Seconds since 1970"), "adapters": array(TEXT),
    }),
    "ModelChanged": answer({"model": ref("ClusterModel")}),
    "ModelUnloaded": answer({"model_name": TEXT, "state": TEXT, "adapters": array(TEXT)}),
    "LoadModel": {
        "type": "object", "required": ["model_name", "model_path"], "additionalProperties": False,
        "properties": {
            "model_name": {"type": "string", "pattern": rf"^{MODEL_NAME.pattern}$"}, "model_path": MODEL,
            **{name: or_null({key: value for key, value in of.items() if key not in ("title", "default")})
               for name, of in ModelDefinition.model_json_schema()["properties"].items() if name != "path"},
        },
    },
}  # fmt: skip
