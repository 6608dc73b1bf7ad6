"""From a folder that somebody names to a version in the store: inspected, copied, numbered. Files in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from cluster.adapters import store as adapter_store
from cluster.adapters.registry import Adapter, Version
from cluster.deployment.plan import Plan
from worker.adapters import engine_side
from worker.adapters import files as adapter_files
from worker.adapters.files import AdapterFacts, AdapterRejected, BaseShapes
from worker.adapters.origins import allowed_roots


class Intake:
    """``store``: where the copies are; ``wall``: seconds since the epoch."""

    def __init__(self, store: Path, wall: Callable[[], float]) -> None:
        self._store, self._wall = store, wall
        self._bases: dict[str, BaseShapes | None] = {}

    async def inspect(self, path: Path, plan: Plan, allow_no_effect: bool) -> AdapterFacts:
        """Raises AdapterRejected, OSError."""
        if not path.is_absolute():
            raise AdapterRejected(400, f"{path} is no absolute path")
        base, side = await self._shapes(plan), await asyncio.to_thread(engine_side.read, plan.spec)
        return await asyncio.to_thread(
            adapter_files.inspect, path, base=base, served_names=plan.spec.served_names,
            max_rank=plan.spec.max_lora_rank, roots=allowed_roots(plan.settings.adapter_root),
            allow_no_effect=allow_no_effect, side=side,
        )

    async def version(
        self, path: Path, facts: AdapterFacts, old: Adapter | None, allow_no_effect: bool
    ) -> Version:
        """Copies what was inspected. Raises AdapterRejected, OSError."""
        folder = await asyncio.to_thread(adapter_store.take_in, path, self._store, facts.content_hash)
        number = old.next_number() if old is not None else 1
        return Version(
            number=number, hash=facts.content_hash, path=str(folder), rank=facts.rank,
            target_modules=facts.target_modules, base_model=facts.base_model, source=str(path), size=facts.size,
            created=self._wall(), allow_no_effect=allow_no_effect,
        )

    async def misfits(self, adapters: Iterable[Adapter], plan: Plan) -> dict[str, str]:
        """Those whose active version workers by ``plan`` would refuse or not use all of, by name, with the reason."""
        if plan.no_lora:
            return {adapter.name: plan.no_lora for adapter in adapters}
        base, side = await self._shapes(plan), await asyncio.to_thread(engine_side.read, plan.spec)
        found = {}
        for adapter in adapters:
            try:
                await asyncio.to_thread(
                    adapter_files.recheck, Path(adapter.current.path), base, plan.spec.max_lora_rank, side
                )
            except (AdapterRejected, OSError) as error:
                found[adapter.name] = str(error)
        return found

    def sweep(self, needed: set[str]) -> None:
        """Removes content other than those hashes. Blocks; only while no worker can still read it."""
        adapter_store.sweep_temporary(self._store)
        for folder in self._store.iterdir():
            if folder.name not in needed:
                adapter_store.remove(self._store, folder.name)

    async def _shapes(self, plan: Plan) -> BaseShapes | None:
        model = plan.spec.model
        if model not in self._bases:
            self._bases[model] = await asyncio.to_thread(adapter_files.read_base, model)
        return self._bases[model]
