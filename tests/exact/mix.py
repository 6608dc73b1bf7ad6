"""Kinds of requests, each with the outcome that it has to have, and a load of all of them."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from random import Random

from exact.client import connected
from exact.messages import (
    MAX_BODY,
    MIB,
    PATIENCE_S,
    asked,
    event_count,
    events,
    in_chunks,
    request,
    reset,
    small_answer,
    upload_answer,
)
from exact.slot import Slot, is_answer, is_error
from exact.workers import Workers
from fakes import soon

CLIENTS = 50


Case = Callable[[Slot, int], Awaitable[None]]
CASES: dict[str, tuple[int, Case]] = {}


def case(share: int) -> Callable[[Case], Case]:
    """A kind of request, ``share`` in a thousand. It fails where the outcome is not what it has to be."""

    def add(function: Case) -> Case:
        CASES[function.__name__] = (share, function)
        return function

    return add


@case(284)
async def small(slot: Slot, n: int) -> None:
    is_answer(await slot.ask(request(asked("small", n))), small_answer(n))


@case(40)
async def small_and_close(slot: Slot, n: int) -> None:
    is_answer(await slot.ask_last(request(asked("small", n), "Connection: close")), small_answer(n))


@case(60)
async def pipelined(slot: Slot, n: int) -> None:
    other = n + 1_000_000
    kinds = ("small", "stream") if n % 2 else ("stream", "small")
    wire = await slot.wire()
    wire.write(b"".join(request(asked(kind, number)) for kind, number in zip(kinds, (n, other), strict=True)))
    for kind, number in zip(kinds, (n, other), strict=True):
        wanted = small_answer(number) if kind == "small" else b"".join(events(number, event_count(number)))
        is_answer(await wire.answer(), wanted)


@case(150)
async def stream(slot: Slot, n: int) -> None:
    is_answer(await slot.ask(request(asked("stream", n))), b"".join(events(n, event_count(n))))


@case(90)
async def left_in_mid_answer(slot: Slot, n: int) -> None:
    wire = await slot.wire()
    wire.write(request(asked("endless", n)))
    await wire.some(b'"event": 0')
    slot.leave()


@case(3)
async def left_without_reading(slot: Slot, n: int) -> None:
    wire, arrival = await slot.wire(), slot.workers.arrival(n)
    wire.transport.pause_reading()
    wire.write(request(asked("flood_50", n)))
    await arrival
    side = slot.workers.running[n]
    await soon(lambda: side.paused, "the worker's being paused")
    slot.leave()


@case(50)
async def left_before_the_answer(slot: Slot, n: int) -> None:
    wire, arrival = await slot.wire(), slot.workers.arrival(n)
    wire.write(request(asked("nothing", n)))
    await arrival
    slot.leave()


@case(40)
async def left_at_once(slot: Slot, n: int) -> None:
    (await slot.wire()).write(request(asked("endless", n)))
    slot.leave()


@case(20)
async def left_in_mid_upload(slot: Slot, n: int) -> None:
    (await slot.wire()).write(request(asked("nothing", n, size=40_000), length=100_000))
    slot.leave()


@case(4)
async def left_in_mid_large_upload(slot: Slot, n: int) -> None:
    wire, arrival = await slot.wire(), slot.workers.arrival(n)
    wire.write(request(asked("nothing", n, "large", size=MIB + 100_000), length=MAX_BODY))
    await arrival
    slot.leave()


@case(10)
async def uploaded(slot: Slot, n: int) -> None:
    body = asked("upload", n, "large", size=MIB + 100_000)
    data = in_chunks(*(body[at : at + 60_000] for at in range(0, len(body), 60_000)), b"") if n % 2 else request(body)
    is_answer(await slot.ask(data), upload_answer(n, body))


@case(20)
async def announced_too_large(slot: Slot, n: int) -> None:
    is_error(await slot.ask_last(request(asked("small", n), length=MAX_BODY + 1)), 413)


@case(3)
async def too_large(slot: Slot, n: int) -> None:
    is_error(await slot.ask_last(in_chunks(asked("small", n, "large", size=MAX_BODY), b"y")), 413)


_MALFORMED = (
    b"GET  /version HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /version HTTP/1.1\nHost: x\n\n",
    b"GET /version HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50,
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /version HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n" + b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n" * 3,
)  # fmt: skip


@case(50)
async def malformed(slot: Slot, n: int) -> None:
    is_error(await slot.ask_last(_MALFORMED[n % len(_MALFORMED)]), 400)


@case(25)
async def no_route(slot: Slot, n: int) -> None:
    is_error(await slot.ask(request(asked("small", n), path="/v1/nothing")), 404)


@case(25)
async def no_model(slot: Slot, n: int) -> None:
    is_error(await slot.ask(request(asked("small", n, "nobody"))), 404)


@case(10)
async def models(slot: Slot, n: int) -> None:
    answer = await slot.ask(b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert {model["id"] for model in json.loads(answer.body)["data"]} == {"base", "large", "fickle", "lazy"}


@case(20)
async def reset_once(slot: Slot, n: int) -> None:
    is_answer(await slot.ask(request(asked("reset_once", n))), small_answer(n))


@case(10)
async def close_once(slot: Slot, n: int) -> None:
    is_answer(await slot.ask(request(asked("close_once", n))), small_answer(n))


@case(15)
async def small_and_last(slot: Slot, n: int) -> None:
    is_answer(await slot.ask(request(asked("small_and_last", n, "fickle"))), small_answer(n))


@case(10)
async def reset_always(slot: Slot, n: int) -> None:
    is_error(await slot.ask(request(asked("reset_always", n))), 502)


@case(20)
async def fail_once(slot: Slot, n: int) -> None:
    is_answer(await slot.ask(request(asked("fail_once", n))), small_answer(n))


@case(10)
async def fail_always(slot: Slot, n: int) -> None:
    is_answer(await slot.ask(request(asked("fail_always", n))), small_answer(n), 500)


@case(10)
async def garbage_once(slot: Slot, n: int) -> None:
    is_answer(await slot.ask(request(asked("garbage_once", n))), small_answer(n))


@case(10)
async def garbage_always(slot: Slot, n: int) -> None:
    is_error(await slot.ask(request(asked("garbage_always", n))), 502)


def _break(slot: Slot, n: int) -> None:
    """The worker's end goes, once what it wrote has arrived: a reset would overtake it."""
    transport = slot.workers.running[n].transport
    if slot.chance.random() < 0.5:
        transport.close()
    else:
        reset(transport)


@case(30)
async def broken_stream(slot: Slot, n: int) -> None:
    wire = await slot.wire()
    wire.write(request(asked("endless", n)))
    await wire.some(b'"event": 0')
    _break(slot, n)
    answer = await wire.answer()
    assert (answer.status, answer.complete) == (200, False), answer
    *whole, last, rest = answer.body.split(b"\n\n")
    whole = [event for event in whole if event]
    assert whole == [b'data: {"n": %d, "event": %d}' % (n, number) for number in range(len(whole))] and whole
    assert rest == b"" and json.loads(last.removeprefix(b"data: "))["error"]["code"] == 502, answer
    slot.drop()


@case(10)
async def broken_body(slot: Slot, n: int) -> None:
    is_error(await slot.ask(request(asked("broken_body", n))), 502)


@case(10)
async def broken_body_once(slot: Slot, n: int) -> None:
    is_answer(await slot.ask(request(asked("broken_body_once", n))), small_answer(n))


@case(5)
async def waited_in_vain(slot: Slot, n: int) -> None:
    answer = await slot.ask(request(asked("small", n, "lazy")))
    is_error(answer, 503)
    assert b"\r\nRetry-After: 5\r\n" in answer.head


@case(5)
async def left_while_waiting(slot: Slot, n: int) -> None:
    (await slot.wire()).write(request(asked("small", n, "lazy")))
    other = await connected(slot.port)
    other.write(request(asked("small", n)))
    is_answer(await other.answer(), small_answer(n))  # so the one before has been read too
    other.leave()
    slot.leave()


@case(2)
async def half_a_head(slot: Slot, n: int) -> None:
    is_error(await slot.ask_last(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Le"), 408)


@case(2)
async def half_a_body(slot: Slot, n: int) -> None:
    size = MIB + 100_000 if n % 2 else 1000  # a worker has the beginning of the larger one
    is_error(await slot.ask_last(request(asked("small", n, "large", size=size), length=size + 100_000)), 408)


@dataclass
class Load:
    """Sends the mix, with ``count`` requests each time; the order and the numbers differ."""

    port: int
    workers: Workers
    seed: int
    right: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._chance = Random(self.seed)
        self._numbers = itertools.count(1)

    async def send(self, count: int) -> None:
        """Every outcome has to be the expected one."""
        kinds = [name for name, (share, _) in CASES.items() for _ in range(max(1, count * share // 1000))]
        assert len(kinds) >= count, f"the shares sum up to {sum(share for share, _ in CASES.values())}"
        self._chance.shuffle(kinds)
        self.right.clear()
        left = iter(kinds)
        await asyncio.gather(*(self._work(left) for _ in range(CLIENTS)))
        assert not self.wrong, (len(self.wrong), self.wrong[:10])
        assert self.right == Counter(kinds)

    async def _work(self, left: Iterator[str]) -> None:
        slot = Slot(self.port, self.workers, self._chance)
        for kind in left:
            n = next(self._numbers)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await CASES[kind][1](slot, n)
                self.right[kind] += 1
            except (AssertionError, OSError, EOFError, TimeoutError, LookupError, ValueError) as error:
                self.wrong.append(f"{kind} {n}: {error!r}"[:600])
                slot.drop()
        slot.drop()
