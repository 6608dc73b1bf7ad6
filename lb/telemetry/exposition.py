"""Puts the workers' metrics together: each sample gets an ``instance`` label, each family stands together. Pure.

Text format 0.0.4: all lines of one metric have to be one group, with HELP and TYPE given once.

What is long is a generator that yields between two steps of well under a millisecond, so that whoever runs it in the
request loop can let requests in between; `lb.telemetry.cooperative` does.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from typing import TypeVar

from prometheus_client.utils import floatToGoString

_T = TypeVar("_T")

#: What yields between its steps, and returns.
Steps = Generator[None, None, _T]

_SUFFIXES = ("_bucket", "_sum", "_count", "_total", "_created")

#: Lines a step, and lines in one piece of the outcome.
_STEP, _PIECE = 200, 500

#: Series that are remembered: those of a few different engines.
_MOST_KNOWN = 20_000


def whole(steps: Steps[_T]) -> _T:
    """All steps at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


class Merger:
    """Remembers how a series is written with an ``instance``: workers say the same ones at every scrape, and all of
    them nearly the same, so that a line costs a look and not a match."""

    def __init__(self) -> None:
        # Of "name{labels}": the name, what comes before the instance's value, and what comes after.
        self._known: dict[str, tuple[str, str, str]] = {}

    def merge(self, texts: Mapping[str, str], own: Iterable[str] = ()) -> Steps[list[str]]:
        """``texts``: the exposition of each worker by instance; ``own``: the balancer's in pieces, which keeps its
        labels. Returns the outcome in pieces. A line that is no sample is dropped; a sample's own ``instance`` becomes
        ``exported_instance``, as Prometheus does."""
        page = _MergedPage()
        for piece in own:
            self._take_own(page, piece)
            yield
        for instance, text in texts.items():
            lines = text.split("\n")
            for start in range(0, len(lines), _STEP):
                self._take(page, instance, lines[start : start + _STEP])
                yield
        return (yield from page.pieces())

    def _take_own(self, page: _MergedPage, piece: str) -> None:
        for line in piece.split("\n"):
            if line.startswith("#"):
                page.head(line)
            elif line:
                end = line.find("{")
                page.group(line[: end if end > 0 else line.find(" ")]).append(line)

    def _take(self, page: _MergedPage, instance: str, lines: Iterable[str]) -> None:
        known, groups = self._known, page.groups
        for line in lines:
            series, _, value = line.rpartition(" ")
            parts = known.get(series)
            if parts is None:
                if line.startswith("#"):
                    page.head(line)
                    continue
                parts, value = self._match(line, series)
                if parts is None:
                    continue
            name, before, after = parts
            group = groups.get(name)
            if group is None:
                group = page.group(name)
            group.append(f"{before}{instance}{after} {value}")

    def _match(self, line: str, series: str) -> tuple[tuple[str, str, str] | None, str]:
        match = _SAMPLE.fullmatch(line)
        if match is None:
            return None, ""
        name, labels, rest = match[1], (match[2] or "").strip(), match[3].lstrip(" \t")
        others = _rename(labels)
        parts = (name, f'{name}{{instance="', f'",{others}}}' if others else '"}')
        if series == line[: -len(match[3])] and match[3][0] == " " and " " not in rest:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[series] = parts
        return parts, rest


def gathered(pieces: Iterable[str]) -> Steps[list[str]]:
    """All pieces, each made in a step of its own."""
    found: list[str] = []
    for piece in pieces:
        found.append(piece)
        yield
    return found


def merge(texts: Mapping[str, str], own: str = "") -> str:
    """`Merger.merge` at once."""
    return "".join(whole(Merger().merge(texts, (own,))))


class _MergedPage:
    """Families in the order in which they were first seen."""

    def __init__(self) -> None:
        self._heads: dict[str, list[str]] = {}
        self._samples: dict[str, list[str]] = {}
        #: The lines among which a sample of that name belongs; only names that were met.
        self.groups: dict[str, list[str]] = {}

    def head(self, line: str) -> None:
        """A comment."""
        parts = line.split(" ", 3)
        if len(parts) < 3 or parts[0] != "#" or parts[1] not in ("HELP", "TYPE"):
            return
        kind, name = parts[1], parts[2]
        head = self._heads.setdefault(name, [])
        if not any(known.startswith(f"# {kind} ") for known in head):
            head.append(line)
        if name not in self._samples:
            self._samples[name] = []
            self.groups.pop(name, None)  # a family of its own from here on

    def group(self, name: str) -> list[str]:
        found = self.groups.get(name)
        if found is None:
            found = self.groups[name] = self._samples.setdefault(_family(name, self._samples), [])
        return found

    def pieces(self) -> Steps[list[str]]:
        pieces: list[str] = []
        lines: list[str] = []
        for name, group in self._samples.items():
            lines += self._heads.get(name, ())
            lines += group
            if len(lines) >= _PIECE:
                lines.append("")
                pieces.append("\n".join(lines))
                lines = []
                yield
        if lines:
            lines.append("")
            pieces.append("\n".join(lines))
        return pieces


def samples(texts: Sequence[str], alike: Collection[str]) -> dict[str, float]:
    """Values by series (name and labels) of several processes: added, but those of the metrics ``alike``, which each
    process reads from the same place, are taken once, from the first that has them."""
    return whole(sample_steps(texts, alike))


def sample_steps(texts: Iterable[str], alike: Collection[str]) -> Steps[dict[str, float]]:
    """`samples` in steps."""
    found: dict[str, float] = {}
    for text in texts:
        lines = text.split("\n")
        for start in range(0, len(lines), _STEP):
            for line in lines[start : start + _STEP]:
                if line and not line.startswith("#"):
                    series, _, value = line.rpartition(" ")
                    if series not in found:
                        found[series] = float(value)
                    elif series.partition("{")[0] not in alike:
                        found[series] += float(value)
            yield
    return found


def total(texts: Sequence[str], alike: Collection[str]) -> str:
    """One exposition for several processes, see `samples`; all HELP and TYPE lines come first."""
    return "".join(whole(total_steps(texts, alike)))


def total_steps(texts: Sequence[str], alike: Collection[str]) -> Steps[list[str]]:
    """`total` in steps and pieces."""
    heads: dict[str, None] = {}
    for text in texts:
        heads |= dict.fromkeys(line for line in text.split("\n") if line.startswith("#"))
        yield
    found = list((yield from sample_steps(texts, alike)).items())
    pieces = ["\n".join([*heads, ""])] if heads else []
    for start in range(0, len(found), _STEP):
        pieces.append("".join([f"{series} {number(value)}\n" for series, value in found[start : start + _STEP]]))
        yield
    return pieces


def number(value: float) -> str:
    """A value as Go and Prometheus write it."""
    if -1e6 < value < 1e6:
        return repr(float(value))  # all but the few that Go writes otherwise
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


_SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?([ \t].+)')
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)(\s*=\s*"(?:[^"\\]|\\.)*")')


def _rename(labels: str) -> str:
    return _LABEL.sub(lambda m: ("exported_instance" if m[1] == "instance" else m[1]) + m[2], labels)


def _family(sample: str, known: Mapping[str, list[str]]) -> str:
    if sample in known:
        return sample
    for suffix in _SUFFIXES:
        if sample.endswith(suffix) and sample[: -len(suffix)] in known:
            return sample[: -len(suffix)]
    return sample
