"""From what somebody names to a version in the store: fetched, inspected, copied, numbered. Files in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from cluster.adapters.conversion import AdapterConversions, ConvertedAdapter
from cluster.adapters.registry import Adapter, Version
from cluster.deployment.plan import Plan
from config.values.references import is_reference
from worker.adapters import engine_side
from worker.adapters import files as adapter_files
from worker.adapters import store as adapter_store
from worker.adapters.files import AdapterFacts, AdapterRejected, BaseShapes
from worker.adapters.foreign import is_foreign
from worker.sources.store import SourceStore

#: Where a reference is, once it was fetched: raises Refused, OSError.
Fetch = Callable[[str], Awaitable[Path]]

#: Converted adapters that are kept for the change that they were made for.
_MOST_CONVERTED = 8


class Intake:
    """``store``: where the copies are; ``wall``: seconds since the epoch; ``conversions``: for adapters that are not
    as the engine loads them; ``fetch``: for what is no path; ``fetched``: where that lies."""

    def __init__(
        self, store: Path, wall: Callable[[], float], conversions: AdapterConversions, fetch: Fetch,
        fetched: SourceStore,
    ) -> None:
        self._store, self._wall, self._conversions = store, wall, conversions
        self._fetch, self._fetched = fetch, fetched
        self._bases: dict[str, BaseShapes | None] = {}
        self._converted: dict[str, ConvertedAdapter] = {}  # by content, until they are taken in

    async def located(self, text: str) -> Path:
        """The folder that somebody names by its path, or by a reference. Raises Refused, OSError."""
        return await self._fetch(text) if is_reference(text) else Path(text)

    async def inspect(self, path: Path, plan: Plan, allow_no_effect: bool) -> AdapterFacts:
        """What it is, or what was made of it. Raises AdapterRejected, OSError."""
        if not path.is_absolute():
            raise AdapterRejected(400, f"{path} is no absolute path")
        base, side = await self._shapes(plan), await asyncio.to_thread(engine_side.read, plan.spec)
        inspect = partial(
            adapter_files.inspect, base=base, served_names=plan.spec.served_names,
            max_rank=plan.spec.max_lora_rank, allow_no_effect=allow_no_effect, side=side,
        )
        roots = () if self._fetched.origin_of(path) else adapter_files.allowed_roots(plan.settings.adapter_root)
        try:
            return await asyncio.to_thread(inspect, path, roots=roots)
        except AdapterRejected as rejected:
            folder = await asyncio.to_thread(adapter_files.real_folder, path, roots)
            await asyncio.to_thread(_check_foreign, folder, base, rejected)
        converted = await self._conversions.convert(folder, plan.spec.model)
        try:
            facts = await asyncio.to_thread(inspect, converted.folder)
        except BaseException:
            await asyncio.to_thread(converted.discard)
            raise
        await self._keep(facts.content_hash, converted)
        return replace(facts, converted=converted.done)

    async def version(
        self, path: Path, facts: AdapterFacts, old: Adapter | None, allow_no_effect: bool
    ) -> Version:
        """Copies what was inspected. Raises AdapterRejected, OSError."""
        converted = self._converted.pop(facts.content_hash, None)
        origin = path if converted is None else converted.folder
        try:
            folder = await asyncio.to_thread(adapter_store.take_in, origin, self._store, facts.content_hash)
        finally:
            if converted is not None:
                await asyncio.to_thread(converted.discard)
        number = old.next_number() if old is not None else 1
        return Version(
            number=number, hash=facts.content_hash, path=str(folder), rank=facts.rank,
            target_modules=facts.target_modules, base_model=facts.base_model,
            source=self._fetched.origin_of(path) or str(path), size=facts.size, created=self._wall(),
            allow_no_effect=allow_no_effect,
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

    async def _keep(self, content: str, converted: ConvertedAdapter) -> None:
        """Few: what was the same as before, or refused for another reason, is never taken in."""
        gone = [self._converted.pop(content, None)]
        self._converted[content] = converted
        if len(self._converted) > _MOST_CONVERTED:
            gone.append(self._converted.pop(next(iter(self._converted))))
        for each in gone:
            if each is not None:
                await asyncio.to_thread(each.discard)

    async def _shapes(self, plan: Plan) -> BaseShapes | None:
        model = plan.spec.model
        if model not in self._bases:
            self._bases[model] = await asyncio.to_thread(adapter_files.read_base, model)
        return self._bases[model]


def _check_foreign(folder: Path, base: BaseShapes | None, rejected: AdapterRejected) -> None:
    """Raises ``rejected``, or says what is there instead, where a conversion would make nothing else of it."""
    try:
        foreign = is_foreign(folder, base)
    except AdapterRejected as error:
        raise AdapterRejected(rejected.status, str(error)) from None
    if not foreign:
        raise rejected
