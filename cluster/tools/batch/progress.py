"""How far a run is, and the file that it writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.tools.batch import lines as batch_lines
from cluster.tools.batch.files import BatchStep, Output


@dataclass
class BatchProgress:
    """How far it is. ``kept``: lines that an earlier run wrote; ``offset``: bytes of the input that are behind it."""

    out: Output
    kept: int = 0
    asked: int = 0
    failed: int = 0
    tokens: int = 0
    offset: int = 0
    began: float = field(default_factory=time.monotonic)
    look: Callable[[], None] = lambda: None

    def take(self, step: BatchStep, answer: Mapping[str, Any] | None) -> None:
        """Writes what this step gave, where it is not there already."""
        self.kept += step.kept + bool(step.copied)
        self.failed += step.failed
        if step.copied:
            self.out.write(step.copied)
        if answer is not None:
            self.out.write(batch_lines.line_of(answer))
            self.asked += 1
            self.failed += bool(answer.get("error"))
            self.tokens += batch_lines.tokens_of(answer)
        self.offset = step.offset
        self.look()

    def rates(self) -> str:
        took = max(1e-3, time.monotonic() - self.began)
        return f"{self.asked / took:.1f} lines/s, {self.tokens / took:.1f} tokens/s"

    def summary(self) -> str:
        parts = [f"{self.kept + self.asked} lines"]
        if self.kept:
            parts.append(f"{self.kept} of them from before")
        parts.append(f"{self.failed} failed" + (" (--retry-errors asks them again)" if self._again else ""))
        if self.asked:
            parts.append(f"{time.monotonic() - self.began:.1f} s")
            parts.append(self.rates())
        return ", ".join(parts)

    @property
    def _again(self) -> bool:
        return self.failed > 0 and not self.out.plain

    def hint(self) -> str:
        """What of an unfinished run is left."""
        lines = self.kept + self.asked
        done = "; 1 line is written" if lines == 1 else f"; {lines} lines are written"
        return done if self.out.plain else f"{done}, the same command goes on from there"
