"""The nodes of a Ray cluster, asked of `broker.py` in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from config.disk import private
from worker.drivers.nodes import HeldPlace, WorkerNeed
from worker.drivers.ray import exposure
from worker.drivers.remote import protocol
from worker.drivers.remote.protocol import AgentAddress

#: How long (s) an answer may take: connecting to Ray and starting agents included.
ANSWER_S = 60.0

#: As much for the end of the actors, for a place, which the supervisor waits for, and for a question that is under way
#: when another cannot wait (s).
_END_S, _PLACE_S, _BUSY_S = 5.0, 5.0, 1.0

#: Bytes of an answer.
_MOST = 4 * 1024 * 1024

#: Seconds between two brokers, where one ends: importing Ray takes a second of a processor.
_AGAIN_S = 3.0

#: Where nothing else is known.
_NOT_THERE = "Ray was not there a moment ago"


class RayRefused(OSError):
    """It could not be used however often it were asked."""


class RayDirectory:
    """``name``: of the cluster, within Ray; ``key``: of its agents; ``log``: what Ray has to say goes there.
    ``insecure``: a Ray that asks for no token may be used off loopback."""

    #: A Ray that has lost its head, or a raylet, names fewer nodes than there are.
    complete = False

    def __init__(self, address: str, name: str, key: str, lease: float, log: Path, insecure: bool = False) -> None:
        self._argv = [sys.executable, "-m", "worker.drivers.ray.broker", address, name, str(lease)]
        self.key, self._log, self._insecure = key, log, insecure
        self._broker: subprocess.Popen[bytes] | None = None
        self._not_before, self._why = 0.0, _NOT_THERE
        self._closed = False
        self._keep: Mapping[str, HeldPlace] | None = None
        self._used: list[str] | None = None
        self._gpus: Mapping[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def agents(self) -> dict[str, AgentAddress]:
        """By host. Raises OSError, RayRefused."""
        found = self._ask(self._look)
        self._gpus = {host: (float(every), float(free)) for host, (every, free) in found["gpus"].items()}
        return {host: AgentAddress(host, int(port), self.key) for host, port in found["agents"].items()}

    def place(self, name: str, need: WorkerNeed, hosts: Sequence[str]) -> tuple[str, dict[str, tuple[int, ...]]]:
        def message() -> dict[str, Any]:
            if self._keep is not None:
                self._keep = {**self._keep, name: HeldPlace(need, None)}  # not given up by what was said before
            return {"ask": "place", "worker": name, "need": need.to_json(), "hosts": list(hosts)}

        if not self._lock.acquire(timeout=_BUSY_S):
            raise OSError("Ray is still being asked something else")
        try:
            if self._broker is None:  # the look for nodes connects to it, which takes longer than a start can wait
                raise OSError("Ray is not there yet")
            found = self._exchange(self._broker, message(), _PLACE_S)
        finally:
            self._lock.release()
        if "waits" in found:
            raise OSError(found["waits"])
        return found["host"], {worker: tuple(gpus) for worker, gpus in found["held"].items()}

    def keep(self, places: Mapping[str, HeldPlace]) -> None:
        self._keep = {name: place for name, place in places.items() if place.need}
        self._used = sorted({place.host for place in places.values() if place.host is not None})

    def gpus(self) -> Mapping[str, tuple[float, float]]:
        return self._gpus

    def end(self) -> None:
        """Ray is not waited for: where it does not answer, its actors have ended with it, or do when it does. Raises
        OSError where it may hold for good what workers used."""
        self._interrupt()
        try:
            if self._broker is None:
                raise OSError("it is not there")
            self._ask(lambda: {"ask": "end"}, _END_S)
        except OSError as error:
            if self._keep:
                raise OSError(
                    f"Ray could not be asked to give free what {len(self._keep)} workers used ({error}): unless that "
                    "Ray has ended, run clusterctl down again when it answers"
                ) from None

    def close(self) -> None:
        self._closed = True
        self._interrupt()
        with self._lock:
            self._drop()

    def _interrupt(self) -> None:
        """A question that has no answer yet gets none."""
        if self._lock.acquire(timeout=_BUSY_S):
            self._lock.release()
        elif (broker := self._broker) is not None:
            broker.kill()

    def _look(self) -> dict[str, Any]:
        kept = self._keep
        keep = None if kept is None else {name: asdict(place) for name, place in kept.items()}
        return {"ask": "agents", "keep": keep, "used": self._used}

    def _ask(self, message: Callable[[], Mapping[str, Any]], patience: float = ANSWER_S) -> Mapping[str, Any]:
        """``message`` is made when it is sent."""
        with self._lock:
            return self._exchange(self._broker or self._start(), message(), patience)

    def _exchange(
        self, broker: subprocess.Popen[bytes], message: Mapping[str, Any], patience: float
    ) -> Mapping[str, Any]:
        try:
            assert broker.stdin is not None
            broker.stdin.write(json.dumps(message).encode() + b"\n")
            broker.stdin.flush()
        except OSError:
            pass  # it says why
        answer = self._answer(broker, patience)
        if "error" in answer:
            self._drop()
            self._why = answer["error"]
            raise RayRefused(answer["error"]) if answer.get("refused") else OSError(answer["error"])
        self._why = _NOT_THERE
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        """Raises OSError where one has just ended."""
        if self._closed:
            raise OSError("it is closed")
        if time.monotonic() < self._not_before:
            raise OSError(self._why)
        self._not_before = time.monotonic() + _AGAIN_S
        env = {
            **os.environ, "RAY_USAGE_STATS_ENABLED": "0", protocol.KEY: self.key,
            exposure.ALLOWED: "1" if self._insecure else "",
        }  # fmt: skip
        log = private.descriptor(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            self._broker = subprocess.Popen(
                self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=env, start_new_session=True
            )
        finally:
            os.close(log)
        return self._broker

    def _answer(self, broker: subprocess.Popen[bytes], patience: float) -> dict[str, Any]:
        assert broker.stdout is not None
        text, deadline = b"", time.monotonic() + patience
        with selectors.DefaultSelector() as selector:
            selector.register(broker.stdout, selectors.EVENT_READ)
            while not text.endswith(b"\n") and len(text) < _MOST:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    break
                if not (piece := os.read(broker.stdout.fileno(), 65536)):
                    break
                text += piece
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        return found if isinstance(found, dict) else {"error": f"Ray did not answer (see {self._log})"}

    def _drop(self) -> None:
        broker, self._broker = self._broker, None
        if broker is not None:
            broker.kill()
            broker.wait()
            for pipe in (broker.stdin, broker.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
