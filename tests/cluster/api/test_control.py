"""The supervisor's socket: what it does for whom, as the balancer tells it who asks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from cluster.api import server as control
from clusterfakes import Unrun

CHANGES = [
    ("/v1/cluster/scale", {"instances": 99}),
    ("/v1/cluster/apply", {"settings": {"engine_args": ["--itl-ms", "1"]}, "dry_run": True}),
    ("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "/no/such/folder"}),
]  # fmt: skip


@pytest.fixture
async def socket(tmp_path: Path) -> AsyncIterator[Path]:
    parts = Unrun(tmp_path, max_instances=4)
    services = replace(parts.services, check_room=lambda: None, snapshot=lambda: {"instances": {}})
    runner = await control.serve(services, parts.state.control)
    yield parts.state.control
    await runner.cleanup()


async def ask(socket: Path, who: str | None) -> list[int]:
    """The statuses of a look, and of the changes: none of which can be made, if it may be asked for."""
    headers = {} if who is None else {"X-Cluster-Principal": who}
    connector = aiohttp.UnixConnector(path=str(socket))
    async with aiohttp.ClientSession("http://supervisor", connector=connector, headers=headers) as supervisor:
        async with supervisor.get("/v1/cluster/snapshot") as answer:
            found = [answer.status]
        for path, body in CHANGES:
            async with supervisor.post(path, json=body) as answer:
                found.append(answer.status)
                if answer.status == 403:
                    assert (await answer.json())["error"]["type"] == "PermissionDeniedError"
    return found


async def test_without_a_word_of_the_balancers_it_is_the_owner(socket: Path) -> None:
    """The command line, at a socket that only the owner can open; and a balancer of before there were scopes."""
    assert await ask(socket, None) == await ask(socket, "o;owner") == [200, 409, 200, 404]


async def test_an_administrator_runs_no_code_and_names_no_paths(socket: Path) -> None:
    assert await ask(socket, "a;admin") == [200, 409, 403, 403]


async def test_a_reader_reads(socket: Path) -> None:
    assert await ask(socket, "r;read") == [200, 403, 403, 403]


@pytest.mark.parametrize("who", ["", "x", "x;", "x;root", "owner", "i;inference"])
async def test_who_is_not_understood_gets_nothing(socket: Path, who: str) -> None:
    assert await ask(socket, who) == [403] * 4
