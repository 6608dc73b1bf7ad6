"""What answers and requests are made of."""

from __future__ import annotations

from collections.abc import Mapping

from config.settings import Settings
from config.topology import ADAPTER_STATES, AUTO_STRATEGY, STATES, STRATEGIES
from lb.admin.openapi.parts import (
    COUNT,
    FLAG,
    NUMBER,
    TEXT,
    WHOLE,
    Json,
    answer,
    array,
    by_name,
    described,
    one_of,
    or_null,
    question,
    ref,
)
from lb.admin.openapi.schemas_jobs import JOB_SCHEMAS
from lb.admin.openapi.schemas_joining import JOINING_SCHEMAS
from lb.admin.openapi.schemas_keys import KEY_SCHEMAS
from lb.admin.openapi.schemas_models import MODEL, MODEL_SCHEMAS, MODEL_STATE
from lb.admin.openapi.schemas_why import WHY_SCHEMAS

_STATE = one_of(*STATES)
_ADAPTER_NAME: Json = {"type": "string", "pattern": r"^(?!\.+$)[A-Za-z0-9._-]{1,128}$"}
_ALIAS = question(
    {"sides": {
        "type": "object", "description": "Weights by model", "minProperties": 1, "maxProperties": 16,
        "propertyNames": MODEL, "additionalProperties": {"type": "number", "minimum": 0, "maximum": 10**6},
    }},
    shadow=described(FLAG, "The first that is not chosen gets a copy"),
)  # fmt: skip
_KEYWORD: Json = {"type": "string", "minLength": 1, "maxLength": 100, "pattern": r"\S"}
_RULE: Json = {
    **question(
        {"model": MODEL}, keywords={**array(_KEYWORD), "maxItems": 200},
        pattern=described({"type": "string", "maxLength": 500}, "As Rust's regex takes them"),
    ),
    "anyOf": [
        {"required": ["keywords"], "properties": {"keywords": {"minItems": 1}}},
        {"required": ["pattern"], "properties": {"pattern": {"minLength": 1}}},
    ],
}  # fmt: skip
_ROUTE = question(
    {"default": described(MODEL, "The model where no rule fits")}, rules={**array(_RULE), "maxItems": 100}
)
_VERSION: Json = {"type": "integer", "minimum": 1}

#: As in a file: text is taken for a number, a list may be words with commas. What is good depends on the others.
_SETTINGS: Json = {
    "type": "object",
    "description": "As in a settings file, by name; paths are absolute. Times are seconds",
    "additionalProperties": False,
    "properties": {name: {"description": field.description} for name, field in Settings.model_fields.items()},
}

_DEFAULTS = described(array(one_of(*Settings.model_fields)), "Those to be as if nobody had given them")
_APPLY: Mapping[str, Json] = {
    "dry_run": described(FLAG, "Show what would change; change nothing"),
    "spare": or_null(FLAG, "Whether a spare worker is started first; as the settings say"),
}

_OF_MODEL = or_null({"type": "string", "minLength": 1, "maxLength": 256}, "Of which, where there are several")

_LAST_EXIT = answer({
    "reason": TEXT, "signal": or_null(WHOLE), "code": or_null(WHOLE), "at": described(NUMBER, "Seconds since 1970"),
    "expected": FLAG, "pid": WHOLE, "log": described(array(TEXT), "The last lines of its log"),
})  # fmt: skip

_ADAPTER: Mapping[str, Json] = {
    "lora_name": TEXT,
    "version": described(_VERSION, "The active one"),
    "state": one_of("registered", *ADAPTER_STATES, "rolling"),
    "description": TEXT,
    "rank": COUNT,
    "size": described(COUNT, "Bytes"),
    "base_model": or_null(TEXT),
    "auto_load": described(FLAG, "Loaded on every worker before it is ready, not on first use"),
    "instances": by_name(ref("AdapterOnInstance"), "By ready instance"),
    "requests_total": COUNT,
    "errors_total": COUNT,
    "last_used": or_null(NUMBER, "Seconds since 1970"),
}

SCHEMAS: Mapping[str, Json] = {
    "Error": answer({
        "error": answer({
            "message": described(TEXT, "For people"), "type": TEXT, "param": or_null(TEXT, "What of the request"),
            "code": {"type": ["integer", "string"]},
        }),
    }),
    "Status": answer({
        "is_running": described(FLAG, "At least one worker takes requests"),
        "total_instances": described(COUNT, "Workers that are wanted"),
        "running_instances": described(COUNT, "Workers that are ready"),
        "load_balancer_strategy": one_of(*STRATEGIES),
        "engine": or_null(TEXT), "model": or_null(TEXT),
        "min_instances": or_null(COUNT), "max_instances": or_null(COUNT),
        "supervisor": ref("Supervisor"), "load_balancer": ref("LoadBalancer"),
        "instances": by_name(ref("Instance"), "By id"),
    }, wanted_strategy=described(one_of(AUTO_STRATEGY, *STRATEGIES), "As asked for"), autoscale=described(answer({
        "mode": one_of("advise", "on"), "target": or_null(COUNT, "Workers that it wants, or would want"),
        "needed": or_null(NUMBER, "Workers that the load needs, and parts of one"),
        "reason": described(TEXT, "Of a change that is due, or why nothing is known"),
    }, min=COUNT, max=COUNT, requests_per_worker=NUMBER,
        learnt=described(FLAG, "Whether `requests_per_worker` is learnt of what a token takes"), in_flight=COUNT,
        queued=described(COUNT, "Requests that wait for room on a worker"),
        unread_s=described(NUMBER, "Seconds of one worker's time that prompts take which are not read yet")),
        "As many workers as the load needs; nothing while that is off"),
        models=described(array(ref("ClusterModel")), "Of a cluster that has several"), zygote=described(answer({
            "mode": one_of("auto", "on", "off"),
            "plain": described(TEXT, "Why workers are not forked, empty if they are"),
            "processes": array(answer({
                "name": TEXT, "pid": or_null(WHOLE), "ready": FLAG, "memory_mb": NUMBER, "restarts": COUNT,
                "reason": described(TEXT, "Why it forks none"),
            })),
        }), "What workers are forked from"), jobs=described(ref("JobsSeen"), "Nothing where there were none"),
        discovery=described(array(ref("ServerList")), "Where other servers are listed"),
        nodes=described(array(ref("Node")), "On which workers run; nothing where that is this machine alone")),
    "Node": answer({
        "name": TEXT, "host": described(TEXT, "Where its workers listen"),
        "state": described(one_of("up", "lost", "waiting"), "`waiting`: it was not heard of yet"),
        "heard_s": described(NUMBER, "Seconds since its agent's last word"),
        "lease_s": described(NUMBER, "For how long from there on its workers go on without the supervisor"),
        "agent": described(TEXT, "Where that listens"),
        "gpus": or_null(NUMBER, "All that it has; null: nobody has said it"),
        "free_gpus": or_null(NUMBER, "Those that nobody holds"),
        "instances": described(array(TEXT), "That run there"),
    }),
    "ServerList": answer({
        "source": described(TEXT, "As --backend-discovery names it"), "servers": COUNT,
        "missing": described(COUNT, "Those that the latest list has not, and that stay for now"),
        "left_out": described(TEXT, "What is listed and not taken, and why"),
        "failure": described(TEXT, "Why it cannot be asked, empty if it can"),
        "age_s": or_null(NUMBER, "Seconds since it was last heard"),
    }),
    "Supervisor": answer(
        {"pid": or_null(WHOLE, "null: there is none; what is shown is what it said last"), "state_dir": TEXT},
        age_s=or_null(NUMBER, "Seconds since its last word, which everything here is of: about 1 while it is well"),
        epoch=COUNT, started_at=described(NUMBER, "Seconds since 1970"), shutting_down=FLAG,
        settled=described(FLAG, "Nothing is on its way"),
        unsaved=or_null(TEXT, "Why the state cannot be written"),
        rolling=described(answer({
            "active": FLAG, "done": COUNT, "total": COUNT, "spare": or_null(TEXT),
            "stopped": described(TEXT, "Why it does not go on, empty if it does"),
        }), "A rolling restart"),
    ),
    "LoadBalancer": answer({
        "pid": described(WHOLE, "The process that answered"), "in_flight": COUNT, "restarts": COUNT,
        "replacements": COUNT, "replacing": FLAG, "standby": or_null(WHOLE),
        "processes": array(answer({"pid": or_null(WHOLE)}, restarts=COUNT, in_flight=COUNT)),
        "draining": array(answer({"pid": WHOLE, "in_flight": COUNT})),
    }, failure=TEXT, lost_requests=COUNT, ends=by_name(COUNT), state_dir=described(
        TEXT, "Of the process that answered, on its machine",
    ), joined=described(
        array(answer({"name": TEXT, "address": TEXT, "in_flight": COUNT, "revision": COUNT})),
        "Machines with balancers of their own that are connected; revision: of the backend set that they go by",
    ), limits=described(
        answer({"store": TEXT, "shared": FLAG, "reason": described(TEXT, "Why not, empty if they are")}),
        "Of keys, where machines share them",
    )),
    "Instance": answer({
        "managed": described(FLAG, "Started by this cluster"), "state": _STATE, "spare": FLAG,
        "is_running": described(FLAG, "Takes new requests"), "degraded": described(FLAG, "Lacks an adapter"),
        "reason": TEXT, "phase": described(TEXT, "What it is doing, in words"),
        "progress_s": or_null(NUMBER, "Seconds since it made progress"), "stalls": COUNT, "host": TEXT,
        "port": or_null(WHOLE), "weight": COUNT, "pid": or_null(WHOLE), "gpus": array(WHOLE), "restarts": COUNT,
        "restarts_by": by_name(COUNT, "By what had ended it"), "uptime_s": or_null(NUMBER),
        "cpu_percent": or_null(NUMBER), "memory_mb": or_null(NUMBER),
        "tokens_total": or_null(NUMBER, "Made since it was started"), "kv_cache_percent": or_null(NUMBER),
        "models": array(TEXT), "last_exit": or_null(_LAST_EXIT), "in_flight": COUNT, "requests_total": COUNT,
        "errors_total": COUNT,
    }, started_at=or_null(NUMBER, "Seconds since 1970"), start_seconds=or_null(NUMBER, "How long its last start took"),
        cores=array(array(WHOLE)), incarnation=COUNT, ready_for_s=or_null(NUMBER), state_for_s=NUMBER,
        log=or_null(TEXT), node=or_null(TEXT, "Where it runs, unless that is this machine"),
        url=described(TEXT, "Of one that this cluster did not start"),
        origin=described(TEXT, "Who named that one: --backend, or a list"), first_byte_ms=NUMBER),
    "Scaled": answer({"desired": COUNT, "current": described(COUNT, "Ready now")}),
    "StrategySet": answer({"strategy": one_of(AUTO_STRATEGY, *STRATEGIES)}, model=TEXT),
    "Restarting": answer({"restarting": array(TEXT), "rolling": FLAG},
                         spare=or_null(TEXT, "A worker that stands in meanwhile")),
    "Drained": answer({
        "instance_id": TEXT, "drained": FLAG, "ready": described(COUNT, "Workers that take new requests"),
    }, grace=described(NUMBER, "Seconds for what runs")),
    "Weighted": answer({"instance_id": TEXT, "weight": COUNT}),
    "Applied": answer({
        "changes": array(answer({
            "setting": TEXT, "old": {}, "new": {},
            "effect": one_of("at once", "rolling restart of the workers", "replacement of the balancer",
                             "not on a running cluster"),
        })),
        "refused": or_null(TEXT, "Only in a dry run: why it would be refused"), "dry_run": FLAG,
        "spare": or_null(TEXT), "restarting": array(TEXT),
    }),
    "ShuttingDown": answer({"shutting_down": FLAG}),
    "UiLinkWanted": question(),
    "UiLink": answer({"code": TEXT, "expires_in": described(NUMBER, "Seconds")}),
    "UiCode": question({"code": TEXT}),
    "UiSession": answer({"token": TEXT, "expires_in": described(NUMBER, "Seconds")}),
    "Event": answer({
        "id": described(COUNT, "Rises; has gaps"), "at": described(NUMBER, "Seconds since 1970"), "subject": TEXT,
        "kind": described(TEXT, "Stays the same when the words change"), "text": described(TEXT, "A sentence"),
        "data": {"type": "object"},
    }),
    "Events": answer({"events": array(ref("Event"))}),
    "History": answer({"step_s": NUMBER, "samples": array(ref("Sample"))}),
    "Sample": answer({
        "at": described(NUMBER, "Seconds since 1970: where the step begins"), "requests_per_s": NUMBER,
        "errors_per_s": NUMBER, "tokens_per_s": NUMBER, "in_flight": NUMBER, "queued": NUMBER,
        "ttft_p50_ms": or_null(NUMBER), "ttft_p99_ms": or_null(NUMBER), "duration_p50_ms": or_null(NUMBER),
        "duration_p99_ms": or_null(NUMBER), "instances": by_name(NUMBER, "Tokens a second by instance"),
    }),
    "Usage": answer({
        "from": TEXT, "to": TEXT, "by": array(TEXT), "usage": array(ref("UsageRow")),
    }),
    "UsageRow": answer({
        "requests": COUNT, "prompt_tokens": COUNT, "cached_tokens": described(COUNT, "Those of the prompts that had "
        "been read before"), "completion_tokens": COUNT,
    }, key=TEXT, model=TEXT, day=described(TEXT, "ISO 8601")),
    "AdapterOnInstance": answer({
        "state": one_of(*ADAPTER_STATES), "version": or_null(_VERSION), "reason": TEXT,
    }),
    "Adapter": answer(_ADAPTER),
    "AdapterDetail": answer({**_ADAPTER, "versions": array(ref("AdapterVersion"))}),
    "AdapterVersion": answer({
        "version": _VERSION, "hash": TEXT, "rank": COUNT, "target_modules": array(TEXT), "base_model": or_null(TEXT),
        "source": described(TEXT, "Where it came from"), "size": described(COUNT, "Bytes"),
        "created": described(NUMBER, "Seconds since 1970"), "active": FLAG,
    }),
    "Adapters": answer({"adapters": array(ref("Adapter"))}),
    "AdapterChanged": answer({
        "lora_name": TEXT, "version": _VERSION,
        "state": one_of("registered", *ADAPTER_STATES),
        "instances": by_name(TEXT, "State by ready instance"),
    }, unchecked=described(array(TEXT), "What of it could not be checked, in words"),
       converted=described(array(TEXT), "What was done to make it what the engine loads, in words")),
    "AdapterUnloaded": answer({"lora_name": TEXT, "state": one_of("unloaded")}),
    "Health": answer({"status": one_of("ok", "unavailable"), "ready": COUNT}),
    "Models": answer({"object": one_of("list"), "data": array(ref("ModelCard"))}),
    "ModelCard": answer(
        {"id": TEXT}, object=TEXT, created=WHOLE, owned_by=TEXT, root=or_null(TEXT),
        parent=or_null(TEXT, "Of an adapter: its base model"), max_model_len=or_null(WHOLE),
        permission=array({"type": "object"}), status=MODEL_STATE, reason=described(TEXT, "Why it cannot be started"),
    ),
    "Nothing": question(),
    "Placement": answer({
        "strategy": TEXT,
        "workers": by_name(answer({"slots": or_null(COUNT, "Adapters that it computes at a time, if that is known")})),
        "adapters": array(answer({
            "lora_name": TEXT, "rank": or_null(COUNT),
            "on": by_name(answer({
                "active": described(COUNT, "Requests under way"), "resident": described(FLAG, "In a slot"),
                "held": described(FLAG, "In host memory"), "home": described(FLAG, "It belongs there"),
            }), "By worker"),
        })),
        "left_out": described(COUNT, "Adapters that there are beside these"),
    }),
    "SystemHealth": answer({
        "status": one_of("healthy", "degraded", "unhealthy"), "ready": COUNT, "total": COUNT, "supervisor": FLAG,
        "load_balancer": FLAG,
        "instances": by_name(answer({"healthy": FLAG, "state": _STATE, "reason": TEXT, "degraded": FLAG})),
    }),
    "SystemMetrics": answer({
        "requests_total": COUNT, "errors_total": COUNT, "active_connections": COUNT,
        "instances": by_name(answer({
            "requests_total": COUNT, "errors_total": COUNT,
            "success_rate": or_null({"type": "number", "minimum": 0, "maximum": 1}),
            "mean_latency_ms": or_null(NUMBER), "active_connections": COUNT, "healthy": FLAG, "state": _STATE,
            "cpu_percent": or_null(NUMBER), "memory_mb": or_null(NUMBER),
            "traffic_share": {"type": "number", "minimum": 0, "maximum": 1},
        })),
    }),
    "Settings": _SETTINGS,
    # Requests. A null is as good as a field that is not there.
    "Scale": {"oneOf": [
        question({"instances": described(COUNT, "Workers that are wanted")}, action={"type": "null"},
                 count={"type": "null"}, model=_OF_MODEL),
        question({"action": one_of("scale_up", "scale_down")},
                 count=or_null({"type": "integer", "minimum": 1}, "By so many; 1"), instances={"type": "null"},
                 model=_OF_MODEL),
    ]},
    "SetStrategy": question({"strategy": one_of(AUTO_STRATEGY, *STRATEGIES)}, model=_OF_MODEL),
    "Restart": {"oneOf": [
        question({"instance_id": described(TEXT, "Or `load_balancer`")}, rolling={"enum": [False, None]},
                 spare={"type": "null"}, model={"type": "null"}),
        question({"rolling": described({"const": True}, "All of them, one at a time")}, model=_OF_MODEL,
                 spare=or_null(FLAG, "Whether a spare is started first; as the settings say"),
                 instance_id={"type": "null"}),
    ]},
    "Drain": question(grace=or_null({"type": "number", "minimum": 0},
                                    "Seconds for what runs; the cluster's drain timeout")),
    "Weight": question({"weight": {"type": "integer", "minimum": 0, "maximum": 1000}}),
    "Apply": {"anyOf": [
        question({"settings": {**ref("Settings"), "minProperties": 1}}, defaults=_DEFAULTS,
                 previous={"const": False}, **_APPLY),
        question({"defaults": {**_DEFAULTS, "minItems": 1}}, settings=ref("Settings"), previous={"const": False},
                 **_APPLY),
        question({"previous": described({"const": True}, "Back to what the last apply replaced")},
                 settings={"type": "object", "maxProperties": 0}, defaults={"type": "array", "maxItems": 0}, **_APPLY),
    ]},
    "Shutdown": question(now=described(FLAG, "Do not wait for running requests")),
    "LoadAdapter": question(
        {"lora_name": _ADAPTER_NAME,
         "lora_path": {
             "type": "string", "pattern": "^(/|(hf|ms|s3|https)://)", "maxLength": 4096,
             "description": "A folder there, absolute, or what is fetched: hf://, ms://, s3://, https://"}},
        load_inplace=described(FLAG, "New content of a known name becomes its next version"),
        description=or_null({"type": "string", "maxLength": 256}),
        allow_no_effect=described(FLAG, "It may answer as the base model does, such as one that is not trained yet"),
        model=or_null({"type": "string", "minLength": 1, "maxLength": 256}, "Its base model, where there are several"),
    ),
    "UnloadAdapter": question({"lora_name": {"type": "string", "minLength": 1}}),
    "RollbackAdapter": question(version=or_null(_VERSION, "The version; the one before")),
    "Audit": answer({"entries": array(ref("AuditEntry"))}, broken_at=described(
        or_null(COUNT), "The first row that was changed, or before which one is missing; null: none",
    )),
    "AuditEntry": answer(
        {"id": COUNT, "at": described(NUMBER, "Seconds since 1970"),
         "seal": described(TEXT, "SHA-256 over the seal before, a line break and the row's own text")},
        who=described(TEXT, "The principal: owner, admin-key, a key's name"),
        method=TEXT, path=TEXT, status=WHOLE, reason=described(TEXT, "Of a refusal"),
        count=described(COUNT, "Refusals like it, counted together"),
        changed=array(answer({"what": TEXT, "before": {}, "after": {}})),
        **{"from": described(TEXT, "An address; `socket`: the supervisor's own, which only the cluster's user opens")},
    ),
    "Alias": _ALIAS,
    "Aliases": answer({"aliases": by_name(_ALIAS)}),
    "Route": _ROUTE,
    "Routes": answer({"routes": by_name(_ROUTE)}),
    "RouteTest": question({"text": TEXT}),
    "RouteChoice": answer({"model": TEXT, "reason": described(TEXT, "The rule that fits, and by what")}),
    "NameChanged": answer({"name": TEXT, "now": {"anyOf": [_ALIAS, _ROUTE, {"type": "null"}]}}),
    **JOB_SCHEMAS,
    **JOINING_SCHEMAS,
    **KEY_SCHEMAS,
    **MODEL_SCHEMAS,
    **WHY_SCHEMAS,
}  # fmt: skip
