"""Adapters that are not as the engine loads them, made so by a confined job (`worker.conversion`)."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.jobs import process
from cluster.jobs.followed import FollowedJob
from config.jobs.folder import JobSpec, last_word
from config.jobs.said import JobFailure, JobResult
from worker.adapters.store import CONVERTED
from worker.adapters.tensors import AdapterRejected

#: Seconds that a conversion may take; its processor time is bounded by its size.
_LONGEST = 900.0

#: All that its process has of our environment.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "TMPDIR")


@dataclass(frozen=True, slots=True)
class ConvertedAdapter:
    """``folder`` holds it, in one that is its alone; ``done``: sentences."""

    folder: Path
    done: tuple[str, ...]

    def discard(self) -> None:
        """Blocks."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)


class AdapterConversions:
    """One at a time, in folders in ``store``; ``environment()``: ours."""

    def __init__(self, store: Path, environment: Callable[[], Mapping[str, str]]) -> None:
        self._store, self._environment = store, environment
        self._lock = asyncio.Lock()

    async def convert(self, folder: Path, model: str) -> ConvertedAdapter:
        """Of the adapter in ``folder``, which is of the base ``model``. Raises AdapterRejected with a sentence that
        says why not, OSError."""
        async with self._lock:
            work = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=CONVERTED, dir=self._store))
            try:
                return await self._convert(folder, model, work)
            except BaseException:
                await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)
                raise

    async def _convert(self, folder: Path, model: str, work: Path) -> ConvertedAdapter:
        inherited, result = self._environment(), work / "adapter"
        environment = {name: inherited[name] for name in _ENVIRONMENT if name in inherited}
        base = model if Path(model).is_dir() else None
        spec = JobSpec("convert", {"source": str(folder), "out": str(result), "base": base})
        followed = FollowedJob(work, await asyncio.to_thread(process.start, work, spec, environment))
        try:
            async with asyncio.timeout(_LONGEST):
                _, why, status = await followed.until_over()
        except TimeoutError:
            await followed.end()
            raise AdapterRejected(400, f"the conversion of {folder} took longer than {_LONGEST:g} s") from None
        except BaseException:
            await followed.end()
            raise
        word = await asyncio.to_thread(last_word, work)
        if isinstance(word, JobResult):
            return ConvertedAdapter(result, tuple(map(str, word.values.get("done", ()))))
        failure = word if isinstance(word, JobFailure) else JobFailure(why or "", status or 500)
        raise AdapterRejected(failure.status, f"the adapter in {folder} cannot be converted: {failure.message}")
