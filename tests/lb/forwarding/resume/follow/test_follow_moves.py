"""Streams of every API that are made again whole when their worker goes wrong, on a real balancer."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from config import replay
from config.identity import api_keys
from config.identity.api_keys import ApiKey, Digest
from config.topology import BackendSpec, Capabilities
from fakes import soon
from lbfakes import Balanced, RawWorker, read_message, spec
from replaystreams import CHAT, COMPLETIONS, MESSAGES, PATHS, RESPONSES, seen, stream, tokens

StartRaw = Callable[..., Awaitable[RawWorker]]
StartBalancer = Callable[..., Awaitable[Balanced]]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n"
COUNT = 30

BODY: dict[str, Any] = {"model": "base", "stream": True, "temperature": 1, "max_tokens": COUNT}
USAGE = {"stream_options": {"include_usage": True}}
SAMPLE: dict[str, dict[str, Any]] = {
    CHAT: {**BODY, **USAGE, "messages": [], "response_format": {"type": "json_object"}},
    COMPLETIONS: {**BODY, **USAGE, "prompt": "x", "structured_outputs": {"regex": "."}},
    MESSAGES: {**BODY, "messages": []}, RESPONSES: {**BODY, "input": "x"},
}  # fmt: skip
GREEDY = {path: {**body, "temperature": 0} for path, body in SAMPLE.items()}


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass
class Engine:
    """One worker. ``plan``, which is shared: after how many events generations go wrong, and how; ``salt``: what it
    makes of a sample; ``tells``: it does so where it is asked to."""

    name: str
    plan: list[tuple[int, str]]
    salt: str = "same"
    tells: bool = True
    asked: list[tuple[bool, Any, bytes]] = field(default_factory=list)
    worker: RawWorker | None = None
    stalled: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def spec(self, **fields: Any) -> BackendSpec:
        assert self.worker is not None
        return spec(self.name, self.worker.port, **fields)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self.worker is not None
        request = self.worker.requests[-1]
        while True:
            head, _, body = request.partition(b"\r\n\r\n")
            if not await self.generate(head, body, writer):
                return
            await writer.drain()
            request = await read_message(reader)

    async def generate(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> bool:
        path = head.split(b" ")[1].decode()
        if head.startswith(b"GET"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
            return True
        replays, first = replay.CONTENT_TYPE.encode() in head, []  # type: bool, list[list[int]]
        assert head.lower().count(b"content-type:") == 1
        if replays:
            first, body = replay.read(body)
        after, kind = self.plan.pop(0) if self.plan else (1000, "")
        self.asked.append((replays, json.loads(body), head))
        if kind == "refuses" and replays:
            writer.write(b"HTTP/1.1 %d No\r\nContent-Length: 2\r\n\r\n{}" % after)
            return True
        made = [tokens(self.salt, COUNT, some) for some in (first or [[]])]
        response = self.asked[-1][1].get("request_id", f"resp_{self.name}")
        events = stream(path, made, self.name, lag=3, response=response)
        tells = self.tells and f"{replay.TELL}: 1".encode() in head
        writer.write(HEAD + (f"{replay.TELL}: 1\r\n".encode() if tells else b"") + b"\r\n")
        for told, event in events[:after]:
            writer.write(chunk((told if tells else b"") + event))
            await asyncio.sleep(0)
        await writer.drain()
        if kind == "stall":
            self.stalled.set()
            await self.gone.wait()
        if kind == "error":
            writer.write(chunk(b'data: {"type": "error", "error": {"message": "it broke"}}\n\n'))
        writer.write(b"0\r\n\r\n" if kind in ("", "end", "error") else b"")
        return kind in ("", "end", "error")


Engines = Callable[..., Awaitable[list[Engine]]]


async def started(balancer: Balanced, start_raw: StartRaw, *plan: tuple[int, str], **fields: Any) -> list[Engine]:
    """Three, of which each makes another sample unless they are ``alike``."""
    shared, alike = list(plan), fields.pop("alike", False)
    tells = fields.pop("tells", True)
    made = [Engine(f"x{'y' * n}", shared, "same" if alike else f"{n}", tells) for n in range(3)]
    for engine in made:
        engine.worker = await start_raw(engine.answer, engine.name)
    fields.setdefault("capabilities", Capabilities(replay=True))
    balancer.push(*(engine.spec(**fields) for engine in made))
    return made


async def ask(balancer: Balanced, path: str, body: dict[str, Any], **headers: str) -> bytes:
    async with balancer.request("POST", path, json=body, headers=headers) as response:
        assert response.status == 200 and replay.TELL not in response.headers
        raw: bytes = await response.read()
    assert b": tokens" not in raw
    return raw


def is_whole(path: str, raw: bytes, salt: str = "same") -> bool:
    """Of an answer that is the same wherever it is made."""
    undisturbed = b"".join(event for _, event in stream(path, [tokens(salt, COUNT)], "x"))
    return bool(seen(path, raw) == seen(path, undisturbed))


@pytest.mark.usefixtures("nobody_says_who_died")
@pytest.mark.parametrize("fault", ["close", "end", "error"])
@pytest.mark.parametrize("path", PATHS)
async def test_a_sample_is_made_again_by_its_tokens(
    balancer: Balanced, start_raw: StartRaw, path: str, fault: str
) -> None:
    """Before the first event, after the first, in the middle, while it is made again, and before its last."""
    engines = await started(balancer, start_raw)
    last = len(stream(path, [tokens("x", COUNT)], "x", lag=3)) - 2
    for breaks in ((0, 13), (1, 13), (9, 5), (20, 3, 25), (last, 2)):
        engines[0].plan[:] = [(after, fault) for after in breaks]
        seen(path, await ask(balancer, path, SAMPLE[path]))  # whole, and no part of it twice
        bodies = [each for engine in engines for each in engine.asked]
        assert len(bodies) == len(breaks) + 1
        assert any(replays for replays, _, _ in bodies)
        for engine in engines:
            engine.asked.clear()
    await soon(lambda: balancer.in_flight == 0)
    assert "clusterctl_streams_broken_total{" not in balancer.parts.shared.metrics.render()


@pytest.mark.usefixtures("nobody_says_who_died")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("able", [Capabilities(replay=True), Capabilities()], ids=["silent", "unable"])
async def test_what_is_no_sample_is_made_again_and_compared(
    balancer: Balanced, start_raw: StartRaw, path: str, able: Capabilities
) -> None:
    """Where workers do not tell tokens, whether they are said to or not."""
    engines = await started(balancer, start_raw, alike=True, tells=False, capabilities=able)
    for body in (GREEDY[path], {**SAMPLE[path], "seed": 7}):
        for breaks in ((1, 13), (9, 5), (20, 3, 25)):
            engines[0].plan[:] = [(after, "close") for after in breaks]
            assert is_whole(path, await ask(balancer, path, body))
    assert not any(replays for engine in engines for replays, _, _ in engine.asked)


async def test_a_worker_that_makes_something_else_ends_the_stream(balancer: Balanced, start_raw: StartRaw) -> None:
    for path in PATHS:
        engines = await started(balancer, start_raw, (14, "close"), capabilities=Capabilities())
        raw = await ask_raw(balancer, path, GREEDY[path])
        assert b"another worker did not make the same" in raw and b"[DONE]" not in raw, path
        for engine in engines:
            engine.gone.set()


@pytest.mark.usefixtures("nobody_says_who_died")
@pytest.mark.parametrize("status", [400, 415, 500])
async def test_where_tokens_are_not_made_again_the_next_way_is_taken(
    balancer: Balanced, start_raw: StartRaw, status: int
) -> None:
    await started(balancer, start_raw, (14, "close"), (status, "refuses"), alike=True)
    assert is_whole(CHAT, await ask(balancer, CHAT, GREEDY[CHAT]))
    assert balancer.metric("clusterctl_streams_moved_total", instance="x", cause="broken", way="replay") == 1
    page = balancer.parts.shared.metrics.render()
    assert 'way="compare"} 1.0' in page
    engines = await started(balancer, start_raw, (14, "close"), *[(status, "refuses")] * 3)
    raw = await ask_raw(balancer, CHAT, SAMPLE[CHAT])
    assert b"a worker did not make its tokens again" in raw and b"[DONE]" not in raw
    assert sum(len(engine.asked) for engine in engines) == 2


@pytest.mark.parametrize("path", PATHS)
async def test_a_sample_whose_tokens_nobody_knows_ends_in_an_error_of_its_api(
    balancer: Balanced, start_raw: StartRaw, path: str
) -> None:
    await started(balancer, start_raw, (14, "close"), tells=False)
    raw = await ask_raw(balancer, path, SAMPLE[path])
    assert b"tokens are not known" in raw and b"[DONE]" not in raw and not raw.endswith(b"0\r\n\r\n")
    if path in (MESSAGES, RESPONSES):
        error = json.loads(raw[raw.rindex(b"event: error\ndata: ") + 19 :].partition(b"\n")[0])
        assert error["type"] == "error"
        assert path == MESSAGES or error["sequence_number"] == 14


async def ask_raw(balancer: Balanced, path: str, body: dict[str, Any]) -> bytes:
    """All bytes that come until the connection is closed."""
    sent = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
    return await balancer.raw(head.encode() + sent)


async def test_it_is_not_continued_where_nothing_is(start_balancer: StartBalancer, start_raw: StartRaw) -> None:
    balancer = await start_balancer(resume=False)
    for path in PATHS:
        engines = await started(balancer, start_raw, (14, "close"), alike=True)
        raw = await ask_raw(balancer, path, GREEDY[path])
        assert b"error" in raw and not raw.endswith(b"0\r\n\r\n")
        ((_, _, head),) = [each for engine in engines for each in engine.asked]
        assert replay.TELL.encode() not in head


@pytest.mark.usefixtures("nobody_says_who_died")
async def test_it_moves_so_often_and_no_more(balancer: Balanced, start_raw: StartRaw) -> None:
    engines = await started(balancer, start_raw, *[(14, "error")] * 9)
    raw = await ask_raw(balancer, MESSAGES, SAMPLE[MESSAGES])
    assert sum(len(engine.asked) for engine in engines) == 4
    assert b"it was moved 3 times before" in raw


async def test_one_that_stands_still_is_taken_elsewhere(start_balancer: StartBalancer, start_raw: StartRaw) -> None:
    """Of each API, all at once. Also while it is being made again, where its client sees nothing of it for longer than
    that."""
    balancer = await start_balancer(stall_timeout=0.3)
    engines = await started(balancer, start_raw, *[(20, "stall")] * len(PATHS), *[(6, "stall")] * len(PATHS))
    answers = await asyncio.gather(*(ask(balancer, path, SAMPLE[path]) for path in PATHS))
    for path, answer in zip(PATHS, answers, strict=True):
        seen(path, answer)
    asked = Counter(head.split(b" ")[1].decode() for engine in engines for _, _, head in engine.asked)
    assert asked == dict.fromkeys(PATHS, 3)
    for engine in engines:
        engine.gone.set()


async def test_one_whose_parser_waits_for_more_does_not_stand_still(
    start_balancer: StartBalancer, start_raw: StartRaw
) -> None:
    balancer = await start_balancer(stall_timeout=0.05)
    engines = await started(balancer, start_raw, (20, "stall"))
    body = {**SAMPLE[CHAT], "tools": [{"type": "function", "function": {"name": "one"}}]}
    asking = asyncio.create_task(ask(balancer, CHAT, body), name="ask")
    await soon(lambda: any(engine.stalled.is_set() for engine in engines))
    await asyncio.sleep(0.3)  # longer than any other would be waited for
    assert sum(len(engine.asked) for engine in engines) == 1
    for engine in engines:
        engine.gone.set()
    seen(CHAT, await asking)


async def test_one_that_makes_progress_does_not_stand_still(
    start_balancer: StartBalancer, start_raw: StartRaw
) -> None:
    balancer = await start_balancer(stall_timeout=0.5)
    engines = await started(balancer, start_raw, (25, "close"))

    async def slowly(self: Engine, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> bool:
        first, _ = replay.read(body)
        self.asked.append((True, None, head))
        writer.write(HEAD + f"{replay.TELL}: 1\r\n\r\n".encode())
        for number, (told, event) in enumerate(stream(CHAT, [tokens("x", COUNT, first[0])], "xyyyy", lag=3)):
            writer.write(chunk(told + event))
            await asyncio.sleep(0.025 if number < 25 else 0)  # those that its client has already
        writer.write(b"0\r\n\r\n")
        return True

    for engine in engines:
        before = engine.generate

        async def generate(
            head: bytes, body: bytes, writer: asyncio.StreamWriter, engine: Engine = engine, before: Any = before
        ) -> bool:
            again = replay.CONTENT_TYPE.encode() in head
            return await slowly(engine, head, body, writer) if again else bool(await before(head, body, writer))

        engine.generate = generate  # type: ignore[method-assign]
    seen(CHAT, await ask(balancer, CHAT, SAMPLE[CHAT]))
    assert sum(len(engine.asked) for engine in engines) == 2


async def test_a_drain_moves_it(balancer: Balanced, start_raw: StartRaw) -> None:
    engines = await started(balancer, start_raw, (14, "stall"))
    balancer.push(engines[0].spec(capabilities=Capabilities(replay=True)))
    asking = asyncio.create_task(ask(balancer, RESPONSES, SAMPLE[RESPONSES]), name="ask")
    await engines[0].stalled.wait()
    await soon(lambda: balancer.parts.pool.backends["x"].in_flight == 1)
    able = Capabilities(replay=True)
    balancer.push(engines[0].spec(state="stopping", capabilities=able), engines[1].spec(capabilities=able))
    seen(RESPONSES, await asking)
    engines[0].gone.set()


async def test_the_response_is_found_where_it_was_made_again(balancer: Balanced, start_raw: StartRaw) -> None:
    """Under the id that its client knows."""
    engines = await started(balancer, start_raw, (14, "close"))
    raw = await ask(balancer, RESPONSES, SAMPLE[RESPONSES])
    (asked,) = [body for engine in engines for replays, body, _ in engine.asked if replays]
    first = next(engine for engine in engines if engine.asked and not engine.asked[0][0])
    assert asked["request_id"] == f"resp_{first.name}" and asked["request_id"].encode() in raw
    second = next(engine.name for engine in engines if engine is not first and engine.asked)
    assert balancer.parts.shared.responses.known(asked["request_id"]) == (second, 1)


async def test_why_says_which_way(balancer: Balanced, start_raw: StartRaw) -> None:
    await started(balancer, start_raw, (14, "close"))
    await ask(balancer, MESSAGES, SAMPLE[MESSAGES], **{"X-Request-Id": "asked"})
    _, said = await balancer.answer("GET", "/v1/cluster/why?request_id=asked", headers={"Authorization": "Bearer x"})
    ((broken, last),) = [decision["attempts"] for decision in said["decisions"]]
    assert (broken["continued"], "continued" in last) == ("replay", False)


async def test_no_client_asks_for_tokens_or_gives_them(balancer: Balanced, start_raw: StartRaw) -> None:
    engines = await started(balancer, start_raw)
    plain = {**BODY, "prompt": "x"}
    async with balancer.request("POST", COMPLETIONS, json=plain, headers={replay.TELL: "1"}) as response:
        assert b": tokens" not in await response.read()
    ((_, _, head),) = [each for engine in engines for each in engine.asked]
    assert replay.TELL.encode() not in head
    for kind in (replay.CONTENT_TYPE, replay.CONTENT_TYPE.upper() + "; charset=utf-8"):
        sent = replay.body([[1]], json.dumps(plain).encode())
        async with balancer.request("POST", COMPLETIONS, data=sent, headers={"Content-Type": kind}) as response:
            assert response.status == 415
    assert sum(len(engine.asked) for engine in engines) == 1


@pytest.mark.usefixtures("nobody_says_who_died")
@pytest.mark.parametrize("told", [True, False], ids=["usage", "no-usage"])
@pytest.mark.parametrize("path", PATHS)
async def test_each_token_is_on_the_account_once(
    balancer: Balanced, start_raw: StartRaw, path: str, told: bool
) -> None:
    """However often it was made; and the prompt's where the answer tells of it."""
    await started(balancer, start_raw, (20, "close"), (9, "close"))
    allow(balancer, "a")
    body = SAMPLE[path] if told else {key: value for key, value in SAMPLE[path].items() if key != "stream_options"}
    async with balancer.request("POST", path, json=body, headers={"x-api-key": "cck_a"}) as response:
        raw = await response.read()
    await soon(lambda: balancer.in_flight == 0)
    rows = await balancer.parts.ledger.query(["key"], "2000-01-01", "2100-01-01")
    ((requests, completion),) = [(row["requests"], row["completion_tokens"]) for row in rows]
    assert (requests, completion) == (1, COUNT), raw


def allow(balancer: Balanced, *names: str) -> None:
    """Keys of theirs, whose secrets are ``cck_`` and the name."""
    keys = [ApiKey(name, digests=(Digest(api_keys.digest(f"cck_{name}")),)).to_json() for name in names]
    balancer.parts.keys.apply({"version": [1, 1], "keyed": True, "keys": keys})


async def test_a_response_is_still_its_owners_after_a_move(balancer: Balanced, start_raw: StartRaw) -> None:
    await started(balancer, start_raw, (20, "close"))
    allow(balancer, "a", "b")
    raw = await ask(balancer, RESPONSES, SAMPLE[RESPONSES], **{"x-api-key": "cck_a"})
    seen(RESPONSES, raw)
    ids = set(re.findall(r"resp_[A-Za-z0-9_-]+", raw.decode()))
    assert len(ids) == 1
    found = []
    for name in ("a", "b"):
        head = {"x-api-key": f"cck_{name}"}
        async with balancer.request("GET", f"{RESPONSES}/{next(iter(ids))}", headers=head) as response:
            found.append(response.status)
    assert found == [200, 404]
