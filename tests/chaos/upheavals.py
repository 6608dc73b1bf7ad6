"""What can happen to the cluster as a whole, by accident or on purpose."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil

from chaos.arena import Status
from chaos.faults import SERVED, Fault
from chaos.wire import Answer, Client, request
from config.topology import STRATEGIES


class KillBalancer(Fault):
    """Its own streams are lost; whoever connects from then on is served."""

    name, group = "kill balancer", "balancer"
    #: A new one takes connections within so many seconds.
    back = 1.0

    async def start(self) -> None:
        await self.arena.until(lambda s: bool(s["supervisor"]["pid"]), self.patience)  # somebody has to start another
        status = self.arena.status
        assert status is not None
        self.pid = self.arena.chooser.choice([process["pid"] for process in status["load_balancer"]["processes"]])
        await self.arena.moved()  # what it counted goes with it
        self.began = time.monotonic()
        loss = [self.began, float("inf")]
        self.arena.losses.append(loss)
        os.kill(self.pid, signal.SIGKILL)
        while _lives(self.pid):
            await asyncio.sleep(0.002)
        loss[1] = time.monotonic()

    async def finish(self) -> None:
        client = Client(self.arena.port, quiet=self.patience)
        answer = await client.ask(request("GET", "/health"))
        client.close()
        self.restored = answer.ended
        if answer.problem:
            self.blame(f"a new connection was not served: {answer.problem}")
        elif self.restored - self.began > self.back:
            self.late(f"new connections waited {self.restored - self.began:.2f} s, promised {self.back:g} s")
        if await self.arena.until(self._replaced, self.patience) is None:
            self.blame("no other balancer took its place")

    def _replaced(self, status: Status) -> bool:
        return self.pid not in [p["pid"] for p in status["load_balancer"]["processes"]] and self.arena.whole(status)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class KillSupervisor(Fault):
    """Killed, and `clusterctl up` again: it finds everything and starts nothing anew."""

    name, group = "kill supervisor", "supervisor"
    #: It has adopted everything within so many seconds of `up`.
    within = 2.0

    async def start(self) -> None:
        await self.arena.until(self.arena.whole, self.patience)
        status = self.arena.status
        assert status is not None
        self.pids = {name: i["pid"] for name, i in status["instances"].items() if name not in self.arena.busy}
        self.balancers = [process["pid"] for process in status["load_balancer"]["processes"]]
        self.pid = int(status["supervisor"]["pid"])
        self.began = time.monotonic()
        os.kill(self.pid, signal.SIGKILL)

    async def finish(self) -> None:
        self.detected = await self.arena.until(lambda s: s["supervisor"]["pid"] != self.pid, self.patience)
        up_at = time.monotonic()
        self.restored, result = await asyncio.gather(
            self.arena.until(self._adopted, self.patience), asyncio.to_thread(self.arena.cluster.up, *self.arena.up)
        )
        if result.returncode:
            return self.blame(f"up failed: {result.stderr.strip()[-200:]}")
        if self.restored is None:
            return self.blame("not whole again after up")
        if self.restored - up_at > self.within:
            self.late(f"adopted {self.restored - up_at:.1f} s after up was called, promised {self.within:g} s")
        there = self.arena.status
        assert there is not None
        for name, pid in self.pids.items():
            if name not in self.arena.busy and there["instances"].get(name, {}).get("pid") != pid:
                self.blame(f"{name} was restarted")


    def _adopted(self, status: Status) -> bool:
        return status["supervisor"]["pid"] not in (None, self.pid) and self.arena.whole(status)


class Strategy(Fault):
    """Another strategy, and the old one again."""

    name, group = "strategy", "strategy"

    async def start(self) -> None:
        await super().start()
        for strategy in (self.arena.chooser.choice(STRATEGIES), "least_connections"):
            answer = await self.arena.post("/v1/cluster/strategy", {"strategy": strategy})
            if answer.status != 200:
                self.blame(f"strategy {strategy}: {words(answer)}")
            await asyncio.sleep(0.5)


class Scale(Fault):
    """Down to one worker and up again, while streams run that last longer than the grace."""

    name, group = "scale", "plan"

    async def start(self) -> None:
        await super().start()
        self.problem = await self._to(1) or await self._to(self.arena.instances)

    async def _to(self, count: int) -> str:
        answer = await self.arena.post("/v1/cluster/scale", {"instances": count})
        if answer.status not in (200, 202):
            return f"scale to {count}: {words(answer)}"
        seen: Callable[[Status], bool] = lambda s: s["total_instances"] == count and self.arena.whole(s)  # noqa: E731
        there = await self.arena.until(seen, self.patience)
        return "" if there else f"not {count} workers within {self.patience:g} s"


class Rolling(Fault):
    """All workers one after the other; one may be missing at a time."""

    name, group = "rolling restart", "plan"

    async def start(self) -> None:
        await self.arena.until(self.arena.whole, self.patience)
        await super().start()
        assert self.arena.status is not None
        self.pids = {name: i["pid"] for name, i in self.arena.status["instances"].items()}
        self.arena.floor = self.arena.instances
        answer = await self.arena.post("/v1/cluster/restart", {"rolling": True})
        if answer.status not in (200, 202):
            self.blame(f"restart: {words(answer)}")

    async def finish(self) -> None:
        if self.problem:
            return
        done: Callable[[Status], bool] = lambda s: self.arena.whole(s) and not _kept(s, self.pids)  # noqa: E731
        self.restored = await self.arena.until(done, self.patience * 2)
        self.note = f"never fewer than {self.arena.floor} ready"
        if self.restored is None:
            self.blame(f"not done within {self.patience * 2:g} s")
        elif self.arena.floor < self.arena.instances - 1:
            self.blame(f"only {self.arena.floor} were ready at a time")


def _kept(status: Status, pids: dict[str, int]) -> bool:
    return any(i["pid"] in pids.values() for i in status["instances"].values())


class Handover(Fault):
    """`clusterctl restart lb`: nobody may notice."""

    name, group = "replace balancer", "balancer"

    async def start(self) -> None:
        await self.arena.until(lambda s: bool(s["supervisor"]["pid"]), self.patience)
        await super().start()
        assert self.arena.status is not None
        self.pids = {process["pid"] for process in self.arena.status["load_balancer"]["processes"]}
        result = await asyncio.to_thread(self.arena.cluster.run, "restart", "lb")
        if result.returncode:
            self.blame(f"restart lb: {(result.stderr or result.stdout).strip()[-160:]}")

    async def finish(self) -> None:
        if self.problem:
            return
        self.restored = await self.arena.until(lambda s: s["load_balancer"]["pid"] not in self.pids, self.patience)
        if self.restored is None:
            self.blame("the old one still answers")


class Poison(Fault):
    """A request that kills every worker that takes it: two at most, and then its sender is told."""

    name, sim_only, group = "poison", True, "worker"
    prompt = "a poison pill"

    async def start(self) -> None:
        ready: Callable[[Status], bool] = lambda s: len(self.arena.ready(SERVED)) == len(s["instances"])  # noqa: E731
        if await self.arena.until(ready, self.patience) is None:
            self.blame("the workers were not ready for it")
        self.restarts = self._deaths()
        await super().start()
        streamed = self.arena.chooser.random() < 0.5
        body = {"model": "demo", "prompt": self.prompt, "max_tokens": 50, "temperature": 0, "stream": streamed}
        answer = await self.arena.post("/v1/completions", body)
        self.note = f"told after {answer.ended - self.began:.1f} s: {words(answer)[:80]}"
        status = (200, 500) if streamed else (500,)
        if answer.problem or b'"error"' not in answer.body or answer.status not in status:
            self.blame(f"its sender was not told clearly: {words(answer)}")
        elif b"[DONE]" in answer.body:
            self.blame("[DONE] after the error")

    def _deaths(self) -> int:
        assert self.arena.status is not None
        return sum(i["restarts"] for i in self.arena.status["instances"].values())

    async def finish(self) -> None:
        await super().finish()
        if self.restored is not None and (deaths := self._deaths() - self.restarts) > 2:
            self.blame(f"it killed {deaths} workers")


class PoisonEngine(Poison):
    """The same, but only the engines die, and their API servers answer 500 for a moment."""

    name, prompt = "poison engine", "a drop of venom"


def words(answer: Answer) -> str:
    """What an answer says of an error."""
    if answer.problem:
        return answer.problem
    try:
        found: Any = json.loads(answer.body)["error"]["message"]
        return f"{answer.status} {found}"
    except (ValueError, KeyError, TypeError):
        return f"{answer.status} {answer.body[-160:].decode(errors='replace').strip()}"
