"""A real Prometheus scrapes a running cluster with the project's own files: every rule is evaluated, every query of the
dashboard answered."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness import Cluster, environment, free_port, kill, poll

ROOT = Path(__file__).parent.parent.parent
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "clusterctl.json"

#: Without data where nothing has gone wrong, where the connections that scrapes leave behind are enough, and on a
#: machine without GPUs.
SILENT = (
    "clusterctl_attempt_failures_total", "clusterctl_retries_total", "clusterctl_streams_moved_total",
    "clusterctl_streams_stalled_total", "clusterctl_streams_broken_total", "clusterctl_ejections_total",
    "clusterctl_gpu_", "clusterctl_upstream_connections_total",
)  # fmt: skip


@dataclass
class Prometheus:
    client: httpx.Client

    def get(self, path: str, **params: str) -> Any:
        answer = self.client.get(f"/api/v1/{path}", params=params)
        assert answer.status_code == 200, f"{params}: {answer.text}"
        return answer.json()["data"]

    def ask(self, query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("query", query=query)["result"]
        return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("scraped"), free_port())
    result = cluster.up("--engine", "sim", "--instances", "2", "--", "--ttft-ms", "1", "--itl-ms", "1")
    assert result.returncode == 0, result.stderr
    cluster.wait_ready(2)
    # One loss, so that there is a time to notice it, and one to be whole again.
    kill(cluster.instance("instance_1")["pid"])
    poll(lambda: cluster.instance("instance_1")["restarts"] == 1, what="it is started again")
    cluster.wait_ready(2)
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Debian's, with the files of deploy/; only the target is another."""
    found = shutil.which("prometheus")
    assert found, "prometheus is missing: tests/system-packages.sh installs it"
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    for name in ("prometheus.yml", "rules.yml"):
        shutil.copy(ROOT / "deploy" / "prometheus" / name, folder)
    config = folder / "prometheus.yml"
    text = config.read_text()
    assert text.count("cluster:8000") == 1
    text = text.replace("cluster:8000", f"127.0.0.1:{cluster.port}")
    config.write_text(text.replace("/run/secrets/clusterctl_admin_key", str(cluster.state_dir / "admin.token")))
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [found, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=output, stderr=output, env=environment(),
        )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            poll(lambda: _ready(process, client), 30, f"Prometheus is ready; {log}")
            yield Prometheus(client)
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(process: subprocess.Popen[bytes], client: httpx.Client) -> bool:
    assert process.poll() is None, "Prometheus has ended"
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def scraped(cluster: Cluster, prometheus: Prometheus) -> Prometheus:
    """Scraped several times, with traffic to the base model and both adapters between two of them."""

    def traffic() -> None:
        for model in ("demo", "pirate", "poet"):
            assert cluster.complete(model=model, prompt="hello " * 20).status_code == 200
            answer = cluster.complete(model=model, stream=True, max_tokens=8)
            assert answer.status_code == 200 and "[DONE]" in answer.text
        assert cluster.complete(model="nobody").status_code == 404

    poll(lambda: prometheus.ask("clusterctl_supervisor_up"), 30, "the first scrape")
    traffic()

    def seen() -> bool:
        """Both workers worked between two scrapes that Prometheus has."""
        traffic()
        rates = prometheus.ask("sum by (instance) (rate(vllm:generation_tokens_total[2m])) > 0")
        return len(rates) == 2 and bool(prometheus.ask("rate(clusterctl_model_requests_total{model='poet'}[2m]) > 0"))

    poll(seen, 60, "traffic shows")
    return prometheus


def test_the_one_target_is_up_and_its_workers_keep_their_names(scraped: Prometheus) -> None:
    (target,) = scraped.get("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    names = {sample["metric"]["instance"] for sample in scraped.ask("vllm:num_requests_running")}
    assert names == {"instance_0", "instance_1"}
    assert scraped.ask('{__name__=~".+", exported_instance!=""}') == []
    assert [sample["value"][1] for sample in scraped.ask("clusterctl_instances_running")] == ["2"]


def test_every_rule_is_evaluated_and_none_fires(scraped: Prometheus) -> None:
    def rules() -> list[dict[str, Any]] | None:
        found = [rule for group in scraped.get("rules")["groups"] for rule in group["rules"]]
        return found if all(rule["health"] != "unknown" for rule in found) else None

    found = poll(rules, 40, "all rules are evaluated")
    expected = re.findall(r"- alert: (\w+)", (ROOT / "deploy" / "prometheus" / "rules.yml").read_text())
    assert sorted(rule["name"] for rule in found) == sorted(expected)
    assert {(rule["name"], rule["health"], rule.get("lastError", "")) for rule in found} == {
        (name, "ok", "") for name in expected
    }
    assert [rule["name"] for rule in found if rule["state"] == "firing"] == []


def panels() -> list[tuple[str, str]]:
    everything = json.loads(DASHBOARD.read_text())["panels"]
    return [
        (f"{panel['title']}/{target['refId']}", target["expr"])
        for panel in everything for target in panel.get("targets", ())
    ]  # fmt: skip


def filled_in(query: str) -> str:
    """As Grafana sends it, with everything chosen."""
    query = query.replace("$__rate_interval", "2m").replace("$cluster", "main")
    query = re.sub(r"\$(instance|model)", ".*", query)
    assert "$" not in query
    return query


def test_every_query_of_the_dashboard_is_answered_with_data(scraped: Prometheus) -> None:
    assert len(panels()) > 60
    empty = {title: query for title, query in panels() if not scraped.ask(filled_in(query))}
    missing = {title: query for title, query in empty.items() if not any(name in query for name in SILENT)}

    def filled() -> bool:
        """A rate needs two scrapes: what came last may have had one."""
        for title in [title for title, query in missing.items() if scraped.ask(filled_in(query))]:
            del missing[title]
        return not missing

    poll(filled, 20, f"data for {missing}")


@pytest.mark.parametrize("query", [
    'sum(rate(clusterctl_model_requests_total{model="poet"}[2m]))',
    "sum(rate(clusterctl_model_tokens_total[2m]))",
    "histogram_quantile(0.99, sum by (le) (rate(clusterctl_model_time_to_first_token_seconds_bucket[2m])))",
    "histogram_quantile(0.99, sum by (le) (rate(clusterctl_request_seconds_bucket[2m])))",
    'clusterctl_errors_total{source="client"}',
    'clusterctl_restarts_total{instance="instance_1",reason="signal"}',
    'clusterctl_adapter_instances{adapter="poet",state="loaded"}',
    'clusterctl_process_resident_memory_bytes{process="balancer"}',
    'clusterctl_process_cpu_seconds_total{process="supervisor"}',
    "sum(vllm:generation_tokens_total)",
])  # fmt: skip
def test_what_was_done_shows(scraped: Prometheus, query: str) -> None:
    (sample,) = scraped.ask(query)
    assert float(sample["value"][1]) > 0


def test_every_name_in_the_rules_is_a_series_that_there_is(cluster: Cluster) -> None:
    """A rule about a name that nobody writes would never fire, and nobody would notice."""
    text = httpx.get(f"{cluster.url}/metrics").text
    families = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    rules = (ROOT / "deploy" / "prometheus" / "rules.yml").read_text()
    wanted = set(re.findall(r"\b(?:clusterctl_|vllm:)\w+", rules)) | {
        name for _, query in panels() for name in re.findall(r"\b(?:clusterctl_|vllm:)\w+", query)
    }
    assert wanted
    assert {name for name in wanted if re.sub("_bucket$", "", name) not in families} == set()
