"""A running stream that makes room for an adapter which waits for a slot goes on elsewhere, and nobody sees it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from config.topology import BackendSpec, Capabilities
from fakes import soon
from lbfakes import Balanced, RawWorker, card, read_message, spec
from simstreams import CONTEXT, seen, stream
from worker.sim.engine import tokens

StartBalancer = Callable[..., Awaitable[Balanced]]
StartRaw = Callable[..., Awaitable[RawWorker]]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
ADAPTERS = ("poet", "cook", "clerk")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass
class OneSlot:
    """An engine that computes one adapter at a time: nine events of each stream come at once, the rest when it is
    ``let_go``, and nothing of another adapter's before the connection of the one before is closed."""

    name: str
    asked: list[str] = field(default_factory=list)
    worker: RawWorker | None = None
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    slot: asyncio.Lock = field(default_factory=asyncio.Lock)

    def spec(self, **fields: Any) -> BackendSpec:
        assert self.worker is not None
        made = spec(self.name, self.worker.port, slots=1, places=4, **fields)
        named = {name: getattr(made, name) for name in made.__slots__}
        cards = (card("base"), *(card(name, "base") for name in ADAPTERS))
        return BackendSpec(**{**named, "models": tuple({**each, "max_model_len": CONTEXT} for each in cards)})

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self.worker is not None
        request = self.worker.requests[-1]
        while True:
            head, _, body = request.partition(b"\r\n\r\n")
            path = head.split(b" ")[1].decode()
            data = json.loads(body) if body else {}
            if path == "/detokenize":
                out = json.dumps({"prompt": tokens.decode(data["tokens"], special=True)}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(out), out))
            elif path.endswith("/render"):
                writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"token_ids":[1]}')
            else:
                self.asked.append(data["model"])
                writer.write(HEAD)
                async with self.slot:
                    if not await self.generate(data, reader, writer):
                        return
            await writer.drain()
            request = await read_message(reader)
            self.worker.requests.append(request)

    async def generate(
        self, data: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        events = stream(data, False, name=f"{self.name}{len(self.asked)}")
        writer.write(b"".join(chunk(event) for event in events[:9]))
        gone, going = asyncio.ensure_future(reader.read(1)), asyncio.ensure_future(self.let_go.wait())
        await asyncio.wait([gone, going], return_when=asyncio.FIRST_COMPLETED)
        going.cancel()
        if not self.let_go.is_set():
            return False  # whoever asked is gone
        gone.cancel()
        writer.write(b"".join(chunk(event) for event in events[9:]) + b"0\r\n\r\n")
        return True


@pytest.fixture
def cluster(start_balancer: StartBalancer, start_raw: StartRaw) -> Callable[..., Awaitable[Any]]:
    async def start(**config: Any) -> tuple[Balanced, OneSlot, OneSlot]:
        balancer = await start_balancer(**config)
        engines = OneSlot("instance_0"), OneSlot("instance_1")
        for engine in engines:
            engine.worker = await start_raw(engine.answer, engine.name)
        return balancer, *engines

    return start


Cluster = Callable[..., Awaitable[tuple[Balanced, OneSlot, OneSlot]]]

REGISTERED = tuple(card(name, "base") for name in ADAPTERS)


def push(balancer: Balanced, *specs: BackendSpec) -> None:
    balancer.push(*specs, strategy="adaptive", registered=REGISTERED)


def body(model: str) -> dict[str, Any]:
    return {
        "model": model, "prompt": "hello", "stream": True, "max_tokens": 40, "temperature": 0, "ignore_eos": True,
    }  # fmt: skip


async def ask(balancer: Balanced, model: str) -> bytes:
    async with balancer.request("POST", "/v1/completions", json=body(model)) as response:
        assert response.status == 200
        raw: bytes = await response.read()
        return raw


def text(raw: bytes) -> str:
    found: str = seen(raw)["text"]
    return found


async def two_on_one(balancer: Balanced, one: OneSlot, other: OneSlot, **fields: Any) -> list[asyncio.Task[bytes]]:
    """A stream for poet that has begun, and one for cook behind it that waits for the slot. Then ``other`` is there."""
    push(balancer, one.spec(), other.spec(state="unhealthy"))
    asking = [asyncio.create_task(ask(balancer, "poet"))]
    await soon(lambda: balancer.parts.pool.backends["instance_0"].waiting_for_slots() == 0 and one.slot.locked())
    asking.append(asyncio.create_task(ask(balancer, "cook")))
    await soon(lambda: one.asked == ["poet", "cook"])
    push(balancer, one.spec(), other.spec(**fields))
    return asking


async def test_it_makes_room_and_both_have_what_they_would_have_had(cluster: Cluster) -> None:
    balancer, one, other = await cluster(move_streams=True)
    asking = await two_on_one(balancer, one, other)
    await soon(lambda: other.asked == ["poet"])
    await soon(lambda: balancer.parts.pool.backends["instance_0"].in_flight == 1)
    for engine in (one, other):
        engine.let_go.set()
    answers = await asyncio.gather(*asking)
    for raw, model in zip(answers, ("poet", "cook"), strict=True):
        assert text(raw) == text(b"".join(stream(body(model), False)))
        assert raw.count(b"[DONE]") == 1 and b'"error"' not in raw
    moved = {"instance": "instance_0", "cause": "displaced", "way": "tokens"}
    assert balancer.metric("clusterctl_streams_moved_total", **moved) == 1
    assert balancer.counts("instance_0") == (1, 0), "it is no error of the worker that it was made to leave"
    assert one.asked == ["poet", "cook"]
    holdings = balancer.parts.shared.router.holdings()
    assert all(not held.active for held in holdings.values()), "and the strategy's books are even"


async def stays(balancer: Balanced, one: OneSlot, other: OneSlot, asking: list[asyncio.Task[bytes]]) -> None:
    server = balancer.parts.server
    await asyncio.sleep(0.2)  # ten looks, see `looks_often`: that nothing happens has no event
    assert other.asked == [] and server is not None
    one.let_go.set()
    await asyncio.gather(*asking)
    assert one.asked == ["poet", "cook"]


async def test_not_unless_somebody_asks_for_it(cluster: Cluster) -> None:
    balancer, one, other = await cluster()
    await stays(balancer, one, other, await two_on_one(balancer, one, other))


async def test_not_where_no_other_engine_goes_on_from_tokens(cluster: Cluster) -> None:
    balancer, one, other = await cluster(move_streams=True)
    asking = await two_on_one(balancer, one, other, capabilities=Capabilities(detokenize=False))
    await stays(balancer, one, other, asking)


async def test_a_worker_that_has_not_got_the_adapter_leaves_no_trace_in_the_strategys_books(
    start_balancer: StartBalancer, start_raw: StartRaw
) -> None:
    """Each attempt that is given up ends for the strategy too, or its worker seems to be full for ever."""
    balancer = await start_balancer()
    answer = b'{"error":{"message":"The model `poet` does not exist.","type":"NotFoundError","code":404}}'

    async def missing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))

    lacks, has = await start_raw(missing, "instance_0"), OneSlot("instance_1")
    has.worker = await start_raw(has.answer, "instance_1")
    has.let_go.set()
    models = {"models": ("base", *ADAPTERS), "slots": 1, "places": 4}
    balancer.push(
        spec("instance_0", lacks.port, **models), has.spec(), strategy="adaptive", registered=REGISTERED,
        homes={"poet": ("instance_0",)}, ranks={"poet": 8},
    )  # fmt: skip
    await ask(balancer, "poet")
    assert lacks.requests
    held = balancer.parts.shared.router.holdings()
    assert [dict(each.active) for each in held.values()] == [{}, {}]
