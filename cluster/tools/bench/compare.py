"""Two results side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.tools.bench.result import FORMAT
from cluster.tools.bench.samples import LATENCIES
from config import bounded
from config.errors import UsageError

_RATES = {
    "requests_per_s": "answers per second", "output_tokens_per_s": "output tokens per second",
    "total_tokens_per_s": "tokens per second, prompts too",
}  # fmt: skip

_MOST = 64 * 1024 * 1024  # bytes

_SHOWN = ("mean", "median", "p95", "p99")

#: A difference smaller than this is not called better or worse.
_NOTABLE = 0.05


@dataclass(frozen=True, slots=True)
class ComparedFigure:
    """One figure of both. ``ratio`` is second to first; ``verdict``: "better", "worse" or nothing, of the second."""

    what: str
    first: float
    second: float
    ratio: float | None
    verdict: str


def read_result(path: Path) -> dict[str, Any]:
    """Raises UsageError for what is no result of a benchmark."""
    try:
        data = bounded.parse_json(bounded.read_text(path, _MOST).encode())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", exit_code=2) from None
    except ValueError:
        data = None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UsageError(f"{path}: no result of `clusterctl bench`", exit_code=2)
    return data


def groups(first: dict[str, Any], second: dict[str, Any]) -> Iterator[tuple[str, list[ComparedFigure]]]:
    """All requests, then each model that is in both, where there are several."""
    yield "all", rows(first["total"], second["total"])
    both = [model for model in first["models"] if model in second["models"]]
    if max(len(first["models"]), len(second["models"])) > 1:
        for model in both:
            yield model, rows(first["models"][model], second["models"][model])


def rows(first: dict[str, Any], second: dict[str, Any]) -> list[ComparedFigure]:
    """The figures that both have."""
    found = [_row("answered", first["completed"], second["completed"], None)]
    found.append(_row("failed", first["failed"], second["failed"], more_is_better=False))
    found += [_row(name, first[key], second[key], more_is_better=True) for key, name in _RATES.items()]
    for key, name in LATENCIES.items():
        one, two = first.get(key), second.get(key)
        if one and two:
            found += [_row(f"{name}, {figure}, ms", one[figure], two[figure], False) for figure in _SHOWN]
    return found


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Settings by which the two runs differ, as "name: one, other"."""
    one, two = first["settings"], second["settings"]
    names = list(dict.fromkeys([*one, *two]))
    return [f"{n}: {_said(one.get(n))}, {_said(two.get(n))}" for n in names if one.get(n) != two.get(n)]


def _said(value: Any) -> str:
    return "-" if value is None else str(value)


def _row(what: str, first: float, second: float, more_is_better: bool | None) -> ComparedFigure:
    ratio = second / first if first else None
    grown = second > first if ratio is None or abs(ratio - 1) > _NOTABLE else None
    if more_is_better is None or grown is None or first == second:
        return ComparedFigure(what, first, second, ratio, "")
    return ComparedFigure(what, first, second, ratio, "better" if grown == more_is_better else "worse")
