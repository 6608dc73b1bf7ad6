"""Fakes for the adapters' tests: a worker that is no process but holds adapters as vLLM does, and the adapters'
part of a supervisor."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from cluster.adapters.agent import Agents
from cluster.adapters.conversion import AdapterConversions
from cluster.adapters.effect import Effects
from cluster.adapters.intake import Intake
from cluster.adapters.inventory import Inventory
from cluster.adapters.registry import Adapter
from cluster.adapters.report import AdapterReport
from cluster.adapters.rollout import Rollouts
from cluster.deployment import plan
from cluster.deployment.revisions import Revisions
from cluster.fleet.instance import Instance
from cluster.fleet.placement import Machine
from cluster.fleet.states import WorkerState
from config.settings import load
from fakes import Clock
from harness import environment
from worker.demo import MODEL_NAME, adapter_path, model_path
from worker.probe import NotProvided, ProbeFailed, Target
from worker.sources.store import SourceStore
from worker.spec import EngineSpec, Slot

Hook = Callable[[str, str], Awaitable[str | None]]


class FakeTarget:
    """Answers as vLLM does. ``events`` is what happened, in order; ``on_load(name, path)`` may wait, raise ProbeFailed
    or return the words of a refusal; ``on_unload`` likewise, its words being the status of a failure. ``numbers_of``:
    what each model comes to, by name; others to their name. ``not_provided``: why adapters are not brought to it."""

    def __init__(self, events: list[str] | None = None, label: str = "") -> None:
        self.events = [] if events is None else events
        self.held: dict[str, str] = {}
        self.on_load: Hook | None = None
        self.on_unload: Hook | None = None
        self.silent = False
        self.not_provided = ""
        self.numbers_of: dict[str, Any] = {}
        self.asked: list[str] = []
        self._label = label

    def cards(self) -> tuple[dict[str, Any], ...]:
        base = {"id": "base", "root": "base", "parent": None}
        return (base, *({"id": name, "root": path, "parent": "base"} for name, path in self.held.items()))

    async def models(self) -> tuple[dict[str, Any], ...]:
        self._answering()
        return self.cards()

    async def provide(self, path: str, held: Collection[str]) -> str:
        self._answering()
        if self.not_provided:
            raise NotProvided(self.not_provided)
        return path

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

    def __init__(self, name: str, cluster: FakeCluster) -> None:
        self.target = FakeTarget(cluster.seen, f"{name} ")
        self.instance = Instance(name, Slot((), ()), state=WorkerState.READY, incarnation=1)
        self._agents = cluster.agents
        self.agent = cluster.agents.begin(self.instance, cast(Target, self.target))

    def die(self) -> None:
        """As the supervisor sees it when the process has ended."""
        self.target.silent = True
        self.instance.state = WorkerState.BACKOFF
        self._agents.end(self.instance.id)


class FakeCluster:
    """The adapters of a cluster without processes. ``saved`` has each transaction; ``save_fails`` makes the next one
    fail."""

    def __init__(self, folder: Path, workers: int = 3, keep: int = 3, cap: int = 32) -> None:
        self.clock = Clock()
        self.seen: list[str] = []
        self.told: list[str] = []
        self.saved: list[tuple[list[str], list[str]]] = []
        self.save_fails: Exception | None = None
        self.store = folder / "store"
        self.store.mkdir(exist_ok=True)
        self.workers: list[FakeWorker] = []
        self._withheld: set[tuple[str, str]] = set()
        spec = EngineSpec("sim", str(model_path()), (MODEL_NAME,))
        made = plan.make(load({"engine": "sim", "keep_versions": keep}), Machine((), (0, 1), 2**34))
        self.revisions = Revisions(replace(made, spec=spec, adapter_cap=cap))
        self.inventory = Inventory(self.revisions, self._save)
        self.effects = Effects(self.inventory.may_do_nothing, self._emit)
        self.agents = Agents(
            lambda: [worker.instance for worker in self.workers], self.inventory.wanted, self.effects, self._withhold,
            self._changed, self.inventory.foreign, self.clock,
        )
        self.report = AdapterReport(self.inventory, self.agents)
        self.fetched: dict[str, Path] = {}
        self.intake = Intake(
            self.store, self.clock, AdapterConversions(self.store, environment), self._fetch,
            SourceStore(folder / "sources"),
        )  # fmt: skip
        self.rollouts = Rollouts(
            self.inventory, self.agents, self.intake, self.effects, self.report, self.revisions, self._emit, self.clock
        )
        for _ in range(workers):
            self.add()

    def plan(self, **changed: Any) -> None:
        """What holds from now on."""
        self.revisions.change([replace(self.revisions.latest, **changed)], workers=False, before={})

    async def take_in_given(
        self, given: Mapping[str, Path], lazy: Collection[str] = (), words: Mapping[str, str] | None = None
    ) -> None:
        """As a start does that names them."""
        held = self.revisions.latest
        spec = replace(
            held.spec, adapters={name: str(path) for name, path in given.items()}, lazy=frozenset(lazy),
            descriptions=dict(words or {}),
        )
        await self.rollouts.take_in_given(replace(held, spec=spec))

    def add(self) -> FakeWorker:
        worker = FakeWorker(f"instance_{len(self.workers)}", self)
        self.workers.append(worker)
        return worker

    async def _fetch(self, text: str) -> Path:
        return self.fetched[text]

    async def _withhold(self, name: str) -> None:
        for worker in self.workers:
            if name in worker.instance.adapters.withheld and (worker.instance.id, name) not in self._withheld:
                self._withheld.add((worker.instance.id, name))
                self.seen.append(f"{worker.instance.id} withhold {name}")

    def _changed(self) -> None:
        self._withheld = {
            (worker.instance.id, name) for worker in self.workers for name in worker.instance.adapters.withheld
        }

    def _emit(self, subject: str, text: str, kind: str = "note", data: Mapping[str, Any] | None = None) -> None:
        self.told.append(text)

    async def _save(self, changed: list[Adapter], gone: list[str]) -> None:
        await asyncio.sleep(0)  # as the real one it lets others run before it is done
        if self.save_fails is not None:
            raise self.save_fails
        self.saved.append(([a.name for a in changed], gone))

    def held(self) -> list[dict[str, str]]:
        """What each worker holds."""
        return [worker.target.held for worker in self.workers]

    def numbers(self, name: str) -> list[int | None]:
        """Which version of an adapter each worker holds."""
        adapter = self.inventory.everything.adapters.get(name)
        numbers = adapter.numbers() if adapter else {}
        return [numbers.get(worker.target.held.get(name, "")) for worker in self.workers]


def make_adapter(folder: Path, seed: int = 0) -> str:
    """A valid adapter for the demo model; each ``seed`` makes other content."""
    if not folder.exists():
        shutil.copytree(adapter_path("pirate"), folder)
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "lora_alpha": 16 + seed}))
    return str(folder)
