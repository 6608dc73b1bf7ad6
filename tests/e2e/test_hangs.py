"""What stands still is taken out, killed and started again; what is only slow or full is not."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from harness import Cluster, free_port, poll

pytestmark = pytest.mark.alone

#: Seconds; the supervisor is given as much and one more.
STALL = 2.0

SLOWLY = ("--", "--itl-ms", "100")


def up(cluster: Cluster, instances: int, *args: str, **env: str) -> dict[str, Any]:
    given = ("--engine", "sim", "--instances", str(instances), "--stall-timeout", f"{STALL:g}", *args)
    result = cluster.up(*given, **{"CLUSTERCTL_CANARY_INTERVAL": "60", **env})
    assert result.returncode == 0, result.stderr
    return cluster.wait_ready(instances)


@pytest.fixture(scope="module")
def slow_two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("two"), free_port())
    try:
        up(cluster, 2, *SLOWLY)
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def two(slow_two: Cluster) -> Cluster:
    """Two slow workers, idle; for tests that leave two ready, whichever processes these are by then."""
    slow_two.wait_ready(2)
    poll(lambda: not any(i["in_flight"] for i in slow_two.status()["instances"].values()), 10, "both are idle")
    return slow_two


@contextmanager
def streams(cluster: Cluster, count: int, room: int | None = None, **body: Any) -> Iterator[None]:
    """So many under way, whatever becomes of them; ended on the way out. ``room``: no more than that go on to workers,
    the rest waits for them."""
    given = {"model": "demo", "prompt": "x", "max_tokens": 2000, "stream": True, "ignore_eos": True, **body}
    stop = threading.Event()

    def one() -> None:
        try:
            with httpx.stream("POST", f"{cluster.url}/v1/completions", json=given, timeout=60) as response:
                for _ in response.iter_raw():
                    if stop.is_set():
                        return
        except httpx.HTTPError:
            pass

    threads = [threading.Thread(target=one, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        poll(lambda: sum(i["in_flight"] for i in cluster.status()["instances"].values()) >= (room or count), 10)
        yield
    finally:
        stop.set()


def until_hung(cluster: Cluster, name: str, since: float, timeout: float = STALL + 5) -> tuple[float, dict[str, Any]]:
    """Seconds from ``since`` until it is out of rotation, and what is then said of it."""
    seen = poll(lambda: (i := cluster.instance(name))["state"] != "ready" and i, timeout, f"{name} is out")
    return time.monotonic() - since, seen


def restarted(cluster: Cluster, name: str, pid: int) -> dict[str, Any]:
    return poll(lambda: (i := cluster.instance(name))["state"] == "ready" and i["pid"] != pid and i, 20, "it is back")


def metric(cluster: Cluster, series: str) -> float:
    lines = httpx.get(f"{cluster.url}/metrics", timeout=10).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(series))


def test_a_stopped_worker_is_noticed_within_the_stall_timeout_and_a_second(two: Cluster) -> None:
    before, other = two.instance("instance_0"), two.instance("instance_1")
    detected = metric(two, 'clusterctl_detect_seconds_sum{cause="silent"}')
    with streams(two, 4):
        os.kill(before["pid"], signal.SIGSTOP)
        seconds, _ = until_hung(two, "instance_0", time.monotonic())
        assert STALL - 0.1 <= seconds <= STALL + 1, seconds
        after = restarted(two, "instance_0", before["pid"])
    assert (after["restarts"], after["stalls"]) == (before["restarts"] + 1, before["stalls"] + 1)
    assert "hung: no answer and no token for" in after["last_exit"]["reason"]
    assert two.instance("instance_1")["restarts"] == other["restarts"]
    assert metric(two, 'clusterctl_stalls_total{instance="instance_0"}') == after["stalls"]
    assert STALL <= metric(two, 'clusterctl_detect_seconds_sum{cause="silent"}') - detected <= STALL + 1


def test_an_engine_that_makes_no_steps_under_a_server_that_answers(two: Cluster) -> None:
    before = two.instance("instance_0")
    with streams(two, 4):
        two.fault("instance_0", kind="hang")
        seconds, _ = until_hung(two, "instance_0", time.monotonic())
        assert STALL - 0.5 <= seconds <= STALL + 1, seconds
        after = restarted(two, "instance_0", before["pid"])
    assert "no token for" in after["last_exit"]["reason"]
    assert "with 2 requests running" in after["last_exit"]["reason"]


def test_a_request_that_meets_an_engine_that_hung_while_idle(cluster: Cluster) -> None:
    """Its gauges say that nothing runs, and go on saying so."""
    before = up(cluster, 1)["instances"]["instance_0"]
    cluster.fault("instance_0", kind="hang")
    began = time.monotonic()
    with streams(cluster, 1):
        seconds, _ = until_hung(cluster, "instance_0", began)
        assert seconds <= STALL + 2, seconds
        after = restarted(cluster, "instance_0", before["pid"])
    assert "not even for a request of our own" in after["last_exit"]["reason"]


def test_an_idle_worker_that_hangs_is_found_by_its_canary(cluster: Cluster) -> None:
    before = up(cluster, 2, CLUSTERCTL_CANARY_INTERVAL="1")["instances"]["instance_0"]
    cluster.fault("instance_0", kind="hang")
    after = restarted(cluster, "instance_0", before["pid"])
    assert "not even for a request of our own" in after["last_exit"]["reason"]
    assert cluster.instance("instance_1")["restarts"] == 0


def test_a_full_worker_is_not_hung(cluster: Cluster) -> None:
    """One request runs, slowly, and many wait for it."""
    up(cluster, 1, "--", "--itl-ms", "700", "--max-num-seqs", "1")
    with streams(cluster, 6, room=1):
        end = time.monotonic() + 2.5 * STALL
        while time.monotonic() < end:
            seen = cluster.instance("instance_0")
            assert (seen["state"], seen["stalls"]) == ("ready", 0)
            time.sleep(0.1)


def test_when_all_stand_still_they_are_not_all_killed(cluster: Cluster) -> None:
    before = up(cluster, 4, *SLOWLY)["instances"]
    with streams(cluster, 8):
        for seen in before.values():
            os.kill(seen["pid"], signal.SIGSTOP)
        worst = 4

        def all_back() -> bool:
            """One after the other is found, as the ones before it come back."""
            nonlocal worst
            states = [i["state"] for i in cluster.status()["instances"].values()]
            worst = min(worst, states.count("ready"))
            return all(i["restarts"] == 1 and i["state"] == "ready" for i in cluster.status()["instances"].values())

        poll(all_back, 40, "all have been restarted")
    assert worst >= 2
    assert "that looks like the machine" in cluster.log("supervisor")


def test_a_supervisor_that_was_stopped_blames_nobody(two: Cluster) -> None:
    """For longer than the stall timeout; the workers went on all the while."""
    status = two.status()
    before = [("ready", i["stalls"]) for i in status["instances"].values()]
    with streams(two, 4):
        os.kill(status["supervisor"]["pid"], signal.SIGSTOP)
        time.sleep(2 * STALL)
        os.kill(status["supervisor"]["pid"], signal.SIGCONT)
        end = time.monotonic() + STALL
        while time.monotonic() < end:
            seen = two.status()["instances"].values()
            assert [(i["state"], i["stalls"]) for i in seen] == before
            time.sleep(0.1)


def test_a_foreign_server_that_hangs_is_out_of_rotation_until_it_goes_on(make_cluster: Any) -> None:
    other, cluster = make_cluster(), make_cluster()
    assert other.up("--engine", "sim", "--instances", "1", "--stall-timeout", "100", *SLOWLY).returncode == 0
    result = cluster.up(
        "--instances", "0", "--stall-timeout", f"{STALL:g}", "--backend", other.url, "--queue-timeout", "60"
    )
    assert result.returncode == 0, result.stderr
    poll(lambda: cluster.instance("backend_0")["state"] == "ready", 10)
    with streams(cluster, 1):
        other.fault("instance_0", kind="hang", for_s=STALL + 3)
        seen = poll(lambda: (i := cluster.instance("backend_0"))["state"] == "unhealthy" and i, STALL + 5)
        assert "hung: no token" in seen["reason"]
        back = poll(lambda: (i := cluster.instance("backend_0"))["state"] == "ready" and i, 15)
    assert (back["stalls"], back["reason"]) == (1, "")
