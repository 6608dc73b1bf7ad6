"""An engine in a process of its own: what is left of it, and of its answers, when one of the two ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import psutil
import pytest

from enginecases import EngineWorker, chat
from fakes import Processes, eventually

pytestmark = pytest.mark.processes


@pytest.fixture
def worker(tmp_path: Path, processes: Processes) -> EngineWorker:
    made = EngineWorker("openvino", processes, tmp_path)
    made.wait(30)
    return made


def _engine(worker: EngineWorker) -> int:
    (child,) = psutil.Process(worker.process.pid).children()
    return int(child.pid)


def test_a_stream_whose_engine_dies_is_cut_and_the_worker_ends(worker: EngineWorker) -> None:
    body = chat("Hi", max_tokens=1000, stream=True, ignore_eos=True)
    with worker.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        pieces = answer.iter_raw()
        assert next(pieces)
        os.kill(_engine(worker), signal.SIGKILL)
        with pytest.raises(httpx.TransportError):  # it must not look like an end
            list(pieces)
    assert worker.process.popen is not None and worker.process.popen.wait(15) == 1


def test_an_engine_that_is_asked_to_end_ends_before_its_worker(worker: EngineWorker) -> None:
    engine = _engine(worker)
    worker.process.signal(signal.SIGTERM)
    assert worker.process.popen is not None and worker.process.popen.wait(15) == 0
    assert not psutil.pid_exists(engine)


def test_one_whose_worker_is_killed_is_in_its_session(worker: EngineWorker) -> None:
    engine = _engine(worker)
    worker.process.signal(signal.SIGKILL)
    eventually(lambda: not worker.process.kill_tree())
    eventually(lambda: not psutil.pid_exists(engine))


def test_a_worker_whose_engine_stands_still_says_so(worker: EngineWorker) -> None:
    """Of a stopped process nothing is heard; a probe of the supervisor has a time limit of its own."""
    engine = _engine(worker)
    os.kill(engine, signal.SIGSTOP)
    try:
        with pytest.raises(httpx.ReadTimeout):
            worker.http.get("/health", timeout=0.3)
        assert worker.http.get("/v1/models").status_code == 200  # the front itself is well
    finally:
        os.kill(engine, signal.SIGCONT)
    assert worker.http.get("/health").status_code == 200
