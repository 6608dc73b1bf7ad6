"""Jobs of a real cluster: over its API and by the command line, past the ends of supervisors, and its own."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from cluster.cli.progress import JobPlace, run_job
from cluster.client import ClusterError
from config.errors import UsageError
from config.jobs.folder import JobSpec
from harness import CLI, Cluster, environment, free_port, poll
from worker.drivers import proc

TESTS = Path(__file__).resolve().parents[1]
PATHS = os.pathsep.join([str(TESTS / "jobkinds"), str(TESTS / "absent")])
ENDLESS = {"to": 100_000, "pause": 0.05}


def up(cluster: Cluster) -> None:
    result = cluster.up("--engine", "sim", "--instances", "1", PYTHONPATH=PATHS, HF_TOKEN="of a hub")
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("jobs"), free_port())
    up(made)
    yield made
    made.close()


def start(cluster: Cluster, **arguments: Any) -> str:
    answer = cluster.post("/v1/cluster/jobs", {"kind": "count", "arguments": arguments})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def job(cluster: Cluster, name: str) -> dict[str, Any]:
    found: dict[str, Any] = cluster.ask("GET", f"/v1/cluster/jobs/{name}").json()
    return found


def running(cluster: Cluster, name: str) -> dict[str, Any]:
    return poll(lambda: found if (found := job(cluster, name))["progress"] else None, 20, "it says how far it is")


def test_a_command_has_the_cluster_do_it_and_gets_what_came_of_it(cluster: Cluster) -> None:
    out = io.StringIO()
    wanted = {"to": 4, "pause": 0.1, "environment": ["HF_TOKEN", "CLUSTERCTL_PORT", "OMP_NUM_THREADS"]}
    result = run_job(JobSpec("count", wanted), JobPlace(cluster.url), shown=Console(file=out, width=200))
    assert result["counted"] == 4 and "count: 4 of 4 steps, 100 %" in out.getvalue()
    assert result["sees"]["HF_TOKEN"] == "of a hub" and result["sees"]["CLUSTERCTL_PORT"] is None
    assert result["sees"]["OMP_NUM_THREADS"] == str(max(1, len(os.sched_getaffinity(0)) // 2))
    with pytest.raises(UsageError, match=r"count-\d+: it counts no further"):
        run_job(JobSpec("count", {"end": "fail"}), JobPlace(cluster.url), shown=Console(file=io.StringIO()))


def test_the_command_line_lists_shows_follows_and_cancels(cluster: Cluster) -> None:
    name = start(cluster, **ENDLESS)
    assert running(cluster, name)["background"] is True, "its workers compute on processors"
    listed = cluster.run("jobs", "list").stdout
    assert name in listed and "running" in listed and "count: " in listed
    shown = json.loads(cluster.run("jobs", "show", name, "--json").stdout)
    assert shown["arguments"] == ENDLESS and shown["state"] == "running"
    waiting = subprocess.Popen(
        [CLI, "jobs", "wait", name, "--url", cluster.url], stderr=subprocess.PIPE, text=True, env=environment()
    )
    assert waiting.stderr is not None and "count: " in waiting.stderr.readline()
    waiting.send_signal(signal.SIGINT)
    assert f"{name} goes on" in waiting.communicate(timeout=20)[1] and waiting.returncode == 130
    assert job(cluster, name)["state"] == "running"
    assert f"{name}: is asked to end" in cluster.run("jobs", "cancel", name).stdout
    waited = cluster.run("jobs", "wait", name)
    assert (waited.returncode, waited.stderr.splitlines()[-1]) == (1, f"error: {name}: cancelled")
    assert cluster.run("jobs", "cancel", name).stderr == f"error: {name} has ended already: cancelled\n"
    assert cluster.run("jobs", "logs", name).returncode == 0
    assert cluster.run("jobs", "logs", "count-999").stderr == "error: no job 'count-999'\n"


def test_only_the_owner_has_something_done_and_others_may_look(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {
        scope: cluster.post("/v1/cluster/keys", {"name": f"of-{scope}", "scope": scope}).json()["secret"]
        for scope in ("read", "admin")
    }
    body: dict[str, Any] = {"kind": "count", "arguments": {}}
    monkeypatch.setenv("CLUSTERCTL_ADMIN_KEY", secrets["admin"])
    with pytest.raises(ClusterError, match=r"scope owner.*--here does without the cluster"):
        run_job(JobSpec("count", {}), JobPlace(cluster.url))
    for scope, secret in secrets.items():
        headers = {"Authorization": f"Bearer {secret}"}
        assert cluster.ask("POST", "/v1/cluster/jobs", body, headers=headers).status_code == 403
        assert cluster.ask("GET", "/v1/cluster/jobs", headers=headers).status_code == 200
        assert cluster.ask("DELETE", "/v1/cluster/jobs/count-1", headers=headers).status_code == (
            403 if scope == "read" else 409
        )


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"kind": "dance"}, 404, "no jobs of the kind"),
        ({"kind": "count", "gpus": [9]}, 409, "there is no GPU 9 for jobs"),
        ({"kind": "count", "gpus": [-1]}, 400, "gpus"),
        ({"kind": "count", "arguments": []}, 400, "arguments"),
        ({"kind": "count", "folder": "/"}, 400, "unknown field"),
        ({"kind": "count", "arguments": {"a": "x" * 300_000}}, 413, ""),
        ({"kind": "count", "arguments": {"a": [0] * 20_000}}, 400, ""),
    ],
)
def test_what_is_asked_for_is_checked(cluster: Cluster, body: Any, status: int, words: str) -> None:
    before = len(cluster.ask("GET", "/v1/cluster/jobs").json()["jobs"])
    answer = cluster.post("/v1/cluster/jobs", body)
    assert answer.status_code == status and words in answer.text, answer.text
    assert len(cluster.ask("GET", "/v1/cluster/jobs").json()["jobs"]) == before


@pytest.mark.parametrize("path", ["..%2f..%2fstate.db", "count-1%2f..%2f..", "count-1%00"])
def test_a_name_leads_nowhere_else(cluster: Cluster, path: str) -> None:
    for rest in ("", "/events"):
        assert cluster.ask("GET", f"/v1/cluster/jobs/{path}{rest}").status_code == 404
    assert cluster.ask("GET", f"/v1/cluster/instances/{path}/logs").status_code == 404


@pytest.mark.parametrize(
    ("since", "status"), [("0", 200), ("999999999999999", 200), ("1000000000000000", 400), ("-1", 400), ("x", 400)]
)
def test_what_was_said_is_asked_for_by_a_number(cluster: Cluster, since: str, status: int) -> None:
    name = cluster.ask("GET", "/v1/cluster/jobs").json()["jobs"][0]["id"]
    assert cluster.ask("GET", f"/v1/cluster/jobs/{name}/events?since={since}").status_code == status


def test_status_metrics_and_events_tell_of_it(cluster: Cluster) -> None:
    name = start(cluster)
    poll(lambda: job(cluster, name)["state"] == "done", 20)
    poll(lambda: cluster.status()["jobs"]["latest"][0]["state"] == "done", 5)
    page = httpx.get(f"{cluster.url}/metrics").text
    assert 'clusterctl_jobs_ended_total{kind="count",state="done"}' in page
    told = [e for e in cluster.ask("GET", "/v1/cluster/events").json()["events"] if e["subject"] == name]
    assert [event["kind"] for event in told] == ["job.started", "job.done"]


def test_a_job_goes_on_without_its_supervisor_and_the_next_one_hears_its_end(cluster: Cluster) -> None:
    name = start(cluster, **ENDLESS)
    pid = running(cluster, name)["pid"]
    supervisor = cluster.status()["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGKILL)
    poll(lambda: cluster.status()["supervisor"]["pid"] is None, 10)
    up(cluster)
    assert (job(cluster, name)["state"], job(cluster, name)["pid"]) == ("running", pid)
    os.kill(pid, signal.SIGKILL)
    poll(lambda: job(cluster, name)["state"] == "failed", 20)
    assert "its process ended without a word" in job(cluster, name)["error"]


def test_the_end_of_the_cluster_is_the_end_of_its_jobs_also_without_its_supervisor(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, free_port())
    for killed in (False, True):
        up(cluster)
        pid = running(cluster, start(cluster, **ENDLESS))["pid"]
        if killed:
            os.kill(cluster.status()["supervisor"]["pid"], signal.SIGKILL)
        assert cluster.run("down", "--state-dir", str(cluster.state_dir)).returncode == 0
        assert (left := proc.stat(pid)) is None or not left.alive
    up(cluster)
    states = [one["state"] for one in cluster.ask("GET", "/v1/cluster/jobs").json()["jobs"]]
    assert states == ["cancelled", "cancelled"]
    cluster.close()
