"""What an engine has to tell: the command that starts one worker, and what it is called."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from config.errors import UsageError, nearest
from config.topology import Capabilities
from worker.spec import EngineSpec, Fork, Slot, WorkerEndpoint

_NOT_ENGINES = {"base", "flags", "foreign", "forking", "key_guard", "lora_names", "replay"}


@dataclass(frozen=True, slots=True)
class Command:
    """``notes`` are sentences to log once: what an installed version lacks and what follows from it. ``fork``: from
    which zygote the worker may be forked in place of a plain start, or why it cannot be."""

    argv: tuple[str, ...]
    env: dict[str, str]
    notes: tuple[str, ...] = ()
    fork: Fork | str = "only workers of vLLM and llama.cpp are forked"


class Engine(Protocol):
    """One kind of worker. All of them speak vLLM's API."""

    name: str
    #: Seconds between two looks at a worker that is starting.
    startup_interval: float
    #: Whether a start keeps a core busy for long.
    busy_start: bool
    #: Whether a worker needs a GPU where the machine has some.
    uses_gpu: bool
    #: Whether a worker computes a model, which takes memory, shared memory and processors.
    computes: bool
    capabilities: Capabilities

    @property
    def finds_gpus(self) -> bool:
        """Whether what is installed of it can use the GPUs of a machine."""

    def check(self) -> None:
        """Raises UsageError, with the command that helps, where the engine is not installed."""

    def memory_estimate(self, spec: EngineSpec) -> int:
        """Bytes of main memory one worker takes on a machine without GPUs."""

    def command(
        self, spec: EngineSpec, endpoint: WorkerEndpoint, api_key: str, slot: Slot, environ: Mapping[str, str]
    ) -> Command:
        """How to start one worker that listens on ``endpoint`` and asks for ``api_key``."""


@runtime_checkable
class LocatesModels(Protocol):
    """An engine that takes models in files of its own kind, and knows some by name."""

    def locate(self, model: str, what: str) -> str:
        """The path of ``model``, which is called ``what`` where it was given. Raises UsageError."""


def names() -> tuple[str, ...]:
    import worker.engines

    found = {module.name for module in pkgutil.iter_modules(worker.engines.__path__)}
    return tuple(sorted(found - _NOT_ENGINES, key=lambda name: (name != "vllm", name)))


def load(name: str) -> Engine:
    """Raises UsageError for a name that no file here has."""
    if name not in names():
        raise UsageError(
            f"unknown engine {name!r}{nearest(name, names())}; known: {', '.join(names())}", exit_code=2
        )
    engine: Engine = importlib.import_module(f"worker.engines.{name}").ENGINE
    return engine
