"""Health, models and figures."""

from __future__ import annotations

from collections.abc import Mapping

from lb.admin.openapi.parts import Json, json_answer, operation, plain, ref

PATHS: Mapping[str, Json] = {
    "/health": {"get": operation(
        "health", "system", "Whether a worker takes requests",
        {200: json_answer("At least one", ref("Health"), {"status": "ok", "ready": 2}),
         503: json_answer("None", ref("Health"), {"status": "unavailable", "ready": 0})},
        public=True,
    )},
    "/metrics": {"get": operation(
        "metrics", "system", "Everything for Prometheus: the cluster's own series, and every worker's",
        {200: plain("Text format 0.0.4", "text/plain")}, errors=(401, 403), public=True,
        words="For everybody on this machine (unless `protect_metrics` is set); others need a bearer token.",
    )},
    "/v1/models": {"get": operation(
        "models", "system", "What a request's `model` can be",
        {200: json_answer("Models, and adapters with a `parent`", ref("Models"))}, errors=(401,), public=True,
        words="Open to everybody until there is an API key for models; from then on as far as a key goes.",
    )},
    "/v1/system/health": {"get": operation(
        "system_health", "system", "In one word, and by instance",
        {200: json_answer("Also where it is unhealthy", ref("SystemHealth"))},
    )},
    "/v1/system/metrics": {"get": operation(
        "system_metrics", "system", "Requests, errors and latency by instance",
        {200: json_answer("Since the counters began", ref("SystemMetrics"))},
    )},
}  # fmt: skip
