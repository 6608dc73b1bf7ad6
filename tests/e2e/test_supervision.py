"""What happens when processes die, are restarted, scaled and ended: real processes, simulated engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from harness import Cluster, clusterctl, kill, poll
from worker.drivers import proc

pytestmark = pytest.mark.drivers("local", "ray")


def _ready_again(cluster: Cluster, name: str, pid: int) -> dict[str, Any] | None:
    seen = cluster.instance(name)
    return seen if seen["state"] == "ready" and seen["pid"] != pid else None


@pytest.mark.measured
@pytest.mark.drivers("local", alone="local", reason="connecting to Ray takes longer")
def test_three_workers_are_ready_within_five_seconds(cluster: Cluster) -> None:
    began = time.monotonic()
    result = cluster.up("--engine", "sim", "--instances", "3")
    assert result.returncode == 0, result.stderr
    status = cluster.wait_ready(3, 5)
    assert time.monotonic() - began < 5
    assert status["is_running"] is True
    assert status["total_instances"] == 3
    first = status["instances"]["instance_0"]
    assert {"port", "weight", "is_running", "cpu_percent", "memory_mb", "state", "pid", "gpus", "restarts", "uptime_s",
            "in_flight", "requests_total", "errors_total", "last_exit"} <= set(first)  # fmt: skip
    poll(lambda: cluster.instance("instance_0")["memory_mb"] > 10, 5, "memory is sampled")


@pytest.mark.parametrize(
    ("name", "how"),
    [("instance_0", "sigkill"), ("instance_1", "exit 0 like a dead engine"), ("instance_2", "engine child only")],
)
def test_a_worker_that_ends_comes_back_with_nothing_left_of_it(three: Cluster, name: str, how: str) -> None:
    before = three.instance(name)
    tree = {p.pid for p in proc.sessions([before["pid"]])[before["pid"]]}
    assert len(tree) > 1, "the simulated worker has an engine child, as the real one"
    if how == "sigkill":
        kill(before["pid"])
    elif how == "engine child only":
        kill(next(iter(tree - {before["pid"]})))
    else:
        three.fault(name, kind="exit0")
        with pytest.raises(httpx.HTTPError):  # the fault strikes whoever asks next
            three.ask_worker(name, "GET", "/health").raise_for_status()
            three.ask_worker(name, "POST", "/v1/completions", {}).raise_for_status()
    after = poll(lambda: _ready_again(three, name, before["pid"]), 15)
    assert after["restarts"] == before["restarts"] + 1
    assert after["last_exit"]["expected"] is False
    assert after["incarnation"] > before["incarnation"]
    assert not [p for p in proc.processes() if p.pid in tree and p.alive]


@pytest.mark.drivers("local", reason="the balancer counts")
def test_counts_survive_worker_and_balancer(three: Cluster) -> None:
    def total() -> int:
        return sum(i["requests_total"] for i in three.status()["instances"].values())

    before = total()
    for _ in range(9):
        assert three.complete().status_code == 200
    assert total() == before + 9
    old = three.status()["load_balancer"]["pid"]
    kill(old)
    answer = poll(lambda: _try(three.complete), 10, "the balancer is back on the same socket")
    assert answer.status_code == 200
    assert three.status()["load_balancer"]["pid"] != old
    assert total() == before + 10
    kill(three.instance("instance_0")["pid"])
    three.wait_ready(3)
    assert total() == before + 10


def _try(call: Callable[[], httpx.Response]) -> httpx.Response | None:
    try:
        return call()
    except httpx.HTTPError:
        return None


@pytest.mark.measured
@pytest.mark.drivers("local", "ray", alone="local")
def test_without_a_supervisor_traffic_goes_on_and_the_next_up_adopts(sim: Cluster) -> None:
    assert sim.run("scale", "2").returncode == 0
    assert sim.run("strategy", "random").returncode == 0
    assert sim.run("weight", "instance_1", "7").returncode == 0
    before = sim.status()
    kill(before["supervisor"]["pid"])
    poll(lambda: sim.status()["supervisor"]["pid"] is None, 5)
    assert sim.complete().status_code == 200
    for path, body in (("scale", {"instances": 3}), ("strategy", {"strategy": "random"})):
        assert sim.post(f"/v1/cluster/{path}", body).status_code == 503
    assert sim.ask("GET", "/v1/system/health").json()["supervisor"] is False
    assert "not running" in sim.run("status").stdout

    began = time.monotonic()
    result = sim.up("--engine", "sim", "--instances", "3")
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - began < (5 if sim.driver.name == "local" else 20)  # it connects to Ray
    after = sim.wait_ready(2)
    assert {n: i["pid"] for n, i in after["instances"].items()} == {n: i["pid"] for n, i in before["instances"].items()}
    assert after["load_balancer"]["pid"] == before["load_balancer"]["pid"]
    assert after["load_balancer_strategy"] == "random"
    assert after["instances"]["instance_1"]["weight"] == 7
    assert all(i["restarts"] == 0 for i in after["instances"].values())

    # The adopted are supervised as if they were children, the listening socket has come back as well.
    kill(after["instances"]["instance_0"]["pid"])
    poll(lambda: _ready_again(sim, "instance_0", after["instances"]["instance_0"]["pid"]), 15)
    kill(after["load_balancer"]["pid"])
    assert poll(lambda: _try(sim.complete), 10).status_code == 200


def test_a_worker_that_died_without_a_supervisor_is_restarted_by_the_next(three: Cluster) -> None:
    before = three.wait_ready(3, 60)
    kill(before["supervisor"]["pid"])
    kill(before["instances"]["instance_0"]["pid"])
    assert three.complete().status_code == 200
    assert three.up("--engine", "sim", "--instances", "3").returncode == 0
    after = three.wait_ready(3)
    assert after["instances"]["instance_0"]["restarts"] == before["instances"]["instance_0"]["restarts"] + 1
    assert after["instances"]["instance_1"]["pid"] == before["instances"]["instance_1"]["pid"]


def _in_state(cluster: Cluster, state: str) -> list[str]:
    return [name for name, one in cluster.status()["instances"].items() if one["state"] == state]


def test_a_spare_outlives_the_supervisor_in_its_role_and_takes_the_place_of_who_dies(cluster: Cluster) -> None:
    """Adoption, and a kill: what one event loop does not have."""
    up = ("--engine", "sim", "--instances", "2", "--spares", "1")
    assert cluster.up(*up).returncode == 0
    cluster.wait_ready(2)
    spare = poll(lambda: _in_state(cluster, "spare"), 20)[0]  # not always the last: who is up first takes a place
    killed = _in_state(cluster, "ready")[0]
    kill(cluster.instance(killed)["pid"])
    poll(lambda: spare in _in_state(cluster, "ready"), 5)
    poll(lambda: killed in _in_state(cluster, "spare"), 20)
    before = cluster.status()
    kill(before["supervisor"]["pid"])
    poll(lambda: cluster.status()["supervisor"]["pid"] is None, 5)
    assert cluster.up(*up).returncode == 0
    after = poll(lambda: (s := cluster.status())["supervisor"].get("settled") and s, 20)
    assert {n: (i["state"], i["pid"]) for n, i in after["instances"].items()} == {
        n: (i["state"], i["pid"]) for n, i in before["instances"].items()
    }
    assert cluster.complete().status_code == 200


@pytest.mark.parametrize("dead", ["supervisor", "balancer and supervisor", "nothing"])
def test_down_leaves_nothing_whatever_was_dead_before(sim: Cluster, dead: str) -> None:
    status = sim.status()
    if "supervisor" in dead:
        kill(status["supervisor"]["pid"])
    if "balancer" in dead:
        kill(status["load_balancer"]["pid"])
    where = ("--state-dir", str(sim.state_dir)) if dead != "nothing" else ("--url", sim.url)
    result = clusterctl("down", *where)
    assert result.returncode == 0, result.stderr
    assert not sim.leftovers()


def test_down_lets_streams_finish(cluster: Cluster) -> None:
    assert cluster.up("--engine", "sim", "--", "--itl-ms", "50").returncode == 0
    body = {"model": "demo", "prompt": "x", "max_tokens": 30, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", f"{cluster.url}/v1/completions", json=body, timeout=30) as response:
        pieces = response.iter_text()
        text = next(pieces)
        ending = threading.Thread(target=lambda: cluster.run("down"))
        ending.start()
        poll(lambda: cluster.status()["supervisor"]["shutting_down"], 5)
        assert cluster.complete().status_code == 503
        text += "".join(pieces)
    ending.join(20)
    assert text.endswith("data: [DONE]\n\n")
    assert not cluster.leftovers()


def test_what_outlasts_the_drain_timeout_ends_with_an_explicit_error(cluster: Cluster) -> None:
    assert cluster.up("--engine", "sim", "--drain-timeout", "0.5", "--", "--itl-ms", "50").returncode == 0
    body = {"model": "demo", "prompt": "x", "max_tokens": 1000, "stream": True, "ignore_eos": True}
    text = ""
    with httpx.stream("POST", f"{cluster.url}/v1/completions", json=body, timeout=30) as response:
        with pytest.raises(httpx.RemoteProtocolError):
            for piece in response.iter_text():
                if not text:
                    threading.Thread(target=lambda: cluster.run("down"), daemon=True).start()
                text += piece
    assert '"error"' in text.splitlines()[-2]
    assert "[DONE]" not in text
    poll(lambda: not cluster.leftovers(), 15)


@pytest.mark.drivers("local", reason="the state directory is taken")
def test_a_second_up_changes_nothing(three: Cluster) -> None:
    before = three.wait_ready(3, 60)
    result = three.up("--engine", "sim", "--instances", "1")
    assert result.returncode == 1
    assert "already runs" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    after = three.status()
    assert after["total_instances"] == 3
    assert after["supervisor"]["pid"] == before["supervisor"]["pid"]


def restarts(cluster: Cluster) -> dict[str, int]:
    return {name: i["restarts"] for name, i in cluster.status()["instances"].items()}


@pytest.mark.drivers("local", reason="it starts no worker")
def test_a_foreign_server_is_balanced_but_not_touched(shared_sim: Cluster, cluster: Cluster) -> None:
    before = restarts(shared_sim)
    result = cluster.up("--instances", "0", "--backend", shared_sim.url)
    assert result.returncode == 0, result.stderr
    assert cluster.complete().status_code == 200
    status = cluster.status()
    assert (status["total_instances"], status["running_instances"], status["is_running"]) == (0, 0, True)
    seen = status["instances"]["backend_0"]
    assert (seen["managed"], seen["state"], seen["requests_total"]) == (False, "ready", 1)
    assert cluster.post("/v1/cluster/restart", {"instance_id": "backend_0"}).status_code == 409
    assert cluster.run("down").returncode == 0
    assert shared_sim.complete().status_code == 200
    assert restarts(shared_sim) == before


