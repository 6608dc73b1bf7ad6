"""Clients that ask one case after the other, and the record of every answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from chaos import cases as asked
from chaos import oracle
from chaos.cases import TOLERANCE, Case
from chaos.oracle import Failed, Kind, Wrong
from chaos.wire import Answer, Client

#: Silence for so long (s) is a failure; three real engines on two cores take their time while one of them starts.
_QUIET = {"sim": 30.0, "vllm": 120.0}
#: Between the last byte of a worker and the fault that silenced it; s.
_LAG = 0.3


class Unfit(Exception):
    """The undisturbed cluster does not answer as it should: there is nothing to compare with."""


@dataclass(frozen=True)
class Outcome:
    """One answer; times in seconds of the monotonic clock. ``hit``: by when what befell it had begun; ``lost``: it was
    on a balancer that was killed."""

    case: str
    streamed: bool
    began: float
    ended: float
    hit: float
    kind: Kind
    lost: bool = False
    reason: str = ""
    pause: float = 0.0


@dataclass
class Reference:
    """The undisturbed answers of every case, and how often two of them differed."""

    right: dict[Case, list[Any]]
    compared: int = 0
    different: int = 0

    @property
    def divergence(self) -> float:
        """Share of the cases whose undisturbed answers differ among themselves."""
        return self.different / self.compared if self.compared else 0.0


async def known(port: int, cases: Sequence[Case]) -> tuple[list[Case], dict[str, str]]:
    """Those that the simulator knows how to answer, and why not the others."""
    fit, not_fit = [], {}
    client = Client(port, quiet=120)
    for case in cases:
        answer = await client.ask(case.data)
        try:
            seen = asked.read(case, answer)
            wrong = "" if case.check is None else case.check(seen)
        except (Failed, Wrong) as error:
            if answer.status not in (400, 404):
                raise Unfit(f"undisturbed, {case.name}: {error}") from None
            wrong = str(error)
        if wrong:
            not_fit[f"{case.name}, which the simulator does not know"] = wrong[:120]
        else:
            fit.append(case)
    client.close()
    return fit, not_fit


async def reference(port: int, cases: Sequence[Case], clients: int, engine: str, times: int = 2) -> Reference:
    """Asks everything ``times`` times, ``clients`` at once. Raises `Unfit`."""
    found: dict[Case, list[Any]] = {case: [] for case in cases}
    for _ in range(times):
        left = list(reversed(cases))

        async def ask_on(left: list[Case] = left) -> None:
            client = Client(port, quiet=120)
            while left:
                case = left.pop()
                try:
                    found[case].append(asked.read(case, await client.ask(case.data)))
                except (Failed, Wrong) as error:
                    raise Unfit(f"undisturbed, {case.name}: {error} ({case.body})") from None
            client.close()

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(ask_on())
    made = Reference(found, len(cases))
    for case, (first, *others) in found.items():
        if case.check is not None:
            if wrong := next(filter(None, map(case.check, found[case])), ""):
                raise Unfit(f"undisturbed, {case.name}: {wrong}")
            continue
        differences = [oracle.difference(other, first, TOLERANCE[engine]) for other in others]
        made.different += any(differences)
        if any(differences) and engine == "sim":
            raise Unfit(f"undisturbed, {case.name} has two answers: {next(filter(None, differences))}")
    return made


class Load:
    """Keeps ``streams`` streamed and ``plain`` plain requests running until it is told to stop. ``was_lost`` says of
    an answer that broke off whether it was on a balancer that had been killed."""

    def __init__(
        self, port: int, reference: Reference, engine: str, seed: int, note: Callable[[Outcome], None],
        was_lost: Callable[[Answer], bool],
    ) -> None:
        self._port, self._right, self._engine, self._seed = port, reference.right, engine, seed
        self._note, self._was_lost, self._quiet = note, was_lost, _QUIET[engine]
        self._stopping, self._asking = False, 0
        self._open = asyncio.Event()
        self._open.set()

    async def run(self, streams: int, plain: int) -> None:
        """Returns when every request that was begun has come to an end."""
        streamed = [case for case in self._right if case.streamed]
        whole = [case for case in self._right if not case.streamed]
        async with asyncio.TaskGroup() as group:
            for number in range(streams):
                group.create_task(self._client(streamed, random.Random(f"{self._seed} stream {number}")))
            for number in range(plain):
                group.create_task(self._client(whole, random.Random(f"{self._seed} plain {number}")))

    def stop(self) -> None:
        """Begin nothing new."""
        self._stopping = True
        self._open.set()

    def rest(self) -> None:
        """Finish what runs, and begin nothing new until `go`."""
        self._open.clear()

    async def idle(self) -> None:
        """Returns when what had begun is over: whoever loses two workers while it is alone there is taken for the
        cause, and rightly so."""
        while self._asking:
            await asyncio.sleep(0.1)

    def go(self) -> None:
        self._open.set()

    async def _client(self, cases: Sequence[Case], chooser: random.Random) -> None:
        client = Client(self._port, self._quiet)
        while await self._open.wait() and not self._stopping:
            case = chooser.choice(cases)
            self._asking += 1
            answer = await client.ask(case.data)
            self._asking -= 1
            verdict = asked.judge(case, answer, self._right[case], TOLERANCE[self._engine])
            lost = verdict.kind is Kind.FAILED and answer.problem.startswith("connection") and self._was_lost(answer)
            hit = answer.ended if verdict.kind is Kind.OK else min(answer.ended, (answer.last or answer.began) + _LAG)
            self._note(
                Outcome(
                    case.name, case.streamed, answer.began, answer.ended, hit, verdict.kind, lost, verdict.reason,
                    answer.pause,
                )
            )  # fmt: skip
            if verdict.kind is Kind.FAILED:
                await asyncio.sleep(0.05)  # a client that is refused does not ask a thousand times a second
        client.close()
