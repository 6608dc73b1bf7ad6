"""What schemathesis may not send as it made it up, and why. It imports this by ``SCHEMATHESIS_HOOKS``."""

from __future__ import annotations

import os
from typing import Any

import schemathesis


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    label, body = case.operation.label, case.body
    if label == "GET /v1/cluster/instances/{name}/logs" and case.query:
        # A log that is followed never ends; `test_client.py` follows one.
        case.query = {k: {"1": "0", "true": "false"}.get(str(v), v) for k, v in case.query.items()}
    if not isinstance(body, dict):
        return
    if label == "POST /v1/cluster/apply" and body.get("dry_run", False) is False:
        # Any setting may come, also another admin key: the cluster would be deaf to the rest.
        case.body = {**body, "dry_run": True}
    if label == "POST /v1/models/load":
        # A thousand workers may be asked for, here or of `scale`, and would be started.
        case.body = {key: value for key, value in body.items() if key not in ("instances", "min", "max")} | {"max": 1}
    if label == "POST /v1/cluster/jobs" and str(body.get("kind")).isalpha():
        # It may be a kind that there is, as those of the examples are: it would compute.
        case.body = {**body, "kind": "none"}
    if label == "POST /v1/load_lora_adapter" and str(body.get("lora_path")).startswith("/"):
        # No path that is made up holds an adapter.
        case.body = {**body, "lora_path": os.environ["OPENAPI_ADAPTER"]}
