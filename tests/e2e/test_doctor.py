"""`doctor` beside a cluster, and beside what is left of one."""

from __future__ import annotations

import json
from typing import Any

from harness import Cluster, kill, poll


def _findings(cluster: Cluster) -> dict[str, dict[str, Any]]:
    place = ("--port", str(cluster.port), "--state-dir", str(cluster.state_dir), "--engine", "sim")
    found = json.loads(cluster.run("doctor", *place, "--json").stdout)["findings"]
    return {finding["check"]: finding for finding in reversed(found)}  # of several, that of this cluster is the first


def test_a_cluster_that_runs_and_one_that_lost_its_supervisor(cluster: Cluster) -> None:
    assert _findings(cluster)["state"]["text"].endswith("none yet, a new cluster")
    assert not cluster.state_dir.exists(), "it was only looked for"
    assert cluster.up("--engine", "sim", "--instances", "2").returncode == 0
    status = cluster.wait_ready(2)
    supervisor = status["supervisor"]["pid"]
    running = _findings(cluster)
    assert f"a cluster runs on it (supervisor {supervisor})" in running["state"]["text"]
    assert running["port"]["level"] == "ok", running
    ours = [str(cluster.state_dir), *(str(instance["pid"]) for instance in status["instances"].values())]
    # It says what is left of others, too, such as an engine that a test beside this one has just orphaned.
    assert not [one for one in ours if one in running["leftovers"]["text"] + running["leftovers"]["remedy"]], running
    after = cluster.status()
    assert after["supervisor"]["pid"] == supervisor
    assert {n: i["restarts"] for n, i in after["instances"].items()} == {"instance_0": 0, "instance_1": 0}

    kill(supervisor)
    poll(lambda: cluster.status()["supervisor"]["pid"] is None, 5)
    left = _findings(cluster)
    assert left["leftovers"]["level"] == "warning"
    assert "instance_0, instance_1" in left["leftovers"]["text"]
    assert f"clusterctl down --state-dir {cluster.state_dir}" in left["leftovers"]["remedy"]
    assert left["port"]["level"] == "ok", "the balancer of that cluster has it, and up takes it over"
    assert left["state"]["text"].endswith("up goes on from there")
