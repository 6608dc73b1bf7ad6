"""Workers in the pods of a StatefulSet, one in each: as many pods as there are to be workers."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

from worker.drivers.kubernetes.directory import KubernetesDirectory
from worker.drivers.kubernetes.pods import LostPods, Replicas, crowded, needed
from worker.drivers.remote.driver import RemoteDriver
from worker.drivers.remote.handle import RemoteHandle
from worker.drivers.remote.node import RemoteNode
from worker.spec import WorkerEndpoint, WorkerSpec

log = logging.getLogger(__name__)

#: Between two looks at how many pods there are (s).
_LOOK_S = 1.0

#: How long (s) an API server that does not take the pods away is asked to, and between two times.
_END_S, _AGAIN_S = 30.0, 0.5

#: How long (s) a worker may resist being killed until its pod is deleted.
_STUCK_S = 30.0


class KubernetesDriver(RemoteDriver):
    """As `RemoteDriver`. ``scales``: whether it says how many pods there are, or somebody else does (an autoscaler of
    Kubernetes', a person)."""

    def __init__(
        self, pods: KubernetesDirectory, lease: float = 120.0, memory: Path | None = None,
        adapters: Path = Path("/nowhere"), most_adapters: int = 32 * 1024**3, *, scales: bool = True,
    ) -> None:
        super().__init__(pods, lease, memory, adapters, most_adapters)
        self._pods, self._scales = pods, scales
        self._workers: int | None = None
        self._replicas, self._lost = Replicas(), LostPods()
        self._refused = ""
        self._looking, self._ending = threading.Lock(), False
        self._thread.begin(self._keep, "number of pods")

    def boot(self) -> str:
        return "kubernetes"

    def reserve(self, taken: Collection[WorkerEndpoint]) -> WorkerEndpoint:
        """In the pod with the lowest number that has no worker. Does not wait for one to come."""
        self._links.settled = True
        busy = {endpoint.host for endpoint in taken}
        nodes = list(self._links.nodes.values())
        for node in sorted(nodes, key=self._order):
            ports = node.report.ports if node.up and node.report is not None and not _used(node) else ()
            if ports and node.address.host not in busy:
                return WorkerEndpoint(ports[0], node.address.host)
        up = sum(node.up for node in nodes)
        refused = f"; {self._refused}" if self._refused else ""
        raise OSError(f"no pod is free: {up} of {len(self._pods.pods)} answer, {len(busy)} have a worker{refused}")

    def crowded(self) -> str | None:
        """The highest pod with a worker, where one below it is free, and all that there are to be answer."""
        nodes = dict(self._links.nodes)
        if not self._scales or any(name not in nodes or not nodes[name].up for name in self._pods.pods):
            return None
        used = {self._order(node): node for name, node in nodes.items() if name in self._pods.pods and _used(node)}
        free = [self._order(node) for name, node in nodes.items() if name in self._pods.pods and not _used(node)]
        found = crowded(used, free)
        return None if found is None else used[found].address.host

    def expect(self, workers: int) -> None:
        self._workers = workers

    def end(self) -> None:
        self._ending = True
        with self._looking:  # what it has asked for comes before what is asked for below
            pass
        super().end()
        if self._scales:
            self._take_all_away(time.monotonic() + _END_S)

    def close(self) -> None:
        self._ending = True
        super().close()

    def _take_all_away(self, deadline: float) -> None:
        """Raises OSError where the API server does not do it."""
        while True:
            try:
                return self._pods.scale(0)
            except FileNotFoundError:
                return  # with the StatefulSet go its pods
            except OSError as error:
                if isinstance(error, PermissionError) or time.monotonic() > deadline:
                    raise OSError(
                        f"the pods of workers stay ({error}): run clusterctl down again when that is mended, or scale "
                        f"the StatefulSet {self._pods.workers} to 0 yourself"
                    ) from None
            time.sleep(_AGAIN_S)

    def _handle(self, node: RemoteNode, start: str, pid: int | None, spec: WorkerSpec) -> RemoteHandle:
        made = PodHandle(self._thread, self._links, self._transfers, node, start, pid, spec.endpoint, spec.log)
        made.delete_pod = lambda: self._pods.delete(node.name)
        return made

    def _order(self, node: RemoteNode) -> int:
        pod = self._pods.pods.get(node.name)
        return pod.ordinal or 0 if pod is not None else 0

    async def _keep(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await asyncio.to_thread(self._looked)
                self._refused = ""
            except OSError as error:
                if str(error) != self._refused:
                    log.warning("the number of pods: %s", error)
                self._refused = str(error)

    def _looked(self) -> None:
        with self._looking:
            if not self._ending:  # who ends scales to 0, and nobody after it to anything else
                self._look()

    def _look(self) -> None:
        now = time.monotonic()
        nodes = dict(self._links.nodes)
        lost = [name for name in self._pods.pods if name in nodes and nodes[name].lost]
        for name in self._lost.due(lost, now):
            log.warning("the agent of %s does not answer: the pod is deleted", name)
            self._pods.delete(name)
        if self._scales and self._workers is not None:
            there = {name: pod.ordinal for name, pod in self._pods.pods.items() if name in nodes and _used(nodes[name])}
            used = [ordinal for ordinal in there.values() if ordinal is not None]
            wanted = self._replicas.change(self._pods.replicas(), needed(self._workers, used, len(lost)), now)
            if wanted is not None:
                log.info("%d pods are to be there for workers", wanted)
                self._pods.scale(wanted)


class PodHandle(RemoteHandle):
    """One whose pod is deleted where it cannot be killed, as a process cannot that waits for a GPU that hangs."""

    delete_pod: Callable[[], None]
    _began: float | None = None

    def destroy(self) -> bool:
        there = super().destroy()
        if there:
            self._began = self._began or time.monotonic()
            if time.monotonic() - self._began > _STUCK_S:
                self._delete()
        return there

    def _delete(self) -> None:
        log.warning("a worker in %s cannot be killed: the pod is deleted", self.node.name)
        self._began = None  # once more after as long
        try:
            self.delete_pod()
        except OSError as error:
            log.warning("%s: %s", self.node.name, error)


def _used(node: RemoteNode) -> bool:
    """Whether anything of a worker is there, as far as is known."""
    return node.report is not None and any(not start.empty for start in node.report.starts.values())
