"""Streams whose worker goes wrong in every way we know: clients see the undisturbed answer, or an explicit error."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from config.topology import BackendSpec, Capabilities
from lbfakes import Balanced, RawWorker, read_message, spec, until
from simstreams import CONTEXT, seen, stream
from worker.sim.engine import tokens

StartRaw = Callable[..., Awaitable[RawWorker]]

BODY: dict[str, Any] = {
    "model": "base", "stream": True, "max_tokens": 40, "temperature": 0, "ignore_eos": True,
    "stream_options": {"include_usage": True},
}  # fmt: skip
CHAT = {**BODY, "messages": [{"role": "user", "content": "hello"}]}
COMPLETION = {**BODY, "prompt": "hello"}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def ends_with(writer: asyncio.StreamWriter, event: dict[str, Any]) -> bool:
    """As vLLM ends every stream, whatever happened."""
    writer.write(chunk(b"data: " + json.dumps(event).encode() + b"\n\n") + chunk(b"data: [DONE]\n\n") + LAST)
    return True


@dataclass
class Engine:
    """One worker. ``plan``, which may be shared: what goes wrong with the generations, (after so many events, what)."""

    name: str
    plan: list[tuple[int, str]] = field(default_factory=list)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    worker: RawWorker | None = None
    stalled: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    rendered: dict[str, Any] | None = None  # what it says of a generation without making it, if it says something

    def spec(self, **fields: Any) -> BackendSpec:
        assert self.worker is not None
        made = spec(self.name, self.worker.port, **fields)
        return BackendSpec(**{
            **{name: getattr(made, name) for name in made.__slots__},
            "models": tuple({**card, "max_model_len": CONTEXT} for card in made.models),
        })  # fmt: skip

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
                status = b"403 Forbidden" if self.rendered is None else b"200 OK"
                out = json.dumps({"token_ids": [1], **(self.rendered or {})}, separators=(",", ":")).encode()
                writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(out), out))
            else:
                self.asked.append((path, data))
                if not await self.generate(path, data, writer):
                    return
            await writer.drain()
            request = await read_message(reader)
            self.worker.requests.append(request)

    async def generate(self, path: str, data: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        fault = self.plan.pop(0) if self.plan else None
        events = stream(data, "chat" in path, name=f"{self.name}{len(self.asked)}")
        after, kind = fault or (len(events), "")
        if kind == "500":
            writer.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\n{}")
            return True
        writer.write(HEAD + b"".join(chunk(event) for event in events[:after]))
        await writer.drain()
        match kind:
            case "":
                writer.write(LAST)
                return True
            case "close":
                return False
            case "reset":
                for _ in range(20):  # what was written is read before it: a reset throws away what is not
                    await asyncio.sleep(0)
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return False
            case "half":
                writer.write(b"%x\r\n%b" % (len(events[after]), events[after][:20]))
                return False
            case "error":
                return ends_with(writer, {"error": {"message": "EngineCore is gone", "code": 500}})
            case "refused":
                return ends_with(writer, {"error": {"message": "too long", "code": 400}})
            case "abort":
                made = json.loads(events[min(after, len(events) - 3)][6:])
                made["choices"][0] |= {"finish_reason": "abort", "token_ids": []}
                return ends_with(writer, made)
            case "done":
                writer.write(chunk(b"data: [DONE]\n\n") + LAST)
                return True
            case "end":
                writer.write(LAST)
                return True
            case "garbage":
                writer.write(b"zz\r\nwhat is this\r\n")
                return False
            case "nonsense":
                writer.write(chunk(b'data: {"choices": [{"text": \n\n'))
                return True
            case "stall":
                self.stalled.set()
                await self.gone.wait()
                return False
        raise AssertionError(kind)


@pytest.fixture
def engines(balancer: Balanced, start_raw: StartRaw) -> Callable[..., Awaitable[list[Engine]]]:
    async def start(count: int, *plan: tuple[int, str], **fields: Any) -> list[Engine]:
        shared = list(plan)
        made = [Engine(f"instance_{number}", shared) for number in range(count)]
        for engine in made:
            engine.worker = await start_raw(engine.answer, engine.name)
        balancer.push(*(engine.spec(**fields) for engine in made))
        return made

    return start


Engines = Callable[..., Awaitable[list[Engine]]]


async def ask(balancer: Balanced, body: dict[str, Any]) -> tuple[int, bytes]:
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    async with balancer.request("POST", path, json=body) as response:
        return response.status, await response.read()


def undisturbed(body: dict[str, Any]) -> dict[str, Any]:
    return seen(b"".join(stream(body, "messages" in body)))


def without_names(found: dict[str, Any]) -> dict[str, Any]:
    """The id is the first worker's, whichever that was."""
    assert len(found["heads"]) == 1
    return {**found, "heads": {(kind, model) for _, kind, _, model in found["heads"]}}


FAULTS = ["close", "reset", "half", "error", "abort", "done", "end", "garbage", "nonsense"]


@pytest.mark.usefixtures("nobody_says_who_died")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("body", [CHAT, COMPLETION], ids=["chat", "completion"])
async def test_a_stream_outlives_what_its_worker_does(
    balancer: Balanced, engines: Engines, body: dict[str, Any], fault: str
) -> None:
    """After the role, after the first token, in the middle, and shortly before the end; twice in one stream."""
    workers = await engines(3)
    for number, after in enumerate((1, 2, 17, 37), 1):
        workers[0].plan[:] = [(after, fault), (1, fault)]
        status, raw = await ask(balancer, body)
        assert status == 200
        assert without_names(seen(raw)) == without_names(undisturbed({**body, "model": "base"}))
        assert sum(len(worker.asked) for worker in workers) == 3 * number
    await until(lambda: balancer.in_flight == 0)
    moved = balancer.parts.shared.metrics.render()
    assert "clusterctl_streams_moved_total" in moved
    assert "clusterctl_streams_broken_total{" not in moved


@pytest.mark.parametrize("spelling", [
    {"stream": 1}, {"stream": "true"}, {"stream": "On", "n": "1", "max_tokens": "30", "temperature": "0"},
    {"max_tokens": 30.0, "stream_options": {"include_usage": "false"}, "return_token_ids": 1},
])  # fmt: skip
@pytest.mark.parametrize("body", [CHAT, COMPLETION], ids=["chat", "completion"])
async def test_a_stream_outlives_its_worker_however_it_is_asked_for(
    balancer: Balanced, engines: Engines, body: dict[str, Any], spelling: dict[str, Any]
) -> None:
    body = {**body, **spelling}
    workers = await engines(2, (9, "close"))
    assert without_names(seen((await ask(balancer, body))[1])) == without_names(undisturbed(body))
    assert sum(len(worker.asked) for worker in workers) == 2


@pytest.mark.parametrize("body", [CHAT, COMPLETION], ids=["chat", "completion"])
async def test_a_stream_whose_end_alone_is_missing_gets_it(
    balancer: Balanced, engines: Engines, body: dict[str, Any]
) -> None:
    length = len(stream(body, "messages" in body))
    workers = await engines(2, (length - 2, "close"))
    assert without_names(seen((await ask(balancer, body))[1])) == without_names(undisturbed(body))
    assert sum(len(worker.asked) for worker in workers) == 1


@pytest.mark.usefixtures("nobody_says_who_died")
async def test_a_stream_moves_so_often_and_no_more(balancer: Balanced, engines: Engines) -> None:
    workers = await engines(3, *[(5, "error")] * 9)
    _, raw = await ask_raw(balancer, COMPLETION)
    assert sum(len(worker.asked) for worker in workers) == 4
    assert raw.count(b'data: {"error"') == 1
    assert b"it was moved 3 times before" in raw
    assert b"[DONE]" not in raw


@pytest.mark.parametrize("unable", [Capabilities(token_ids=False), Capabilities(detokenize=False)])
async def test_it_goes_on_only_where_the_engine_goes_on_from_tokens(
    balancer: Balanced, engines: Engines, unable: Capabilities
) -> None:
    workers = await engines(3, (9, "stall"))
    balancer.push(workers[0].spec(), *(worker.spec(state="unhealthy") for worker in workers[1:]))
    asking = asyncio.create_task(ask(balancer, COMPLETION), name="ask")
    await workers[0].stalled.wait()
    await until(lambda: balancer.parts.pool.backends["instance_0"].in_flight == 1)
    balancer.push(workers[1].spec(capabilities=unable), workers[2].spec())
    assert without_names(seen((await asking)[1])) == without_names(undisturbed(COMPLETION))
    assert [len(worker.asked) for worker in workers] == [1, 0, 1]
    workers[0].gone.set()


async def test_where_no_engine_goes_on_from_tokens_the_stream_says_so(balancer: Balanced, engines: Engines) -> None:
    workers = await engines(3, (9, "close"), capabilities=Capabilities(token_ids=False))
    _, raw = await ask_raw(balancer, COMPLETION)
    assert b"no engine here goes on from tokens" in raw and b"[DONE]" not in raw
    assert sum(len(worker.asked) for worker in workers) == 1


async def test_a_worker_that_is_lost_loses_its_streams_to_others(balancer: Balanced, engines: Engines) -> None:
    workers = await engines(2, (9, "stall"))
    asking = asyncio.create_task(ask(balancer, CHAT))
    await workers[0].stalled.wait()
    await until(lambda: balancer.parts.pool.backends["instance_0"].in_flight == 1)
    balancer.push(workers[0].spec(state="stopping"), workers[1].spec())
    assert without_names(seen((await asking)[1])) == without_names(undisturbed(CHAT))
    assert balancer.metric("clusterctl_streams_moved_total", instance="instance_0", cause="evicted", way="tokens") == 1
    workers[0].gone.set()


async def test_the_last_of_several_that_lose_their_worker_was_not_alone_there(
    balancer: Balanced, engines: Engines
) -> None:
    """They are told one after the other. On the second worker neither gets a token: one death for each, and not two."""
    first, second, third = await engines(3, *[(9, "stall")] * 2, *[(0, "stall")] * 2)
    balancer.push(first.spec())
    asking = [asyncio.create_task(ask(balancer, CHAT)) for _ in range(2)]
    await until(lambda: len(first.asked) == 2 and first.stalled.is_set())
    await until(lambda: balancer.metric("clusterctl_model_time_to_first_token_seconds_count", model=CHAT["model"]) == 2)
    balancer.push(first.spec(state="backoff"), second.spec())
    await until(lambda: len(second.asked) == 2 and balancer.parts.pool.backends["instance_1"].in_flight == 2)
    balancer.push(first.spec(state="backoff"), second.spec(state="backoff"), third.spec())
    for answer in await asyncio.gather(*asking):
        assert without_names(seen(answer[1])) == without_names(undisturbed(CHAT))
    first.gone.set()
    second.gone.set()


async def test_streams_that_had_begun_are_not_blamed_for_workers_that_die_before_they_go_on(
    balancer: Balanced, engines: Engines
) -> None:
    """What kills by being read never begins: two more deaths in a row are somebody else's fault."""
    workers = await engines(4, *[(9, "stall")] * 2, *[(0, "stall")] * 4)
    balancer.push(workers[0].spec())
    asking = [asyncio.create_task(ask(balancer, CHAT)) for _ in range(2)]
    await until(lambda: len(workers[0].asked) == 2 and workers[0].stalled.is_set())
    await until(lambda: balancer.metric("clusterctl_model_time_to_first_token_seconds_count", model=CHAT["model"]) == 2)
    for number, worker in enumerate(workers[1:], 1):
        balancer.push(*(dead.spec(state="backoff") for dead in workers[:number]), worker.spec())
        if worker is not workers[-1]:
            await until(lambda w=worker: len(w.asked) == 2)  # type: ignore[misc]
            await until(lambda w=worker: balancer.parts.pool.backends[w.name].in_flight == 2)  # type: ignore[misc]
    for answer in await asyncio.gather(*asking):
        assert without_names(seen(answer[1])) == without_names(undisturbed(CHAT))
    for worker in workers:
        worker.gone.set()


async def test_a_stream_that_stands_still_is_taken_elsewhere(
    start_balancer: Callable[..., Awaitable[Balanced]], start_raw: StartRaw
) -> None:
    balancer = await start_balancer(stall_timeout=0.3)
    plan = [(9, "stall")]
    workers = [Engine("instance_0", plan), Engine("instance_1", plan)]
    for engine in workers:
        engine.worker = await start_raw(engine.answer, engine.name)
    balancer.push(*(engine.spec() for engine in workers))
    assert without_names(seen((await ask(balancer, CHAT))[1])) == without_names(undisturbed(CHAT))
    assert balancer.metric("clusterctl_streams_stalled_total", instance="instance_0") == 1
    workers[0].gone.set()


async def test_it_waits_for_a_worker_if_there_is_none(balancer: Balanced, engines: Engines) -> None:
    (worker,) = await engines(1, (9, "stall"))
    asking = asyncio.create_task(ask(balancer, CHAT))
    await worker.stalled.wait()
    await until(lambda: balancer.parts.pool.backends["instance_0"].in_flight == 1)
    balancer.push(worker.spec(state="backoff"))
    await until(lambda: b"clusterctl_queued_requests 1.0" in balancer.parts.shared.metrics.render().encode())
    worker.gone.set()
    balancer.push(worker.spec(incarnation=2))
    assert without_names(seen((await asking)[1])) == without_names(undisturbed(CHAT))


async def test_it_goes_on_where_the_same_version_of_the_adapter_is(balancer: Balanced, engines: Engines) -> None:
    def card(version: str) -> tuple[dict[str, Any], ...]:
        return ({"id": "base", "root": version, "max_model_len": CONTEXT},)

    def at(engine: Engine, version: str, **fields: Any) -> BackendSpec:
        made = engine.spec(**fields)
        return BackendSpec(**{**{n: getattr(made, n) for n in made.__slots__}, "models": card(version)})

    workers = await engines(3, (9, "stall"))
    waiting = [at(workers[1], "v2", state="unhealthy"), at(workers[2], "v1", state="unhealthy")]
    balancer.push(at(workers[0], "v1"), *waiting)
    asking = asyncio.create_task(ask(balancer, CHAT))
    await workers[0].stalled.wait()
    await until(lambda: balancer.parts.pool.backends["instance_0"].in_flight == 1)
    balancer.push(at(workers[1], "v2"), at(workers[2], "v1"))
    assert without_names(seen((await asking)[1])) == without_names(undisturbed(CHAT))
    assert [len(worker.asked) for worker in workers] == [1, 0, 1]
    workers[0].gone.set()


async def test_before_it_has_begun_any_version_will_do_and_then_the_one_it_began_with(
    balancer: Balanced, engines: Engines
) -> None:
    """As in a rolling update of an adapter."""
    workers = await engines(4, (0, "close"), (9, "stall"))
    versions = ("v1", "v2", "v1", "v2")

    def push(*states: str) -> None:
        specs = [w.spec(state=state, weight=w is not workers[1]) for w, state in zip(workers, states, strict=True)]
        cards = [({"id": "base", "root": version, "max_model_len": CONTEXT},) for version in versions]
        balancer.push(*(replace(one, models=models) for one, models in zip(specs, cards, strict=True)))

    push("ready", "ready", "unhealthy", "unhealthy")
    asking = asyncio.create_task(ask(balancer, CHAT))
    await workers[1].stalled.wait()
    await until(lambda: balancer.parts.pool.backends["instance_1"].in_flight == 1)
    push("ready", "backoff", "ready", "ready")
    assert without_names(seen((await asking)[1])) == without_names(undisturbed(CHAT))
    assert [len(worker.asked) for worker in workers] == [1, 1, 0, 1]
    workers[1].gone.set()


@pytest.mark.parametrize(("body", "limit"), [
    (CHAT, 25), ({**CHAT, "max_tokens": None}, 25), ({**CHAT, "max_tokens": None}, 16), (COMPLETION, 25),
])  # fmt: skip
async def test_a_limit_that_the_engine_sets_itself_counts_from_the_beginning(
    balancer: Balanced, engines: Engines, body: dict[str, Any], limit: int
) -> None:
    """Of the model's `generation_config.json` or a flag: the request does not have it, the engine knows it."""
    workers = await engines(2, (9, "close"), (3, "close"))
    sampling = {"temperature": 0.0, **({} if limit == 16 else {"max_tokens": limit})}
    for worker in workers:
        worker.rendered = {"sampling_params": sampling, "reasoning_parser_kwargs": None, "reasoning_ended": None}
    # The worker it begins on has that limit too; it is only asked for nothing of the kind.
    raw = seen((await ask(balancer, body))[1])
    assert without_names(raw) == without_names(undisturbed({**body, "max_tokens": limit}))


@pytest.mark.parametrize("rendered", [
    {"sampling_params": {"skip_special_tokens": False}}, {"sampling_params": {"spaces_between_special_tokens": False}},
    {"sampling_params": {}, "reasoning_parser_kwargs": {"chat_template_kwargs": {}}, "reasoning_ended": False},
    {"sampling_params": {"structured_outputs": {"json": "{}"}}},
])  # fmt: skip
async def test_what_a_parser_of_the_engines_reads_is_not_continued_as_text(
    balancer: Balanced, engines: Engines, rendered: dict[str, Any]
) -> None:
    workers = await engines(2, (9, "close"))
    for worker in workers:
        worker.rendered = rendered
    data = json.dumps(CHAT).encode()
    async with balancer.connection() as (reader, writer):
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(data) + data)
        raw = await asyncio.wait_for(reader.read(), 5)
    assert b'data: {"error"' in raw
    assert b"parser of its worker" in raw or b"guided" in raw
    assert b"[DONE]" not in raw
    assert sum(len(worker.asked) for worker in workers) == 1


async def test_a_chat_whose_reasoning_is_over_in_its_prompt_goes_on(balancer: Balanced, engines: Engines) -> None:
    workers = await engines(2, (9, "close"))
    for worker in workers:
        sampling = {"max_tokens": 40, "temperature": 0.0}
        worker.rendered = {"sampling_params": sampling, "reasoning_parser_kwargs": {}, "reasoning_ended": True}
    assert without_names(seen((await ask(balancer, CHAT))[1])) == without_names(undisturbed(CHAT))


UNRESUMABLE = [
    {"n": 2, "temperature": 1}, {"response_format": {"type": "json_object"}}, {"structured_outputs": {"choice": ["a"]}},
    {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto"}, {"echo": True},
]  # fmt: skip


@pytest.mark.parametrize("extra", UNRESUMABLE, ids=lambda extra: next(iter(extra)))
async def test_what_cannot_be_continued_ends_in_an_explicit_error(
    balancer: Balanced, start_raw: StartRaw, extra: dict[str, Any]
) -> None:
    """A sample whose worker does not tell its tokens."""
    head = b'{"id":"a","object":"chat.completion.chunk","created":1,"model":"base","choices":[{"index":0,"delta":'
    role = b"data: " + head + b'{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
    text = b"data: " + head + b'{"content":"one"},"finish_reason":null,"token_ids":null}]}\n\n'
    requests: list[bytes] = []

    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(b"")
        parts = [role] if len(requests) == 1 else [role, text]
        writer.write(HEAD + b"".join(map(chunk, parts)))

    workers = [await start_raw(breaks, f"instance_{number}") for number in range(2)]
    balancer.push(*(worker.spec() for worker in workers))
    async with balancer.connection() as (reader, writer):
        body = json.dumps({**CHAT, "temperature": 1, **extra}).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        answer = await asyncio.wait_for(reader.read(), 5)
    assert len(requests) == 2, "made again once, as nothing of the answer had been sent"
    assert answer.count(b'"role"') == 1
    assert answer.count(b'"one"') == 1
    assert b"it cannot be continued: " in answer
    assert b"[DONE]" not in answer
    assert not answer.endswith(LAST)


async def test_usage_that_nobody_has_counted_is_an_error_and_not_a_silence(
    start_balancer: Callable[..., Awaitable[Balanced]], start_raw: StartRaw
) -> None:
    """The stream has finished, its usage is asked for, and its worker is gone."""
    balancer = await start_balancer(resume=False)
    for kind in ("close", "end"):
        engine = Engine("instance_0", [(len(stream(COMPLETION, False)) - 2, kind)])
        engine.worker = await start_raw(engine.answer, engine.name)
        balancer.push(engine.spec())
        _, raw = await ask_raw(balancer, COMPLETION)
        assert b'"finish_reason":"length"' in raw
        assert b'data: {"error"' in raw
        assert b"[DONE]" not in raw
        await until(lambda: balancer.in_flight == 0)


async def test_an_error_of_the_clients_in_a_stream_is_its_answer(balancer: Balanced, engines: Engines) -> None:
    workers = await engines(2, (0, "refused"))
    status, raw = await ask_raw(balancer, COMPLETION)
    assert status == 200
    assert b'"message": "too long"' in raw
    assert b"[DONE]" not in raw
    assert sum(len(worker.asked) for worker in workers) == 1
    assert balancer.counts("instance_0")[1] == 0


async def ask_raw(balancer: Balanced, body: dict[str, Any]) -> tuple[int, bytes]:
    """For answers that do not end as they should."""
    data = json.dumps(body).encode()
    async with balancer.connection() as (reader, writer):
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data))
        answer = await asyncio.wait_for(reader.read(), 5)
    return int(answer[9:12]), answer


async def test_without_resuming_nothing_is_asked_for_and_a_broken_stream_says_so(
    start_balancer: Callable[..., Awaitable[Balanced]], start_raw: StartRaw
) -> None:
    balancer = await start_balancer(resume=False)
    engine = Engine("instance_0", [(9, "close")])
    engine.worker = await start_raw(engine.answer, engine.name)
    balancer.push(engine.spec())
    _, raw = await ask_raw(balancer, COMPLETION)
    assert engine.asked[0][1] == COMPLETION
    assert b"(--no-resume)" in raw
    assert b"[DONE]" not in raw


async def test_a_plain_generation_that_was_given_up_is_made_again(balancer: Balanced, start_raw: StartRaw) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(1)
        reason = b"abort" if len(requests) == 1 else b"stop"
        body = b'{"choices":[{"index":0,"text":"x","finish_reason":"%b"}]}' % reason
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    requests: list[int] = []
    balancer.push(*[(await start_raw(answer, f"instance_{number}")).spec() for number in range(2)])
    status, answered = await balancer.ask()
    assert (status, answered["choices"][0]["finish_reason"]) == (200, "stop")
    assert len(requests) == 2


async def test_an_error_does_not_show_what_we_asked_for(balancer: Balanced, start_raw: StartRaw) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = worker.requests[-1].partition(b"\r\n\r\n")[2]
        body = json.dumps({"error": {"message": f"bad input: {json.loads(asked)}", "code": 400}}).encode()
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    worker = await start_raw(answer)
    balancer.push(worker.spec())
    status, raw = await ask(balancer, COMPLETION)
    assert status == 400
    assert b"return_token_ids" in worker.requests[-1]
    assert json.loads(raw)["error"]["message"] == f"bad input: {COMPLETION}"
