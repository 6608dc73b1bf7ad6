"""The engine as a program sees it, over a runtime that makes up its answers; the real one is in `tests/e2e`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import shutil
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from config.errors import UsageError
from config.settings import load
from worker.demo import adapter_path
from worker.offline import Generation, OfflineEngine, OfflineError, RequestRefused, StreamPiece, UnknownExpert
from worker.offline import plan as plans
from worker.offline.plan import OfflinePlan


@dataclass
class MadeUp:
    """Answers with the words of the prompt."""

    seats: int = 2
    now: int = 0
    most: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)
    ended: bool = False

    async def outputs(self, prompt: Any, sampling: Any, expert: str | None, whole: bool) -> AsyncGenerator[Any, None]:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0)
            if prompt == "bad":
                raise RequestRefused("no")
            if whole and prompt == "endless":
                await asyncio.Event().wait()
            words = [prompt] if whole else prompt.split()
            for word in words:
                made = SimpleNamespace(text=f"{expert}:{word}", token_ids=[1], finish_reason=None, logprobs=None)
                yield SimpleNamespace(outputs=[made], prompt_token_ids=[1, 2])
            if not whole and prompt.startswith("endless"):
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.now -= 1

    async def request(self, path: str, body: bytes) -> tuple[int, bytes]:
        return 200, json.dumps([path, body.decode()]).encode()

    @contextlib.asynccontextmanager
    async def start(self, plan: OfflinePlan) -> AsyncIterator[MadeUp]:
        try:
            yield self
        finally:
            self.ended = True


@pytest.fixture
def runtime() -> MadeUp:
    return MadeUp()


@pytest.fixture
def engine(runtime: MadeUp) -> Iterator[OfflineEngine]:
    with OfflineEngine(start=runtime.start) as engine:
        yield engine


def test_experts_are_listed_with_what_their_files_say(engine: OfflineEngine) -> None:
    assert engine.model == "demo"
    assert [(one.name, one.rank, one.base_model) for one in engine.list_experts()] == [
        ("pirate", 8, "demo"), ("poet", 8, "demo"),
    ]  # fmt: skip


def test_answers_come_in_the_order_of_the_prompts(engine: OfflineEngine, runtime: MadeUp) -> None:
    prompts = [f"p{number}" for number in range(50)]
    experts = [("pirate", None)[number % 2] for number in range(50)]
    made = engine.generate(prompts, {"max_tokens": 1}, experts)
    assert [one.text for one in made] == [f"{e}:{p}" for e, p in zip(experts, prompts, strict=True)]
    assert made[0] == Generation("pirate:p0", (1,), None, 2, "pirate")
    assert runtime.most <= 2 * runtime.seats


def test_the_first_that_is_refused_ends_all(engine: OfflineEngine, runtime: MadeUp) -> None:
    with pytest.raises(RequestRefused, match=r"^no$"):
        engine.generate(["endless", "bad"])
    assert runtime.cancelled.is_set() and runtime.now == 0
    with pytest.raises(UnknownExpert):
        engine.generate("a", expert="pirat")


async def test_a_stream_comes_piece_by_piece_in_the_readers_loop(engine: OfflineEngine) -> None:
    found = [piece async for piece in engine.stream("one two", expert="poet")]
    assert found == [StreamPiece("poet:one", (1,)), StreamPiece("poet:two", (1,))]
    with pytest.raises(RequestRefused, match=r"^no$"):
        [piece async for piece in engine.stream("bad")]


async def test_a_stream_that_is_closed_ends_in_the_engine(engine: OfflineEngine, runtime: MadeUp) -> None:
    stream = engine.stream("endless story")
    assert (await anext(stream)).text == "None:endless"
    await stream.aclose()
    assert await asyncio.to_thread(runtime.cancelled.wait, 5)


async def test_a_reader_that_is_cancelled_ends_it_as_well(engine: OfflineEngine, runtime: MadeUp) -> None:
    async def read() -> None:
        async for _ in engine.stream("endless"):
            pass

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await read()
    assert await asyncio.to_thread(runtime.cancelled.wait, 5)


async def test_a_request_of_the_api_goes_through(engine: OfflineEngine) -> None:
    assert await engine.request("/v1/x", b"{}") == (200, b'["/v1/x", "{}"]')


def test_a_closed_engine_says_so(runtime: MadeUp) -> None:
    engine = OfflineEngine(start=runtime.start)
    threads = threading.active_count()
    engine.close()
    engine.close()
    assert runtime.ended and threading.active_count() == threads - 1
    with pytest.raises(OfflineError, match="closed"):
        engine.generate("a")


def test_closing_ends_what_is_being_made(runtime: MadeUp) -> None:
    engine, found = OfflineEngine(start=runtime.start), list[BaseException]()

    def ask() -> None:
        try:
            engine.generate("endless")
        except BaseException as error:
            found.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    while not runtime.now:
        asking.join(0.001)
    engine.close()
    asking.join(5)
    assert runtime.cancelled.is_set() and found


def test_one_that_does_not_start_leaves_no_thread() -> None:
    @contextlib.asynccontextmanager
    async def fails(plan: OfflinePlan) -> AsyncIterator[MadeUp]:
        raise OfflineError("no memory")
        yield MadeUp()

    threads = threading.active_count()
    with pytest.raises(OfflineError, match="no memory"):
        OfflineEngine(start=fails)
    assert threading.active_count() == threads


def test_a_program_without_a_guard_is_told_so(runtime: MadeUp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(OfflineError, match="__main__"):
        OfflineEngine(start=runtime.start)


def test_an_adapter_that_a_cluster_refuses_is_refused_with_its_sentence(tmp_path: Path, runtime: MadeUp) -> None:
    folder = Path(shutil.copytree(adapter_path("pirate"), tmp_path / "broken"))
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}))
    sentence = r"^adapter adapter_config.json: use_dora is set and vLLM does not serve DoRA$"
    with pytest.raises(UsageError, match=sentence):
        OfflineEngine(adapters={"broken": folder}, start=runtime.start)
    with pytest.raises(UsageError, match="is the name of the model itself"):
        OfflineEngine(adapters={"demo": adapter_path("pirate")}, start=runtime.start)
    with pytest.raises(UsageError, match="128 characters"):
        OfflineEngine(adapters={"a b": adapter_path("pirate")}, start=runtime.start)


def test_what_has_no_expert_or_no_vllm_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="leave pirate away"):
        plans.make(load({"lora": [f"pirate={adapter_path('pirate')}"], "engine_args": ["--no-enable-lora"]}))
    with pytest.raises(UsageError, match="the engine of these settings is sim"):
        plans.make(load({"engine": "sim"}))
    monkeypatch.setattr("worker.engines.vllm.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"^vLLM is not installed: pip install 'clusterctl\[gpu\]' [^;]*$"):
        plans.make(load({}))


def test_the_engine_has_what_a_worker_has_and_warns_only() -> None:
    found = plans.make(load({}))
    assert {"--enable-lora", "--max-lora-rank", "float32", "--kv-cache-memory-bytes"} <= set(found.setup.args)
    assert found.setup.env["VLLM_LOGGING_LEVEL"] == "WARNING" and not {"--port", "--middleware"} & set(found.setup.args)
    loud = plans.make(load({"worker_log_level": "debug"}))
    assert loud.setup.env["VLLM_LOGGING_LEVEL"] == "DEBUG"
