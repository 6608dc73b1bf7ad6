"""The picture of a run. Needs matplotlib, which the extra `plot` brings; nothing else here does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.tools.bench.samples import over_time
from config.errors import UsageError

if TYPE_CHECKING:
    from cluster.tools.bench.result import Result

#: Parts of the time axis, at most; none is shorter than a tenth of a second.
_PARTS = 60

MISSING = "no plot: matplotlib is not installed (pip install 'clusterctl[plot]')"


def blank(width: float, height: float) -> Any:
    """A figure of so many inches. Raises UsageError where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(MISSING) from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # no window, wherever it runs
    return figure


def draw(result: Result, file: Path) -> None:
    """Latencies and throughput of ``result`` into ``file``, whose suffix says the format.

    Raises UsageError where matplotlib is missing, OSError where the file cannot be written."""
    figure = blank(11, 7)
    axes = figure.subplots(2, 2)
    good = [sample for sample in result.samples if sample.error is None]
    firsts = [s.ttft * 1000 for s in good if s.ttft is not None]
    _shares(axes[0][0], {"time to first token": firsts, "end to end": [s.latency * 1000 for s in good]})
    outputs = [tpot * 1000 for s in good if (tpot := s.tpot) is not None]
    _shares(axes[0][1], {"between tokens": [g * 1000 for s in good for g in s.gaps], "time per output token": outputs})
    _throughput(axes[1][0], axes[1][1], result)
    models = ", ".join(dict.fromkeys(sample.model for sample in result.samples))
    figure.suptitle(f"{models[:80]}: {len(good)} answered, {len(result.samples) - len(good)} failed")
    figure.savefig(file, dpi=110)


def _shares(axis: Any, series: dict[str, list[float]]) -> None:
    """For each latency the share of those that took no longer."""
    for name, values in series.items():
        if values:
            ordered = sorted(values)
            axis.step(ordered, [(n + 1) / len(ordered) for n in range(len(ordered))], where="post", label=name)
    axis.set_xlabel("ms")
    axis.set_ylabel("share that took no longer")
    axis.set_xlim(left=0)
    axis.set_ylim(0, 1.02)
    axis.grid(alpha=0.3)
    if any(series.values()):
        axis.legend(loc="lower right")


def _throughput(left: Any, right: Any, result: Result) -> None:
    """Over the seconds of all runs, one after the other."""
    offset = 0.0
    for outcome in result.outcomes:
        if outcome.duration <= 0:
            continue
        parts = max(1, min(_PARTS, int(outcome.duration * 10)))
        middles, tokens, answers = over_time(outcome.samples, outcome.duration, parts)
        at = [offset + middle for middle in middles]
        left.plot(at, tokens, color="tab:green")
        right.plot(at, answers, color="tab:purple")
        offset += outcome.duration
    for axis, name in ((left, "output tokens a second"), (right, "answers a second")):
        axis.set_xlabel("s")
        axis.set_ylabel(name)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
