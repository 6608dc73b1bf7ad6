"""Streams that are asked for on one of the hosts, all the time, and each answer compared with the undisturbed one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from chaos import cases
from chaos.load import Load, Outcome, Reference, reference
from chaos.oracle import Kind
from manyhosts.namespaces import Host

#: At once, in tests of simulated workers.
STREAMS = 50

#: How long (s) the last answers may take once nothing new is asked.
_LAST_S = 120.0


class Traffic:
    """Greedy streams to the balancer at ``port`` of ``host``; made while nothing is disturbed."""

    def __init__(self, host: Host, port: int, engine: str = "sim", lengths: tuple[int, int] = (40, 100)) -> None:
        self._host, self._port, self._engine = host, port, engine
        asked = cases.make(19, ["demo"], streams=24, plain=0, lengths=lengths)
        self._right: Reference = host.inside(asyncio.run, reference(port, asked, 24, engine, times=1))

    @contextlib.contextmanager
    def running(self, streams: int) -> Iterator[list[Outcome]]:
        """``streams`` at once meanwhile. What comes of them is in the list, whole at the end."""
        outcomes: list[Outcome] = []
        load = Load(self._port, self._right, self._engine, 7, outcomes.append, lambda answer: False)
        loops: list[asyncio.AbstractEventLoop] = []
        begun = threading.Event()

        async def run() -> None:
            loops.append(asyncio.get_running_loop())
            begun.set()
            await load.run(streams, 0)

        over = self._host.submit(asyncio.run, run())
        assert begun.wait(10)
        try:
            yield outcomes
        finally:
            loops[0].call_soon_threadsafe(load.stop)
            over.result(_LAST_S)


def none_lost(outcomes: list[Outcome]) -> str:
    """A line for people. Raises AssertionError where an answer failed or was wrong."""
    bad = [f"{one.kind}: {one.case}: {one.reason}" for one in outcomes if one.kind is not Kind.OK]
    assert outcomes and not bad, f"{len(bad)} of {len(outcomes)}: {bad[:5]}"
    return f"{len(outcomes)} answers, longest pause {max(one.pause for one in outcomes):.1f} s"
