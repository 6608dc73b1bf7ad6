"""Starts zygotes for tests, without a supervisor."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config.settings import inherited_environment
from harness import poll
from worker.demo import model_path
from worker.drivers import forked
from worker.drivers import zygote_protocol as protocol
from worker.drivers.process import Process, spawn
from worker.engines import base
from worker.spec import EngineSpec, Fork, Slot, WorkerEndpoint

_FOLDERS = (Path(__file__).parent.parent, Path(__file__).parent)
_ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": ":".join(map(str, _FOLDERS)), "PYTHONSAFEPATH": "1"}


def fork(module: str = "forkedengine", unless_asked: str = "", **env: str) -> Fork:
    """Which one `running` starts with the same arguments."""
    return Fork(module, tuple(sorted({**_ENVIRONMENT, **env}.items())), unless_asked)


@contextmanager
def running(
    folder: Path, module: str = "forkedengine", patience: float = 15, **env: str
) -> Iterator[tuple[Process, Path]]:
    """One that has imported ``module`` within ``patience`` seconds, and where it listens."""
    path = folder / "zygote.sock"
    process = spawn(
        (sys.executable, "-m", "worker.zygote", str(path), module),
        env={**_ENVIRONMENT, **env},
        cwd=folder, log=folder / "zygote.log", run_file=folder / "zygote.run",
    )  # fmt: skip
    try:
        with poll(lambda: _connected(path, patience), 15, "it listens") as connection:
            connection.send(protocol.encode({"ask": "who"}))
            assert protocol.decode(connection.recv(protocol.MOST))["identity"] == process.identity
        yield process, path
    finally:
        poll(lambda: not process.kill_tree(), 15, "nothing of it is left")
        if process.popen is not None:
            process.popen.wait()


@contextmanager
def of_vllm(folder: Path) -> Iterator[Path]:
    """Where one listens that has imported vLLM, for `oneworker.one_worker`."""
    spec = EngineSpec("vllm", str(model_path()), ("demo",), {}, ())
    made = base.load("vllm").command(spec, WorkerEndpoint(0), "", Slot(), inherited_environment()).fork
    assert isinstance(made, Fork), made
    with running(folder, made.module, 240, **dict(made.environment)) as (_, path):
        yield path


def _connected(path: Path, patience: float) -> socket.socket | None:
    try:
        return forked.connect(path, patience)
    except (FileNotFoundError, ConnectionRefusedError):  # its file is there a moment before it listens
        return None
