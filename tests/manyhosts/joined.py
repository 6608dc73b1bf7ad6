"""A cluster on one host, and balancers of it on a second; whoever asks is on either."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from harness import CLI, poll
from manyhosts.namespaces import Host, Switch

_ADMIN = "the-admin-key-of-this-test"
_PORT, _JOIN_PORT, _REDIS_PORT = 8000, 8443, 6379


@dataclass(frozen=True)
class Streamed:
    """What came of one stream: of its tokens, so many; ``whole``: to its end."""

    tokens: int
    whole: bool


class JoinedHosts:
    """``first`` has the supervisor, its balancer and all workers; ``second`` joins."""

    def __init__(self, root: Path) -> None:
        self.switch = Switch()
        self.first, self.second = (Host(self.switch, number, root / f"host{number}") for number in (1, 2))
        for host in (self.first, self.second):
            host.boot()
        self.key = ""

    def close(self) -> None:
        for host in (self.first, self.second):
            host.kill()
        self.switch.close()

    def up(self, instances: int, *sim: str) -> None:
        """The supervisor, which may be a later one."""
        address = self.first.address
        self.first.start(
            CLI, "up", "--engine", "sim", "--instances", str(instances), "--host", address, "--port", str(_PORT),
            "--worker-host", address, "--join-listen", f"{address}:{_JOIN_PORT}", "--strategy", "least_connections",
            "--state-dir", "/mnt/state", "--", *sim, CLUSTERCTL_ADMIN_KEY=_ADMIN,
            CLUSTERCTL_LIMITS_STORE=f"redis://{address}:{_REDIS_PORT}",
        )  # fmt: skip
        poll(lambda: self.ready(self.first) == instances, 30, "workers")

    def redis(self) -> None:
        options = ("--port", str(_REDIS_PORT), "--bind", self.first.address, "--protected-mode", "no", "--save", "")
        self.first.start("redis-server", *options)

    def join(self) -> None:
        """The balancers of the second host."""
        token = self.admin(self.first, "POST", "/v1/cluster/join_tokens", {"ttl": "10m"}).json()["token"]
        self.balance(CLUSTERCTL_JOIN_TOKEN=token)
        poll(lambda: self.ready(self.second), 20, "the second host's balancer")

    def balance(self, **env: str) -> None:
        """On the second host, which may be a member already."""
        self.second.start(
            CLI, "balancer", "--join", f"https://{self.first.address}:{_JOIN_PORT}", "--name", "second",
            "--host", self.second.address, "--port", str(_PORT), "--state-dir", "/mnt/state", **env,
        )  # fmt: skip

    def url(self, host: Host) -> str:
        return f"http://{host.address}:{_PORT}"

    def admin(self, host: Host, method: str, path: str, body: Any = None) -> httpx.Response:
        """Asked of the balancer of ``host``, there."""
        headers = {"Authorization": f"Bearer {_ADMIN}"}
        return host.inside(lambda: httpx.request(method, self.url(host) + path, json=body, headers=headers, timeout=30))

    def status(self, host: Host) -> dict[str, Any]:
        found: dict[str, Any] = self.admin(host, "GET", "/v1/cluster/status").json()
        return found

    def ready(self, host: Host) -> int:
        """Workers, as its balancer sees them; 0 where none answers."""
        try:
            answer = self.admin(host, "GET", "/health")
        except httpx.HTTPError:
            return 0
        return int(answer.json()["ready"])

    def in_flight(self, host: Host) -> list[int]:
        return [instance["in_flight"] for _, instance in sorted(self.status(host)["instances"].items())]

    def requests(self) -> list[int]:
        """Of each worker, through both."""
        both = [self.status(host)["instances"] for host in (self.first, self.second)]
        return [sum(each[name]["requests_total"] for each in both) for name in sorted(both[0])]

    def complete(self, host: Host, key: str | None = None, tokens: int = 1, model: str = "demo") -> int:
        """One request; its status."""
        body = {"model": model, "prompt": "hi", "max_tokens": tokens, "ignore_eos": True}
        headers = {"Authorization": f"Bearer {key or self.key}"}
        url = self.url(host) + "/v1/completions"
        return host.inside(lambda: httpx.post(url, json=body, headers=headers, timeout=30).status_code)

    async def stream(
        self, host: Host, tokens: int, began: asyncio.Event | None = None, model: str = "demo", patience: float = 30
    ) -> Streamed:
        """One stream, given up after ``patience`` (s) without a word. For a thread of ``host``."""
        body = {"model": model, "prompt": "hi", "max_tokens": tokens, "ignore_eos": True, "stream": True}
        headers, seen, whole = {"Authorization": f"Bearer {self.key}"}, 0, False
        try:
            async with (
                httpx.AsyncClient(timeout=patience, headers=headers, trust_env=False) as client,
                client.stream("POST", self.url(host) + "/v1/completions", json=body) as answer,
            ):
                async for line in answer.aiter_lines():
                    if began is not None and line:
                        began.set()
                    seen += line.startswith("data: {") and '"error"' not in line
                    whole = whole or line == "data: [DONE]"
        except httpx.HTTPError:
            pass
        finally:
            if began is not None:
                began.set()
        return Streamed(seen, whole)

    async def streams(self, host: Host, lengths: Sequence[int], patience: float = 30) -> list[Streamed]:
        """One for each length, each begun when the one before has. For a thread of ``host``."""
        tasks = []
        async with asyncio.TaskGroup() as group:
            for tokens in lengths:
                began = asyncio.Event()
                tasks.append(group.create_task(self.stream(host, tokens, began, patience=patience)))
                await began.wait()
        return [task.result() for task in tasks]
