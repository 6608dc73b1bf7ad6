"""Puts the workers' metrics together: each sample gets an ``instance`` label, each family stands together. Pure.

Text format 0.0.4: all lines of one metric have to be one group, with HELP and TYPE given once.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from prometheus_client.utils import floatToGoString

_SUFFIXES = ("_bucket", "_sum", "_count", "_total", "_created")


def merge(texts: Mapping[str, str], own: str = "") -> str:
    """``texts``: the exposition of each worker by instance; ``own``: the balancer's, which keeps its labels. A line
    that is no sample is dropped; a sample's own ``instance`` becomes ``exported_instance``, as Prometheus does."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for instance, text in (("", own), *texts.items()):
        label = f'instance="{instance}"' if instance else ""
        for line in text.split("\n"):
            if line.startswith("# "):
                _, kind, rest = line.split(" ", 2) if line.count(" ") >= 2 else ("", "", "")
                if kind in ("HELP", "TYPE"):
                    name = rest.split(" ", 1)[0]
                    head = heads.setdefault(name, [])
                    if not any(known.startswith(f"# {kind} ") for known in head):
                        head.append(line)
                    samples.setdefault(name, [])
            elif line:
                _add(samples, line, label)
    lines: list[str] = []
    for name, group in samples.items():
        lines += heads.get(name, [])
        lines += group
    return "\n".join(lines) + "\n" if lines else ""


def samples(texts: Sequence[str], alike: Collection[str]) -> dict[str, float]:
    """Values by series (name and labels) of several processes: added, but those of the metrics ``alike``, which each
    process reads from the same place, are taken once, from the first that has them."""
    found: dict[str, float] = {}
    for line in (line for text in texts for line in text.split("\n")):
        if line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            if series not in found:
                found[series] = float(value)
            elif series.partition("{")[0] not in alike:
                found[series] += float(value)
    return found


def total(texts: Sequence[str], alike: Collection[str]) -> str:
    """One exposition for several processes, see `samples`; all HELP and TYPE lines come first."""
    heads = dict.fromkeys(line for text in texts for line in text.split("\n") if line.startswith("#"))
    lines = [*heads, *(f"{series} {_number(value)}" for series, value in samples(texts, alike).items())]
    return "\n".join(lines) + "\n" if lines else ""


def _number(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


_SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?([ \t].+)')
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)(\s*=\s*"(?:[^"\\]|\\.)*")')


def _add(samples: dict[str, list[str]], line: str, label: str) -> None:
    match = _SAMPLE.fullmatch(line)
    if match is None:
        return
    name, labels, rest = match[1], (match[2] or "").strip(), match[3]
    if label:
        labels = ",".join(filter(None, (label, _rename(labels))))
    labelled = f"{name}{{{labels}}}{rest}" if labels else f"{name}{rest}"
    samples.setdefault(_family(name, samples), []).append(labelled)


def _rename(labels: str) -> str:
    return _LABEL.sub(lambda m: ("exported_instance" if m[1] == "instance" else m[1]) + m[2], labels)


def _family(sample: str, known: Mapping[str, list[str]]) -> str:
    if sample in known:
        return sample
    for suffix in _SUFFIXES:
        if sample.endswith(suffix) and sample[: -len(suffix)] in known:
            return sample[: -len(suffix)]
    return sample
