"""What the front holds: llama.cpp's server of now, its adapters, and who is being answered.

llama.cpp is given its adapters when it starts. To take another one, a second server is started with it beside the one
of now; requests go to the new one from then on, and the old one ends with the last answer that it makes. Nobody waits.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

from config.aio import Tasks
from worker.gguf import adapter as gguf_adapter
from worker.gguf.header import GgufHeader
from worker.gguf.weights import NotConvertible
from worker.llamacpp import native
from worker.llamacpp.answers import LlamaStep, StepReader
from worker.llamacpp.metrics import LlamaCounts
from worker.llamacpp.native import CannotStart, NativeServer
from worker.llamacpp.requests import LlamaRequest
from worker.llamacpp.settings import LlamaSettings
from worker.sim.errors import ApiError, EngineDead, internal, unknown_model


class LlamaEngine:
    """``adapters``: name: folder. ``failed`` is set when the server has ended by itself. ``knows_tools``: the model's
    chat template has a place for them."""

    def __init__(self, settings: LlamaSettings, header: GgufHeader) -> None:
        self.settings, self._header = settings, header
        self.adapters: dict[str, str] = {}
        self.counts = LlamaCounts()
        self.failed = asyncio.Event()
        self.knows_tools = False
        self._native: NativeServer | None = None
        self._slots = asyncio.Semaphore(settings.slots)
        self._changing = asyncio.Lock()
        self._tasks = Tasks()

    @property
    def native(self) -> NativeServer:
        """Raises EngineDead."""
        if self._native is None or self.failed.is_set():
            raise EngineDead
        return self._native

    @property
    def pids(self) -> tuple[int, ...]:
        return () if self._native is None else (self._native.pid,)

    async def open(self) -> None:
        """Raises CannotStart, and ApiError for an adapter it was told to begin with."""
        await self._swap(dict(self.settings.adapters))
        told = (await self.native.ask("/props")).get("chat_template_caps") or {}
        self.knows_tools = bool(told.get("supports_tools"))

    async def close(self) -> None:
        await self._tasks.close()
        if self._native is not None:
            await self._native.close()

    def resolve(self, name: str | None) -> tuple[str, str | None]:
        """The name that an answer carries, and the adapter; raises vLLM's 404."""
        if name in self.adapters:
            return str(name), str(name)
        if name and name not in self.settings.names:
            raise unknown_model(name, list(self.settings.names))
        return self.settings.names[0], None

    # adapters

    async def load(self, name: str, folder: str) -> None:
        """Raises ApiError: what is wrong with it, and everything is as before."""
        async with self._changing:
            if name in self.adapters:
                raise ApiError(f"The lora adapter '{name}' has already been loaded.", kind="InvalidUserInput")
            if len(self.adapters) >= self.settings.most_adapters:
                raise ApiError(f"no more than {self.settings.most_adapters} adapters (--max-cpu-loras)")
            try:
                await self._swap({**self.adapters, name: folder})
            except CannotStart as error:
                raise internal(f"llama.cpp does not take the adapter: {error}") from None

    async def unload(self, name: str) -> None:
        """Its memory is given back with the next load. Raises ApiError."""
        async with self._changing:
            if name not in self.adapters:
                raise ApiError(f"The lora adapter '{name}' cannot be found.", 404, "NotFoundError")
            del self.adapters[name]

    async def _swap(self, adapters: dict[str, str]) -> None:
        with tempfile.TemporaryDirectory(prefix="llamacpp-") as folder:  # it reads them once
            files = {}
            for number, (name, path) in enumerate(adapters.items()):
                files[name] = str(await asyncio.to_thread(self._file, Path(path), Path(folder) / f"{number}.gguf"))
            made = await native.start(self.settings, files)
        old, self._native, self.adapters = self._native, made, adapters
        self._tasks.start(self._watch(made), f"watch {made.pid}")
        if old is not None:
            self._tasks.start(self._retire(old), f"retire {old.pid}")

    def _file(self, path: Path, out: Path) -> Path:
        """The adapter as llama.cpp takes it. Raises ApiError."""
        if path.is_file() and path.suffix == ".gguf":
            return path
        try:
            gguf_adapter.convert(path, self._header, out)
        except NotConvertible as error:
            raise ApiError(f"llama.cpp cannot be given this adapter: {error}") from None
        except (OSError, ValueError) as error:
            raise internal(f"the adapter cannot be read: {getattr(error, 'strerror', None) or error}") from None
        return out

    async def _watch(self, server: NativeServer) -> None:
        await server.wait()
        if server is self._native:
            self.failed.set()

    async def _retire(self, server: NativeServer) -> None:
        await server.idle.wait()
        await server.close()

    # answers

    async def steps(
        self, request: LlamaRequest, body: dict[str, Any], adapter: str | None
    ) -> AsyncGenerator[LlamaStep, None]:
        """Of one answer. Closing it frees its slot. Raises ApiError."""
        reader = StepReader(request.include_stop, request.lag)
        async with aclosing(self._events("/completion", body, adapter)) as events:
            async for event in events:
                ids = event.get("tokens") or []
                untold = reader.untold(event)
                if untold:
                    text = str(event.get("content") or "")
                    ids = await self.native.split(text, untold + 1, ids[-1]) if ids and request.ids else None
                step = reader.take(event, ids)
                self.counts.tokens += 1 + untold
                if step is not None:
                    yield step

    async def chat(self, body: dict[str, Any], adapter: str | None) -> AsyncGenerator[dict[str, Any], None]:
        """The events of llama.cpp's own chat, which reads calls of tools. Raises ApiError."""
        async with aclosing(self._events("/v1/chat/completions", body, adapter)) as events:
            async for event in events:
                self.counts.tokens += 1
                yield event

    async def _events(
        self, path: str, body: dict[str, Any], adapter: str | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        self.counts.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.counts.waiting -= 1
        self.counts.running += 1
        try:
            server = self.native
            if adapter is not None and adapter not in server.adapters:
                raise unknown_model(adapter, list(self.settings.names))
            async with aclosing(server.events(path, {**body, "lora": server.lora(adapter)})) as events:
                async for event in events:
                    yield event
            self.counts.finished += 1
        finally:
            self.counts.running -= 1
            self._slots.release()

    async def prompt_of(self, body: dict[str, Any]) -> list[int]:
        """The tokens of a chat's messages. Raises ApiError."""
        asked = {name: body[name] for name in ("messages", "chat_template_kwargs") if body.get(name) is not None}
        text = (await self.native.ask("/apply-template", asked))["prompt"]
        return await self.native.ids_of(text, special=True)

    async def metrics(self) -> str:
        """The series that vLLM's page has of them."""
        if self.counts.running:
            with suppress(EngineDead):
                self.counts.note_steps(await self.native.steps(), self.native.pid)
        return self.counts.page(self.settings.names[0])
