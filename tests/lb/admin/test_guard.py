"""Whom the management API takes requests of, and which."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from adminfakes import CHANGES, STATUS, StartWorker, control
from lbfakes import Balanced

StartBalancer = Callable[..., Awaitable[Balanced]]


@pytest.mark.parametrize("path", [STATUS, "/v1/system/health", "/v1/system/metrics", "/v1/cluster/instances/x/logs",
                                  "/v1/cluster/nothing", "/v1/clusterwide"])  # fmt: skip
@pytest.mark.parametrize(("headers", "status"), [({"X-Forwarded-For": "1.2.3.4"}, 403), ({"Host": "evil.example"}, 403),
                                                 ({"Origin": "http://evil.example"}, 403)])  # fmt: skip
async def test_a_stranger_is_refused_whatever_is_asked(
    balancer: Balanced, path: str, headers: dict[str, str], status: int
) -> None:
    got, answer = await balancer.answer("GET", path, headers=headers)
    assert (got, answer["error"]["type"]) == (status, "PermissionDeniedError")


@pytest.mark.parametrize("path", ["/v1/%63luster/status", "/v1/cluster/%73tatus", "//v1/cluster/status",
                                  "/x/../v1/cluster/status", "/v1/./cluster/status", "/v1%2Fcluster/status",
                                  "http://localhost/v1/cluster/status"])  # fmt: skip
async def test_no_other_spelling_of_the_path_gets_round_the_guard(start_balancer: StartBalancer, path: str) -> None:
    balancer = await start_balancer(admin_key="key")
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = await balancer.raw(head.encode())
    assert answer.split(b" ")[1] in (b"401", b"403", b"404")
    assert b"supervisor" not in answer


@pytest.mark.parametrize(("method", "path"), CHANGES)
async def test_a_change_that_is_not_declared_as_json_reaches_no_supervisor(
    balancer: Balanced, method: str, path: str
) -> None:
    async with control(balancer) as supervised:
        options = {"data": b'{"instances": 3}', "headers": {"Content-Type": "text/plain"}}
        status, answer = await balancer.answer(method, path, **options)
    assert (status, answer["error"]["type"]) == (415, "UnsupportedMediaTypeError")
    assert supervised.seen == []


async def test_a_change_of_more_bytes_than_any_has_reaches_no_supervisor(balancer: Balanced) -> None:
    options = {"headers": {"Content-Type": "application/json"}}
    async with control(balancer) as supervised:
        for data in (b'{"a": "' + b"x" * 300_000 + b'"}', b" " * 3_000_000):
            status, answer = await balancer.answer("POST", "/v1/cluster/apply", data=data, **options)
            assert (status, answer["error"]["type"]) == (413, "RequestTooLargeError")
    assert supervised.seen == []


async def test_with_a_key_it_takes_the_key(start_balancer: StartBalancer) -> None:
    balancer = await start_balancer(admin_key="key")
    assert (await balancer.answer("GET", STATUS))[0] == 401
    assert (await balancer.answer("GET", STATUS, headers={"Authorization": "Bearer wrong"}))[0] == 401
    assert (await balancer.answer("GET", STATUS, headers={"Authorization": "Bearer key"}))[0] == 200


async def test_a_key_may_be_any_text(start_balancer: StartBalancer) -> None:
    balancer = await start_balancer(admin_key="schlüssel")
    head = b"GET /v1/cluster/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    answer = await balancer.raw(head + "Authorization: Bearer schlüssel\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 200")


async def test_a_key_that_is_no_text_is_401_and_no_error_of_ours(start_balancer: StartBalancer) -> None:
    balancer = await start_balancer(admin_key="key")
    head = b"GET /v1/cluster/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    assert (await balancer.raw(head + b"Authorization: Bearer \xff\r\n\r\n")).startswith(b"HTTP/1.1 401")


async def test_traffic_models_and_health_need_no_key(start_balancer: StartBalancer, start_worker: StartWorker) -> None:
    balancer = await start_balancer(admin_key="key")
    balancer.push((await start_worker()).spec())
    for path in ("/health", "/v1/models", "/version"):
        assert (await balancer.answer("GET", path, headers={"Host": "any.example"}))[0] == 200
