"""What balancers said of themselves last, made one: of processes here, and of whole machines that have joined. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

from cluster.fleet.autoscaler import Demand
from cluster.models.record import ModelUse


class LatestReport(Protocol):
    """One of them, see `cluster.balancers.process.BalancerProcess`."""

    @property
    def engaged(self) -> bool: ...

    @property
    def version(self) -> tuple[int, int]: ...

    @property
    def in_flight(self) -> Mapping[str, int]: ...

    @property
    def waiting(self) -> Mapping[str, tuple[int, int]]: ...

    @property
    def queued(self) -> int: ...

    @property
    def unread(self) -> float: ...

    @property
    def models(self) -> Mapping[str, list[float]]: ...


def in_flight(reporters: Iterable[LatestReport]) -> Counter[str]:
    """Requests by backend."""
    found: Counter[str] = Counter()
    for each in reporters:
        found.update(each.in_flight)
    return found


def load(reporters: Collection[LatestReport], backend: str) -> tuple[int, int, int]:
    """Of one backend: the requests in flight, how many of them wait for the first byte of their answers, and the bytes
    of the largest body among these."""
    waiting = [each.waiting.get(backend, (0, 0)) for each in reporters]
    return (
        sum(each.in_flight.get(backend, 0) for each in reporters),
        sum(count for count, _ in waiting),
        max((largest for _, largest in waiting), default=0),
    )


def demand(reporters: Collection[LatestReport], backends: Collection[str], model: str | None) -> Demand:
    """For these backends; ``model``: the one that they serve, where there are several."""
    running = sum(each.in_flight.get(backend, 0) for each in reporters for backend in backends)
    if model is not None:  # prompts not read yet are told of all models together
        return Demand(running, models(reporters).get(model, ModelUse()).waiting)
    return Demand(running, sum(each.queued for each in reporters), sum(each.unread for each in reporters))


def models(reporters: Iterable[LatestReport]) -> dict[str, ModelUse]:
    """By model."""
    found: dict[str, ModelUse] = {}
    for each in reporters:
        for name, (running, waiting, oldest, latest) in each.models.items():
            found.setdefault(name, ModelUse()).add(int(running), int(waiting), oldest, latest)
    return found


def as_one(reporters: Collection[LatestReport]) -> dict[str, Any]:
    """The report of all of them as that of one (`config.link`), without what was used and done."""
    backends = {backend for each in reporters for backend in each.waiting}
    return {
        "type": "report",
        "version": list(min((each.version for each in reporters), default=(0, 0))),
        "in_flight": dict(in_flight(reporters)),
        "waiting": {backend: load(reporters, backend)[1:] for backend in backends},
        "queued": sum(each.queued for each in reporters), "unread": sum(each.unread for each in reporters),
        "models": {
            name: [use.in_flight, use.waiting, use.oldest, use.latest or 0.0] for name, use in models(reporters).items()
        },
    }  # fmt: skip
