"""A cluster in one event loop, for tests of what is decided: the real supervisor with its loop, executor, storage and
API, and the real balancer, over workers that are no processes and an engine that does as it is told. Time goes on by
itself, and by as much more as a test says (`InProcess.clock`): nobody waits for a backoff.

What it cannot show is left to `tests/e2e`: signals, sockets handed on, orphans, adoption, what a real engine does."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cluster.api import server as control
from cluster.balancers.process import BalancerProcess
from cluster.deployment import model_plans, plan
from cluster.deployment.plan import Plan
from cluster.fleet.groups import DEFAULT
from cluster.fleet.placement import Machine
from cluster.storage.store import Store
from cluster.supervisor import clock as clocks
from cluster.supervisor import loop, runtime
from cluster.supervisor.assembly import Assembly
from config.aio import Tasks
from config.link import Phase
from config.paths import StateDir
from config.settings import load
from fakedriver import FakeDriver, FakeHandle
from fakes import FIRST_PAUSE_S, longer, rng, soon
from lbfakes import Balanced, card, running_balancer
from worker.drivers.base import LOCAL, Driver
from worker.drivers.local import LocalDriver
from worker.drivers.proc import ProcessId
from worker.drivers.process import Process
from worker.engines.flags import values
from worker.spec import WorkerEndpoint, WorkerSpec

MODEL = "demo"


class Clock:
    """Monotonic seconds, and those that were skipped."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.skipped

    def advance(self, seconds: float) -> None:
        self.skipped += seconds


class Engine(FakeHandle):
    """One worker: its server on the port that it was given, and its end. ``broken`` by route: the status that it
    answers there in place of 200, None: it never answers; ``broken_once``: to the next one only. ``on_load`` is called
    with the name of an adapter before it is loaded."""

    def __init__(self, spec: WorkerSpec, number: int) -> None:
        super().__init__(1_000_000_000 + 100 * number, spec.endpoint)
        self.spec, self.loop, self.tasks = spec, asyncio.get_running_loop(), Tasks()
        self.names = values(spec.argv, "--served-model-name") or ()
        self.model = self.names[0]
        self.adapters: dict[str, str] = {}
        self.broken: dict[str, int | None] = {}
        self.broken_once: dict[str, int] = {}
        self.on_load: Callable[[str], None] = lambda name: None
        self.asked: list[tuple[str, Any]] = []
        self.hold = asyncio.Event()  # generations wait for it
        self.hold.set()
        self.asleep = False
        self._over = asyncio.Event()
        self.tasks.start(self._serve(), f"engine {spec.id}")

    def stop(self) -> None:
        """Ends in good order."""
        super().stop()
        self.loop.call_soon(self.die, 0)

    def die(self, status: int | None = -9, orphans: int = 0) -> None:
        """From any thread. It has ended when this returns; who watches it hears of that in the loop."""
        if not self.alive:
            return
        self.alive, self.orphans, self._status = False, orphans, status
        self.loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._over.set()
        self._tell()

    async def _serve(self) -> None:
        app = web.Application(middlewares=[self._answered], client_max_size=2**26)
        app.router.add_get("/health", self._well)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/load_lora_adapter", self._load)
        app.router.add_post("/v1/unload_lora_adapter", self._unload)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/sleep", self._sleep)
        app.router.add_post("/wake_up", self._wake)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.05)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.endpoint.host, self.endpoint.port).start()
            await self._over.wait()
        finally:
            await runner.cleanup()

    @web.middleware
    async def _answered(self, request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        if (once := self.broken_once.pop(request.path, 0)) or request.path in self.broken:
            status = once or self.broken[request.path]
            while status is None:
                await asyncio.sleep(60)
            return web.json_response({"error": {"message": "told to refuse", "code": status}}, status=status)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _well(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, request: web.Request) -> web.Response:
        adapters = ({**card(name, self.model), "root": path} for name, path in self.adapters.items())
        cards = [*map(card, self.names), *adapters]
        return web.json_response({"object": "list", "data": cards})

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.on_load(body["lora_name"])
        self.adapters[body["lora_name"]] = body["lora_path"]
        return web.Response()

    async def _unload(self, request: web.Request) -> web.Response:
        self.adapters.pop((await request.json())["lora_name"], None)
        return web.Response()

    async def _sleep(self, request: web.Request) -> web.Response:
        self.asleep = True
        return web.Response()

    async def _wake(self, request: web.Request) -> web.Response:
        self.asleep = False
        return web.Response()

    async def _complete(self, request: web.Request) -> web.Response:
        """Other numbers for every adapter: none is without effect."""
        body = await request.json()
        assert not self.asleep, "whoever asks one that sleeps is never answered"
        await self.hold.wait()
        self.asked.append((body["model"], body["prompt"]))
        words = float(sum(self.adapters.get(body["model"], body["model"]).encode()))
        prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        made = {"text": "word", "finish_reason": "length", "logprobs": {"token_logprobs": [-words]}}
        choices = [{"index": number, **made} for number in range(len(prompts))]
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return web.json_response({"id": "x", "object": "text_completion", "model": body["model"], "choices": choices,
                                  "usage": usage})  # fmt: skip


class Engines(FakeDriver):
    """Starts them. ``doomed`` says of a worker that it ends as soon as it is started, with a status."""

    def __init__(self) -> None:
        super().__init__()
        self.engines: list[Engine] = []
        self.doomed: Callable[[WorkerSpec], int | None] = lambda spec: None

    def make(self, spec: WorkerSpec) -> Engine:
        engine = Engine(spec, len(self.started))
        self.engines.append(engine)
        if (status := self.doomed(spec)) is not None:
            engine.loop.call_soon(engine.die, status)
        return engine

    def reserve(self, taken: Collection[WorkerEndpoint]) -> WorkerEndpoint:
        """They do listen."""
        return LocalDriver().reserve(taken)

    async def close(self) -> None:
        for engine in self.engines:
            await engine.tasks.close()


class OwnProcess(Process):
    """The balancer's: it is ours, and is left alone."""

    def watch(self, on_exit: Callable[[int | None], None]) -> None:
        pass

    def signal(self, number: signal.Signals) -> None:
        pass

    def survivors(self) -> list[ProcessId]:
        return []


class InProcess:
    def __init__(self, parts: Assembly, balancer: Balanced, engines: Any, clock: Clock) -> None:
        self.parts, self.balancer, self.engines, self.clock = parts, balancer, engines, clock

    async def status(self) -> dict[str, Any]:
        """What a client sees."""
        status, found = await self.balancer.answer("GET", "/v1/cluster/status")
        assert status == 200, found
        return dict(found)

    async def instance(self, name: str) -> dict[str, Any]:
        return dict((await self.status())["instances"][name])

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        return await self.balancer.answer("POST", path, json=body)

    async def complete(self, model: str = MODEL) -> int:
        """The status of an answer."""
        return (await self.balancer.ask(model=model))[0]

    def engine(self, name: str) -> Engine:
        """The one that runs as the worker ``name``, or ran last."""
        return next(engine for engine in reversed(self.engines.engines) if engine.spec.id == name)

    def started(self, name: str) -> int:
        """How often that worker was started."""
        return sum(engine.spec.id == name for engine in self.engines.engines)

    async def settled(self, ready: int) -> dict[str, Any]:
        """The status once exactly so many workers are ready, and nothing else is on its way."""

        async def look() -> dict[str, Any] | None:
            status = await self.status()
            settled = status["supervisor"].get("settled") and len(status["instances"]) >= ready
            done = settled and status["running_instances"] == ready
            return status if done else None

        return await until(look)

    async def serving(self, *names: str) -> dict[str, Any]:
        """The status once those workers take requests, and no other does."""

        async def look() -> dict[str, Any] | None:
            status = await self.status()
            return status if {n for n, i in status["instances"].items() if i["is_running"]} == set(names) else None

        return await until(look)

    async def in_state(self, name: str, state: str) -> dict[str, Any]:
        """That worker, once it is in ``state``."""

        async def look() -> dict[str, Any] | None:
            seen = (await self.status())["instances"].get(name, {})
            return seen if seen.get("state") == state else None

        return await until(look)

    async def back(self, name: str, starts: int) -> dict[str, Any]:
        """That worker, once it is ready and was started so often."""
        await soon(lambda: self.started(name) == starts)
        return await self.in_state(name, "ready")

    async def load(self, name: str, path: str, **more: Any) -> tuple[int, Any]:
        return await self.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path, **more})

    async def adapters(self) -> dict[str, dict[str, Any]]:
        """The registry as clients see it."""
        status, found = await self.balancer.answer("GET", "/v1/lora_adapters")
        assert status == 200, found
        return {adapter["lora_name"]: adapter for adapter in found["adapters"]}

    async def held(self) -> dict[str, dict[str, str]]:
        """What each worker itself holds: name and path."""
        return {name: dict(self.engine(name).adapters) for name in (await self.status())["instances"]}


async def until(look: Callable[[], Any], timeout: float = 10.0) -> Any:
    """The first truthy answer of the coroutine function ``look``; fails after ``timeout`` seconds."""
    pause = FIRST_PAUSE_S
    async with asyncio.timeout(timeout):
        while not (found := await look()):
            await asyncio.sleep(pause)
            pause = longer(pause)
    return found


@asynccontextmanager
async def running(
    folder: Path, monkeypatch: pytest.MonkeyPatch, groups: Mapping[str, Mapping[str, Any]] | None = None,
    **settings: Any,
) -> AsyncIterator[InProcess]:
    """A cluster with these settings, from its start to its end; nothing is waited for at first. ``groups``: what is
    different for each further group of workers."""
    given = {"engine": "sim", "lb_standby": False, "health_interval": 0.05, **settings}
    machine = Machine((), (0, 1), 2**34)
    plans = [
        replace(plan.make(load({**given, **own}), machine), group=name)
        for name, own in {DEFAULT: {}, **(groups or {})}.items()
    ]
    plans += [model_plans.make_group(load(given), name, m, machine) for name, m in load(given).models.items()]
    waits = {"queue_timeout": settings["queue_timeout"]} if "queue_timeout" in settings else {}
    engines = Engines()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engines.close)
        yield await stack.enter_async_context(assembled(folder, monkeypatch, plans, engines, **waits))


@asynccontextmanager
async def assembled(
    folder: Path, monkeypatch: pytest.MonkeyPatch, plans: list[Plan], driver: Driver, tick: float = 0.01,
    patience: float = 10, **config: Any,
) -> AsyncIterator[InProcess]:
    """A cluster by ``plans`` whose workers ``driver`` starts, and a balancer with ``config``."""
    monkeypatch.setattr(loop, "TICK", tick)
    state, clock = StateDir(folder), Clock()
    state.create()
    async with AsyncExitStack() as stack:
        store = await Store.open(state.database)
        stack.push_async_callback(store.close)
        epoch = await store.next_number("epochs")
        parts = Assembly(plans, state, store, {LOCAL: driver}, [], epoch, clock=clocks.Clocks(clock), random=rng())
        await parts.bootstrap.prepare(adopt=False)
        server = await control.serve(parts.services, state.control)
        stack.push_async_callback(server.cleanup)
        balancer = await stack.enter_async_context(running_balancer(folder, **config))
        group = parts.balancers
        stack.push_async_callback(group.close)
        process = BalancerProcess(
            "lb-1", "balancer", 1, group, state, store, OwnProcess(ProcessId(1, 1)), balancer.link_path, Phase.SERVING
        )
        group.processes.append(process)
        group.slots[0].line.append(process)
        process.follow()
        run = asyncio.create_task(runtime.run(parts), name="supervisor")
        try:
            yield InProcess(parts, balancer, driver, clock)
        finally:
            parts.supervisor.shut_down(now=True)
            await asyncio.wait_for(run, patience)
