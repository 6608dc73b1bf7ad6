"""The sixteen faults of Failover Bench (methodology 0.1), against one worker beside a free one, with stubs of our own.

Its terms: *pass*: the client gets the complete answer, and the balancer behaves; *safe*: a clean error in bounded time;
*fail*: a hang, or a truncated answer that claims to be whole. S12 and S13 are the client's fault: there an error that
is passed on after one attempt is right. Its "primary" and "fallback" are two workers here, not two models.

S01 429 with Retry-After, once         S09 stream stalls
S02 429 without, always                S10 malformed chunk in a stream
S03 500 once                           S11 stream ends without [DONE]
S04 503 always                         S12 context length exceeded (400)
S05 reset before the head              S13 content filter (400)
S06 no response at all                 S14 the one who should go on refuses that
S07 slow first token                   S15 down, then healthy again
S08 stream cut in the middle           S16 who answered is who is counted
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from fakes import soon
from lbfakes import DEADLINE_S, Balanced, closed_port, running_worker, spec
from simstreams import seen, stream
from stubengines import CLOSE, HANG, KEEP, LAST, RESET, Fault, Stub, answer, chunk, error, start

pytestmark = pytest.mark.usefixtures("nobody_says_who_died")

StartBalancer = Callable[..., Awaitable[Balanced]]

BODY: dict[str, Any] = {
    "model": "base", "stream": True, "max_tokens": 40, "temperature": 0, "ignore_eos": True,
    "messages": [{"role": "user", "content": "hello"}], "stream_options": {"include_usage": True},
}  # fmt: skip
PLAIN = {"model": "base", "prompt": "hello", "max_tokens": 40}

#: How long silence is put up with, and what is longer than that.
LIMIT_S, LONGER_S = 0.3, 0.5


@pytest.fixture
async def balancer(start_balancer: StartBalancer) -> Balanced:
    return await start_balancer(first_byte_timeout=LIMIT_S, stall_timeout=LIMIT_S)


@pytest.fixture
def pair(balancer: Balanced, stack: AsyncExitStack) -> Callable[..., Awaitable[list[Stub]]]:
    """One that goes wrong and is asked first, and one that does not."""

    async def make(*faults: Fault, always: Fault | None = None, **fields: Any) -> list[Stub]:
        stubs = [Stub("instance_0", list(faults), always), Stub("instance_1")]
        await start(stack, *stubs)
        balancer.push(*(stub.spec(**fields) for stub in stubs))
        return stubs

    return make


Pair = Callable[..., Awaitable[list[Stub]]]


async def ask(balancer: Balanced, body: dict[str, Any] = BODY) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and all that came, however it ended."""
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    async with balancer.request("POST", path, json=body) as response:
        got = b""
        try:
            async for data in response.content.iter_any():
                got += data
        except Exception:
            got += b" (cut)"
        return response.status, dict(response.headers), got


def whole(got: tuple[int, dict[str, str], bytes]) -> bool:
    """The undisturbed stream, on one id."""
    found, right = seen(got[2]), seen(b"".join(stream(BODY, True)))
    return got[0] == 200 and len(found.pop("heads")) == 1 and bool(right.pop("heads")) and found == right


@pytest.mark.measured
async def test_s01_429_with_retry_after_is_asked_elsewhere_at_once(balancer: Balanced, pair: Pair) -> None:
    first, second = await pair(Fault(error(429, Retry_After="2")))
    began = time.monotonic()
    assert whole(await ask(balancer))
    assert time.monotonic() - began < 1.5
    assert (len(first.asked), len(second.asked)) == (1, 1)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_s02_what_all_say_is_the_answer_with_its_retry_after(
    balancer: Balanced, pair: Pair, status: int
) -> None:
    first, second = await pair(always=Fault(error(status, "no", Retry_After="7")))
    second.always = first.always
    for body in (BODY, PLAIN):
        code, headers, got = await ask(balancer, body)
        assert (code, headers["Retry-After"]) == (status, "7")
        assert json.loads(got)["error"]["message"] == "no"
    assert (len(first.asked), len(second.asked)) == (2, 2), "nobody is hammered"


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.parametrize("body", [BODY, PLAIN], ids=["stream", "plain"])
async def test_s02_s03_s04_one_that_cannot_is_not_the_answer_while_another_can(
    balancer: Balanced, pair: Pair, status: int, body: dict[str, Any]
) -> None:
    first, second = await pair(Fault(error(status)))
    code, _, got = await ask(balancer, body)
    assert code == 200
    assert b'"error"' not in got
    assert (len(first.asked), len(second.asked)) == (1, 1)


async def test_s04_503_for_ever_costs_one_attempt_a_request(balancer: Balanced, pair: Pair) -> None:
    first, second = await pair(always=Fault(error(503)))
    for number in range(1, 5):
        assert whole(await ask(balancer))
        assert len(second.asked) == number
        assert len(first.asked) <= number


@pytest.mark.parametrize("end", [RESET, CLOSE])
@pytest.mark.parametrize("body", [BODY, PLAIN], ids=["stream", "plain"])
async def test_s05_a_reset_before_the_head(
    balancer: Balanced, pair: Pair, end: str, body: dict[str, Any]
) -> None:
    first, second = await pair(Fault(b"", end=end))
    assert (await ask(balancer, body))[0] == 200
    assert (len(first.asked), len(second.asked)) == (1, 1)


async def test_s05_a_kept_connection_that_breaks_is_not_tried_again_on_the_same_worker(
    balancer: Balanced, pair: Pair
) -> None:
    """It answers each first request of a connection, reads the second one, and closes."""
    first, second = await pair(Fault(), Fault(b"", end=CLOSE), Fault(b"", end=CLOSE), Fault(b"", end=CLOSE))
    balancer.push(first.spec())
    assert (await ask(balancer, PLAIN))[0] == 200
    balancer.push(first.spec(), second.spec())
    got = [json.loads((await ask(balancer, PLAIN))[2])["worker"] for _ in range(2)]
    assert got == ["instance_1", "instance_1"]
    assert len(first.asked) == 2, "once on the kept connection, and not on a new one as well"


@pytest.mark.measured
async def test_s06_a_worker_that_takes_it_and_says_nothing(balancer: Balanced, pair: Pair) -> None:
    first, second = await pair(Fault(b"", end=HANG))
    began = time.monotonic()
    assert whole(await ask(balancer))
    assert LIMIT_S < time.monotonic() - began < 3
    assert (len(first.asked), len(second.asked)) == (1, 1)
    assert balancer.metric("clusterctl_attempt_failures_total", instance="instance_0", cause="silent") == 1
    assert balancer.metric("clusterctl_ejections_total", instance="instance_0") == 1


async def test_s06_silence_is_waited_for_where_nobody_else_is_left(
    balancer: Balanced, pair: Pair, start_balancer: StartBalancer, stack: AsyncExitStack
) -> None:
    """Late is better than never; and an answer that is no stream says nothing before it is complete."""
    first, second = await pair(Fault(answer(200, {"worker": "slow"}), after=LONGER_S))
    with_one = await start_balancer(first_byte_timeout=LIMIT_S, stall_timeout=LIMIT_S)
    (alone,) = await start(stack, Stub("instance_0", [Fault(error(418), after=LONGER_S)]))
    with_one.push(alone.spec())
    plain, streamed = await asyncio.gather(ask(balancer, PLAIN), ask(with_one))
    assert json.loads(plain[2]) == {"worker": "slow"}
    assert (len(first.asked), len(second.asked)) == (1, 0)
    assert (streamed[0], len(alone.asked)) == (418, 1)


async def test_s06_who_should_go_on_with_a_stream_and_is_silent_is_left_for_another(
    start_balancer: StartBalancer, stack: AsyncExitStack
) -> None:
    """As long as it may be moved: then the silent one is waited for."""


    async def of_the_third(limit: int) -> int:
        """How often it is asked."""
        balancer = await start_balancer(first_byte_timeout=LIMIT_S, migration_limit=limit)
        slow = Fault(after=LONGER_S)
        stubs = [Stub("instance_0", [Fault(events=20, end=CLOSE)]), Stub("instance_1", [slow]), Stub("instance_2")]
        stubs[1].hold_heads = True
        await start(stack, *stubs)
        balancer.push(*(stub.spec() for stub in stubs))
        assert whole(await ask(balancer))
        return len(stubs[2].asked)

    assert await asyncio.gather(of_the_third(3), of_the_third(1)) == [1, 0]


async def test_s07_a_slow_first_token_is_no_silence(balancer: Balanced, pair: Pair) -> None:
    """The head has come: its prompt is being read, which takes as long elsewhere."""
    first, second = await pair(Fault(after=LONGER_S))
    assert whole(await ask(balancer))
    assert (len(first.asked), len(second.asked)) == (1, 0)


@pytest.mark.parametrize("end", [CLOSE, RESET])
async def test_s08_a_stream_that_is_cut_goes_on(balancer: Balanced, pair: Pair, end: str) -> None:
    first, second = await pair(Fault(events=26, end=end))
    assert whole(await ask(balancer))
    assert (len(first.asked), len(second.asked)) == (1, 1)


async def test_s09_a_stream_that_stalls_goes_on(balancer: Balanced, pair: Pair) -> None:
    await pair(Fault(events=20, end=HANG))
    assert whole(await ask(balancer))
    assert whole(await ask(balancer)), "and it is well afterwards"


async def test_s10_a_malformed_chunk_is_not_passed_on(balancer: Balanced, pair: Pair) -> None:
    await pair(Fault(events=10, extra=chunk(b'data: {"choices": [{"delta": {"cont\n\n'), end=HANG))
    assert whole(await ask(balancer))
    assert whole(await ask(balancer))


@pytest.mark.measured
@pytest.mark.parametrize("missing", [1, 2], ids=["[DONE]", "and the usage"])
async def test_s11_a_missing_done_is_made_good_without_a_wait(
    start_balancer: StartBalancer, stack: AsyncExitStack, missing: int
) -> None:
    """Not even of a balancer that would put up with 10 s of silence."""
    balancer = await start_balancer()
    fault = Fault(events=len(stream(BODY, True)) - missing, extra=LAST, end=KEEP)
    first, second = await start(stack, Stub("instance_0", [fault]), Stub("instance_1"))
    balancer.push(first.spec(), second.spec())
    began = time.monotonic()
    assert whole(await ask(balancer))
    assert time.monotonic() - began < 1
    assert not second.asked


@pytest.mark.parametrize("code", ["context_length_exceeded", "content_policy_violation"])
async def test_s12_s13_the_clients_own_fault_is_told_once(balancer: Balanced, pair: Pair, code: str) -> None:
    reason = {"error": {"message": "not this", "type": "invalid_request_error", "code": code}}
    first, second = await pair(always=Fault(answer(400, reason)))
    status, _, got = await ask(balancer)
    assert (status, json.loads(got)) == (400, reason)
    assert (len(first.asked), len(second.asked)) == (1, 0)


async def test_s14_one_that_does_not_answer_how_to_go_on_is_left_for_another(
    balancer: Balanced, stack: AsyncExitStack
) -> None:
    broken = Fault(events=26, after=0.2, end=CLOSE)
    stubs = [Stub("instance_0", [broken]), Stub("instance_1", mute=True), Stub("instance_2")]
    await start(stack, *stubs)
    balancer.push(stubs[0].spec(), strategy="least_connections")
    asking = asyncio.create_task(ask(balancer))
    await soon(lambda: stubs[0].asked)
    balancer.push(*(stub.spec() for stub in stubs), strategy="least_connections")
    balancer.parts.pool.backends["instance_2"].lease(lambda reason: None)  # so that the other is the first choice
    assert whole(await asking)
    assert [len(stub.asked) for stub in stubs] == [1, 0, 1]


async def test_s14_a_refusal_to_go_on_is_not_the_clients_fault(balancer: Balanced, pair: Pair) -> None:
    first, second = await pair(Fault(events=26, end=CLOSE))
    second.always = Fault(error(400, "no prefill here"))
    first.faults += [Fault(error(400, "no prefill here"))] * 9
    status, _, got = await ask(balancer)
    assert status == 200
    assert b"no prefill here" not in got
    assert b"[DONE]" not in got
    assert b"it answered 400" in got.rpartition(b"data: ")[2]


async def test_s15_one_that_is_down_for_a_while_is_used_again(balancer: Balanced, pair: Pair) -> None:
    first, _ = await pair(*[Fault(error(503))] * 3)
    assert all([whole(await ask(balancer)) for _ in range(8)])
    assert not first.faults
    assert len(first.asked) > 3, "it is back"


async def test_s16_who_answered_is_counted_and_who_failed_is_not(balancer: Balanced, pair: Pair) -> None:
    await pair(always=Fault(error(503)))
    got = await ask(balancer)
    assert whole(got)
    assert b"instance_1" in got[2], "the id is the one of who answered"
    await soon(lambda: balancer.in_flight == 0)
    assert balancer.counts("instance_1") == (1, 0)
    assert balancer.counts("instance_0") == (1, 1)
    assert balancer.metric("clusterctl_model_completion_tokens_total", model="base") in (None, 40)


# their neighbours


@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_of_ours_that_one_refuses_is_not_the_clients_affair(
    balancer: Balanced, pair: Pair, status: int
) -> None:
    first, second = await pair(Fault(error(status)), Fault(error(status)), api_key="ours")
    assert whole(await ask(balancer))
    assert (len(first.asked), len(second.asked)) == (1, 1)
    balancer.push(first.spec())
    assert (await ask(balancer))[0] == status, "the clients' own key, and its own answer"


NO_ANSWERS = {
    "a page": answer(200, b"<html><body>Welcome to nginx</body></html>", "text/html; charset=utf-8"),
    "nothing": answer(200, b"", ""), "nothing in JSON": answer(200, b""),
    "half of it": answer(200, b'{"choices": [{"text": "on'), "no JSON": answer(200, b"choices: none\n"),
    "too short": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{}",
    "too long": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}{}{}",
    "half a head": b"HTTP/1.1 200 OK\r\nConte", "no HTTP": b"hello\r\n\r\n",
    "an error first": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 35\r\n\r\n"
                      b'data: {"error": {"message": "no"}}\n\n',
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_ANSWERS)
async def test_what_is_no_answer_is_asked_elsewhere_or_an_explicit_error(
    balancer: Balanced, pair: Pair, kind: str
) -> None:
    first, second = await pair(Fault(NO_ANSWERS[kind], end=CLOSE))
    status, _, got = await ask(balancer, PLAIN)
    assert (status, json.loads(got)["worker"]) == (200, "instance_1")
    second.always = first.always = Fault(NO_ANSWERS[kind], end=CLOSE)
    status, _, got = await ask(balancer, PLAIN)
    assert (status, json.loads(got)["error"]["type"]) == (502, "BadGatewayError")


async def test_an_answer_that_drips_is_awaited(balancer: Balanced, stack: AsyncExitStack) -> None:
    from aiohttp import web

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for byte in b'{"worker": "slow"}':
            await response.write(bytes([byte]))
            await asyncio.sleep(2 * LIMIT_S / 18)
        return response

    balancer.push((await stack.enter_async_context(running_worker("instance_0", drip))).spec())
    assert json.loads((await ask(balancer, PLAIN))[2]) == {"worker": "slow"}


@pytest.mark.parametrize("fields", [{}, {"host": "no.such.host.invalid", "ip": ""}], ids=["refused", "no such name"])
async def test_one_that_cannot_be_reached_costs_nothing(
    balancer: Balanced, stack: AsyncExitStack, fields: dict[str, str]
) -> None:
    (good,) = await start(stack, Stub("instance_1"))
    balancer.push(spec("instance_0", closed_port(), **fields), good.spec())
    assert whole(await ask(balancer))
    assert (await ask(balancer, PLAIN))[0] == 200


@pytest.mark.parametrize("events", [0, 1, 2, 20])
async def test_an_error_event_before_the_first_token_and_after_it(
    balancer: Balanced, pair: Pair, events: int
) -> None:
    event = chunk(b'data: {"error": {"message": "CUDA error", "code": 500}}\n\n') + chunk(b"data: [DONE]\n\n") + LAST
    first, second = await pair(Fault(events=events, extra=event))
    assert whole(await ask(balancer))
    assert (len(first.asked), len(second.asked)) == (1, 1)


@pytest.mark.measured
async def test_where_repetitions_have_run_out_the_workers_own_answer_counts(balancer: Balanced, pair: Pair) -> None:
    _, second = await pair(always=Fault(error(429, "later", Retry_After="3")))
    budget, now = balancer.parts.shared.budget, balancer.parts.shared.clock()
    while budget.take(now):
        pass
    began = time.monotonic()
    status, headers, _ = await ask(balancer, PLAIN)
    assert (status, headers["Retry-After"]) == (429, "3")
    assert time.monotonic() - began < DEADLINE_S / 2
    assert not second.asked
