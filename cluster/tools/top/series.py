"""Reads a page of metrics: the few series that are wanted, and what follows from two pages. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

_SAMPLE = re.compile(r'([a-zA-Z_:][\w:]*)(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?[ \t]+(\S+)')
_LABEL = re.compile(r'([a-zA-Z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")

#: Values by the labels of their series.
Family = dict[frozenset[tuple[str, str]], float]


def read(page: str, wanted: Collection[str]) -> dict[str, Family]:
    """The samples of the names in ``wanted``; lines that are no samples are passed over."""
    starts = tuple(wanted)
    found: dict[str, Family] = {}
    for line in page.split("\n"):
        if not line.startswith(starts):
            continue
        match = _SAMPLE.match(line)
        if match is None or match[1] not in wanted:
            continue
        try:
            value = float(match[3])
        except ValueError:
            continue
        labels = frozenset((name, _unescaped(text)) for name, text in _LABEL.findall(match[2] or ""))
        found.setdefault(match[1], {})[labels] = value
    return found


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda m: "\n" if m[1] == "n" else m[1], text) if "\\" in text else text


def by(family: Family, label: str) -> dict[str, float]:
    """The sum for each value of ``label``."""
    found: dict[str, float] = defaultdict(float)
    for labels, value in family.items():
        if name := dict(labels).get(label):
            found[name] += value
    return dict(found)


def grown(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """By how much counters have grown. One that is less than before has begun anew; one that was not there has only
    come to be seen, and not grown by all it counts."""
    return {
        name: value - before[name] if value >= before[name] else value for name, value in now.items() if name in before
    }


def buckets(family: Family, instance: str | None = None) -> dict[str, float]:
    """Cumulative counts by upper bound of a histogram's ``_bucket`` samples, of one instance or of all together."""
    found: dict[str, float] = defaultdict(float)
    for labels, value in family.items():
        named = dict(labels)
        if "le" in named and instance in (None, named.get("instance")):
            found[named["le"]] += value
    return dict(found)


def quantile(share: float, cumulative: Iterable[tuple[float, float]]) -> float | None:
    """As Prometheus' ``histogram_quantile``: linear within a bucket; in the last, unbounded one, its lower bound.
    ``cumulative``: (upper bound, count up to it). None without observations."""
    edges = sorted(cumulative)
    if not edges or edges[-1][1] <= 0:
        return None
    rank = share * edges[-1][1]
    below = least = 0.0
    for bound, count in edges:
        if count >= rank and count > below:
            if bound == float("inf"):
                return least
            return least + (bound - least) * (rank - below) / (count - below)
        below, least = max(below, count), bound if bound != float("inf") else least
    return least
