"""What runs, and changes of it."""

from __future__ import annotations

from collections.abc import Mapping

from lb.admin.openapi.parts import (
    CHANGE,
    COUNT,
    TEXT,
    Json,
    in_header,
    in_path,
    in_query,
    json_answer,
    json_body,
    linked,
    one_of,
    operation,
    plain,
    ref,
)

_INSTANCE = in_path("name", "Id of an instance, as in the status", "instance_0")
_ID: Json = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}

_GROUPS: Json = {
    "type": "string", "pattern": "^(key|model|day)(,(key|model|day)){0,9}$", "default": "key,model",
}  # fmt: skip
_DAY: Json = {"type": "string", "format": "date"}

_EVENTS_OK = json_answer(
    "The events, the oldest first; or, for `Accept: text/event-stream`, as they come", ref("Events")
)
_EVENTS_OK["content"]["text/event-stream"] = {
    "schema": {"type": "string", "description": "Frames of `id`, `event` (the kind) and `data`, an Event as JSON"},
    "example": 'id: 100002\nevent: worker.ready\ndata: {"id": 100002, "at": 1795287638.4, "subject": "instance_1", '
    '"kind": "worker.ready", "text": "instance_1 ready after 2.0 s", "data": {"seconds": 2.0}}\n\n',
}

PATHS: Mapping[str, Json] = {
    "/v1/cluster/status": {"get": operation(
        "status", "cluster", "What runs",
        {200: json_answer("With or without a supervisor", ref("Status"))},
    )},
    "/v1/cluster/openapi.json": {"get": operation(
        "openapi", "cluster", "This description",
        {200: json_answer("OpenAPI 3.1", {"type": "object", "required": ["openapi", "info", "paths"]})},
    )},
    "/v1/cluster/events": {"get": operation(
        "events", "cluster", "What happened, or happens",
        {200: _EVENTS_OK}, errors=(400, 503),
        parameters=(
            in_query("since", _ID, "Those after the event with this id; else the latest"),
            in_query("limit", _ID, "So many; 100 of the latest, all after an id"),
            in_header("Last-Event-ID", _ID, "As `since`, for clients of event streams"),
        ),
        words="With `Accept: text/event-stream` a stream without an end: a comment comes at least every 15 s, and "
        "whoever was cut off goes on by `Last-Event-ID`. The last 1,000 events are kept.",
    )},
    "/v1/cluster/history": {"get": operation(
        "history", "cluster", "Traffic and latency of the last hour",
        {200: json_answer("The oldest first; times in which nobody looked are left out", ref("History"))},
        errors=(400,),
        parameters=(in_query("seconds", {"type": "integer", "minimum": 1, "maximum": 3600}, "Of the last; all"),),
    )},
    "/v1/cluster/live": {"get": operation(
        "live", "cluster", "The status, traffic and events, once a second",
        {200: plain("Frames: event `live`, with `status`, `samples`, `strategies` and `gpus`; and every event as it "
                    "comes", "text/event-stream")},
        errors=(503,),
        words="A stream without an end, whose `X-Clusterctl-May` names the scopes of who asks. The latest 200 events "
        "come first; whoever was cut off goes on by "
        "`Last-Event-ID`.",
    )},
    "/v1/cluster/why": {"get": operation(
        "why", "cluster", "Why requests went where they went",
        {200: json_answer("The newest first", ref("Why"))}, errors=(400, 404),
        parameters=(
            in_query("request_id", TEXT, "The request with this `X-Request-Id`; else the latest"),
            in_query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 20}, "So many"),
        ),
    )},
    "/v1/cluster/audit": {"get": operation(
        "audit", "cluster", "Who changed what, and who was refused",
        {200: json_answer("The newest first", ref("Audit"))}, errors=(400, 503),
        parameters=(
            in_query("before", {"type": "integer", "minimum": 1}, "Rows with a lower id than this"),
            in_query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}, "So many"),
            in_query("verify", TEXT, "If it is not empty: also whether the chain of seals holds"),
        ),
        words="For administrators. Rows are only ever added, each sealed with a hash over itself and the one before.",
    )},
    "/v1/cluster/usage": {"get": operation(
        "usage", "cluster", "What was taken with API keys",
        {200: json_answer("In the order of what it is asked by", ref("Usage"))}, errors=(400, 507),
        parameters=(
            in_query("by", _GROUPS, "Some of `key`, `model`, `day`, with commas between them"),
            in_query("from", _DAY, "The first day (UTC); else 30 days before the last"),
            in_query("to", _DAY, "The last one, included; else today"),
        ),
        words="Requests without a key are not in it. Of a request that is cut off counts what was generated.",
    )},
    "/v1/cluster/scale": {"post": operation(
        "scale", "cluster", "More or fewer workers",
        {202: json_answer("Accepted", ref("Scaled"), {"desired": 3, "current": 2})}, errors=(404, 409, *CHANGE),
        body=json_body(ref("Scale"), {
            "So many": {"instances": 2}, "One more": {"action": "scale_up", "count": 1},
        }),
    )},
    "/v1/cluster/strategy": {"post": operation(
        "strategy", "cluster", "How requests are spread",
        {200: json_answer("In force", ref("StrategySet"), {"strategy": "least_connections"})},
        errors=(404, 409, *CHANGE),
        body=json_body(ref("SetStrategy"), {"By load": {"strategy": "least_connections"}}),
    )},
    "/v1/cluster/restart": {"post": operation(
        "restart", "cluster", "Restart a worker, all of them one at a time, or the balancer",
        {202: json_answer("Accepted", ref("Restarting"), {"restarting": ["instance_0"], "rolling": False})},
        errors=(404, 409, *CHANGE),
        body=json_body(ref("Restart"), {
            "One": {"instance_id": "instance_0"}, "All, one at a time": {"rolling": True},
            "The balancer, without losing a connection": {"instance_id": "load_balancer"},
        }),
    )},
    "/v1/cluster/apply": {"post": operation(
        "apply", "cluster", "Other settings for the running cluster",
        {200: json_answer("Nothing to change, or a dry run", ref("Applied")),
         202: json_answer("Accepted", ref("Applied"))},
        errors=(409, *CHANGE),
        body=json_body(ref("Apply"), {
            "Try": {"settings": {"drain_timeout": 60}, "dry_run": True},
            "Change": {"settings": {"drain_timeout": 60}},
        }),
        words="What is not named stays as it is. All is checked before anything changes. One of `settings`, "
        "`defaults` and `previous` is needed.",
    )},
    "/v1/cluster/shutdown": {"post": operation(
        "shutdown", "cluster", "Drain, then stop everything",
        {202: json_answer("Accepted", ref("ShuttingDown"), {"shutting_down": True})}, errors=(503,),
        body=json_body(ref("Shutdown"), {"At once": {"now": True}}),
    )},
    "/v1/cluster/ui/link": {"post": operation(
        "ui_link", "cluster", "A code that opens the page once",
        {200: json_answer("Good for a minute: `HOST/ui/#code=…`", ref("UiLink"), {"code": "…", "expires_in": 60})},
        errors=(507,), body=json_body(ref("UiLinkWanted"), {"One": {}}),
    )},
    "/v1/cluster/ui/session": {"post": operation(
        "ui_session", "cluster", "A bearer token for such a code",
        {200: json_answer("The code is used up", ref("UiSession"), {"token": "…", "expires_in": 43200})},
        errors=(401, 403), body=json_body(ref("UiCode"), {"From a link": {"code": "…"}}), public=True,
    )},
    "/v1/cluster/instances/{name}": {"patch": operation(
        "weight", "cluster", "The weight of an instance, for the strategy `weighted`",
        {200: json_answer("In force", ref("Weighted"), {"instance_id": "instance_0", "weight": 3})},
        errors=(404, *CHANGE), parameters=(_INSTANCE,), body=json_body(ref("Weight"), {"Three": {"weight": 3}}),
    )},
    "/v1/cluster/instances/{name}/drain": {
        "post": operation(
            "drain", "cluster", "Take an instance out of rotation",
            {202: linked(json_answer("Accepted", ref("Drained")), undrain="$response.body#/instance_id")},
            errors=(404, 409, *CHANGE), parameters=(_INSTANCE,),
            body=json_body(ref("Drain"), {"Five seconds": {"grace": 5}}),
            words="Nothing new goes there; what runs may finish for `grace` seconds, the rest goes on elsewhere. It "
            "lasts until it is undone, or the instance is restarted or scaled away.",
        ),
        "delete": operation(
            "undrain", "cluster", "Back into rotation",
            {200: json_answer("In force", ref("Drained"))}, errors=(404, *CHANGE), parameters=(_INSTANCE,),
        ),
    },
    "/v1/cluster/instances/{name}/logs": {"get": operation(
        "logs", "cluster", "What an instance wrote",
        {200: plain("The end of its log", "text/plain")}, errors=(400, 404),
        parameters=(
            in_path(
                "name", "Id of an instance or a job, or `balancer`, `balancer-1` …, `standby`, `access`", "instance_0"
            ),
            in_query("lines", {**COUNT, "maximum": 100_000, "default": 100}, "So many of the last"),
            in_query("follow", one_of("0", "1", "false", "true"), "Go on as it is written, without an end"),
        ),
    )},
}  # fmt: skip
