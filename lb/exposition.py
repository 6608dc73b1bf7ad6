"""Puts the workers' metrics together: each sample gets an ``instance`` label, each family stands together. Pure.

Text format 0.0.4: all lines of one metric have to be one group, with HELP and TYPE given once.
"""

from __future__ import annotations

from collections.abc import Mapping

_SUFFIXES = ("_bucket", "_sum", "_count", "_total", "_created")


def merge(texts: Mapping[str, str]) -> str:
    """``texts``: the exposition of each worker by instance."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for instance, text in texts.items():
        label = f'instance="{instance}"'
        for line in text.splitlines():
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


def _add(samples: dict[str, list[str]], line: str, label: str) -> None:
    brace = line.find("{")
    space = line.find(" ")
    if brace != -1 and (space == -1 or brace < space):
        name = line[:brace]
        separator = "" if line[brace + 1] == "}" else ","
        labelled = f"{name}{{{label}{separator}{line[brace + 1 :]}"
    elif space > 0:
        name = line[:space]
        labelled = f"{name}{{{label}}}{line[space:]}"
    else:
        return
    samples.setdefault(_family(name, samples), []).append(labelled)


def _family(sample: str, known: Mapping[str, list[str]]) -> str:
    if sample in known:
        return sample
    for suffix in _SUFFIXES:
        if sample.endswith(suffix) and sample[: -len(suffix)] in known:
            return sample[: -len(suffix)]
    return sample
