"""On which of Ray's nodes there is room for what a worker needs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worker.drivers.nodes import WorkerNeed

#: As Ray calls them.
GPU = "GPU"

#: By which option of a task or an actor Ray is asked for it; all else goes by ``resources``.
_OPTIONS = {GPU: "num_gpus", "CPU": "num_cpus", "memory": "memory"}

#: Each node has one of ``node:ADDRESS``; who takes a bit of it is placed there and nowhere else.
_NODE, _BIT = "node:", 0.001


def bundle(need: WorkerNeed, host: str) -> dict[str, float]:
    """What a placement group on ``host`` asks for."""
    return {**amounts(need), f"{_NODE}{host}": _BIT}


def amounts(need: WorkerNeed) -> dict[str, float]:
    """As Ray counts, in parts of ten thousand."""
    wanted = {**({GPU: float(need.gpus)} if need.gpus else {}), **need.resources}
    return {name: round(amount, 4) for name, amount in wanted.items()}


def options(wanted: Mapping[str, float]) -> dict[str, Any]:
    """For a task or an actor that asks for these amounts, and for no processor unless that is among them."""
    named = {_OPTIONS[name]: amount for name, amount in wanted.items() if name in _OPTIONS}
    others = {name: amount for name, amount in wanted.items() if name not in _OPTIONS}
    return {"num_cpus": 0, **named, "resources": others}


def pinned_to(asked: Mapping[str, float]) -> str:
    return next((name.removeprefix(_NODE) for name in asked if name.startswith(_NODE)), "")


def choose(need: WorkerNeed, hosts: Sequence[str], nodes: Sequence[Mapping[str, Any]]) -> str:
    """The first of ``hosts`` that has room, as ``nodes`` (see `Holders.nodes`) say. Raises OSError with what is asked
    for, and what there is."""
    known = {node["host"]: node for node in nodes}
    for host in hosts:
        if host in known and _fits(need, known[host]):
            return host
    there = "; ".join(_said(need, known[host]) for host in sorted(hosts) if host in known) or "no node"
    raise OSError(f"no node has {asked(need)} free; there is: {there}")


def less(nodes: Sequence[Mapping[str, Any]], promised: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """``nodes`` without what the bundles ``promised`` are about to take."""
    return [
        {**node, "free": {
            name: amount - sum(each.get(name, 0.0) for each in promised if pinned_to(each) == node["host"])
            for name, amount in node["free"].items()
        }}
        for node in nodes
    ]  # fmt: skip


def asked(need: WorkerNeed) -> str:
    """In words."""
    words = [f"{need.gpus:g} GPU{'s' * (need.gpus > 1)}"] if need.gpus else []
    words += [f"{amount:g} {name}" for name, amount in sorted(need.resources.items())]
    words += [f"{key}={value}" for key, value in sorted(need.labels.items())]
    return ", ".join(words)


def _fits(need: WorkerNeed, node: Mapping[str, Any]) -> bool:
    wanted = {GPU: need.gpus, **need.resources}
    enough = all(node["free"].get(name, 0.0) + 1e-6 >= amount for name, amount in wanted.items() if amount)
    return enough and all(node["labels"].get(key) == value for key, value in need.labels.items())


def _said(need: WorkerNeed, node: Mapping[str, Any]) -> str:
    """What of it the node has."""
    names = [*([GPU] if need.gpus else []), *sorted(need.resources)]
    words = [f"{node['free'].get(name, 0.0):g} of {node['total'].get(name, 0.0):g} {name}" for name in names]
    words += [f"{key}={node['labels'].get(key, '-')}" for key in sorted(need.labels)]
    return f"{node['host']}: {', '.join(words)}"
