"""What happens is told, in words, to whoever listens: real processes, simulated engine."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import httpx

from harness import CLI, Cluster, environment, kill, poll


class Listener:
    """Reads the stream of events in a thread, until it ends or is closed."""

    def __init__(self, cluster: Cluster, since: int | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self.open, self.ended = threading.Event(), threading.Event()
        self._headers = {"Accept": "text/event-stream"}
        if since is not None:
            self._headers["Last-Event-ID"] = str(since)
        self._url = f"{cluster.url}/v1/cluster/events"
        self._client = httpx.Client(timeout=httpx.Timeout(10, read=60))
        threading.Thread(target=self._read, daemon=True).start()
        assert self.open.wait(10)

    def _read(self) -> None:
        with contextlib.suppress(httpx.HTTPError, RuntimeError):
            with self._client.stream("GET", self._url, headers=self._headers) as answer:
                assert answer.headers["Content-Type"].startswith("text/event-stream")
                self.open.set()
                fields: dict[str, str] = {}
                for line in answer.iter_lines():
                    name, _, value = line.partition(": ")
                    if line:
                        fields[name] = value
                    elif "data" in fields:
                        event = json.loads(fields["data"])
                        assert (int(fields["id"]), fields["event"]) == (event["id"], event["kind"])
                        self.events.append(event)
                        fields = {}
        self.ended.set()

    def of(self, kind: str, subject: str) -> list[dict[str, Any]]:
        return [e for e in self.events if (e["kind"], e["subject"]) == (kind, subject)]

    @property
    def ids(self) -> list[int]:
        return [event["id"] for event in self.events]

    def close(self) -> None:
        self._client.close()


@contextlib.contextmanager
def _listening(cluster: Cluster, since: int | None = None) -> Iterator[Listener]:
    listener = Listener(cluster, since)
    try:
        yield listener
    finally:
        listener.close()


def test_a_killed_worker_is_told_with_what_it_was_how_it_ended_and_what_follows(three: Cluster) -> None:
    pid = three.instance("instance_1")["pid"]
    with _listening(three) as listener, contextlib.ExitStack() as stack:
        poll(lambda: len([e for e in listener.events if e["kind"] == "worker.ready"]) == 3, 10, "what was before")
        client = stack.enter_context(httpx.Client(timeout=30))
        body = {"model": "demo", "prompt": "x", "max_tokens": 400, "stream": True, "ignore_eos": True, "itl_ms": 50}
        for _ in range(6):
            answer = client.send(client.build_request("POST", f"{three.url}/v1/completions", json=body), stream=True)
            stack.callback(answer.close)
        poll(lambda: three.instance("instance_1")["in_flight"] == 2, 10)
        kill(pid)
        (event,) = poll(lambda: listener.of("worker.exited", "instance_1"), 10)
        assert event["text"].startswith(f"instance_1 killed by signal 9 (pid {pid}) with 2 requests; "), event["text"]
        assert re.search(r"; restart 1 of [45] at once$", event["text"]), event
        data = event["data"]
        assert (data["pid"], data["signal"], data["requests"], data["attempt"]) == (pid, 9, 2, 1)
        poll(lambda: len(listener.of("worker.ready", "instance_1")) == 2, 15)
        assert listener.ids == sorted(set(listener.ids))
    assert event["text"].replace("instance_1 ", "instance_1: ", 1) in three.log("supervisor")
    metrics = httpx.get(f"{three.url}/metrics", timeout=10).text
    assert 'clusterctl_detect_seconds_count{cause="exit"} 1.0' in metrics
    restored = poll(lambda: [
        line for line in httpx.get(f"{three.url}/metrics", timeout=10).text.splitlines()
        if line.startswith('clusterctl_restore_seconds_sum{cause="exit"}')
    ], 5)  # fmt: skip
    assert 0 < float(restored[0].split()[1]) < 20


def test_a_listener_goes_on_where_it_was_over_the_deaths_of_supervisor_and_balancer(three: Cluster) -> None:
    follower = subprocess.Popen(
        [CLI, "events", "-f", "--json", "-n", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=environment(CLUSTERCTL_URL=three.url),
    )
    followed: list[dict[str, Any]] = []

    def read() -> None:
        assert follower.stdout is not None
        followed.extend(json.loads(line) for line in follower.stdout)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        with _listening(three) as first:
            poll(lambda: first.events, 10)
            poll(lambda: three.run("weight", "instance_0", "2").returncode == 0 and followed, 20, "the CLI follows")
            kill(three.status()["supervisor"]["pid"])
            poll(lambda: three.status()["supervisor"]["pid"] is None, 5)
            assert not first.ended.is_set(), "the stream stays without a supervisor"
            last = poll(lambda: first.of("weight", "instance_0"), 5)[-1]
            assert three.up("--engine", "sim", "--instances", "3").returncode == 0
            poll(lambda: len([e for e in first.events if e["kind"] == "worker.adopted"]) == 3, 10, "it goes on")
            assert first.ids == sorted(set(first.ids))
            with _listening(three, last["id"]) as second:
                newer = [i for i in first.ids if i > last["id"]]
                poll(lambda: second.ids[: len(newer)] == newer, 10, "nothing twice, nothing left out")
                kill(three.status()["load_balancer"]["pid"])
                assert second.ended.wait(10)
            known = max(second.ids)
        with _listening(three, known) as third:
            poll(lambda: third.of("balancer.restarted", "balancer"), 15)
            assert min(third.ids) > known
            seen = set(first.ids) | set(third.ids)
        after = sorted(e["id"] for e in followed[:1])[0]
        poll(lambda: {i for i in seen if i >= after} <= {e["id"] for e in followed}, 15, "the CLI missed nothing")
        ids = [e["id"] for e in followed]
        assert ids == sorted(set(ids))
    finally:
        follower.kill()
        follower.wait()
        thread.join(10)


def test_changes_are_told_to_the_list_and_the_command_line(three: Cluster) -> None:
    assert three.run("strategy", "random").returncode == 0
    assert three.run("scale", "2").returncode == 0
    listed = httpx.get(f"{three.url}/v1/cluster/events", params={"limit": 1000}).json()["events"]
    kinds = [event["kind"] for event in listed]
    for kind in ("worker.started", "worker.ready", "strategy", "scale", "worker.draining", "worker.stopped"):
        assert kind in kinds
    scale = next(event for event in listed if event["kind"] == "scale")
    assert (scale["text"], scale["data"]) == ("scale from 3 to 2 instances", {"from": 3, "to": 2})
    assert httpx.get(f"{three.url}/v1/cluster/events?limit=2").json()["events"] == listed[-2:]
    assert httpx.get(f"{three.url}/v1/cluster/events?since={scale['id']}").json()["events"][0]["id"] > scale["id"]
    wrong = httpx.get(f"{three.url}/v1/cluster/events?since=x")
    assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "since"
    shown = three.run("events", "-n", "1000")
    assert shown.returncode == 0 and [line[21:] for line in shown.stdout.splitlines()] == [e["text"] for e in listed]
    as_json = three.run("events", "--json", "-n", "1")
    assert json.loads(as_json.stdout) == listed[-1]
    head = httpx.head(f"{three.url}/v1/cluster/events", headers={"Accept": "text/event-stream"}, timeout=5)
    assert (head.status_code, head.content) == (200, b"")
    stranger = httpx.get(f"{three.url}/v1/cluster/events", headers={"X-Forwarded-For": "10.0.0.7"})
    assert stranger.status_code == 403
    with _listening(three) as listener:
        assert three.run("down").returncode == 0
        assert listener.ended.wait(5)
        assert listener.of("shutdown", "cluster")
