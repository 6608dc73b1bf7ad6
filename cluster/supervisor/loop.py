"""The supervisor: one task owns the state. Event -> fleet -> reconcile -> perform -> publish.

Everything that happens (an exit, a probe's finding, a command, a report of the balancer) is put in one inbox as a
function and run by that one task; after each, the reconciler says what to do next. Nothing else changes state, so
nothing needs a lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cluster.deployment.revisions import Revisions
from cluster.events import Emit
from cluster.fleet.fleet import Fleet
from cluster.fleet.reconciler import Admit, Exit, reconcile
from cluster.fleet.rolling import RollingNotice
from cluster.supervisor.executor import Executor
from cluster.supervisor.exits import WorkerExits
from cluster.supervisor.publisher import Publisher
from cluster.supervisor.transactions import Transactions

_T = TypeVar("_T")

#: Seconds between two looks at the clock: deadlines of drains, stops and starts are kept to this.
TICK = 0.2


class Inbox:
    """What happens, in the order in which it is reported."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[Callable[[], None]] = asyncio.Queue()

    def post(self, event: Callable[[], None]) -> None:
        self._events.put_nowait(event)

    def wake(self) -> None:
        """Looks whether there is something to publish."""
        self.post(lambda: None)

    async def run(self, patience: float) -> None:
        """All that has come, or comes within so many seconds."""
        try:
            async with asyncio.timeout(patience):
                event = await self._events.get()
        except TimeoutError:
            return
        event()
        while not self._events.empty():
            self._events.get_nowait()()


class Supervisor:
    """``publish()`` tells balancers and store what changed; ``ending()`` is called when a shutdown begins."""

    def __init__(
        self, inbox: Inbox, fleet: Fleet, revisions: Revisions, transactions: Transactions, executor: Executor,
        publisher: Publisher, publish: Callable[[], Awaitable[None]], exits: WorkerExits, emit: Emit,
        now: Callable[[], float], ending: Callable[[], None],
    ) -> None:
        self._inbox, self._fleet, self._revisions, self._transactions = inbox, fleet, revisions, transactions
        self._executor, self._publisher, self._publish, self._exits = executor, publisher, publish, exits
        self._emit, self._now, self._ending = emit, now, ending
        self._notice = RollingNotice(emit)
        self._exit = False

    async def run(self) -> None:
        """Until the cluster has been shut down."""
        await self._inbox.run(0)  # one that only ends what another left must not go on where that one was
        while not self._exit:
            self._exits.due(everything=self._fleet.intent.desired.shutting_down)
            await self._step()
            await self._inbox.run(TICK)

    async def command(self, change: Callable[[], _T]) -> _T:
        """Runs ``change`` in the task that owns the state. Returns what it returns (or raises what it raises) once
        it is stored and the balancer has been sent what follows from it. Raises NotSaved where it cannot be stored:
        then it was not done."""
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._inbox.post(lambda: self._transactions.carry_out(change, done))
        return await done

    async def settled(self) -> None:
        """Returns once the balancers have been sent what follows from all that was changed so far."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._inbox.post(lambda: self._transactions.tell(done))
        await done

    def shut_down(self, now: bool = False) -> None:
        """Safe to call from a signal handler of the loop."""
        self._inbox.post(lambda: self._begin_shutdown(now))

    def leave(self) -> None:
        """`run` returns, and workers go on."""

        def leave() -> None:
            self._exit = True

        self._inbox.post(leave)

    async def _step(self) -> None:
        for name, left in self._fleet.intent.cordons.advance(self._now()):
            rest = f"; {left} still running there {'goes' if left == 1 else 'go'} on elsewhere" if left else ""
            self._emit(name, f"drained{rest}", kind="worker.drained", data={"left": left})
        await self._transactions.keep()
        for _ in range(2):  # a second round, as what was admitted in the first is started in the second
            actions = reconcile(self._fleet.intent.desired, self._fleet.observed(), self._now())
            self._exit = self._exit or any(isinstance(action, Exit) for action in actions)
            if not await self._executor.perform([action for action in actions if not isinstance(action, Exit)]):
                self._inbox.wake()
            if not any(isinstance(action, Admit) for action in actions):
                break
        self._notice.look(self._fleet, bool(self._revisions.before))
        await self._publish()
        if self._transactions.unanswered:
            self._publisher.announce()
            self._transactions.answer()

    def _begin_shutdown(self, now: bool) -> None:
        if not self._fleet.intent.desired.shutting_down:
            self._emit("cluster", "shutting down", kind="shutdown", data={"now": now})
            self._ending()
        self._fleet.intent.shut_down(now)
