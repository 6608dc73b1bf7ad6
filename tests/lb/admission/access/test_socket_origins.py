"""Pages and WebSockets, through a whole balancer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from config.topology import CorsConfig
from lbfakes import running_balancer, running_worker

PATH = "/v1/realtime?model=base"


async def _opens(folder: Path, *, host: str = "", origin: str | None = None, **config: Any) -> tuple[int, int]:
    """How it is answered, and how many requests a worker that takes no WebSocket saw."""
    async with running_worker("instance_0") as worker, running_balancer(folder, **config) as balancer:
        balancer.push(worker.spec())
        host = host.replace("PORT", str(balancer.port)) or f"127.0.0.1:{balancer.port}"
        lines = [f"Host: {host}", "Connection: Upgrade, close", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
                 "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]  # fmt: skip
        if origin is not None:
            lines.append("Origin: " + origin.replace("PORT", str(balancer.port)))
        head = f"GET {PATH} HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n"
        answer = await balancer.raw(head.encode())
        return int(answer.split(b" ", 2)[1]), len([one for one in worker.seen if one.target == PATH])


@pytest.mark.parametrize(
    "given",
    [
        {}, {"origin": "http://127.0.0.1:PORT"}, {"host": "localhost:PORT", "origin": "http://localhost:PORT"},
        {"host": "[::1]:PORT", "origin": "http://[::1]:PORT"},
        {"host": "10.1.2.3", "origin": "https://10.1.2.3"}, {"host": "ai.example", "origin": "https://AI.example",
                                                             "allowed_hosts": ("ai.example",)},
        {"origin": "https://app.example", "cors": CorsConfig(origins=("https://app.example",))},
        {"origin": "https://app.example", "cors": CorsConfig(origins=("*",))},
    ],
)  # fmt: skip
async def test_programs_and_pages_of_its_own_and_those_that_may_open_one(tmp_path: Path, given: dict[str, Any]) -> None:
    assert (await _opens(tmp_path, **given))[1] == 1


@pytest.mark.parametrize(
    "given",
    [
        {"origin": "https://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:1"}, {"origin": ""},
        {"host": "evil.example:PORT", "origin": "http://evil.example:PORT"},  # a name that was led to 127.0.0.1
        {"origin": "https://evil.example", "cors": CorsConfig(origins=("https://app.example",))},
        {"origin": "http://127.0.0.1:PORT.evil.example"},
    ],
)  # fmt: skip
async def test_a_page_of_another_site_opens_none(tmp_path: Path, given: dict[str, Any]) -> None:
    assert await _opens(tmp_path, **given) == (403, 0)
