"""A benchmark's results as a table, a file and a plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Summary = dict[str, dict[str, dict[str, float]]]
_RUST = ("vllm-router", "sglang-router")


def table(summary: Summary) -> str:
    lines: list[str] = []
    for scenario, by_target in summary.items():
        columns = list(next(iter(by_target.values())))
        lines += ["", f"| {scenario} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        for name, values in by_target.items():
            lines.append(f"| {name} | " + " | ".join(f"{values[column]:.2f}" for column in columns) + " |")
    return "\n".join(lines)


def verdicts(summary: Summary) -> str:
    """The ratios that are promised, as far as the run has them."""
    lines = [""]
    for scenario, unit, limit in (("small", "request", 0.7), ("streams", "chunk", 0.75)):
        cpu = {name: values["cpu_us"] for name, values in summary.get(scenario, {}).items()}
        rust = [cpu[name] for name in _RUST if name in cpu]
        for name in ("clusterctl", "clusterctl --no-resume"):
            if name in cpu and rust:
                ratio = cpu[name] / min(rust)
                lines.append(f"CPU per {unit}, {name}: {ratio:.2f} x the better Rust router (at most {limit})")
            if name in cpu and "nginx" in cpu and scenario == "streams":
                lines.append(f"CPU per {unit}, {name}: {cpu[name] / cpu['nginx']:.2f} x nginx (at most 1.35)")
        if scenario == "streams" and "clusterctl" in cpu and "clusterctl --no-resume" in cpu:
            ratio = cpu["clusterctl"] / cpu["clusterctl --no-resume"]
            lines.append(f"CPU per {unit}, streams read along or not: {ratio:.2f} (at most 1.30)")
        if "clusterctl" in cpu and "clusterctl again" in cpu:
            ratio = cpu["clusterctl"] / cpu["clusterctl again"]
            lines.append(f"CPU per {unit}, the same program twice: {ratio:.2f}")
    gaps = {name: values["gap_p99_ms"] for name, values in summary.get("paced", {}).items()}
    if "clusterctl" in gaps and "direct" in gaps:
        added = gaps["clusterctl"] - gaps["direct"]
        lines.append(f"added between chunks, p99 at 64 streams: {added:.2f} ms (at most 1)")
    if "clusterctl" in summary.get("many", {}):
        many = summary["many"]["clusterctl"]
        lines.append(f"open streams: {many['errors']:.0f} errors, {many['kib_per_stream']:.1f} KiB each (at most 40)")
    if "clusterctl" in summary.get("slow", {}):
        slow = summary["slow"]["clusterctl"]
        ratio = slow["gap_p99_ms_beside"] / slow["gap_p99_ms_alone"]
        lines.append(f"beside a client that does not read: p99 x {ratio:.2f} (at most 1.10)")
    return "\n".join(lines)


def write(folder: Path, results: dict[str, Any], summary: Summary) -> None:
    """``performance.json`` with every round, ``performance.svg`` with the medians of CPU time."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "performance.json").write_text(json.dumps({"medians": summary, "rounds": results}, indent=1) + "\n")
    (folder / "performance.svg").write_text(_plot(summary))


def _plot(summary: Summary) -> str:
    """Two bar charts, in plain SVG."""
    charts = [("small", "µs CPU per small request"), ("streams", "µs CPU per streamed chunk")]
    parts, top, width = [], 20, 720
    for scenario, title in charts:
        cpu = {name: values["cpu_us"] for name, values in summary.get(scenario, {}).items()}
        bars = [(name, value) for name, value in cpu.items() if name not in ("direct", "floor", "clusterctl again")]
        if not bars:
            continue
        most = max(value for _, value in bars)
        parts.append(f'<text x="10" y="{top}" font-weight="bold">{title}</text>')
        for name, value in bars:
            top += 26
            length = value / most * (width - 260)
            colour = "#2563eb" if name == "clusterctl" else "#9ca3af"
            parts.append(f'<text x="10" y="{top}">{name}</text>')
            parts.append(f'<rect x="140" y="{top - 13}" width="{length:.1f}" height="17" fill="{colour}"/>')
            parts.append(f'<text x="{146 + length:.1f}" y="{top}">{value:.1f}</text>')
        top += 44
    style = "font-family: sans-serif; font-size: 13px"
    body = "\n".join(parts)
    size = f'width="{width}" height="{top}" viewBox="0 0 {width} {top}"'
    background = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} style="{style}">\n{background}\n{body}\n</svg>\n'
