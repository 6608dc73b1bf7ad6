"""Fakes for the adapters' tests: a worker that is no process but holds adapters as vLLM does, and a supervisor."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cluster.adapters.agent import AdapterAgent
from cluster.adapters.registry import Adapter
from cluster.adapters.rollout import Rollouts
from cluster.fleet.instance import Instance
from cluster.fleet.states import WorkerState
from fakes import Clock
from worker.demo import MODEL_NAME, adapter_path, model_path
from worker.probe import ProbeFailed
from worker.spec import EngineSpec, Slot

Hook = Callable[[str, str], Awaitable[str | None]]


class FakeTarget:
    """Answers as vLLM does. ``events`` is what happened, in order; ``on_load(name, path)`` may wait, raise ProbeFailed
    or return the words of a refusal; ``on_unload`` likewise, its words being the status of a failure. ``numbers_of``:
    what each model comes to, by name; others to their name."""

    def __init__(self, events: list[str] | None = None, label: str = "") -> None:
        self.events = [] if events is None else events
        self.held: dict[str, str] = {}
        self.on_load: Hook | None = None
        self.on_unload: Hook | None = None
        self.silent = False
        self.numbers_of: dict[str, Any] = {}
        self.asked: list[str] = []
        self._label = label

    def cards(self) -> tuple[dict[str, Any], ...]:
        base = {"id": "base", "root": "base", "parent": None}
        return (base, *({"id": name, "root": path, "parent": "base"} for name, path in self.held.items()))

    async def models(self) -> tuple[dict[str, Any], ...]:
        self._answering()
        return self.cards()

    async def load_adapter(self, name: str, path: str, timeout: float) -> str | None:
        self._answering()
        self.events.append(f"{self._label}load {name} {path}")
        words = await self.on_load(name, path) if self.on_load else None
        if words is None and name in self.held:
            words = f"400 The lora adapter '{name}' has already been loaded."
        if words is None:
            self.held[name] = path
        return words

    async def numbers(self, model: str, timeout: float) -> Any:
        self._answering()
        assert model == "base" or model in self.held, "asked before it is loaded"
        self.asked.append(model)
        found = self.numbers_of.get(model, model)
        if isinstance(found, Exception):
            raise found
        return found

    async def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> tuple[int, str]:
        self._answering()
        assert (method, path) == ("POST", "/v1/unload_lora_adapter") and body is not None
        name = body["lora_name"]
        self.events.append(f"{self._label}unload {name}")
        words = await self.on_unload(name, self.held.get(name, "")) if self.on_unload else None
        if words is not None:
            return int(words.split()[0]), words
        return (200, "") if self.held.pop(name, None) else (404, "")

    def _answering(self) -> None:
        if self.silent:
            raise ProbeFailed("no answer")


class FakeWorker:
    """A ready worker with its agent."""

    def __init__(self, name: str, supervisor: FakeSupervisor) -> None:
        self.target = FakeTarget(supervisor.seen, f"{name} ")
        self.instance = Instance(name, Slot((), ()), state=WorkerState.READY, incarnation=1)
        self._supervisor = supervisor
        self.instance.agent = AdapterAgent(
            self.target,  # type: ignore[arg-type]
            lambda: supervisor.rollouts.wanted(name), self._withhold, lambda: None, supervisor.clock, 5.0,
            effect=supervisor.rollouts.effects.asked_of(0),
        )  # fmt: skip

    @property
    def agent(self) -> AdapterAgent:
        assert self.instance.agent is not None
        return self.instance.agent

    async def _withhold(self, name: str) -> None:
        self._supervisor.seen.append(f"{self.instance.id} withhold {name}")

    def die(self) -> None:
        """As the supervisor sees it when the process has ended."""
        self.target.silent = True
        self.instance.state, self.instance.agent = WorkerState.BACKOFF, None


class FakeSupervisor:
    """As much of a supervisor as a rollout knows. ``saved`` has each transaction; ``save_fails`` makes the next one
    fail."""

    def __init__(self, folder: Path, workers: int = 3, keep: int = 3, cap: int = 32) -> None:
        self.clock = Clock()
        self.seen: list[str] = []
        self.told: list[str] = []
        self.saved: list[tuple[list[str], list[str]]] = []
        self.save_fails: Exception | None = None
        self.store = folder / "store"
        self.store.mkdir(exist_ok=True)
        self.plan: Any = SimpleNamespace(
            adapter_cap=cap, dynamic_loading=True,
            settings=SimpleNamespace(keep_versions=keep, adapter_root=(), allow_no_effect=False),
            spec=EngineSpec("sim", str(model_path()), (MODEL_NAME,)),
        )  # fmt: skip
        self.fleet: Any = SimpleNamespace(instances={})
        self.external: list[Any] = []
        self.events = SimpleNamespace(emit=lambda who, what, **_: self.told.append(what))
        self.rollouts = Rollouts(self, self.store, self.clock)  # type: ignore[arg-type]
        self.workers: list[FakeWorker] = []
        for _ in range(workers):
            self.add()

    def add(self) -> FakeWorker:
        worker = FakeWorker(f"instance_{len(self.workers)}", self)
        self.workers.append(worker)
        self.fleet.instances[worker.instance.id] = worker.instance
        return worker

    def adapters_changed(self) -> None:
        for instance in self.fleet.instances.values():
            if instance.agent is not None:
                instance.agent.dirty.set()

    async def keep_adapters(self, changed: list[Adapter], gone: list[str]) -> None:
        await asyncio.sleep(0)  # as the real one it lets others run before it is done
        if self.save_fails is not None:
            raise self.save_fails
        self.saved.append(([a.name for a in changed], gone))
        registry = self.rollouts.registry
        for adapter in changed:
            registry = registry.with_adapter(adapter)
        for name in gone:
            registry = registry.without(name)
        self.rollouts.registry = registry
        self.adapters_changed()

    def held(self) -> list[dict[str, str]]:
        """What each worker holds."""
        return [worker.target.held for worker in self.workers]

    def numbers(self, name: str) -> list[int | None]:
        """Which version of an adapter each worker holds."""
        return [self.rollouts.version_at(name, worker.target.held.get(name)) for worker in self.workers]


def make_adapter(folder: Path, seed: int = 0) -> str:
    """A valid adapter for the demo model; each ``seed`` makes other content."""
    if not folder.exists():
        shutil.copytree(adapter_path("pirate"), folder)
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "lora_alpha": 16 + seed}))
    return str(folder)
