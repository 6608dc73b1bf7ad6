"""The balancer's own errors, as each API's own client library shows them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from lbfakes import Balanced
from stubengines import CLOSE, Fault, Stub, answer, chunk, start

Start = Callable[..., Awaitable[Balanced]]
MESSAGES: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture
def anthropic() -> Any:
    """The library; nobody but these tests waits for the second that its import takes."""
    return pytest.importorskip("anthropic")


@pytest.fixture
def openai() -> Any:
    """The same for the other."""
    return pytest.importorskip("openai")


@pytest.fixture
async def claude(balancer: Balanced, anthropic: Any) -> AsyncIterator[Any]:
    async with anthropic.AsyncAnthropic(base_url=balancer.url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def gpt(balancer: Balanced, openai: Any) -> AsyncIterator[Any]:
    async with openai.AsyncOpenAI(base_url=f"{balancer.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def event(kind: str, **fields: Any) -> bytes:
    return chunk(f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode())


async def one(balancer: Balanced, stack: AsyncExitStack, *faults: Fault) -> Stub:
    (stub,) = await start(stack, Stub("instance_0", list(faults)))
    balancer.push(stub.spec())
    return stub


async def test_an_unknown_model(
    balancer: Balanced, stack: AsyncExitStack, anthropic: Any, claude: Any, openai: Any, gpt: Any
) -> None:
    await one(balancer, stack)
    with pytest.raises(anthropic.NotFoundError) as told:
        await claude.messages.create(model="nobody", max_tokens=4, messages=MESSAGES)
    assert told.value.body["type"] == "error"
    assert told.value.body["error"]["type"] == "not_found_error"
    assert "The model `nobody` does not exist" in told.value.body["error"]["message"]
    with pytest.raises(anthropic.NotFoundError):
        await claude.messages.count_tokens(model="nobody", messages=MESSAGES)
    with pytest.raises(openai.NotFoundError, match="The model `nobody` does not exist") as other:
        await gpt.responses.create(model="nobody", input="hello")
    assert other.value.type == "NotFoundError"


async def test_no_worker_in_time(start_balancer: Start, stack: AsyncExitStack, anthropic: Any) -> None:
    balancer = await start_balancer(queue_timeout=0.1)
    stub = await one(balancer, stack)
    balancer.push(stub.spec(state="backoff"))
    async with anthropic.AsyncAnthropic(base_url=balancer.url, api_key="none", max_retries=0) as client:
        with pytest.raises(anthropic.InternalServerError) as told:
            await client.messages.create(model="base", max_tokens=4, messages=MESSAGES)
    assert told.value.status_code == 503
    assert told.value.body["error"]["type"] == "overloaded_error"
    assert told.value.response.headers["Retry-After"] == "5"


async def test_a_body_that_is_too_large(start_balancer: Start, stack: AsyncExitStack, anthropic: Any) -> None:
    balancer = await start_balancer(max_body=1024)
    await one(balancer, stack)
    async with anthropic.AsyncAnthropic(base_url=balancer.url, api_key="none", max_retries=0) as client:
        with pytest.raises(anthropic.APIStatusError) as told:
            await client.messages.create(
                model="base", max_tokens=4, messages=[{"role": "user", "content": "x" * 2000}]
            )
    assert (told.value.status_code, told.value.body["error"]["type"]) == (413, "request_too_large")


@pytest.mark.parametrize(("method", "status", "kind"), [("GET", 405, "invalid_request_error")])
async def test_what_the_route_does_not_take(balancer: Balanced, method: str, status: int, kind: str) -> None:
    code, body = await balancer.answer(method, "/v1/messages")
    assert (code, body["type"], body["error"]["type"]) == (status, "error", kind)


async def test_a_lost_worker_before_the_first_byte(
    balancer: Balanced, stack: AsyncExitStack, anthropic: Any, claude: Any
) -> None:
    await one(balancer, stack, *[Fault(b"", end=CLOSE)] * 9)
    with pytest.raises(anthropic.InternalServerError) as told:
        await claude.messages.create(model="base", max_tokens=4, messages=MESSAGES)
    assert (told.value.status_code, told.value.body["error"]["type"]) == (502, "api_error")


async def test_a_stream_of_messages_that_breaks(
    balancer: Balanced, stack: AsyncExitStack, anthropic: Any, claude: Any
) -> None:
    made = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "base",
            "usage": {"input_tokens": 1, "output_tokens": 0}}  # fmt: skip
    begun = event("message_start", message=made)
    begun += event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    begun += event("content_block_delta", index=0, delta={"type": "text_delta", "text": "one"})
    await one(balancer, stack, Fault(events=0, extra=begun, end=CLOSE))
    said = []
    with pytest.raises(anthropic.APIStatusError) as told:
        async with claude.messages.stream(model="base", max_tokens=4, messages=MESSAGES) as stream:
            async for text in stream.text_stream:
                said.append(text)
    assert said == ["one"]
    assert "the answer broke off" in str(told.value)
    assert told.value.body["error"]["type"] == "api_error"


async def test_a_stream_of_a_response_that_breaks(
    balancer: Balanced, stack: AsyncExitStack, openai: Any, gpt: Any
) -> None:
    begun = event("response.in_progress", sequence_number=1) + event(
        "response.output_text.delta", sequence_number=2, delta="one", item_id="m", output_index=0, content_index=0,
        logprobs=[],
    )  # fmt: skip
    await one(balancer, stack, *[Fault(events=0, extra=begun, end=CLOSE)] * 2)
    said = []
    with pytest.raises(openai.APIError, match="the answer broke off"):
        async for part in await gpt.responses.create(model="base", input="x", stream=True):
            said.append(part.type)
    assert said == ["response.in_progress", "response.output_text.delta"]
    raw = b""
    async with balancer.request("POST", "/v1/responses", json={"model": "base", "stream": True}) as response:
        try:
            async for data in response.content.iter_any():
                raw += data
        except Exception:
            pass
    name, _, data = raw.strip().rpartition(b"\n\n")[2].partition(b"\n")
    told = json.loads(data.removeprefix(b"data: "))
    assert name == b"event: error"
    assert (told["type"], told["sequence_number"], told["code"]) == ("error", 3, "502")
    assert told["message"] == told["error"]["message"]


async def test_a_stream_of_a_chat_that_cannot_go_on_says_it_as_openai_does(
    balancer: Balanced, stack: AsyncExitStack, openai: Any, gpt: Any
) -> None:
    text = b'data: {"id":"a","object":"chat.completion.chunk","created":1,"model":"base","choices":[{"index":0,' \
           b'"delta":{"content":"one"},"finish_reason":null}]}\n\n'  # fmt: skip
    await one(balancer, stack, *[Fault(events=0, extra=chunk(text), end=CLOSE)] * 9)
    with pytest.raises(openai.APIError, match="it cannot be continued"):
        async for _ in await gpt.chat.completions.create(model="base", messages=MESSAGES, stream=True):
            pass


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_is_made_again_before_its_first_byte(
    balancer: Balanced, stack: AsyncExitStack, stream: bool
) -> None:
    first, second = await start(stack, Stub("instance_0", [Fault(b"", end=CLOSE)]), Stub("instance_1"))
    balancer.push(first.spec(), second.spec())
    body = {"model": "base", "input": "x", "prompt": "x", "stream": stream}
    async with balancer.request("POST", "/v1/responses", json=body) as response:
        assert response.status == 200
        assert b'"error"' not in await response.read()
    assert (len(first.asked), len(second.asked)) == (1, 1)


async def test_one_that_broke_in_the_middle_and_was_not_streamed_is_made_again(
    balancer: Balanced, stack: AsyncExitStack
) -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    first, second = await start(stack, Stub("instance_0", [Fault(half, end=CLOSE)]), Stub("instance_1"))
    balancer.push(first.spec(), second.spec())
    assert (await balancer.ask("/v1/responses"))[1]["worker"] == "instance_1"


_DOES_SOMETHING: list[dict[str, Any]] = [{"background": True}, {"tools": [{"type": "mcp", "server_label": "x"}]}]


@pytest.mark.parametrize(
    "fields", [*_DOES_SOMETHING, *({"input": "x" * 1_200_000, **fields} for fields in _DOES_SOMETHING)],
    ids=lambda fields: " ".join(fields),
)
async def test_what_may_have_done_something_is_not_made_again(
    balancer: Balanced, stack: AsyncExitStack, fields: dict[str, Any]
) -> None:
    first, second = await start(stack, Stub("instance_0", [Fault(b"", end=CLOSE)]), Stub("instance_1"))
    balancer.push(first.spec(), second.spec())
    status, body = await balancer.ask("/v1/responses", **fields)
    assert (status, body["error"]["type"]) == (502, "BadGatewayError")
    assert not second.asked


async def test_nor_is_it_on_a_new_connection_where_a_kept_one_broke(
    balancer: Balanced, stack: AsyncExitStack
) -> None:
    stub = await one(balancer, stack, Fault(), Fault(b"", end=CLOSE))
    assert (await balancer.ask("/v1/responses"))[0] == 200
    assert (await balancer.ask("/v1/responses", background=True))[0] == 502
    assert len(stub.asked) == 2


async def test_one_that_goes_on_from_a_stored_one_stays_with_it(balancer: Balanced, stack: AsyncExitStack) -> None:
    stored = Fault(answer(200, {"id": "resp_1", "object": "response"}))
    first, second = await start(stack, Stub("instance_0", [stored, Fault(b"", end=CLOSE)]), Stub("instance_1"))
    balancer.push(first.spec(), second.spec())
    assert (await balancer.ask("/v1/responses"))[0] == 200
    status, _ = await balancer.ask("/v1/responses", previous_response_id="resp_1")
    assert (status, len(second.asked)) in ((502, 0), (200, 0))
