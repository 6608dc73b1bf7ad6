"""Jobs of a cluster: what a client may ask of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StrictBool, StrictStr

from cluster.api.schemas import Body, Whole
from cluster.errors import Refused
from cluster.jobs.record import GpuWish, JobRecord
from cluster.jobs.runner import JobRunner
from config.errors import nearest
from config.identity.principal import Principal
from config.jobs.folder import LINES, JobSpec, last_word, read_spec
from config.jobs.said import JobResult, decode, to_json
from worker.jobs import kinds
from worker.jobs.job import JobFailed
from worker.sources.discreet import discreet_values

#: Bytes of what a job has said, in one answer.
_MOST_BYTES = 1 << 18


class StartJob(Body):
    """``background``: it gives way to everybody else on the processors; None: as suits the machine. ``gpus``: None
    for one that nobody uses; an empty list for none."""

    kind: StrictStr = Field(min_length=1, max_length=64)
    arguments: dict[str, Any] = Field(default_factory=dict)
    background: StrictBool | None = None
    gpus: list[Annotated[Whole, Field(ge=0, le=4095)]] | None = Field(None, max_length=64)
    share_gpus: StrictBool = False


class JobCommands:
    """``not_ending()`` raises Refused while the cluster shuts down."""

    def __init__(self, runner: JobRunner, not_ending: Callable[[], None]) -> None:
        self._runner, self._not_ending = runner, not_ending

    def every(self) -> dict[str, Any]:
        """The newest first."""
        return {"jobs": [self._runner.shown(job) for job in reversed(self._runner.registry.jobs.values())]}

    async def find(self, name: str) -> dict[str, Any]:
        """With what was asked for, and what came of it. Raises Refused (404)."""
        job = self._runner.registry.find(name)
        arguments, result = await asyncio.to_thread(_read, self._runner.folder(job.id), job)
        return {**self._runner.shown(job), "arguments": arguments, "result": result}

    async def start(self, body: StartJob, who: Principal) -> dict[str, Any]:
        """Raises Refused, NotSaved, OSError."""
        self._not_ending()
        if body.kind not in kinds.KINDS:
            raise Refused(404, f"there are no jobs of the kind {body.kind!r}{nearest(body.kind, kinds.KINDS)}", "kind")
        try:
            kind = await asyncio.to_thread(kinds.check, body.kind, body.arguments)
        except JobFailed as error:
            raise Refused(error.status, str(error), "arguments") from None
        wish = GpuWish(None if body.gpus is None else tuple(dict.fromkeys(body.gpus)), body.share_gpus)
        job = await self._runner.submit(
            JobSpec(body.kind, body.arguments), who.name, computes=kind.computes, background=body.background, wish=wish,
        )
        return self._runner.shown(job)

    def cancel(self, name: str) -> dict[str, Any]:
        """Raises Refused."""
        return self._runner.shown(self._runner.cancel(name))

    async def said(self, name: str, since: int) -> dict[str, Any]:
        """What it has said after the first ``since`` bytes of it, and where to go on (``next``). Raises Refused."""
        job = self._runner.registry.find(name)
        over = job.ended  # before it is read: with that there is nothing more to come
        lines, after = await asyncio.to_thread(_lines, self._runner.folder(job.id), since)
        events = [event for line in lines if (event := _event(line)) is not None]
        return {"events": events, "next": after, "over": over and after == since, "job": self._runner.shown(job)}


def _read(folder: Path, job: JobRecord) -> tuple[Any, Any]:
    """Nothing of what is not there any more."""
    arguments = result = None
    with contextlib.suppress(OSError, ValueError):
        arguments = discreet_values(read_spec(folder).arguments)
    with contextlib.suppress(OSError):
        end = last_word(folder) if job.ended else None
        result = discreet_values(end.values) if isinstance(end, JobResult) else None
    return arguments, result


def _lines(folder: Path, since: int) -> tuple[list[bytes], int]:
    """Whole lines from ``since`` on, and where the next one begins."""
    try:
        with (folder / LINES).open("rb") as file:
            file.seek(since)
            data = file.read(_MOST_BYTES)
    except OSError:
        return [], since
    whole = data[: data.rfind(b"\n") + 1]
    return whole.splitlines(), since + len(whole)


def _event(line: bytes) -> dict[str, Any] | None:
    said = decode(line)
    return None if said is None else to_json(said)
