"""llama.cpp's server as the front sees it: started with a set of adapters, asked over loopback, ended."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from worker.llamacpp.settings import LlamaSettings
from worker.sim.errors import ApiError, EngineDead

_LINE = 1 << 22  # bytes; an event of a stream, or where the server answers
_NO_LIMIT = aiohttp.ClientTimeout(total=None, sock_connect=10)
_MOST_SPLITS = 4096

#: Seconds to wait for what the server says of itself: it says nothing while it computes a step.
_METRICS_S = 0.5


class CannotStart(Exception):
    """The server does not take the model or the adapters."""


class NativeServer:
    """``adapters``: names in the order of llama.cpp's ids. ``users``: answers that are being made by it; ``idle`` is
    set while there are none."""

    def __init__(
        self, process: asyncio.subprocess.Process, url: str, key: str, version: str, adapters: Sequence[str]
    ) -> None:
        self._process, self._url, self.version = process, url, version
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {key}"}, timeout=_NO_LIMIT, read_bufsize=_LINE,
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
        )  # fmt: skip
        self.adapters = tuple(adapters)
        self._users = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._splits: dict[tuple[str, int, int], list[int] | None] = {}

    @property
    def pid(self) -> int:
        return self._process.pid

    def lora(self, adapter: str | None) -> list[dict[str, Any]]:
        """The scale of every adapter: one that is left out keeps the one before."""
        return [{"id": at, "scale": float(name == adapter)} for at, name in enumerate(self.adapters)]

    async def wait(self) -> int:
        """Until its process has ended; its status."""
        return await self._process.wait()

    async def close(self) -> None:
        """Ends it, with what it is doing."""
        await self._session.close()
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON answer of one of its routes. Raises ApiError."""
        async with self._call(path, body) as response:
            return json.loads(await response.read())

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a stream as they come; closing it ends the request. Raises ApiError."""
        async with self._call(path, body) as response:
            async for line in response.content:
                if not line.startswith((b"data: {", b"error: {")):
                    continue
                event = json.loads(line[line.index(b"{") :])
                if "error" in event or line.startswith(b"error"):
                    raise _refusal(500, event)
                yield event

    async def text_of(self, ids: Sequence[int]) -> str:
        """Special tokens are shown."""
        return str((await self.ask("/detokenize", {"tokens": list(ids)}))["content"])

    async def ids_of(self, text: str, special: bool) -> list[int]:
        """``special``: with what the model wants at the beginning of a prompt."""
        body = {"content": text, "add_special": special, "parse_special": True}
        return list((await self.ask("/tokenize", body))["tokens"])

    async def split(self, text: str, count: int, last: int) -> list[int] | None:
        """The ``count`` tokens that ``text`` was made of, of which llama.cpp tells the ``last`` only: those before it
        ended within a character. None where that is not sure."""
        key = (text, count, last)
        if key not in self._splits:
            if len(self._splits) >= _MOST_SPLITS:
                self._splits.clear()
            found = await self.ids_of(text, special=False)
            self._splits[key] = found if len(found) == count and found[-1] == last else None
        return self._splits[key]

    async def steps(self) -> int | None:
        """How many steps it has made; None where it does not say in time."""
        try:
            async with asyncio.timeout(_METRICS_S), self._session.get(f"{self._url}/metrics") as response:
                for line in (await response.text()).splitlines():
                    if line.startswith("llamacpp:n_decode_total "):
                        return int(float(line.split()[1]))
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
            pass
        return None

    @asynccontextmanager
    async def _call(
        self, path: str, body: Mapping[str, Any] | None
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        self._users += 1
        self.idle.clear()
        method = "GET" if body is None else "POST"
        try:
            async with self._session.request(method, self._url + path, json=body) as response:
                if response.status != 200:
                    raise _refusal(response.status, _parsed(await response.read()))
                yield response
        except (aiohttp.ClientError, OSError, ValueError):
            raise EngineDead from None
        finally:
            self._users -= 1
            if not self._users:
                self.idle.set()


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return {}


def _refusal(status: int, answer: Any) -> ApiError:
    error = answer.get("error", answer) if isinstance(answer, dict) else {}
    text, told = str(error.get("message") or "llama.cpp refused it"), error.get("code")
    status = told if isinstance(told, int) and 400 <= told < 600 else status
    return ApiError(text, status, "BadRequestError" if status < 500 else "InternalServerError")


async def start(settings: LlamaSettings, adapters: Mapping[str, str]) -> NativeServer:
    """``adapters``: name: GGUF file. Returns when it answers. Raises CannotStart."""
    key = secrets.token_hex(16)
    told = {
        "model": str(settings.model), "key": key, "slots": settings.slots, "context": settings.context,
        "batch": settings.batch, "gpu_layers": settings.gpu_layers, "threads": settings.threads,
        "adapters": list(adapters.values()),
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker.llamacpp.server", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        limit=_LINE,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(told).encode() + b"\n")
        await process.stdin.drain()
        answer = _parsed(await process.stdout.readline())
    except (OSError, ValueError):
        answer = {}
    except asyncio.CancelledError:
        process.kill()
        raise
    if "url" not in answer:
        if process.returncode is None:
            process.kill()
        await process.wait()
        raise CannotStart(str(answer.get("error") or "llama.cpp ended while it was loading"))
    return NativeServer(process, answer["url"], key, str(answer.get("version", "")), list(adapters))
