"""The management API on the one URL: shapes, refusals, protection."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness import Cluster

SCALE, STRATEGY, RESTART = "/v1/cluster/scale", "/v1/cluster/strategy", "/v1/cluster/restart"


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        (SCALE, "not json", 400, "JSON"),
        (SCALE, "[]", 400, "object"),
        (SCALE, "{}", 400, "instances"),
        (SCALE, '{"instances": "three"}', 400, "instances"),
        (SCALE, '{"instances": 2.5}', 400, "instances"),
        (SCALE, '{"instances": -1}', 400, "instances"),
        (SCALE, '{"instance": 2}', 400, "did you mean 'instances'"),
        (SCALE, '{"action": "grow", "count": 1}', 400, "action"),
        (SCALE, '{"action": "scale_up", "count": 0}', 400, "count"),
        (SCALE, '{"instances": 2, "count": 1}', 400, "count"),
        (SCALE, '{"instances": 99}', 409, "1..3"),
        (STRATEGY, '{"strategy": "fastest"}', 400, "round_robin"),
        (STRATEGY, '{"strategy": 3}', 400, "strategy"),
        (RESTART, '{"instance_id": "instance_9"}', 404, "instance_0"),
        (RESTART, "{}", 400, "instance_id"),
        (RESTART, '{"rolling": "yes"}', 400, "rolling"),
    ],
)
def test_bad_changes_are_refused_saying_what_and_where(
    shared_sim: Cluster, path: str, body: str, status: int, words: str
) -> None:
    answer = httpx.post(shared_sim.url + path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]
    assert shared_sim.status()["total_instances"] == 2


def test_weights_are_patched(shared_sim: Cluster) -> None:
    url, before = f"{shared_sim.url}/v1/cluster/instances", shared_sim.instance("instance_1")["weight"]
    assert httpx.patch(f"{url}/instance_1", json={"weight": 5}).json() == {"instance_id": "instance_1", "weight": 5}
    assert shared_sim.instance("instance_1")["weight"] == 5
    assert httpx.patch(f"{url}/instance_7", json={"weight": 5}).status_code == 404
    assert httpx.patch(f"{url}/instance_1", json={"weight": -5}).status_code == 400
    assert httpx.patch(f"{url}/instance_1", json={"weight": before}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"X-Forwarded-For": "10.0.0.1"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_a_web_page_cannot_change_the_cluster(shared_sim: Cluster, headers: dict[str, str], status: int) -> None:
    sent = {"Content-Type": "application/json", **headers}
    answer = httpx.post(f"{shared_sim.url}{STRATEGY}", content='{"strategy": "random"}', headers=sent)
    assert answer.status_code == status
    assert shared_sim.status()["load_balancer_strategy"] == "least_connections"


@pytest.mark.parametrize("path", ["/v1/cluster/status", "/v1/system/health", "/v1/system/metrics"])
def test_reading_is_protected_as_well(shared_sim: Cluster, path: str) -> None:
    assert httpx.get(shared_sim.url + path).status_code == 200
    assert httpx.get(shared_sim.url + path, headers={"Host": "evil.example"}).status_code == 403
    assert httpx.get(shared_sim.url + path, headers={"Origin": "http://evil.example"}).status_code == 403


def test_a_workers_key_is_shown_nowhere(shared_sim: Cluster, tmp_path: Path) -> None:
    """Where it has to be written down, only the cluster's user may read."""
    assert shared_sim.complete().status_code == 200
    keys = [shared_sim.worker_key(name) for name in ("instance_0", "instance_1")]
    assert len(set(keys)) == 2 and min(map(len, keys)) >= 32
    paths = ("status", "events?limit=1000", "history", "why", "openapi.json", "instances/instance_0/logs?lines=1000",
             "instances/balancer/logs?lines=1000", "instances/access/logs?lines=1000")  # fmt: skip
    shown = [httpx.get(f"{shared_sim.url}/v1/cluster/{path}").text for path in paths]
    shown += [httpx.get(f"{shared_sim.url}/{path}").text for path in ("metrics", "v1/models", "v1/lora_adapters")]
    commands = ("status --json", "events", "doctor --import-timeout 0", "why")
    shown += [shared_sim.run(*words.split()).stdout for words in commands]
    state = shared_sim.state_dir
    assert shared_sim.run("state", "export", "--state-dir", str(state), str(tmp_path / "out")).returncode == 0
    shown += [file.read_text(errors="replace") for file in (tmp_path / "out", *(state / "logs").iterdir())]
    assert "instance_0" in shown[0] and "ready after" in shown[1]
    assert not [text for text in shown for key in keys if key in text]
    files = [file for file in state.rglob("*") if file.is_file()]
    written = [file for file in files if any(key.encode() in file.read_bytes() for key in keys)]
    assert written and {file.stat().st_mode & 0o077 for file in (state, *written)} == {0}


@pytest.mark.skipif(os.geteuid() != 0, reason="to become somebody else")
def test_another_user_of_the_machine_gets_nothing_from_a_worker(shared_sim: Cluster) -> None:
    """Neither by its port, nor by the way that its key goes."""
    seen = shared_sim.instance("instance_0")
    program = (
        "import sys, urllib.error, urllib.request as u\n"
        "for path in ('/health', '/metrics', '/v1/models', '/sim/state', '/invocations', '/adapters/x'):\n"
        f"    try: print(u.urlopen('http://127.0.0.1:{seen['port']}' + path).status)\n"
        "    except urllib.error.HTTPError as error: print(error.status)\n"
        f"for file in ('/proc/{seen['pid']}/environ', {str(shared_sim.state_dir / 'run' / 'instance_0')!r}):\n"
        "    try: print(len(open(file).read()))\n"
        "    except PermissionError: print('closed')\n"
    )
    result = subprocess.run(
        ["python3", "-c", program], capture_output=True, text=True, check=True, cwd="/", user=65534, group=65534,
        extra_groups=[], env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert result.stdout.split() == ["401"] * 6 + ["closed"] * 2


def test_a_wrong_method_or_path_is_said(shared_sim: Cluster) -> None:
    assert httpx.get(shared_sim.url + SCALE).status_code == 405
    assert httpx.get(f"{shared_sim.url}/v1/cluster/nothing").status_code == 404
    assert httpx.get(f"{shared_sim.url}/v1/completions").status_code == 405


def test_the_system_routes_tell_health_and_traffic(shared_sim: Cluster) -> None:
    assert shared_sim.complete().status_code == 200
    health = httpx.get(f"{shared_sim.url}/v1/system/health").json()
    assert (health["status"], health["ready"], health["total"]) == ("healthy", 2, 2)
    metrics = httpx.get(f"{shared_sim.url}/v1/system/metrics").json()
    one = metrics["instances"]["instance_0"]
    assert {"requests_total", "success_rate", "mean_latency_ms", "active_connections", "healthy", "cpu_percent",
            "memory_mb", "traffic_share"} <= set(one)  # fmt: skip
    assert abs(sum(i["traffic_share"] for i in metrics["instances"].values()) - 1) < 0.01


def test_prometheus_gets_our_series_and_every_workers(shared_sim: Cluster) -> None:
    assert shared_sim.complete().status_code == 200
    text = httpx.get(f"{shared_sim.url}/metrics").text
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names)), "each family stands together"
    samples = {s.name: set() for f in families for s in f.samples}  # type: ignore[var-annotated]
    for family in families:
        for sample in family.samples:
            samples[sample.name].add(sample.labels.get("instance"))
    both = {"instance_0", "instance_1"}
    assert samples["vllm:num_requests_running"] == both
    assert samples["clusterctl_instance_ready"] == both
    assert samples["clusterctl_instance_restarts_total"] == both
    assert "clusterctl_supervisor_up" in samples
    by_model = {f.name: {s.labels.get("model"): s.value for s in f.samples} for f in families}
    assert by_model["clusterctl_model_requests"]["demo"] >= 1
    assert by_model["clusterctl_model_tokens"]["demo"] >= 4
    assert by_model["clusterctl_model_in_flight"]["demo"] == 0
    assert {"clusterctl_model_time_to_first_token_seconds_bucket", "clusterctl_adapter_loads_total",
            "clusterctl_adapter_drift_repairs_total"} <= set(samples)  # fmt: skip


def test_a_workers_log_is_shown(shared_sim: Cluster) -> None:
    answer = httpx.get(f"{shared_sim.url}/v1/cluster/instances/instance_0/logs", params={"lines": 500})
    assert "instance_0, start 1" in answer.text
    assert httpx.get(f"{shared_sim.url}/v1/cluster/instances/nobody/logs").status_code == 404


def test_workers_take_requests_from_the_balancer_only(shared_sim: Cluster) -> None:
    port = shared_sim.instance("instance_0")["port"]
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json={"model": "demo", "prompt": "x"})
    assert answer.status_code == 401
    listening = [c.laddr for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port]
    assert {address.ip for address in listening} == {"127.0.0.1"}


def _raw(cluster: Cluster, head: str) -> bytes:
    with socket.create_connection(("127.0.0.1", cluster.port), 5) as connection:
        connection.sendall(head.encode())
        connection.settimeout(5)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


def test_head_has_no_body_and_closing_is_right(shared_sim: Cluster) -> None:
    answer = _raw(shared_sim, "HEAD /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\n")
