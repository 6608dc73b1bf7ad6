"""A reference fetched in the process of a test: no job's process, no guard of its connections, no waiting."""

from __future__ import annotations

from dataclasses import dataclass, field

from config.jobs.folder import JobFollower
from config.jobs.said import JobNote
from config.values.references import parse
from worker.jobs.job import Job
from worker.sources.egress import EgressPolicy
from worker.sources.job import source_of
from worker.sources.pull import Pull
from worker.sources.store import Fetched, SourceStore


@dataclass
class Pulling:
    """``slept``: what was waited between attempts, s."""

    store: SourceStore
    job: Job
    hosts: tuple[str, ...] = ()
    slept: list[float] = field(default_factory=list)

    def __call__(self, text: str, what: str = "adapter", refresh: bool = False) -> Fetched:
        reference, policy = parse(text), EgressPolicy(self.hosts, private=True)
        pull = Pull(reference, what, self.store, lambda: source_of(reference, policy), self.job, self.slept.append)
        return pull.run(refresh)

    def notes(self) -> list[str]:
        return [said.text for said in JobFollower(self.job.folder).read() if isinstance(said, JobNote)]

    def left(self) -> list[str]:
        """What is in the store, but for locks."""
        root = self.store.root
        return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and p.name != "lock")
