"""Planned changes under load: drain, rolling restarts with and without a spare, scaling, changed settings. No request
fails in any of them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from harness import Cluster, clusterctl, free_port, kill, poll

#: Half a second of stream.
FAST = ("--ttft-ms", "5", "--itl-ms", "10")
SHORT = 40


class Load:
    """Clients that send plain requests and streams one after the other, and note what failed; meanwhile the fewest that
    were ready."""

    def __init__(self, cluster: Cluster, plain: int, streams: int, tokens: int = SHORT) -> None:
        self.cluster, self.tokens = cluster, tokens
        self.failures: list[str] = []
        self.answered = 0
        self.fewest = 1000
        self._over = threading.Event()
        kinds = [self._plain] * plain + [self._stream] * streams
        self._threads = [threading.Thread(target=self._repeat, args=(kind,)) for kind in kinds]
        self._threads.append(threading.Thread(target=self._count_ready))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _repeat(self, once: Callable[[httpx.Client], str | None]) -> None:
        with httpx.Client(base_url=self.cluster.url, timeout=30) as http:
            while not self._over.is_set():
                try:
                    failure = once(http)
                except httpx.HTTPError as error:
                    failure = repr(error)
                if failure is None:
                    self.answered += 1
                else:
                    self.failures.append(failure)

    def _plain(self, http: httpx.Client) -> str | None:
        answer = http.post("/v1/completions", json={"model": "demo", "prompt": "hello", "max_tokens": 8})
        return None if answer.status_code == 200 else f"{answer.status_code} {answer.text}"

    def _stream(self, http: httpx.Client) -> str | None:
        return stream(http, self.tokens)

    def _count_ready(self) -> None:
        while not self._over.is_set():
            self.fewest = min(self.fewest, self.cluster.status()["running_instances"])
            time.sleep(0.02)


def stream(http: httpx.Client, tokens: int) -> str | None:
    """None, or what is wrong with the answer."""
    body = {"model": "demo", "prompt": "hello", "max_tokens": tokens, "stream": True, "ignore_eos": True}
    with http.stream("POST", "/v1/completions", json=body) as answer:
        text = "".join(answer.iter_text())
    events = text.count("data: {")
    whole = answer.status_code == 200 and text.endswith("data: [DONE]\n\n") and '"error"' not in text
    return None if whole and events >= tokens else f"{answer.status_code}, {events} events: …{text[-300:]}"


def _busy(cluster: Cluster) -> int:
    return int(cluster.status()["load_balancer"]["in_flight"])


@contextmanager
def load(cluster: Cluster, plain: int = 4, streams: int = 4, tokens: int = SHORT) -> Iterator[Load]:
    running = Load(cluster, plain, streams, tokens)
    running.start()
    try:
        poll(lambda: running.answered > 5 or running.failures or _busy(cluster) >= plain + streams, 20, "the load runs")
        yield running
    finally:
        running.end()


def _start(cluster: Cluster) -> Cluster:
    result = cluster.up("--engine", "sim", "--instances", "3", "--", *FAST)
    assert result.returncode == 0, result.stderr
    cluster.wait_ready(3)
    return cluster


@pytest.fixture
def three(cluster: Cluster) -> Cluster:
    return _start(cluster)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """For tests that leave three workers ready, in rotation, with the settings that they found."""
    cluster = Cluster(tmp_path_factory.mktemp("shared"), free_port())
    yield _start(cluster)
    cluster.close()


def pids(cluster: Cluster) -> dict[str, int]:
    return {name: i["pid"] for name, i in cluster.status()["instances"].items()}


def told(cluster: Cluster) -> str:
    return cluster.log("supervisor")


def test_a_rolling_restart_with_a_spare_loses_nothing_and_is_never_short_of_a_worker(shared: Cluster) -> None:
    before = pids(shared)
    with load(shared) as running:
        result = shared.run("restart", "--rolling")
    assert result.returncode == 0, result.stderr
    assert running.failures == []
    assert running.fewest == 3
    assert "instance_3 stands in meanwhile" in result.stdout and "done: 3 of 3 ready" in result.stdout
    after = pids(shared)
    assert list(after) == list(before) and not set(after.values()) & set(before.values())


def test_a_rolling_restart_without_a_spare_takes_one_at_a_time(shared: Cluster) -> None:
    before = pids(shared)
    with load(shared) as running:
        result = shared.run("restart", "--rolling", "--no-spare")
    assert result.returncode == 0, result.stderr
    assert running.failures == []
    assert running.fewest == 2
    assert not set(pids(shared).values()) & set(before.values())


def test_scaling_down_and_up_again_under_load_loses_nothing(shared: Cluster) -> None:
    with load(shared) as running:
        assert shared.run("scale", "1").returncode == 0
        assert shared.run("scale", "3").returncode == 0
    assert running.failures == []
    assert running.fewest >= 1


def test_workers_come_and_go_with_the_load_and_nothing_fails(cluster: Cluster) -> None:
    """1 -> 6 -> 1: a worker is busy enough with three requests, with four once it is learnt how fast it is, and
    for a second or two nobody takes that back."""
    result = cluster.up(
        "--engine", "sim", "--autoscale", "on", "--max-instances", "6", "--autoscale-load", "0.75",
        "--autoscale-up-after", "1", "--autoscale-down-after", "3", "--", *FAST, "--max-num-seqs", "4",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    with load(cluster, plain=0, streams=1) as little:
        with load(cluster, plain=0, streams=23) as much:
            cluster.wait_ready(6, timeout=40)
            time.sleep(4)
        poll(lambda: cluster.status()["total_instances"] == 1, 40, "back to one")
    assert (little.failures, much.failures) == ([], [])
    events = [e for e in cluster.ask("GET", "/v1/cluster/events").json()["events"] if e["kind"] == "autoscale"]
    counts = [1, *(e["data"]["to"] for e in events)]
    top = counts.index(6)
    assert counts[: top + 1] == sorted(counts[: top + 1]) and counts[top:] == [6, 5, 4, 3, 2, 1], counts


def test_one_of_several_is_restarted_and_the_rest_takes_over(shared: Cluster) -> None:
    before = pids(shared)
    with load(shared) as running:
        assert shared.run("restart", "instance_1").returncode == 0
    assert running.failures == []
    assert {n for n, pid in pids(shared).items() if pid != before[n]} == {"instance_1"}


def test_a_drained_worker_lives_out_of_rotation_until_it_is_undrained(shared: Cluster) -> None:
    before = pids(shared)
    with load(shared) as running:
        result = shared.run("drain", "instance_1")
        assert result.returncode == 0 and "instance_1 is drained" in result.stdout, result.stderr
        seen = shared.instance("instance_1")
        assert (seen["state"], seen["is_running"], seen["in_flight"]) == ("drained", False, 0)
        requests = seen["requests_total"]
        answered = running.answered
        poll(lambda: running.answered > answered + 20, 20)
        assert shared.instance("instance_1")["requests_total"] == requests
        assert shared.status()["supervisor"]["settled"] and shared.status()["total_instances"] == 3
        assert shared.run("drain", "instance_1", "--undo").returncode == 0
        poll(lambda: shared.instance("instance_1")["requests_total"] > requests, 20)
    assert running.failures == []
    assert pids(shared) == before


def test_a_drain_is_kept_by_a_crash_and_by_the_next_supervisor_and_ended_by_a_restart(three: Cluster) -> None:
    assert three.run("drain", "instance_0").returncode == 0
    kill(three.instance("instance_0")["pid"])
    poll(lambda: three.instance("instance_0")["restarts"] == 1, 15)
    poll(lambda: three.instance("instance_0")["state"] == "drained", 15)
    kill(three.status()["supervisor"]["pid"])
    assert three.up("--engine", "sim", "--instances", "3").returncode == 0
    poll(lambda: three.instance("instance_0")["state"] == "drained", 15)
    assert three.run("restart", "instance_0").returncode == 0
    assert three.instance("instance_0")["state"] == "ready"


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_a_drain_of_nobody_is_refused(shared: Cluster, method: str) -> None:
    answer = httpx.request(method, f"{shared.url}/v1/cluster/instances/nobody/drain", json={})
    assert answer.status_code == 404 and "there are: instance_0" in answer.json()["error"]["message"]


def test_a_server_that_is_not_ours_can_be_drained_as_well(make_cluster: Callable[[], Cluster]) -> None:
    other, cluster = make_cluster(), make_cluster()
    assert other.up("--engine", "sim").returncode == 0
    assert cluster.up("--engine", "sim", "--backend", other.url).returncode == 0
    poll(lambda: cluster.instance("backend_0")["state"] == "ready", 15)
    assert cluster.run("drain", "backend_0").returncode == 0
    before = cluster.instance("backend_0")["requests_total"]
    assert all(cluster.complete().status_code == 200 for _ in range(10))
    assert (cluster.instance("backend_0")["state"], cluster.instance("backend_0")["requests_total"]) == (
        "drained", before,
    )  # fmt: skip
    assert cluster.run("drain", "backend_0", "--undo").returncode == 0
    poll(lambda: cluster.complete().status_code == 200 and cluster.instance("backend_0")["requests_total"] > before, 15)
    assert other.status()["instances"]["instance_0"]["restarts"] == 0


def _argv(cluster: Cluster, name: str) -> list[str]:
    return Path(f"/proc/{cluster.instance(name)['pid']}/cmdline").read_text().split("\0")


def test_changed_flags_of_the_engine_reach_every_worker_without_a_failed_request(three: Cluster) -> None:
    before = pids(three)
    dry = three.run("apply", "--dry-run", "--", *FAST, "--max-num-seqs", "99")
    assert dry.returncode == 0 and "rolling restart of the workers" in dry.stdout and pids(three) == before
    with load(three) as running:
        result = three.run("apply", "--drain-timeout", "20", "--", *FAST, "--max-num-seqs", "99")
    assert result.returncode == 0, result.stderr
    assert running.failures == []
    assert running.fewest >= 2
    assert not set(pids(three).values()) & set(before.values())
    assert all("99" in _argv(three, name) for name in pids(three))
    again = three.run("apply", "--drain-timeout", "20", "--", *FAST, "--max-num-seqs", "99")
    assert again.returncode == 0 and "nothing to change" in again.stdout


BAD = (*FAST, "--no-such-flag")


def test_settings_that_do_not_work_stop_at_the_spare_and_are_taken_back(cluster: Cluster) -> None:
    up = cluster.up("--engine", "sim", "--instances", "3", "--", *FAST, CLUSTERCTL_RESTART_DELAY="0.1")
    assert up.returncode == 0
    cluster.wait_ready(3)
    before = pids(cluster)
    with load(cluster) as running:
        result = cluster.run("apply", "--", *BAD)
        assert result.returncode == 1
        assert "the spare instance_3 does not get ready" in result.stderr and "--previous" in result.stderr
        assert "the rolling restart stops" in told(cluster)
        assert {n: pid for n, pid in pids(cluster).items() if pid} == before
        # One of the old crashes: it comes back with what it had, not with what does not work.
        kill(before["instance_1"])
        poll(lambda: (i := cluster.instance("instance_1"))["pid"] != before["instance_1"] and i["state"] == "ready", 15)
        assert "--no-such-flag" not in _argv(cluster, "instance_1")
        back = cluster.run("apply", "--previous")
        assert back.returncode == 0, back.stderr
    assert running.fewest >= 2
    # The load may have lost streams to the kill; to nothing else.
    assert all("instance_1" in failure or "RemoteProtocolError" in failure for failure in running.failures)
    after = pids(cluster)
    assert list(after) == list(before) and after["instance_0"] == before["instance_0"]
    assert cluster.run("apply", "--dry-run", "--", *FAST).stdout.startswith("nothing to change")


def test_flags_with_which_no_worker_could_hold_the_adapters_are_refused_by_name(shared: Cluster) -> None:
    before = pids(shared)
    result = shared.run("apply", "--", *FAST, "--no-enable-lora")
    assert result.returncode == 1 and "pirate" in result.stderr and "poet" in result.stderr
    assert "nothing was changed" in result.stderr and pids(shared) == before
    assert shared.run("apply", "--dry-run", "--", *FAST).stdout.startswith("nothing to change")


@pytest.mark.parametrize(
    ("fault", "why"), [("refuse_lora", "refused by a fault"), ("drop_lora", "answers with it as the base model does")]
)
def test_a_spare_that_cannot_hold_the_adapters_stops_the_change(shared: Cluster, fault: str, why: str) -> None:
    """What no flag says beforehand: the last worker that held the adapters went down, and all was "done"."""
    before = pids(shared)
    with load(shared) as running:
        result = shared.run("apply", "--", *FAST, "--fault", fault)
        assert result.returncode == 1, result.stdout
        assert "the spare instance_3 cannot hold adapters" in result.stderr and why in result.stderr
        assert {name: pid for name, pid in pids(shared).items() if name != "instance_3"} == before
        assert [shared.complete("pirate").status_code for _ in range(4)] == [200] * 4
        back = shared.run("apply", "--previous")
        assert back.returncode == 0, back.stderr
    assert running.failures == [] and pids(shared) == before


def test_without_a_spare_settings_that_do_not_work_cost_one_worker_at_most(cluster: Cluster) -> None:
    up = cluster.up("--engine", "sim", "--instances", "3", "--", *FAST, CLUSTERCTL_RESTART_DELAY="0.1")
    assert up.returncode == 0
    cluster.wait_ready(3)
    before = pids(cluster)
    with load(cluster) as running:
        result = cluster.run("apply", "--no-spare", "--", *BAD)
        assert result.returncode == 1 and "instance_0 does not come back" in result.stderr
        assert {n: p for n, p in pids(cluster).items() if p} == {n: p for n, p in before.items() if n != "instance_0"}
        back = cluster.run("apply", "--no-spare", "--", *FAST)
        assert back.returncode == 0, back.stderr
    assert running.failures == [] and running.fewest == 2
    after = pids(cluster)
    assert (after["instance_1"], after["instance_2"]) == (before["instance_1"], before["instance_2"])
    assert cluster.wait_ready(3)["running_instances"] == 3


def test_what_cannot_be_changed_is_named_and_nothing_is(shared: Cluster) -> None:
    before = shared.status()
    result = shared.run("apply", "--port", "1", "--host", "0.0.0.0", "--drain-timeout", "9")
    assert result.returncode == 1
    assert "host, port are not changed on a running cluster" in result.stderr and "nothing was changed" in result.stderr
    shown = shared.run("apply", "--dry-run", "--json", "--port", "1", "--drain-timeout", "9")
    assert shown.returncode == 1
    effects = {c["setting"]: c["effect"] for c in json.loads(shown.stdout)["changes"]}
    assert effects == {"port": "not on a running cluster", "drain_timeout": "at once"}
    assert shared.run("apply", "--max-body", "12").returncode == 2
    assert shared.run("apply", "--max-instances", "2").returncode in (1, 2)
    assert shared.run("apply").returncode == 2
    after = shared.status()
    assert {n: i["pid"] for n, i in after["instances"].items()} == {n: i["pid"] for n, i in before["instances"].items()}


def test_what_holds_at_once_and_what_the_balancer_has_to_know_outlive_the_supervisor(three: Cluster) -> None:
    balancer = three.status()["load_balancer"]["pid"]
    result = three.run("apply", "--instances", "2", "--strategy", "random", "--max-body", "2048")
    assert result.returncode == 0, result.stderr
    assert "replacement of the balancer" in result.stdout and "at once" in result.stdout

    def replaced() -> bool:
        try:
            return bool(three.status()["load_balancer"]["pid"] != balancer)
        except httpx.HTTPError:
            return False

    poll(replaced, 20)
    status = three.wait_ready(2)
    assert status["load_balancer_strategy"] == "random"
    assert three.complete(user="x" * 4096).status_code == 413
    kill(status["supervisor"]["pid"])
    assert three.up("--engine", "sim", "--instances", "3").returncode == 0
    status = three.wait_ready(2)
    assert status["load_balancer_strategy"] == "random"
    three_again = three.run("apply", "--dry-run", "--json", "--max-body", "4096")
    (change,) = json.loads(three_again.stdout)["changes"]
    assert (change["old"], change["new"]) == (2048, 4096)


def test_a_rolling_restart_goes_on_under_the_next_supervisor_and_leaves_no_spare(three: Cluster) -> None:
    before = pids(three)
    with load(three) as running:
        assert three.post("/v1/cluster/restart", {"rolling": True}).json()["spare"] == "instance_3"

        def in_the_middle() -> bool:
            seen = three.status()["instances"]
            spare = seen.get("instance_3", {})
            return bool(spare.get("is_running") and seen["instance_0"]["pid"] != before["instance_0"])

        poll(in_the_middle, 20)
        kill(three.status()["supervisor"]["pid"])
        poll(lambda: three.status()["supervisor"]["pid"] is None, 5)
        result = three.up("--engine", "sim", "--instances", "3")
        assert result.returncode == 0, result.stderr
        poll(lambda: three.status()["supervisor"]["settled"], 30)
    assert running.failures == []
    assert running.fewest >= 2
    after = pids(three)
    assert list(after) == list(before) and not set(after.values()) & set(before.values())


@pytest.mark.parametrize("how", [["restart", "--rolling"], ["scale", "1"], ["drain", "instance_1", "--grace", "0.3"]])
def test_streams_that_outlast_the_grace_go_on_elsewhere(cluster: Cluster, how: list[str]) -> None:
    up = cluster.up("--engine", "sim", "--instances", "3", "--drain-timeout", "0.3", "--", *FAST)
    assert up.returncode == 0
    cluster.wait_ready(3)
    with load(cluster, plain=0, streams=6, tokens=400) as running:
        result = clusterctl(*how, CLUSTERCTL_URL=cluster.url)
        assert result.returncode == 0, result.stderr
    assert running.failures == []
