"""LoRA adapters."""

from __future__ import annotations

from collections.abc import Mapping

from lb.admin.openapi.parts import CHANGE, Json, in_path, json_answer, json_body, linked, operation, ref

_NAME = in_path("name", "Name of an adapter", "pirate")
_CHANGED = {
    "lora_name": "pirate", "version": 1, "state": "loaded", "instances": {"instance_0": "loaded"}, "unchecked": [],
}  # fmt: skip

_LOADED = "$response.body#/lora_name"
_NEXT = {"adapter": _LOADED, "rollback_adapter": _LOADED}

PATHS: Mapping[str, Json] = {
    "/v1/lora_adapters": {"get": operation(
        "adapters", "adapters", "Every adapter",
        {200: json_answer("The registry, and where each is loaded", ref("Adapters"))}, errors=(503,),
    )},
    "/v1/cluster/placement": {"get": operation(
        "placement", "adapters", "Which worker every adapter belongs to, and holds",
        {200: json_answer("Adapters x workers, the busiest first", ref("Placement"))},
        words="As the balancer that is asked sees it: what it and the others have sent where. Only a strategy that "
              "follows adapters (`adaptive`) knows more than where they belong.",
    )},
    "/v1/lora_adapters/{name}": {"get": operation(
        "adapter", "adapters", "One adapter, with its versions",
        {200: json_answer("As the registry has it", ref("AdapterDetail"))}, errors=(404, 503), parameters=(_NAME,),
    )},
    "/v1/lora_adapters/{name}/rollback": {"post": operation(
        "rollback_adapter", "adapters", "Back to an earlier version",
        {200: json_answer("It is on every ready worker", ref("AdapterChanged"), _CHANGED)},
        errors=(404, 409, 502, *CHANGE), parameters=(_NAME,),
        body=json_body(ref("RollbackAdapter"), {"The first": {"version": 1}}),
    )},
    "/v1/load_lora_adapter": {"post": operation(
        "load_adapter", "adapters", "Load an adapter, or its next version, on every worker",
        {200: linked(json_answer("It is on every ready worker", ref("AdapterChanged"), _CHANGED), **_NEXT),
         202: json_answer("No worker is ready yet; those that get ready will have it", ref("AdapterChanged"))},
        errors=(404, 409, 502, *CHANGE),
        body=json_body(ref("LoadAdapter"), {
            "New": {"lora_name": "pirate", "lora_path": "/srv/adapters/pirate"},
            "Next version": {"lora_name": "pirate", "lora_path": "/srv/adapters/pirate-2", "load_inplace": True},
        }),
        words="All workers or none: where one refuses it, all go back (502).",
    )},
    "/v1/unload_lora_adapter": {"post": operation(
        "unload_adapter", "adapters", "Take an adapter off every worker, and forget it",
        {200: json_answer("It is gone", ref("AdapterUnloaded"), {"lora_name": "pirate", "state": "unloaded"})},
        errors=(404, *CHANGE), body=json_body(ref("UnloadAdapter"), {"By name": {"lora_name": "pirate"}}),
    )},
}  # fmt: skip
