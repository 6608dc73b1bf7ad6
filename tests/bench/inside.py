"""What a request and a chunk cost in the interpreter alone: the balancer's own objects, no sockets, no event loop.
``python tests/bench/inside.py``.

The same bytes as in ``make bench`` are handed to the protocols of 32 clients and 32 workers, all of them in turn, so
that nothing of a stream stays in the processor's nearest caches from one of its chunks to the next. Machines slow down
and speed up: each figure is the median of rounds, each of them over a fixed piece of work done just before and after,
times what that piece takes at its best.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import load
import stub
import targets
import uvloop

from config import replay
from config.topology import BackendSet, BackendSpec, BalancerConfig, Capabilities
from lb import app
from lb.downstream.connection import ClientConnection
from lb.upstream.connection import WorkerConnection

CONNECTIONS = 32
SHORT, LONG = 2, 66  # chunks


class _Transport:
    """Takes everything, at once."""

    def write(self, data: bytes) -> None:
        pass

    def get_extra_info(self, name: str) -> tuple[str, int]:
        return "127.0.0.1", 1

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int) -> None:
        pass


class Inside:
    """``together``: chunks that come in one read; ``settings`` of the balancer, ``names``: its routes and aliases.
    ``key``: what clients show, ``body``: more of what they ask. ``told``: streams are such as are made again whole,
    and their workers tell tokens beside the events."""

    def __init__(
        self, resume: bool, together: int, folder: Path, connections: int = CONNECTIONS, *,
        settings: Mapping[str, Any] = {}, names: Mapping[str, Any] = {}, key: str = "none",
        body: Mapping[str, Any] = {}, told: bool = False,
    ) -> None:
        listener = targets.listening()
        config = BalancerConfig(
            listen_fd=listener.fileno(), state_dir=str(folder), host="127.0.0.1", port=1, queue_timeout=30,
            resume=resume, **settings,
        )
        self._key, self._body, self._told = key, {**body, **({"seed": 7} if told else {})}, told
        self._parts = made = app.make(config, listener, folder / "lb.sock")
        card = {"id": "base", "object": "model", "owned_by": "vllm", "root": "base", "parent": None}
        able = Capabilities(replay=told)
        backend = BackendSpec(
            "instance_0", 1, "ready", "http", "127.0.0.1", 9, "127.0.0.1", models=(card,), capabilities=able
        )
        made.pool.apply(BackendSet(1, 1, "least_connections", (backend,), names=dict(names)))
        self._ids, self._together = resume and not told, together
        upstream, transport = made.shared.upstream, cast(asyncio.Transport, _Transport())
        upstream._clock = lambda: 0.0  # no connection is idle for too long
        self._clients = [ClientConnection(made.server) for _ in range(connections)]
        endpoint = upstream.endpoint(backend)
        self._workers = [WorkerConnection(endpoint, upstream._keep, upstream._open.discard) for _ in range(connections)]
        for connection in (*self._clients, *self._workers):
            connection.connection_made(transport)
        for worker in self._workers:
            upstream._keep(worker)

    def apply_keys(self, message: dict[str, Any]) -> None:
        self._parts.keys.apply(message)

    async def close(self) -> None:
        parts = self._parts
        await parts.admin.close()
        await parts.ledger.close()
        parts.buckets.close()
        parts.counters.close()

    def small(self) -> None:
        self._run({"max_tokens": 16}, [stub._SMALL])

    def stream(self, chunks: int) -> None:
        comment = replay.comment(0, [1234]) if self._told else b""
        pieces = [stub._chunk(comment + stub._EVENTS[self._ids])] * (chunks - 1)
        last = stub._chunk(stub._LAST[self._ids])
        between, step = pieces[1:], self._together
        middle = [b"".join(between[start : start + step]) for start in range(0, len(between), step)]
        head = stub._STREAM
        if self._told:
            head = head.replace(b"\r\n", b"\r\n%b: 1\r\n" % replay.TELL.encode(), 1)
        reads = [head + pieces[0], *middle, last, stub._chunk(stub._DONE) + b"0\r\n\r\n"]
        self._run({"stream": True, "max_tokens": chunks, "temperature": 0.001}, reads)

    def _run(self, body: dict[str, Any], reads: list[bytes]) -> None:
        request = load.request({**body, **self._body}, self._key)
        for client in self._clients:
            client.data_received(_copy(request))
        for read in reads:
            for worker in self._workers:
                worker.data_received(_copy(read))
        if not all(worker.usable for worker in self._workers):
            raise RuntimeError("an answer has not come to its end")


def _copy(data: bytes) -> bytes:
    """What is read from a socket is new."""
    return bytes(memoryview(data))


def _yardstick() -> float:
    began = time.process_time()
    seen: dict[int, Any] = {}
    for number in range(20_000):
        seen[number & 255] = (number, str(number))
    return time.process_time() - began


def measure(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """µs of each, for one request; in every round each of them, each time another one first."""
    seen: dict[str, list[float]] = {name: [] for name in steps}
    best, order = _yardstick(), deque(steps.items())
    for _ in range(rounds):
        order.rotate()
        for name, step in order:
            before, began = _yardstick(), time.process_time()
            for _ in range(5):
                step()
            seconds, after = time.process_time() - began, _yardstick()
            seen[name].append(seconds / (5 * CONNECTIONS) / (before + after) * 2)
            best = min(best, before, after)
    return {name: statistics.median(values) * best * 1e6 for name, values in seen.items()}


#: How streams are read along: whether they are, and whether as such that are made again whole.
_WAYS = {"read along": (True, False), "to be made again whole": (True, True), "--no-resume": (False, False)}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    variants = [(resume, told, together) for resume, told in _WAYS.values() for together in (1, 3)]
    with contextlib.ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in variants]
        inside = [
            Inside(resume, together, folder, told=told)
            for (resume, told, together), folder in zip(variants, folders, strict=True)
        ]
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)  # as the balancer does
        steps: dict[str, Callable[[], None]] = {}
        for number, one in enumerate(inside):
            steps[f"small {number}"] = one.small
            steps[f"short {number}"] = functools.partial(one.stream, SHORT)
            steps[f"long {number}"] = functools.partial(one.stream, LONG)
        found = measure(steps, options.rounds)
        for one in inside:
            await one.close()
    print("| µs | a small request | begin and end a stream | a chunk |\n|---|---|---|---|")
    for number, (resume, told, together) in enumerate(variants):
        small, short, long = (found[f"{name} {number}"] for name in ("small", "short", "long"))
        chunk = (long - short) / (LONG - SHORT)
        way = next(name for name, value in _WAYS.items() if value == (resume, told))
        name = f"{way}, {together} in a read"
        print(f"| {name} | {small:.1f} | {short - SHORT * chunk:.1f} | {chunk:.2f} |")


if __name__ == "__main__":
    uvloop.run(main())
