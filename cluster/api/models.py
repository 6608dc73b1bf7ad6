"""Changes of the models of a cluster: loaded, unloaded, pinned, brought up and down while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, StrictStr

from cluster.adapters.inventory import Inventory
from cluster.adapters.rollout import Rollouts
from cluster.api.apply import Run
from cluster.api.schemas import Body
from cluster.deployment import model_plans
from cluster.deployment.plan import Plan
from cluster.deployment.profiles import resolution
from cluster.errors import Refused
from cluster.models.catalogue import Catalogue
from cluster.models.intended import ModelLoadIntent
from config.disk import locations
from config.errors import UsageError
from config.models import MODEL_NAME, ModelDefinition, definition
from config.settings import Settings
from worker import fetched
from worker.adapters.files import AdapterRejected


class LoadModel(Body):
    """What else may be said are the keys of `config.models.ModelDefinition`."""

    model_config = ConfigDict(extra="allow")

    model_name: StrictStr = Field(min_length=1, max_length=96)
    model_path: StrictStr = Field(min_length=1, max_length=4096)


class ModelCommands:
    """``run`` does a change in the task that owns the state and stores it; ``settings()`` that hold; ``card(plan)``:
    how a model is shown; ``not_ending()`` raises Refused while the cluster shuts down; ``fetch(text, what)`` has what a
    reference means brought here."""

    def __init__(
        self, catalogue: Catalogue, rollouts: Rollouts, inventory: Inventory, settings: Callable[[], Settings],
        card: Callable[[Plan], Mapping[str, Any]], not_ending: Callable[[], None], run: Run,
        fetch: Callable[[str, str], Awaitable[Path]],
    ) -> None:
        self._catalogue, self._rollouts, self._inventory, self._settings = catalogue, rollouts, inventory, settings
        self._card, self._not_ending, self._run, self._fetch = card, not_ending, run, fetch
        self._lock = asyncio.Lock()

    async def intended(self, body: LoadModel) -> ModelLoadIntent:
        """What is asked for, with the names in a manifest looked up. Raises Refused."""
        try:
            model = await asyncio.to_thread(resolution.named, self._read(body), self._settings())
        except UsageError as error:
            raise Refused(400, str(error), "model_path") from None
        return ModelLoadIntent(body.model_name, model.to_json())

    async def load(self, wanted: ModelLoadIntent) -> tuple[int, dict[str, Any]]:
        """Status and answer. Raises Refused, and leaves nothing behind then."""
        name, model = wanted.name, definition(wanted.definition)
        if not self._catalogue.same(name, model):
            await self._fetch_all(model)
        async with self._lock:
            self._not_ending()
            if self._catalogue.same(name, model):
                return 200, await self._again(wanted)
            try:
                plan = await asyncio.to_thread(model_plans.make_group, self._settings(), name, model)
                self._catalogue.check_names(plan)
                await self._rollouts.check_given(plan)
            except UsageError as error:
                raise Refused(400 if error.exit_code == 2 else 409, str(error), "model_path") from None
            except AdapterRejected as error:
                raise Refused(error.status, f"adapter {error}", "adapters") from None

            def commit() -> dict[str, Any]:
                self._not_ending()
                self._catalogue.add(plan)
                return self._shown(plan)

            answer = await self._run(commit)
            await self._take_in(plan)
            return 202, answer

    async def _again(self, wanted: ModelLoadIntent) -> dict[str, Any]:
        """It is there, but where a supervisor has died over it maybe without its adapters."""
        answer = await self._run(lambda: self._up(wanted.name))
        if wanted.tries:
            await self._take_in(self._catalogue.find(wanted.name))
        return answer

    async def _fetch_all(self, model: ModelDefinition) -> None:
        """It and its adapters, where they are named by references. Raises Refused."""
        self._not_ending()
        for text, what in fetched.of_models([model]).items():
            try:
                await self._fetch(text, what)
            except OSError as error:
                raise Refused(507, f"it cannot be fetched: {error.strerror or error}", "model_path") from None

    async def unload(self, name: str) -> dict[str, Any]:
        async with self._lock:
            plan = self._catalogue.find(name)
            adapters = self._catalogue.unneeded_adapters(plan)

            def commit() -> dict[str, Any]:
                self._catalogue.leave(self._catalogue.find(name))
                return {"model_name": plan.group, "state": "stopping", "adapters": adapters}

            answer = await self._run(commit)
            if adapters:
                await self._inventory.keep([], adapters)
            return answer

    def pin(self, name: str, pinned: bool) -> dict[str, Any]:
        return self._shown(self._catalogue.define(self._catalogue.find(name), pinned=pinned))

    def sleep(self, name: str) -> dict[str, Any]:
        plan = self._catalogue.find(name)
        self._catalogue.take_down(plan)
        return self._shown(plan)

    def wake(self, name: str) -> dict[str, Any]:
        return self._up(self._catalogue.find(name).group)

    def _up(self, name: str) -> dict[str, Any]:
        self._not_ending()
        plan = self._catalogue.find(name)
        self._catalogue.want_up(plan)
        return self._shown(plan)

    def _shown(self, plan: Plan) -> dict[str, Any]:
        return {"model": dict(self._card(plan))}

    def _read(self, body: LoadModel) -> ModelDefinition:
        if not MODEL_NAME.fullmatch(body.model_name) or body.model_name == "default":
            name = body.model_name
            raise Refused(400, f"{name!r} is no name of a model: [A-Za-z0-9._-], 1 to 96 characters", "model_name")
        path = body.model_path
        if path.startswith(("./", "../")) or path in (".", ".."):
            raise Refused(400, f"{path!r} is no absolute path, and the cluster is in another folder", "model_path")
        said = {key: value for key, value in (body.model_extra or {}).items() if value is not None}
        try:
            return locations.of_model(definition({"path": path, **said}))
        except (ValueError, UsageError) as error:
            raise Refused(400, str(error)) from None

    async def _take_in(self, plan: Plan) -> None:
        """Its adapters, or it goes again. Where this supervisor ends meanwhile it stays: the next one goes on."""
        try:
            await self._rollouts.take_in_given(plan)
        except Exception as error:
            await self._run(lambda: self._gone(plan))
            if isinstance(error, AdapterRejected | OSError):
                raise Refused(507 if isinstance(error, OSError) else error.status, f"adapter {error}") from None
            raise

    def _gone(self, plan: Plan) -> dict[str, Any]:
        self._catalogue.leave(plan)
        return {}
