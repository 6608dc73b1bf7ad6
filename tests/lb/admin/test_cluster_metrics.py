"""The series that come from the supervisor's word and the balancer's own counts, and the page that explains them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from config.topology import STATES
from lb.admin.cluster_metrics import REASONS, mean_latency
from lb.protocol.usage import TokenUsage
from lb.telemetry.exposition import samples
from lbfakes import Balanced, instance, snapshot, spec

DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"

GPU = {
    "index": 1, "uuid": "GPU-b", "name": "H200", "memory_total": 8e9, "memory_used": 2e9, "utilisation": 0.25,
    "temperature": 61.0, "power": 310.5,
}  # fmt: skip


@pytest.fixture
def told(balancer: Balanced, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Says what the supervisor has said last; ``alive`` is whether it is still there."""

    def tell(alive: bool = True, **fields: Any) -> dict[str, float]:
        link = balancer.parts.link
        link.snapshot = {**snapshot(), **fields}
        monkeypatch.setattr(type(link), "alive", property(lambda self: alive))
        return samples([balancer.parts.shared.metrics.render()], ())

    return tell


def test_the_state_of_an_instance_is_one_of_all(told: Any) -> None:
    found = told(instances={"instance_0": instance(state="backoff"), "instance_1": instance()})
    states = {s: found[f'clusterctl_instance_state{{instance="instance_0",state="{s}"}}'] for s in STATES}
    assert states == {**dict.fromkeys(STATES, 0), "backoff": 1}
    assert found['clusterctl_instance_state{instance="instance_1",state="ready"}'] == 1


def test_nodes_and_what_runs_there(told: Any) -> None:
    node = {"name": "10.0.0.1", "state": "lost", "heard_s": 7.5, "gpus": 2, "free_gpus": None, "instances": ["w"]}
    found = told(nodes=[node])
    assert found['clusterctl_node_up{node="10.0.0.1"}'] == 0
    assert found['clusterctl_node_heard_seconds{node="10.0.0.1"}'] == 7.5
    assert found['clusterctl_node_gpus{node="10.0.0.1"}'] == 2
    assert 'clusterctl_node_free_gpus{node="10.0.0.1"}' not in found
    assert found['clusterctl_instance_node{instance="w",node="10.0.0.1"}'] == 1


def test_restarts_are_told_by_reason_and_reasons_are_there_from_the_beginning(told: Any) -> None:
    found = told(instances={"instance_0": instance(restarts_by={"exit": 2, "hung": 1})})
    by = {r: found[f'clusterctl_restarts_total{{instance="instance_0",reason="{r}"}}'] for r in REASONS}
    assert by == {**dict.fromkeys(REASONS, 0), "exit": 2, "hung": 1}


def test_start_times_of_those_that_run(told: Any) -> None:
    running = instance(started_at=1700000000.5, start_seconds=12.5, degraded=True, gpus=[0, 3])
    found = told(
        instances={"instance_0": running, "backend_0": instance(managed=False)}, supervisor={"started_at": 1600000000.0}
    )
    of = '{instance="instance_0"}'
    assert found[f"clusterctl_instance_start_time_seconds{of}"] == 1700000000.5
    assert found[f"clusterctl_instance_start_seconds{of}"] == 12.5
    assert found[f"clusterctl_instance_degraded{of}"] == 1
    assert 'clusterctl_instance_start_seconds{instance="backend_0"}' not in found
    assert found["clusterctl_supervisor_start_time_seconds"] == 1600000000
    assert found['clusterctl_instance_gpu{gpu="3",instance="instance_0"}'] == 1


def test_workers_wanted_allowed_and_running(balancer: Balanced, told: Any) -> None:
    balancer.push(spec("instance_0"), spec("instance_1", state="starting"), spec("backend_0", managed=False))
    found = told(total_instances=2, min_instances=1, max_instances=4)
    names = ("running", "desired", "min", "max")
    assert [found[f"clusterctl_instances_{name}"] for name in names] == [1, 2, 1, 4]


def test_what_autoscaling_finds_while_it_is_on(told: Any) -> None:
    found = told(autoscale={"mode": "on", "target": 3, "needed": 2.25})
    assert (found["clusterctl_autoscale_target"], found["clusterctl_autoscale_needed"]) == (3, 2.25)
    assert "clusterctl_autoscale_target" not in told(autoscale={"mode": "on", "target": None, "needed": None})
    assert "clusterctl_autoscale_target" not in told()


def test_adapters_by_what_workers_have_of_them(told: Any) -> None:
    found = told(adapter_states={
        "poet": {"version": 3, "states": {"loaded": 2, "refused": 1}},
        "other": {"version": None, "states": {"lazy": 9}},
    })  # fmt: skip
    assert found['clusterctl_adapter_instances{adapter="poet",state="refused"}'] == 1
    assert found['clusterctl_adapter_instances{adapter="poet",state="loading"}'] == 0
    assert found['clusterctl_adapter_instances{adapter="other",state="lazy"}'] == 9
    assert found['clusterctl_adapter_version{adapter="poet"}'] == 3
    assert 'clusterctl_adapter_version{adapter="other"}' not in found


def test_gpus_are_told_while_somebody_reads_them(told: Any) -> None:
    part = {**GPU, "index": 2, "utilisation": None}
    found, of = told(gpus=[GPU, part]), '{gpu="1",name="H200",uuid="GPU-b"}'
    assert found[f"clusterctl_gpu_memory_used_bytes{of}"] == 2e9
    assert found[f"clusterctl_gpu_memory_total_bytes{of}"] == 8e9
    assert found[f"clusterctl_gpu_utilization_ratio{of}"] == 0.25
    assert found[f"clusterctl_gpu_temperature_celsius{of}"] == 61
    assert found[f"clusterctl_gpu_power_watts{of}"] == 310.5
    assert [name for name in found if name.startswith("clusterctl_gpu_utilization_ratio")] == [
        f"clusterctl_gpu_utilization_ratio{of}"
    ]
    assert not [name for name in told(alive=False, gpus=[GPU]) if name.startswith("clusterctl_gpu_")]


USED = {"cpu_seconds": 3.5, "memory_bytes": 1000, "open_files": 7, "cpu_percent": 1.0, "processes": 2}


def test_processes_are_those_that_the_supervisor_sees(told: Any) -> None:
    found = told(processes={"supervisor": USED, "instance_0": USED})
    assert found['clusterctl_process_cpu_seconds_total{process="instance_0"}'] == 3.5
    assert found['clusterctl_process_resident_memory_bytes{process="supervisor"}'] == 1000
    assert found['clusterctl_process_open_files{process="supervisor"}'] == 7
    assert found["clusterctl_process_max_open_files"] > 0


def test_without_a_supervisor_a_balancer_tells_of_itself(told: Any) -> None:
    """Not what a process used that is gone."""
    found = told(
        alive=False, processes={"supervisor": USED}, load_balancer={"processes": [{"pid": 1}, {"pid": os.getpid()}]}
    )
    told_of = {name for name in found if name.startswith("clusterctl_process_resident_memory_bytes")}
    assert told_of == {'clusterctl_process_resident_memory_bytes{process="balancer-1"}'}
    assert found[told_of.pop()] > 1e6
    assert found['clusterctl_process_cpu_seconds_total{process="balancer-1"}'] > 0
    assert found['clusterctl_process_open_files{process="balancer-1"}'] > 2
    assert found["clusterctl_supervisor_up"] == 0


def test_troubles_of_the_cluster(told: Any) -> None:
    calm = told(supervisor={"unsaved": None, "rolling": {"stopped": ""}})
    assert (calm["clusterctl_state_unsaved"], calm["clusterctl_rolling_restart_stopped"]) == (0, 0)
    bad = told(supervisor={"unsaved": "no room", "rolling": {"stopped": "it stops"}})
    assert (bad["clusterctl_state_unsaved"], bad["clusterctl_rolling_restart_stopped"]) == (1, 1)


def test_before_the_supervisors_first_word_there_is_no_error(balancer: Balanced) -> None:
    assert balancer.parts.link.snapshot == {}
    assert "clusterctl_supervisor_up 0.0" in balancer.parts.shared.metrics.render()


def test_errors_are_counted_by_whose_fault_they_were(balancer: Balanced) -> None:
    metrics = balancer.parts.shared.metrics
    metrics.refused.add("client", 404)
    metrics.slow_readers.add()
    metrics.refused.add("internal", 503)
    for code in (200, 400, 499, 500, 502):
        metrics.finished("instance_0", "/v1/completions", code, 0.1)
    found = {source: balancer.metric("clusterctl_errors_total", source=source) for source in ("client", "upstream")}
    assert found == {"client": 2, "upstream": 2}
    assert balancer.metric("clusterctl_errors_total", source="internal") == 1


def test_who_waits_is_counted_by_model(balancer: Balanced) -> None:
    balancer.parts.shared.metrics.queued("poet", 1)
    assert balancer.metric("clusterctl_model_queued_requests", model="poet") == 1
    assert balancer.metric("clusterctl_queued_requests") == 1
    balancer.parts.shared.metrics.queued("poet", -1)
    assert balancer.metric("clusterctl_model_queued_requests", model="poet") == 0


def test_a_mean_over_several_processes_is_over_all_routes(balancer: Balanced) -> None:
    metrics = balancer.parts.shared.metrics
    metrics.finished("instance_1", "/v1/completions", 200, 1.0)
    metrics.finished("instance_1", "/v1/embeddings", 200, 2.0)
    metrics.finished("instance_10", "/v1/embeddings", 200, 9.0)
    series = samples([metrics.render(), metrics.render()], ())
    assert mean_latency(series, "instance_1") == metrics.mean_latency("instance_1") == 1.5
    assert mean_latency(series, "instance_2") is None




def documented() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name -> type and labels."""
    rows = re.findall(r"^\| `(clusterctl_\w+)` \| (\w+) \| ([^|]*) \|", DOCS.read_text(), re.MULTILINE)
    return {name: (kind, tuple(sorted(re.findall(r"`(\w+)`", labels)))) for name, kind, labels in rows}


def test_a_base_model_has_the_state_it_is_in(told: Any) -> None:
    models = [{"name": "a", "state": "up", "swaps": 3}, {"name": "b", "state": "failed", "failures": 2}]
    found = told(models=models)
    assert [found[f'clusterctl_model_state{{model="{m}",state="{s}"}}'] for m, s in (
        ("a", "up"), ("a", "failed"), ("b", "failed"), ("b", "down"),
    )] == [1, 0, 1, 0]  # fmt: skip
    assert found['clusterctl_model_starts_total{model="a"}'] == 3
    assert found['clusterctl_model_start_failures{model="b"}'] == 2
    many = told(models=[{"name": f"m{number}", "state": "down"} for number in range(256)])
    assert sum("clusterctl_model_starts_total{" in series for series in many) == 100


async def test_every_series_is_documented_and_every_documented_one_is_there(balancer: Balanced) -> None:
    async with balancer.request("GET", "/metrics") as response:
        text = await response.text()
    written = dict(re.findall(r"^# TYPE (clusterctl_\S+) (\w+)$", text, re.MULTILINE))
    assert written == {name: kind for name, (kind, _) in documented().items()}
    for name in written:
        assert re.search(rf"^# HELP {name} \S", text, re.MULTILINE), f"{name} is explained to whoever reads the page"


def test_labels_are_documented(balancer: Balanced, told: Any) -> None:
    """Of everything that can be made to show itself here."""
    balancer.push(spec("instance_0"))
    metrics = balancer.parts.shared.metrics
    metrics.models.begin("poet").end(False)
    metrics.finished("instance_0", "/v1/completions", 200, 0.1)
    metrics.refused.add("client", 404)
    metrics.slow_readers.add()
    metrics.waited("anybody", 0.1, "small")
    metrics.dropped("anybody", "left")
    metrics.used("team", TokenUsage(1, 0, 1))
    metrics.choices("auto", "poet").value += 1
    metrics.shadowed("auto", "poet", "200", 0.1)
    for count in (metrics.ejected, metrics.opened, metrics.broken, metrics.stalled, metrics.retried):
        count.add("instance_0")
    metrics.moved("instance_0", "evicted", "tokens", 3)
    metrics.attempt_failed.add("instance_0", "connect")
    times = {"exit": {"buckets": [1, 0], "sum": 0.5}}
    found = told(
        instances={"instance_0": instance(started_at=1.0, start_seconds=1.0, gpus=[0])}, gpus=[GPU],
        adapter_states={"poet": {"version": 1, "states": {}}}, processes={"supervisor": USED},
        recovery={"bounds": [1.0], "detect": times, "restore": times}, load_balancer={"ends": {"killed": 1}},
        autoscale={"mode": "on", "target": 1, "needed": 0.5}, models=[{"name": "small", "state": "up"}],
            nodes=[{"name": "a", "state": "up", "heard_s": 1, "gpus": 2, "free_gpus": 1, "instances": ["x"]}],
            jobs={
                "open": [{"kind": "pull", "state": "running", "count": 1}], "seconds": {"pull": 1.5},
                "ended": [{"kind": "pull", "state": "done", "count": 2}],
            },
    )  # fmt: skip
    seen: dict[str, tuple[str, ...]] = {}
    for series in found:
        name, _, labels = series.partition("{")
        name = name if name in documented() else re.sub("_(bucket|sum|count)$", "", name)
        seen[name] = tuple(sorted({*re.findall(r'(\w+)="', labels)} - {"le"}))
    expected = {name: labels for name, (_, labels) in documented().items()}
    del expected["clusterctl_instance_scraped"]  # it is of a scrape
    del expected["clusterctl_tls_certificate_expiry_timestamp_seconds"]  # there is none
    del expected["clusterctl_limits_store_up"], expected["clusterctl_limits_store_messages_total"]  # nor such a store
    for name in ("requests_total", "answers", "bytes"):
        del expected[f"clusterctl_response_cache_{name}"]  # nor any that are kept
    assert seen == expected
