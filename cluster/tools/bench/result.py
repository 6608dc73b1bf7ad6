"""A benchmark's result as JSON: figures of all, of each model, and every request. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.tools.bench.lag import doubt
from cluster.tools.bench.samples import BenchRun, Sample, aggregate, first_details

#: What a result file calls itself.
FORMAT = "clusterctl bench 1"


@dataclass(frozen=True, slots=True)
class Result:
    """``outcomes``: one a run, in their order. Requests of a later run stand after those of the runs before."""

    settings: dict[str, Any]
    at: str
    interrupted: bool
    outcomes: tuple[BenchRun, ...]

    @property
    def samples(self) -> list[Sample]:
        return [sample for outcome in self.outcomes for sample in outcome.samples]

    @property
    def duration(self) -> float:
        """Seconds of all runs together."""
        return sum(outcome.duration for outcome in self.outcomes)

    def to_json(self, requests: bool) -> dict[str, Any]:
        """``requests``: with every single one."""
        body: dict[str, Any] = {
            "format": FORMAT, "at": self.at, "settings": self.settings, "interrupted": self.interrupted,
            "notes": self.notes(), "client": self._client(),
            "total": aggregate(self.samples, self.duration, sum(len(o.unfinished) for o in self.outcomes)),
            "models": self._models(), "error_examples": first_details(self.samples),
        }  # fmt: skip
        if requests:
            body["requests"] = [{"run": n, **s.to_json()} for n, o in enumerate(self.outcomes) for s in o.samples]
        return body

    def notes(self) -> list[str]:
        """Sentences on what the figures are not, or are worth."""
        notes = []
        if self.interrupted:
            notes.append("it was interrupted: these are the results so far")
        cold = [sample for outcome in self.outcomes for sample in outcome.cold]
        if failed := [sample for sample in cold if sample.error]:
            why = f"{failed[0].error}: {failed[0].detail}"
            notes.append(f"{len(failed)} of {len(cold)} requests to warm up failed ({why})")
        if uncounted := sum(1 for s in self.samples if s.error is None and not s.counted):
            notes.append(f"the server did not count the tokens of {uncounted} answers: their events were counted")
        if sentence := doubt(self._client()):
            notes.append(sentence)
        return notes

    def _client(self) -> dict[str, float | None]:
        """Of each figure the worst of all runs."""
        clients = [outcome.client for outcome in self.outcomes if outcome.client]
        return {
            key: max((v for client in clients if (v := client[key]) is not None), default=None)
            for key in ("lag_p99_ms", "lag_max_ms", "cpu_share")
        }

    def _models(self) -> dict[str, Any]:
        """Each model over the runs it was in: alone there, or beside the others of its mix."""
        found: dict[str, Any] = {}
        names = dict.fromkeys([*(s.model for s in self.samples), *(m for o in self.outcomes for m in o.unfinished)])
        for name in names:
            runs = [o for o in self.outcomes if name in o.unfinished or any(s.model == name for s in o.samples)]
            unfinished = sum(Counter(o.unfinished)[name] for o in runs)
            samples = [sample for sample in self.samples if sample.model == name]
            found[name] = aggregate(samples, sum(o.duration for o in runs), unfinished)
        return found


def all_failed(samples: Sequence[Sample]) -> bool:
    """Nothing was answered: nothing was measured."""
    return not any(sample.error is None for sample in samples)
