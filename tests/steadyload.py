"""Three simulated workers under clients that go on asking, while a test changes something."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx

from harness import Cluster, poll

#: Half a second of stream.
FAST = ("--ttft-ms", "5", "--itl-ms", "10")
SHORT = 40

#: For `up` of three such workers, which starts them or takes them over.
THREE = ("--engine", "sim", "--instances", "3", "--", *FAST)


def started(cluster: Cluster, **env: str) -> Cluster:
    """With `THREE`, once all of them are ready."""
    result = cluster.up(*THREE, **env)
    assert result.returncode == 0, result.stderr
    cluster.wait_ready(3)
    return cluster


def pids(cluster: Cluster) -> dict[str, int]:
    return {name: i["pid"] for name, i in cluster.status()["instances"].items()}


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
