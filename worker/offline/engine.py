"""The engine as a program sees it: blocking calls from anywhere, and streams in its own event loop."""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from config import settings as configuration
from config.settings import Settings
from worker.loop_thread import LoopThread
from worker.offline import plan, values, vllm
from worker.offline.plan import OfflinePlan
from worker.offline.values import Expert, Generation, OfflineError, Prompt, StreamPiece

#: Prompts that wait inside the engine, for each that it computes: enough that it never waits for us.
_WAITING = 2


class Runtime(Protocol):
    """What computes, in the loop in which it was started (`worker.offline.vllm`)."""

    seats: int

    def outputs(self, prompt: Prompt, sampling: Any, expert: str | None, whole: bool) -> AsyncGenerator[Any, None]: ...

    async def request(self, path: str, body: bytes) -> tuple[int, bytes]: ...


class OfflineEngine:
    """A model and its experts in this program. Settings are those of a cluster: what is given here, then the
    environment (CLUSTERCTL_*), then the defaults; without a model it is the demo model.

    ``adapters``: folders by name. ``engine_args``: flags of vLLM's own command line. ``settings``: whole ones, in place
    of all these. Starting takes as long as a worker's start; `close` ends the engine's process. ``sampling`` is, in
    every call, a mapping of what a request of the API may say (``max_tokens``, ``temperature``, ``seed``, ``stop``,
    ``response_format`` …, with the API's defaults), or vLLM's own ``SamplingParams``. ``expert``: the name of an
    adapter, None for the base model.

    Raises UsageError for settings, a model or an adapter that a cluster would refuse; OfflineError where vLLM does not
    start.
    """

    def __init__(
        self, model: str | Path | None = None, adapters: Mapping[str, str | Path] | None = None, *,
        engine_args: Sequence[str] = (), settings: Settings | None = None,
        start: Callable[[OfflinePlan], AbstractAsyncContextManager[Runtime]] = vllm.started,
    ) -> None:
        self._refuse_in_child()
        self._plan = plan.make(settings or _settings(model, adapters, engine_args))
        self._experts, self._closed = dict(self._plan.experts), False
        self._stack, self._thread = AsyncExitStack(), LoopThread("offline engine")
        try:
            self._runtime = self._thread.call(self._stack.enter_async_context(start(self._plan)))
        except BaseException:
            self.close()
            raise

    @property
    def model(self) -> str:
        """The name of the base model."""
        return self._plan.spec.served_names[0]

    @property
    def seats(self) -> int:
        """How many requests are computed at a time."""
        return self._runtime.seats

    def list_experts(self) -> list[Expert]:
        return list(self._experts.values())

    def generate(
        self, prompts: Prompt | Sequence[Prompt], sampling: Any = None, expert: str | Sequence[str | None] | None = None
    ) -> list[Generation]:
        """Whole answers in the order of ``prompts``: texts to go on with, or chats as lists of messages. ``expert``:
        one for all, or one for each. Raises RequestRefused for the first that cannot be answered; the others are
        cancelled."""
        given = values.as_list(prompts)
        chosen = [self._chosen(name) for name in values.one_each(expert, len(given))]
        self._require_open()
        return self._thread.call(self._all(given, sampling, chosen))

    async def stream(
        self, prompt: Prompt, sampling: Any = None, expert: str | None = None
    ) -> AsyncGenerator[StreamPiece, None]:
        """The answer to one prompt as it is made. Closing the iterator, or cancelling who reads it, ends the request in
        the engine. Raises RequestRefused."""
        (given,), chosen = values.as_list([prompt]), self._chosen(expert)
        self._require_open()
        outputs = functools.partial(self._runtime.outputs, given, sampling, chosen, False)
        async with aclosing(self._thread.iterate(outputs)) as steps:
            async for output in steps:
                made = output.outputs[0]
                yield StreamPiece(made.text, tuple(made.token_ids), made.finish_reason)

    async def request(self, path: str, body: bytes) -> tuple[int, bytes]:
        """A request of the API (``/v1/chat/completions`` …) as a worker would answer it: status and body."""
        self._require_open()
        return await self._thread.awaited(self._runtime.request(path, body))

    def check_expert(self, name: str) -> None:
        """Raises UnknownExpert where ``name`` is neither an expert's nor the base model's."""
        self._chosen(name)

    def close(self) -> None:
        """Ends what is being made, and the engine's process. May be called again."""
        if not self._closed:
            self._closed = True
            self._thread.cancel()
            try:
                self._thread.call(self._stack.aclose())
            finally:
                self._thread.close()

    def __enter__(self) -> OfflineEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _chosen(self, name: str | None) -> str | None:
        return values.chosen(name, list(self._experts), self._plan.spec.served_names)

    def _require_open(self) -> None:
        if self._closed:
            raise OfflineError("the engine is closed")

    async def _all(
        self, prompts: Sequence[Prompt], sampling: Any, experts: Sequence[str | None]
    ) -> list[Generation]:
        places = asyncio.Semaphore(_WAITING * self._runtime.seats)

        async def one(prompt: Prompt, expert: str | None) -> Generation:
            async with places:
                return await self._one(prompt, sampling, expert)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(*asked)) for asked in zip(prompts, experts, strict=True)]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _one(self, prompt: Prompt, sampling: Any, expert: str | None) -> Generation:
        async with aclosing(self._runtime.outputs(prompt, sampling, expert, True)) as outputs:
            async for output in outputs:
                made, asked = output.outputs[0], len(output.prompt_token_ids or ())
                return Generation(made.text, tuple(made.token_ids), made.finish_reason, asked, expert, made.logprobs)
        raise OfflineError("the engine gave no answer")

    @staticmethod
    def _refuse_in_child() -> None:
        """The engine's process imports the program that starts it: unguarded, that would start another engine."""
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise OfflineError("the engine's process imports this program: put what starts an engine below "
                               "`if __name__ == '__main__':`")  # fmt: skip


def _settings(
    model: str | Path | None, adapters: Mapping[str, str | Path] | None, engine_args: Sequence[str]
) -> Settings:
    given: dict[str, Any] = {
        "model": None if model is None else str(model), "engine_args": list(engine_args),
        "lora": [f"{name}={path}" for name, path in (adapters or {}).items()],
    }
    return configuration.load({name: value for name, value in given.items() if value})
