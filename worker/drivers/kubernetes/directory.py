"""The pods of workers as a `Directory`: kept up to date by a watch, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from config.backoff import doubled
from worker.drivers.kubernetes.api import Expired, KubernetesApi, connected
from worker.drivers.kubernetes.pods import Pod, PodTable
from worker.drivers.remote.protocol import AgentAddress
from worker.loop_thread import LoopThread

log = logging.getLogger(__name__)

#: How long (s) the first answer of the API server, and each call, may take.
ANSWER_S = 15.0

#: Seconds between two tries to reach it: the first, the longest.
_AGAIN_S, _LONGEST_S = 0.5, 15.0

T = TypeVar("T")


class KubernetesDirectory:
    """``workers``: of the StatefulSet and its headless Service, NAME or NAMESPACE/NAME; ``key``: of its agents."""

    complete = True

    def __init__(self, workers: str, key: str) -> None:
        self.workers, self.key = workers, key
        self._table = PodTable()
        self.pods: dict[str, Pod] = {}
        self._api: KubernetesApi | None = None
        self._told = False
        self._trouble = "the API server has not answered"
        self._answered = threading.Event()
        self._thread = LoopThread("kubernetes")
        self._thread.begin(self._run, "pods of workers")

    def agents(self) -> dict[str, AgentAddress]:
        """As last told, where the API server is away. Raises OSError before it has answered once."""
        self._answered.wait(ANSWER_S)
        if not self._told:
            raise OSError(self._trouble)
        return {name: AgentAddress(pod.host, pod.port, self.key) for name, pod in self.pods.items()}

    def replicas(self) -> int:
        """How many pods there are to be. Blocks, as the calls below. Raises OSError."""
        return self._call(lambda api: api.replicas())

    def scale(self, replicas: int) -> None:
        self._call(lambda api: api.scale(replicas))

    def delete(self, name: str) -> None:
        """The pod that is called so among the agents; nothing where it is gone."""
        if (pod := self.pods.get(name)) is not None:
            self._call(lambda api: api.delete_pod(pod.name, pod.uid))

    def end(self) -> None:
        """What the pods are for is the StatefulSet's owner's: `KubernetesDriver` scales it where it may."""

    def close(self) -> None:
        self._thread.close()

    def _call(self, ask: Callable[[KubernetesApi], Awaitable[T]]) -> T:
        async def call() -> T:
            if self._api is None:
                raise OSError(self._trouble)
            return await ask(self._api)

        return self._thread.call(call(), ANSWER_S)

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                async with connected(self.workers) as api:
                    try:
                        while True:
                            await self._follow(api)
                            failures = 0
                    finally:
                        self._api = None  # before its connection is closed
            except OSError as error:
                if failures == 0:
                    log.warning("Kubernetes: %s", error)
                self._trouble = str(error)
            except Exception:
                log.exception("the watch of pods failed")
            self._answered.set()
            await asyncio.sleep(doubled(_AGAIN_S, _LONGEST_S, failures))
            failures += 1

    async def _follow(self, api: KubernetesApi) -> None:
        """Until what was seen last is too old to go on from."""
        documents, version = await api.slices()
        self._take(lambda: self._table.replace(documents))
        self._api, self._told = api, True
        self._answered.set()
        try:
            while True:
                async with contextlib.aclosing(api.changes(version)) as changes:
                    async for kind, document, version in changes:  # noqa: B007
                        self._take(lambda: self._table.apply(kind, document))  # noqa: B023
                await asyncio.sleep(_AGAIN_S)  # one that ends at once is not asked on and on
        except Expired:
            log.info("Kubernetes: the list of pods is read anew")

    def _take(self, change: Callable[[], None]) -> None:
        try:
            change()
        except ValueError as error:
            raise OSError(f"the API server: {error}") from None
        self.pods = self._table.pods()
