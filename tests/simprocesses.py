"""What is asked of simulated workers that are processes of their own."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

Start = Callable[..., Any]
LONG = {"prompt": "hello", "max_tokens": 2000, "ignore_eos": True, "stream": True}
SHORT = {"prompt": "hello", "max_tokens": 3, "ignore_eos": True}


async def read_some(answer: aiohttp.ClientResponse, chunks: int = 2) -> None:
    """Wait until a stream has sent so many events."""
    for _ in range(chunks):
        await answer.content.readuntil(b"\n\n")


async def raw(worker: Any, body: dict[str, Any]) -> bytes:
    """Every byte of an answer, until the worker closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(worker.url.rpartition(":")[2]))
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
    writer.write(head.encode() + b"\r\n\r\n" + data)
    try:
        async with asyncio.timeout(8):
            return await reader.read()
    finally:
        writer.close()


def metric(page: str, name: str) -> float:
    """The value of one of vLLM's samples without extra labels."""
    found = re.search(rf"^vllm:{name}{{[^}}]*}} (\S+)$", page, re.M)
    assert found, name
    return float(found[1])


async def metrics(worker: Any) -> str:
    async with worker.session.get(worker.url + "/metrics") as answer:
        return str(await answer.text())


def adapter(folder: Path, rank: int = 8) -> None:
    folder.mkdir()
    config = {"r": rank, "lora_alpha": 16, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
