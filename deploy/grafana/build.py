"""Writes dashboards/clusterctl.json: ``python deploy/grafana/build.py``. A panel is a line here; change it here.

``$cluster``, ``$instance`` and ``$model`` are the dashboard's variables, ``$__rate_interval`` is Grafana's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent / "dashboards" / "clusterctl.json"

SOURCE = {"type": "prometheus", "uid": "prometheus"}
COLUMNS = 24

#: The selectors that queries are written with.
C = 'cluster=~"$cluster"'
W = C + ',instance=~"$instance"'
OURS = C + ',process=~"balancer.*|supervisor|standby"'
M = C + ',model=~"$model"'


@dataclass(frozen=True)
class Panel:
    """``queries``: expression by legend (Grafana's ``{{label}}``)."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 7
    about: str = ""
    red_from: float | None = None
    red_below: float | None = None
    most: float | None = None


def rate(series: str, by: str) -> str:
    return f"sum by ({by}) (rate({series}[$__rate_interval]))"


def hourly(series: str, by: str = "") -> str:
    added = f"(increase({series}[1h]))"
    return f"sum by ({by}) {added}" if by else f"sum{added}"


def quantile(q: float, histogram: str, by: str) -> str:
    return f"histogram_quantile({q}, {rate(histogram, f'{by}, le' if by else 'le')})"


def quantiles(histogram: str) -> dict[str, str]:
    return {f"p{q:g}": quantile(q / 100, histogram, "") for q in (50, 95, 99)}


def stat(title: str, query: str, unit: str = "short", **fields: Any) -> Panel:
    return Panel(title, {"": query}, unit, "stat", 3, 4, **fields)


CLUSTER = [
    stat("Workers in rotation", f"clusterctl_instances_running{{{C}}}", red_below=1),
    stat("Workers wanted", f"clusterctl_instances_desired{{{C}}}"),
    stat("Supervisor", f"clusterctl_supervisor_up{{{C}}}", "bool_yes_no", red_below=1),
    stat("Requests in flight", f"sum(clusterctl_in_flight{{{C}}})"),
    stat("Requests that wait", f"sum(clusterctl_queued_requests{{{C}}})", red_from=50),
    stat("Requests per second", f"sum(rate(clusterctl_model_requests_total{{{C}}}[$__rate_interval]))", "reqps"),
    stat("Tokens per second", f"sum(rate(vllm:generation_tokens_total{{{C}}}[$__rate_interval]))"),
    stat("Alerts", f'count(ALERTS{{{C},alertstate="firing"}}) or vector(0)', red_from=1),
    Panel("Requests by route", {"{{route}} {{code}}": rate(f"clusterctl_requests_total{{{C}}}", "route, code")},
          "reqps"),
    Panel("Errors by whose fault it was", {"{{source}}": rate(f"clusterctl_errors_total{{{C}}}", "source")}, "reqps"),
    Panel("Refused by the balancer", {"{{source}} {{code}}": rate(f"clusterctl_refused_total{{{C}}}", "source, code")},
          "reqps"),
    Panel("Time to the first token", quantiles(f"clusterctl_model_time_to_first_token_seconds_bucket{{{C}}}"), "s"),
    Panel("Between two chunks", quantiles(f"clusterctl_model_inter_token_seconds_bucket{{{C}}}"), "s"),
    Panel("Whole requests", quantiles(f"clusterctl_request_seconds_bucket{{{C}}}"), "s"),
    Panel("p99 by route", {"{{route}}": quantile(0.99, f"clusterctl_request_seconds_bucket{{{C}}}", "route")}, "s"),
    Panel("Time to notice a loss, and to be whole again (p99 of an hour)", {
        f"{what}: {{{{cause}}}}": f"histogram_quantile(0.99, {hourly(f'{series}{{{C}}}', 'cause, le')})"
        for what, series in (
            ("notice", "clusterctl_detect_seconds_bucket"), ("whole again", "clusterctl_restore_seconds_bucket"),
        )
    }, "s"),
    Panel("State of the cluster", {
        "state cannot be written": f"clusterctl_state_unsaved{{{C}}}",
        "rolling restart stopped": f"clusterctl_rolling_restart_stopped{{{C}}}",
        "min": f"clusterctl_instances_min{{{C}}}", "max": f"clusterctl_instances_max{{{C}}}",
    }),
]  # fmt: skip

WORKERS = [
    Panel("State", {"{{instance}}: {{state}}": f"clusterctl_instance_state{{{W}}} == 1"}, kind="state-timeline",
          width=16),
    Panel("Starts again, by reason (an hour)", {
        "{{instance}}: {{reason}}": hourly(f"clusterctl_restarts_total{{{W}}}", "instance, reason"),
    }, kind="bargauge"),
    Panel("Requests in flight", {"{{instance}}": f"sum by (instance) (clusterctl_in_flight{{{W}}})"}),
    Panel("Requests", {"{{instance}}": rate(f"clusterctl_instance_requests_total{{{W}}}", "instance")}, "reqps"),
    Panel("Errors", {"{{instance}}": rate(f"clusterctl_instance_errors_total{{{W}}}", "instance")}, "reqps"),
    Panel("Running and waiting in the engine", {
        "{{instance}} running": f"sum by (instance) (vllm:num_requests_running{{{W}}})",
        "{{instance}} waiting": f"sum by (instance) (vllm:num_requests_waiting{{{W}}})",
    }),
    Panel("KV cache", {"{{instance}}": f"max by (instance) (vllm:kv_cache_usage_perc{{{W}}})"}, "percentunit",
          red_from=0.95, most=1),
    Panel("Preemptions", {"{{instance}}": rate(f"vllm:num_preemptions_total{{{W}}}", "instance")}, "ops"),
    Panel("Tokens made", {"{{instance}}": rate(f"vllm:generation_tokens_total{{{W}}}", "instance")}),
    Panel("Prompt tokens", {"{{instance}}": rate(f"vllm:prompt_tokens_total{{{W}}}", "instance")}),
    Panel("Prefix cache hits", {"{{instance}}": (
        f"{rate(f'vllm:prefix_cache_hits_total{{{W}}}', 'instance')} / "
        f"{rate(f'vllm:prefix_cache_queries_total{{{W}}}', 'instance')}"
    )}, "percentunit", most=1),
    Panel("First byte, p99", {
        "{{instance}}": quantile(0.99, f"clusterctl_first_byte_seconds_bucket{{{W}}}", "instance"),
    }, "s"),
    Panel("Between tokens in the engine, p99", {
        "{{instance}}": quantile(0.99, f"vllm:inter_token_latency_seconds_bucket{{{W}}}", "instance"),
    }, "s"),
    Panel("Waiting in the engine, p99", {
        "{{instance}}": quantile(0.99, f"vllm:request_queue_time_seconds_bucket{{{W}}}", "instance"),
    }, "s"),
    Panel("CPU (cores)", {
        "{{process}}": f'rate(clusterctl_process_cpu_seconds_total{{{C},process=~"$instance"}}[$__rate_interval])',
    }),
    Panel("Memory", {"{{process}}": f'clusterctl_process_resident_memory_bytes{{{C},process=~"$instance"}}'}, "bytes"),
    Panel("Last start took", {"{{instance}}": f"clusterctl_instance_start_seconds{{{W}}}"}, "s"),
    Panel("GPU: memory", {"{{gpu}} {{name}}":
        f"clusterctl_gpu_memory_used_bytes{{{C}}} / clusterctl_gpu_memory_total_bytes{{{C}}}"}, "percentunit", most=1),
    Panel("GPU: busy", {"{{gpu}} {{name}}": f"clusterctl_gpu_utilization_ratio{{{C}}}"}, "percentunit", most=1),
    Panel("GPU: temperature", {"{{gpu}} {{name}}": f"clusterctl_gpu_temperature_celsius{{{C}}}"}, "celsius",
          red_from=90),
]  # fmt: skip

ADAPTERS = [
    Panel("Requests", {"{{model}}": rate(f"clusterctl_model_requests_total{{{M}}}", "model")}, "reqps"),
    Panel("Errors", {"{{model}}": rate(f"clusterctl_model_errors_total{{{M}}}", "model")}, "reqps"),
    Panel("In flight, and waiting", {
        "{{model}}": f"sum by (model) (clusterctl_model_in_flight{{{M}}})",
        "{{model}} waiting": f"sum by (model) (clusterctl_model_queued_requests{{{M}}})",
    }),
    Panel("Tokens made (counted as requests end)", {
        "{{model}}": rate(f"clusterctl_model_tokens_total{{{M}}}", "model"),
    }),
    Panel("Time to the first token, p99", {
        "{{model}}": quantile(0.99, f"clusterctl_model_time_to_first_token_seconds_bucket{{{M}}}", "model"),
    }, "s"),
    Panel("Between two chunks, p99", {
        "{{model}}": quantile(0.99, f"clusterctl_model_inter_token_seconds_bucket{{{M}}}", "model"),
    }, "s"),
    Panel("Workers by what they have of it", {
        "{{adapter}}: {{state}}": f"sum by (adapter, state) (clusterctl_adapter_instances{{{C}}}) > 0",
    }),
    Panel("Active version", {"{{adapter}}": f"clusterctl_adapter_version{{{C}}}"}, kind="bargauge"),
    Panel("Loads, refusals, repairs, rollbacks (an hour)", {
        "loads": hourly(f"clusterctl_adapter_loads_total{{{C}}}"),
        "refused": hourly(f"clusterctl_adapter_load_failures_total{{{C}}}"),
        "repaired": hourly(f"clusterctl_adapter_drift_repairs_total{{{C}}}"),
        "rolled back": hourly(f"clusterctl_adapter_rollbacks_total{{{C}}}"),
    }, kind="bargauge"),
]  # fmt: skip

BALANCER = [
    Panel("Attempts that came to nothing", {
        "{{instance}}: {{cause}}": rate(f"clusterctl_attempt_failures_total{{{C}}}", "instance, cause"),
    }, "ops"),
    Panel("Requests made again", {
        "{{cause}}": rate(f"clusterctl_retries_total{{{C}}}", "cause"),
        "refused: budget": f"sum(rate(clusterctl_retry_budget_refusals_total{{{C}}}[$__rate_interval]))",
        "refused: two workers died of it": f"sum(rate(clusterctl_poison_requests_total{{{C}}}[$__rate_interval]))",
    }, "ops"),
    Panel("Streams", {
        "continued elsewhere": f"sum(rate(clusterctl_streams_moved_total{{{C}}}[$__rate_interval]))",
        "stood still": f"sum(rate(clusterctl_streams_stalled_total{{{C}}}[$__rate_interval]))",
        "broken": f"sum(rate(clusterctl_streams_broken_total{{{C}}}[$__rate_interval]))",
        "tokens made again": f"sum(rate(clusterctl_tokens_regenerated_total{{{C}}}[$__rate_interval]))",
    }, "ops"),
    Panel("Left out after failures to connect", {
        "{{instance}}": rate(f"clusterctl_ejections_total{{{C}}}", "instance"),
    }, "ops"),
    Panel("Connections opened to workers", {
        "{{instance}}": rate(f"clusterctl_upstream_connections_total{{{C}}}", "instance"),
    }, "ops"),
    Panel("Workers found hung (an hour)", {"{{instance}}": hourly(f"clusterctl_stalls_total{{{C}}}", "instance")},
          kind="bargauge"),
    Panel("CPU (cores)", {
        "{{process}}": rate(f"clusterctl_process_cpu_seconds_total{{{OURS}}}", "process"),
    }),
    Panel("Memory", {
        "{{process}}": f"clusterctl_process_resident_memory_bytes{{{OURS}}}",
    }, "bytes"),
    Panel("Open files", {
        "{{process}}": f"clusterctl_process_open_files{{{OURS}}}",
        "limit": f"clusterctl_process_max_open_files{{{C}}}",
    }),
    Panel("Balancer processes (an hour)", {
        "restarts": hourly(f"clusterctl_balancer_restarts_total{{{C}}}"),
        "replacements": hourly(f"clusterctl_balancer_replacements_total{{{C}}}"),
        "requests lost": hourly(f"clusterctl_balancer_lost_requests_total{{{C}}}"),
        "draining now": f"clusterctl_balancer_draining{{{C}}}",
    }, kind="bargauge"),
    Panel("Up since", {
        "supervisor": f"time() - clusterctl_supervisor_start_time_seconds{{{C}}}",
        "{{instance}}": f"time() - clusterctl_instance_start_time_seconds{{{C}}}",
    }, "s", "bargauge"),
    Panel("How long a scrape takes", {"scrape": f'scrape_duration_seconds{{{C},job="clusterctl"}}'}, "s"),
]  # fmt: skip

ROWS = {"Cluster": CLUSTER, "Per worker": WORKERS, "Per adapter and base model": ADAPTERS, "Balancer": BALANCER}


def dashboard() -> dict[str, Any]:
    return {
        "uid": "clusterctl", "title": "clusterctl", "tags": ["clusterctl", "vllm"], "schemaVersion": 39, "version": 1,
        "editable": False, "graphTooltip": 1, "refresh": "10s", "timezone": "browser", "annotations": {"list": []},
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [
            variable("cluster", "clusterctl_supervisor_up", "cluster"),
            variable("instance", f"clusterctl_instance_state{{{C}}}", "instance"),
            variable("model", f"clusterctl_model_requests_total{{{C}}}", "model"),
        ]},
        "panels": list(laid_out()),
    }  # fmt: skip


def variable(name: str, series: str, label: str) -> dict[str, Any]:
    return {
        "name": name, "label": name, "type": "query", "datasource": SOURCE, "refresh": 2, "sort": 7,
        "query": {"query": f"label_values({series}, {label})", "refId": name}, "includeAll": True, "multi": True,
        "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]},
    }  # fmt: skip


def laid_out() -> Iterator[dict[str, Any]]:
    number, y = 1, 0
    for title, panels in ROWS.items():
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "panels": [],
               "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}}  # fmt: skip
        number, x, y, height = number + 1, 0, y + 1, 0
        for panel in panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            yield drawn(panel, number, {"x": x, "y": y, "w": panel.width, "h": panel.height})
            number, x, height = number + 1, x + panel.width, max(height, panel.height)
        y += height


def drawn(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red_from is not None:
        steps.append({"color": "red", "value": panel.red_from})
    if panel.red_below is not None:
        steps = [{"color": "red", "value": None}, {"color": "green", "value": panel.red_below}]
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.most is not None:
        defaults["max"] = panel.most
    instant = panel.kind in ("stat", "bargauge")
    return {
        "id": number, "type": panel.kind, "title": panel.title, "description": panel.about, "gridPos": place,
        "datasource": SOURCE, "fieldConfig": {"defaults": defaults, "overrides": []}, "options": OPTIONS[panel.kind],
        "targets": [
            {"refId": chr(65 + at), "datasource": SOURCE, "expr": expr, "legendFormat": legend or "__auto",
             "instant": instant, "range": not instant}
            for at, (legend, expr) in enumerate(panel.queries.items())
        ],
    }  # fmt: skip


OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "none"},
    "bargauge": {"reduceOptions": {"calcs": ["lastNotNull"]}, "orientation": "horizontal", "displayMode": "basic"},
    "state-timeline": {"mergeValues": True, "showValue": "never", "legend": {"showLegend": False}},
}


def text() -> str:
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    OUT.write_text(text())
