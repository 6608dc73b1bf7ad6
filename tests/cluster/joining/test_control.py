"""The socket that stands in for the supervisor's on a machine that has joined: what it answers itself, and for whom."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cluster.joining.control import RemoteControl
from config.identity.principal import PRINCIPAL_HEADER

_SHUTDOWN = "/v1/cluster/shutdown"


class Machine:
    """This one."""

    def __init__(self) -> None:
        self.asked: list[bool] = []

    def shut_down(self, now: bool) -> None:
        self.asked.append(now)

    def snapshot(self) -> dict[str, Any]:
        return {"serving": [1]}


class Away:
    """An uplink to a supervisor that is not there."""

    connected = False

    def say(self, message: Mapping[str, Any]) -> None:
        raise AssertionError(message)


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "asked"),
    [
        ("POST", _SHUTDOWN, {}, '{"now": true}', 202, [True]),
        ("POST", _SHUTDOWN, {}, '{"now": "yes"}', 202, [False]),
        ("POST", _SHUTDOWN, {}, "", 202, [False]),
        ("POST", _SHUTDOWN, {}, "[", 400, []),
        ("POST", _SHUTDOWN, {}, "[]", 400, []),
        ("POST", _SHUTDOWN, {PRINCIPAL_HEADER: ""}, "{}", 503, []),
        ("POST", _SHUTDOWN, {PRINCIPAL_HEADER: "x;owner"}, "{}", 503, []),
        ("POST", "/v1/cluster/scale", {}, "{}", 503, []),
        ("GET", "/v1/cluster/snapshot", {}, "", 200, []),
    ],
)
async def test_what_balancers_ask_is_the_clusters_and_what_the_owner_asks_past_them_is_this_machines(
    tmp_path: Path, method: str, path: str, headers: dict[str, str], body: str, status: int, asked: list[bool]
) -> None:
    machine, file = Machine(), tmp_path / "control.sock"
    control = RemoteControl(Away(), machine)  # type: ignore[arg-type]
    await control.start(file)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(file))) as session:
        async with session.request(method, f"http://x{path}", data=body.encode(), headers=headers) as answer:
            assert answer.status == status
            await answer.read()
    await control.close()
    assert machine.asked == asked
