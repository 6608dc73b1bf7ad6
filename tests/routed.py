"""Requests that name a model in every way there is, and a balancer that says what it has routed: for the tests that
hold "routed = answered = counted, or refused" to a worker."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from hypothesis import strategies as st

import lbfakes

ADAPTER = "X-Amzn-SageMaker-Adapter-Identifier"
PATHS = {
    "/v1/completions": '"prompt":"a b"', "/invocations": '"prompt":"a b"',
    "/v1/chat/completions": '"messages":[{"role":"user","content":"say \\"model\\": {"}]',
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Routed:
    """A balancer in a thread of its own, in front of one worker."""

    def __init__(self, balancer: lbfakes.Balanced) -> None:
        self._registry = balancer.parts.shared.metrics.registry
        self._client = httpx.Client(base_url=balancer.url, timeout=60)

    def ask(self, asked: Asked) -> tuple[int, str | None, dict[str, float]]:
        """Status, the model that the answer names, and how many requests were counted for which model."""
        before = self._counted()
        answer = self._client.post(asked.path, content=asked.body, headers=list(asked.headers))
        after = self._counted()
        counted = {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}
        return answer.status_code, answer.json().get("model") if answer.status_code == 200 else None, counted

    def _counted(self) -> dict[str, float]:
        """Of the balancer's own series, not of its page: that one asks the worker too, 50 ms for a number."""
        families = [one for one in self._registry.collect() if one.name == "clusterctl_model_requests"]
        return {s.labels["model"]: s.value for one in families for s in one.samples if s.name.endswith("_total")}


@contextmanager
def routing_to(worker: str, key: str, models: tuple[str, ...], folder: Path) -> Iterator[Routed]:
    port, ready, end = urlsplit(worker).port or 0, threading.Event(), asyncio.Event()
    made: list[tuple[lbfakes.Balanced, asyncio.AbstractEventLoop]] = []

    async def run() -> None:
        async with lbfakes.running_balancer(folder) as balancer:
            balancer.push(lbfakes.spec(port=port, models=models, api_key=key))
            made.append((balancer, asyncio.get_running_loop()))
            ready.set()
            await end.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield Routed(made[0][0])
    finally:
        made[0][1].call_soon_threadsafe(end.set)
        thread.join(10)


def requests(names: tuple[str, ...]) -> st.SearchStrategy[Asked]:
    """``names``: of models there are, the first is the base's."""
    written = st.sampled_from([*names, *(f"{names[0]}:{name}" for name in names), f"base_model:{names[-1]}", "nobody"])
    odd = st.sampled_from(['""', "null", "1", '["x"]', '"a\\ud800"', "{}"])
    values = st.one_of(written.map(json.dumps), written.map(_escaped), odd)
    keys = st.sampled_from(['"model"', '"model"', '"model"', '"mod\\u0065l"', '"Model"', '"model "'])
    members = st.lists(st.tuples(keys, values).map(":".join), max_size=3)
    filler = st.sampled_from([0, 0, 20_000, 1_200_000])
    encodings = st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32-be"])
    kinds = st.sampled_from([("application/json",)] * 4 + [
        ("Application/JSON; charset=utf-8",), ("text/plain",), (), ("application/json", "application/json"),
        ("application/json", "text/plain"), ("multipart/form-data; boundary=x",), ("application/problem+json",),
    ])  # fmt: skip
    adapters = st.lists(st.sampled_from([*names, f"{names[0]}:{names[-1]}", "nobody", ""]), max_size=2)
    return st.builds(_asked, st.sampled_from(list(PATHS)), members, filler, encodings, kinds, adapters, st.data())


def _escaped(name: str) -> str:
    return '"' + "".join(f"\\u{ord(letter):04x}" for letter in name) + '"'


def _asked(
    path: str, members: list[str], filler: int, encoding: str, kinds: tuple[str, ...], adapters: list[str], data: Any
) -> Asked:
    fields = [PATHS[path], '"max_tokens":1', *([" " * filler + '"temperature":0'] if filler else []), *members]
    order = data.draw(st.permutations(fields))
    headers = [*(("Content-Type", kind) for kind in kinds), *((ADAPTER, name) for name in adapters)]
    return Asked(path, tuple(headers), ("{" + ",".join(order) + "}").encode(encoding))
