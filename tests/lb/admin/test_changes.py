"""Changes go to the supervisor, which is played by the test, and its answers come back."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from adminfakes import CHANGES, STATUS, control, raw_control, say, supervisor
from config.link import SEQUENCE_HEADER, bind_unix
from fakes import soon
from lbfakes import Balanced, RawHandler, raw_answer, read_message, snapshot


async def change(balancer: Balanced, body: Any = None, method: str = "POST", path: str = "/v1/cluster/scale") -> Any:
    return await balancer.answer(method, path, json={"instances": 3} if body is None else body)


@pytest.mark.parametrize(("method", "path"), CHANGES)
async def test_a_change_is_passed_on_as_it_is_and_so_is_its_answer(balancer: Balanced, method: str, path: str) -> None:
    async with control(balancer) as supervised:
        got = await change(balancer, {"a": "ä"}, method, path)
    assert got == (202, {"desired": 3, "current": 2})
    ((seen_method, seen_path, seen_body),) = supervised.seen
    assert (seen_method, seen_path, json.loads(seen_body)) == (method, path, {"a": "ä"})


@pytest.mark.parametrize("status", [400, 404, 409])
async def test_what_the_supervisor_refuses_is_passed_back(balancer: Balanced, status: int) -> None:
    error = {"error": {"message": "count: a whole number is needed", "type": "BadRequestError", "param": "count"}}
    async with control(balancer, status=status, body=error):
        assert await change(balancer) == (status, error)


@pytest.mark.parametrize(("method", "path"), CHANGES)
async def test_without_a_supervisor_a_change_is_503(balancer: Balanced, method: str, path: str) -> None:
    status, answer = await change(balancer, {}, method, path)
    assert (status, answer["error"]["type"]) == (503, "ServiceUnavailableError")


async def test_a_socket_that_a_dead_supervisor_left_is_503(balancer: Balanced) -> None:
    bind_unix(balancer.state_dir / "control.sock").close()
    assert (await change(balancer))[0] == 503


async def hang_up_unread(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.pause_reading()
    writer.transport.abort()


async def hang_up_after_reading(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await read_message(reader)


async def hang_up_within_the_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_message(reader)
    await raw_answer(b"HTTP/1.1 202 Accepted\r\nContent-Length: 50\r\n\r\n{")(reader, writer)


@pytest.mark.parametrize("death", [hang_up_unread, hang_up_after_reading, hang_up_within_the_answer])
async def test_a_supervisor_that_dies_within_a_change_is_503(balancer: Balanced, death: RawHandler) -> None:
    async with raw_control(balancer, death):
        assert (await change(balancer))[0] == 503


async def test_an_answer_is_passed_back_once_it_shows_in_status(balancer: Balanced) -> None:
    async with supervisor(balancer, "instance_0") as writer, control(balancer, headers={SEQUENCE_HEADER: "1.2"}) as c:
        asking = asyncio.ensure_future(change(balancer))
        await soon(lambda: c.seen)
        assert not asking.done()
        say(writer, snapshot("instance_0", "instance_1", sequence=[1, 2]))
        assert (await asking)[0] == 202
        assert (await balancer.answer("GET", STATUS))[1]["total_instances"] == 2


async def test_adapters_have_the_same_head_without_their_body(balancer: Balanced) -> None:
    async with control(balancer, status=200, body={"adapters": []}):
        heads = []
        for method in ("GET", "HEAD"):
            async with balancer.request(method, "/v1/lora_adapters") as response:
                heads.append((response.status, response.headers["Content-Type"], response.headers["Content-Length"]))
                body = await response.read()
    assert heads[0] == heads[1] == (200, "application/json; charset=utf-8", "16")
    assert not body


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "/v1/cluster/scale"), ("DELETE", "/v1/cluster/restart"), ("POST", STATUS), ("PUT", "/v1/cluster/strategy"),
    ("GET", "/v1/cluster/instances/instance_0/drain"), ("GET", "/v1/cluster/apply"),
    ("GET", "/v1/cluster/instances/instance_0"), ("POST", "/v1/system/health"), ("POST", "/v1/models"),
    ("POST", "/health"), ("POST", "/metrics"),
])  # fmt: skip
async def test_a_wrong_method_is_405(balancer: Balanced, method: str, path: str) -> None:
    status, answer = await balancer.answer(method, path, json={})
    assert (status, answer["error"]["type"]) == (405, "MethodNotAllowedError")


async def test_an_unknown_route_of_the_management_is_404(balancer: Balanced) -> None:
    assert (await balancer.answer("GET", "/v1/cluster/nothing"))[0] == 404
