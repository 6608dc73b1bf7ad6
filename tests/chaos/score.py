"""What came of a run: every answer and every fault, counted, as a table and as JSON. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from chaos.load import Outcome
from chaos.oracle import Kind

_COLUMNS = (
    "fault", "times", "requests", "failed", "wrong", "lost", "moved", "detect p50", "max", "restore p50", "max",
)  # fmt: skip
NOTHING = "between faults"


@dataclass(frozen=True)
class Struck:
    """One fault that was; times in seconds of the monotonic clock, None for what was not seen or does not apply."""

    name: str
    began: float
    ended: float
    detected: float | None = None
    restored: float | None = None
    moved: float | None = None
    problem: str = ""
    note: str = ""


@dataclass
class Score:
    """``divergence``: the share of answers that differ between two undisturbed runs, which may differ here too."""

    divergence: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    struck: list[Struck] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    moved: float | None = None
    #: What was promised of the cluster as a whole and did not come.
    broken: list[str] = field(default_factory=list)

    def problem(self, words: str) -> None:
        if words:
            self.broken.append(words)

    def failed(self) -> int:
        return sum(o.kind is Kind.FAILED and not o.lost for o in self.outcomes)

    def wrong(self) -> int:
        return sum(o.kind is Kind.WRONG for o in self.outcomes)

    def problems(self) -> list[str]:
        return [*self.broken, *(f"{s.name}: {s.problem}" for s in self.struck if s.problem)]

    def passed(self) -> bool:
        """Nothing failed, nothing was wrong beyond what undisturbed runs differ by, and every promise was kept."""
        allowed = self.divergence * len(self.outcomes)
        return bool(self.outcomes) and not self.failed() and self.wrong() <= allowed and not self.problems()

    def rows(self) -> list[dict[str, Any]]:
        """One a fault, and one for what met none; an answer belongs to the last fault that it lived through."""
        met: dict[str, list[Outcome]] = defaultdict(list)
        for outcome in self.outcomes:
            met[self._fault_of(outcome)].append(outcome)
        names = dict.fromkeys(s.name for s in self.struck)
        rows = [_row(name, met[name], [s for s in self.struck if s.name == name]) for name in names]
        return rows + ([_row(NOTHING, met[NOTHING], [])] if met[NOTHING] else [])

    def _fault_of(self, outcome: Outcome) -> str:
        over = [s for s in self.struck if s.began <= outcome.hit and s.ended >= outcome.began]
        return max(over, key=lambda s: s.began).name if over else NOTHING

    def to_json(self) -> dict[str, Any]:
        pauses = sorted(o.pause for o in self.outcomes if o.streamed)
        return {
            "requests": len(self.outcomes),
            "failed": self.failed(),
            "wrong": self.wrong(),
            "lost": sum(o.lost for o in self.outcomes),
            "moved": self.moved,
            "divergence": self.divergence,
            "passed": self.passed(),
            "longest_pause_s": _spread(pauses),
            "faults": self.rows(),
            "skipped": self.skipped,
            "problems": dict(Counter(self.problems())),
            "notes": list(dict.fromkeys(f"{s.name}: {s.note}" for s in self.struck if s.note)),
            "reasons": dict(_reasons(self.outcomes)),
        }


def _row(name: str, outcomes: Sequence[Outcome], struck: Sequence[Struck]) -> dict[str, Any]:
    moved = [s.moved for s in struck if s.moved is not None]
    return {
        "fault": name,
        "times": len(struck),
        "requests": len(outcomes),
        "failed": sum(o.kind is Kind.FAILED and not o.lost for o in outcomes),
        "wrong": sum(o.kind is Kind.WRONG for o in outcomes),
        "lost": sum(o.lost for o in outcomes),
        "moved": sum(moved) if moved else None,
        "detect_s": _spread(sorted(s.detected - s.began for s in struck if s.detected is not None)),
        "restore_s": _spread(sorted(s.restored - s.began for s in struck if s.restored is not None)),
    }


def _spread(ordered: Sequence[float]) -> dict[str, float] | None:
    if not ordered:
        return None
    return {"p50": round(ordered[(len(ordered) - 1) // 2], 3), "max": round(ordered[-1], 3)}


def _reasons(outcomes: Iterable[Outcome], most: int = 12) -> list[tuple[str, int]]:
    """Why answers failed or were wrong, the most frequent first."""
    found = Counter(
        f"{'lost' if o.lost else o.kind}, {'stream' if o.streamed else 'plain'}: {o.reason}"
        for o in outcomes if o.kind is not Kind.OK
    )  # fmt: skip
    return found.most_common(most)


def table(result: dict[str, Any]) -> str:
    """The scorecard of `Score.to_json`, as Markdown."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + "---|" * len(_COLUMNS)]
    totals = {"fault": "**all**", "times": sum(row["times"] for row in result["faults"]), "detect_s": None}
    for row in [*result["faults"], {**result, **totals, "restore_s": None}]:
        cells = [str(row[name]) for name in ("fault", "times", "requests", "failed", "wrong", "lost")]
        cells.append("–" if row["moved"] is None else f"{row['moved']:.0f}")
        for spread in (row["detect_s"], row["restore_s"]):
            cells += [f"{spread['p50']:.2f} s", f"{spread['max']:.2f} s"] if spread else ["–", "–"]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [f"| {name} | skipped: {why} |" + " |" * (len(_COLUMNS) - 2) for name, why in result["skipped"].items()]
    return "\n".join(lines)


def remarks(result: dict[str, Any]) -> str:
    """What a table has no column for."""
    lines = [f"not as promised, {count} x: {words}" for words, count in result["problems"].items()]
    lines += [f"{count} x {words}" for words, count in result["reasons"].items()]
    if result["divergence"]:
        lines.append(f"undisturbed runs differ from each other in {result['divergence']:.1%} of the cases")
    return "\n".join(lines + result["notes"])
