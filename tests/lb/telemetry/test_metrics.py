from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from lb.telemetry.metrics import Metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_an_answer_is_counted_by_instance_route_and_status() -> None:
    metrics = Metrics()
    metrics.finished("instance_0", "/v1/completions", 200, 0.5)
    metrics.finished("instance_0", "/v1/completions", 200, 1.5)
    labels = {"instance": "instance_0", "route": "/v1/completions", "code": "200"}
    assert value(metrics, "clusterctl_requests_total", **labels) == 2
    assert value(metrics, "clusterctl_request_seconds_sum", instance="instance_0", route="/v1/completions") == 2.0


def test_the_ids_of_responses_make_no_series_of_their_own() -> None:
    metrics = Metrics()
    for number in range(5):
        metrics.finished("instance_0", f"/v1/responses/resp_{number}", 200, 0.1)
    lines = [line for line in metrics.render().splitlines() if line.startswith("clusterctl_requests_total{")]
    assert len(lines) == 1


def test_the_mean_is_over_all_answers_and_unknown_before_the_first() -> None:
    metrics = Metrics()
    assert metrics.mean_latency("instance_0") is None
    metrics.finished("instance_0", "/v1/completions", 200, 1.0)
    metrics.finished("instance_0", "/v1/completions", 500, 3.0)
    assert metrics.mean_latency("instance_0") == 2.0


def test_failures_refusals_ejections_and_first_bytes_are_counted() -> None:
    metrics = Metrics()
    metrics.attempt_failed.add("instance_0", "connect")
    metrics.refused.add("client", 404)
    metrics.ejected.add("instance_0")
    metrics.route_stats("instance_0", "/v1/completions").first_byte(0.02)
    assert value(metrics, "clusterctl_attempt_failures_total", instance="instance_0", cause="connect") == 1
    assert value(metrics, "clusterctl_refused_total", source="client", code="404") == 1
    assert value(metrics, "clusterctl_ejections_total", instance="instance_0") == 1
    assert value(metrics, "clusterctl_first_byte_seconds_count", instance="instance_0", route="/v1/completions") == 1


def test_a_gauge_is_read_when_somebody_asks() -> None:
    metrics, values = Metrics(), {"instance_0": 1.0}
    metrics.read("clusterctl_x", "X", ("instance",), lambda: [((n,), v) for n, v in values.items()])
    values["instance_0"] = 5.0
    assert value(metrics, "clusterctl_x", instance="instance_0") == 5.0


def test_a_gauge_without_a_label_is_a_single_series() -> None:
    metrics = Metrics()
    metrics.read("clusterctl_x", "X", (), lambda: [((), 2.0)])
    assert value(metrics, "clusterctl_x") == 2.0


def test_two_balancers_share_no_series() -> None:
    one, other = Metrics(), Metrics()
    one.ejected.add("instance_0")
    assert value(other, "clusterctl_ejections_total", instance="instance_0") is None


def test_it_renders_what_prometheus_reads() -> None:
    metrics = Metrics()
    metrics.finished("instance_0", "/v1/completions", 200, 0.5)
    assert "clusterctl_requests" in {f.name for f in text_string_to_metric_families(metrics.render())}
