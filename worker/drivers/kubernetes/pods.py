"""Which pods there are for workers, and how many there should be. Pure: documents and times are arguments.

An EndpointSlice (discovery.k8s.io/v1) names the pods behind a Service. A pod may stand in two of them at a time, while
Kubernetes moves it from one to another. Addresses are those of IPv4.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: Of the Service's port on which agents listen.
PORT = "agent"

#: Pods that are looked at; a cluster has at most 1024 workers.
MOST_PODS = 4096

#: Seconds for which fewer pods have to be enough, and for which a pod has to be lost before it is deleted.
FEWER_AFTER_S, DELETE_AFTER_S = 10.0, 60.0

_ORDINAL = re.compile(r"-(\d{1,9})")


@dataclass(frozen=True, slots=True)
class Pod:
    """``host``: its address; ``port``: of its agent."""

    name: str
    uid: str
    host: str
    port: int

    @property
    def node(self) -> str:
        """What it is called among the agents: another pod of that name is another one."""
        return f"{self.name}.{self.uid[:8]}"

    @property
    def ordinal(self) -> int | None:
        """Its number in the StatefulSet; None where it has none."""
        found = _ORDINAL.fullmatch(self.name, self.name.rfind("-")) if "-" in self.name else None
        return int(found[1]) if found else None


def read_slice(document: Mapping[str, Any]) -> dict[str, Pod]:
    """By uid, those of an EndpointSlice that have an address and an agent. Raises ValueError for what is none."""
    try:
        ports = [port["port"] for port in document.get("ports") or () if port.get("name") == PORT]
        if document["addressType"] != "IPv4" or not ports or not isinstance(ports[0], int):
            return {}
        found = {}
        for endpoint in document.get("endpoints") or ():
            target = endpoint.get("targetRef") or {}
            if target.get("kind") == "Pod" and endpoint["addresses"]:
                uid = str(target["uid"])
                found[uid] = Pod(str(target["name"]), uid, str(endpoint["addresses"][0]), ports[0])
        return found
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"no EndpointSlice: {error}") from None


class PodTable:
    """The pods of all slices, as far as they were told."""

    def __init__(self) -> None:
        self._slices: dict[str, dict[str, Pod]] = {}

    def replace(self, documents: Iterable[Mapping[str, Any]]) -> None:
        """These are all there are. Raises ValueError, and nothing has changed then."""
        self._keep({_name(document): read_slice(document) for document in documents})

    def apply(self, kind: str, document: Mapping[str, Any]) -> None:
        """An event of a watch (ADDED, MODIFIED, DELETED; bookmarks say nothing of pods). Raises as `replace`."""
        if kind == "DELETED":
            self._slices.pop(_name(document), None)
        elif kind in ("ADDED", "MODIFIED"):
            self._keep({**self._slices, _name(document): read_slice(document)})

    def pods(self) -> dict[str, Pod]:
        """By `Pod.node`."""
        merged: dict[str, Pod] = {}
        for name in sorted(self._slices, reverse=True):  # the first of them wins
            merged |= self._slices[name]
        return {pod.node: pod for pod in merged.values()}

    def _keep(self, slices: dict[str, dict[str, Pod]]) -> None:
        if sum(map(len, slices.values())) > MOST_PODS:
            raise ValueError(f"more than {MOST_PODS} pods")
        self._slices = slices


def _name(document: Mapping[str, Any]) -> str:
    try:
        return str(document["metadata"]["name"])
    except (KeyError, TypeError):
        raise ValueError("a document without a name") from None


@dataclass(slots=True)
class Replicas:
    """How many pods a StatefulSet is to have. More are asked for at once; fewer when they have been enough for
    `FEWER_AFTER_S`, as a pod that is gone takes long to come back."""

    _fewer_since: float | None = field(default=None)

    def change(self, present: int, needed: int, now: float) -> int | None:
        """To how many, or None for none. ``now``: seconds, monotonic."""
        if needed >= present:
            self._fewer_since = None
            return needed if needed > present else None
        if self._fewer_since is None:
            self._fewer_since = now
        if now - self._fewer_since < FEWER_AFTER_S:
            return None
        self._fewer_since = None
        return needed


def needed(workers: int, used: Collection[int], lost: int) -> int:
    """Pods for so many workers, where those with the ordinals ``used`` have one and so many others are lost. A
    StatefulSet takes the one with the highest number away first, so none below one that is used can go."""
    return max(workers + min(lost, workers), max(used, default=-1) + 1)


def crowded(used: Collection[int], free: Collection[int]) -> int | None:
    """The highest of the ordinals ``used``, where a pod below it is free: that one cannot go while it is used."""
    highest = max(used, default=-1)
    return highest if any(ordinal < highest for ordinal in free) else None


class LostPods:
    """Since when pods are lost that Kubernetes says are there."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def due(self, lost: Collection[str], now: float) -> list[str]:
        """Which of them are to be deleted now; each is named again only after as long. ``now``: s, monotonic."""
        self._since = {name: self._since.get(name, now) for name in lost}
        found = [name for name, since in self._since.items() if now - since >= DELETE_AFTER_S]
        self._since |= dict.fromkeys(found, now)
        return found
