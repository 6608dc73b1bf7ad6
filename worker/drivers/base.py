"""What has to be there to run workers somewhere: a `Driver` starts them, a `Handle` is one that was started.

Nobody else knows where a worker runs or what it consists of. A driver decides nothing: when to start, ask or kill is
the supervisor's. `tests/worker/drivers/test_contract.py` holds every driver to what is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from worker.spec import WorkerEndpoint, WorkerSpec

#: The driver of workers of which nothing else is said: processes of this machine.
LOCAL = "local"

#: Of those on the nodes of a Ray cluster.
RAY = "ray"

#: Of those in the pods of a Kubernetes cluster.
KUBERNETES = "kubernetes"


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """What a worker, or one process, uses. ``key`` tells it from another of the same name; ``cpu``: the seconds used by
    each of its processes that still run; ``memory_bytes`` resident, with pages that these share counted in each."""

    key: Hashable
    cpu: Mapping[Hashable, float]
    memory_bytes: int
    open_files: int


class Handle(Protocol):
    """One start of one worker, with whatever processes came of it. It may have ended, also before it was recovered."""

    @property
    def pid(self) -> int | None:
        """Of its main process, for people to see; None where that means nothing."""

    @property
    def identity(self) -> dict[str, Any]:
        """JSON by which `Driver.recover` finds exactly this start again."""

    @property
    def endpoint(self) -> WorkerEndpoint:
        """Where it answers."""

    def watch(self, on_exit: Callable[[int | None], None]) -> None:
        """Calls ``on_exit`` once, in the running event loop and not from within this call, when the main process has
        ended, also if it had before: with its exit status as `subprocess` counts it (negative: the signal), or None
        where that cannot be known, as of one that was recovered."""

    def watch_members(self, on_exit: Callable[[], None]) -> None:
        """Calls ``on_exit`` whenever one of its present other processes ends, until its main process does: an engine
        may lose its core and go on answering. Replaces an earlier watch of these."""

    def unwatch(self) -> None:
        """Nothing is called any more."""

    def stop(self) -> None:
        """Asks it to end in its own time; of no effect on one that has ended."""

    def destroy(self) -> bool:
        """Kills all that is left of it. Blocks. Returns whether there was anything: repeat it until there was not."""

    def empty(self) -> bool:
        """Whether nothing is left of it. Blocks."""

    def logs(self, lines: int) -> list[str]:
        """The last of what it and its earlier starts wrote."""

    async def provide(self, folder: Path, held: Collection[Path]) -> Path:
        """Where the worker finds ``folder``, which is named by the hash of its content: brought to its machine if it is
        not there, and kept there for as long as it is ``held`` in later calls for this start. Raises OSError where it
        cannot be kept there, ConnectionError where nobody can say."""

    def origin(self, path: str) -> str:
        """The folder that was provided as ``path``, also by an earlier supervisor; any other path as it is."""


class Driver(Protocol):
    """One way to run workers."""

    @property
    def waits(self) -> bool:
        """Whether `reserve` and `start` wait for others than this machine: then a thread calls them."""

    def boot(self) -> str:
        """Another one as soon as nothing that was started before can run any more."""

    def reserve(self, taken: Collection[WorkerEndpoint]) -> WorkerEndpoint:
        """Where a worker that is to be started may listen. Raises OSError where there is no such place."""

    def prepare(self, path: Path, record: Mapping[str, Any] | None = None) -> None:
        """Before a start with this ``run_file``: makes sure that `recover` will find the worker, also on a full disk,
        and keeps ``record`` for `prepared`. Raises OSError where that cannot be promised."""

    def prepared(self, path: Path) -> dict[str, Any] | None:
        """The record given to `prepare` last."""

    def start(self, spec: WorkerSpec, title: str) -> Handle:
        """``title`` goes into its log first. Raises OSError where it cannot be started."""

    def recover(self, spec: WorkerSpec, identity: Mapping[str, Any] | None) -> Handle | None:
        """What an earlier supervisor started by ``spec``, alive or not; ``identity`` is None where it was killed before
        it could write that down. None: it was not started."""

    def stats(self, handles: Mapping[str, Handle]) -> dict[str, WorkerStats]:
        """What each uses, by its name; of one that has ended, nothing. Blocks."""

    def expect(self, workers: int) -> None:
        """So many are to run: room for them may be made, and what is more given back. Told again and again."""

    def end(self) -> None:
        """No worker is left, and none will be started: gives back what was set up for them. Blocks. Raises
        OSError, which says what is to be done, where something of it stays."""

    def close(self) -> None:
        """This supervisor asks for nothing any more; workers go on. Blocks."""


#: Of a cluster, by name: each group of workers says by which one they are started.
Drivers = Mapping[str, Driver]
