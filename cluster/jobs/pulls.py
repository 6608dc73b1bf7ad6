"""Has references fetched by jobs of the cluster, and waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from cluster.errors import Refused
from cluster.jobs.runner import JobRunner
from config.jobs.folder import JobSpec
from config.settings import Settings
from config.values.references import parse
from worker.sources.store import SourceStore

#: Seconds between two looks at whether a job has ended.
_LOOK_EVERY = 0.1


class SourceFetcher:
    """Into the store ``root``; ``settings()`` that hold."""

    def __init__(self, root: Path, jobs: JobRunner, settings: Callable[[], Settings]) -> None:
        self._store, self._jobs, self._settings = SourceStore(root), jobs, settings

    async def folder(self, text: str, what: str, by: str = "") -> Path:
        """Where what ``text`` means is, an adapter or a model (``what``). Its place is asked first what it means by
        now, unless it means the same for ever. ``by``: who wants it. Raises Refused, NotSaved, OSError."""
        try:
            reference = parse(text)
        except ValueError as error:
            raise Refused(404, str(error)) from None  # as a path that cannot be: nothing is there
        known = await asyncio.to_thread(self._store.find, reference, what)
        if known is None or not reference.is_pinned:
            await self._pull(text, what, by)
            known = await asyncio.to_thread(self._store.find, reference, what)
        if known is None:
            raise Refused(500, f"{reference} was fetched, and is not there")
        return Path(known.folder)

    async def _pull(self, text: str, what: str, by: str) -> None:
        settings = self._settings()
        spec = JobSpec("pull", {
            "references": [text], "store": str(self._store.root), "what": what, "refresh": True,
            "hosts": list(settings.source_hosts), "private": settings.source_private,
        })  # fmt: skip
        job = await self._jobs.submit(spec, by, computes=False)
        while not job.ended:
            await asyncio.sleep(_LOOK_EVERY)
        if job.error is not None:
            status = job.status or 500
            raise Refused(409 if status == 499 else status, f"{job.error} ({job.id})")
