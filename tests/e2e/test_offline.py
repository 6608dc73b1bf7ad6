"""vLLM without a server answers what a worker answers over HTTP: one worker, one engine here, one as a command."""

from __future__ import annotations

import asyncio
import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cluster.tools.batch.lines import Defaults, ask_of, line_of
from cluster.tools.batch.run import RequestSender
from harness import AS_CLUSTER, WORKER_KEY, environment, poll
from worker.offline import OfflineEngine, RequestRefused, UnknownExpert

pytestmark = [pytest.mark.vllm, pytest.mark.processes, pytest.mark.timeout(400)]

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
GREEDY: dict[str, Any] = {"max_tokens": 24, "temperature": 0}
TEXTS = ("The moon", "Once upon a time", "Who are you?", "Tell me about the sea.", "In the morning")
NAMES = (None, "pirate", "poet")
ASKED: list[tuple[str | list[dict[str, str]], str | None]] = [
    *((text, name) for text in TEXTS for name in NAMES),
    *(([{"role": "user", "content": text}], name) for text in TEXTS for name in NAMES),
]


@pytest.fixture(scope="module")
def engine(vllm_worker_url: str) -> Iterator[OfflineEngine]:
    """With the worker that it is compared with, so that all that use one of them are one group."""
    before = _engines()
    with OfflineEngine() as engine:
        assert len(_engines()) == len(before) + 1
        yield engine
    poll(lambda: _engines() == before, 15, "its process is gone")


def _engines(pid: int | None = None) -> set[int]:
    """EngineCore processes of ours, or of ``pid``."""
    found = psutil.Process(pid).children(recursive=True)
    return {process.pid for process in found if "EngineCor" in process.name() and process.status() != "zombie"}


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _over_http(url: str, prompt: Any, name: str | None) -> tuple[str, list[int], str]:
    chat = isinstance(prompt, list)
    path, field = ("chat/completions", "messages") if chat else ("completions", "prompt")
    body = {"model": name or "demo", field: prompt, "return_token_ids": True, **GREEDY}
    choice = httpx.post(f"{url}/v1/{path}", json=body, headers=AS_CLUSTER, timeout=60).json()["choices"][0]
    return choice["message"]["content"] if chat else choice["text"], choice["token_ids"], choice["finish_reason"]


def test_greedy_answers_are_those_of_a_worker(engine: OfflineEngine, vllm_worker_url: str) -> None:
    expected = [_over_http(vllm_worker_url, prompt, name) for prompt, name in ASKED]
    made = engine.generate([prompt for prompt, _ in ASKED], GREEDY, [name for _, name in ASKED])
    assert [(one.text, list(one.token_ids), one.finish_reason) for one in made] == expected
    assert len({one.text for one in made[:3]}) == 3, "experts differ"


def test_fields_of_the_api_and_vllms_own_parameters(engine: OfflineEngine) -> None:
    from vllm import SamplingParams

    by_field = engine.generate("Who are you?", GREEDY, "pirate")
    assert engine.generate("Who are you?", SamplingParams(max_tokens=24, temperature=0), "pirate") == by_field
    shaped = {**GREEDY, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {
        "type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False,
    }}}}  # fmt: skip
    (made,) = engine.generate([{"role": "user", "content": "a number"}], shaped)
    assert json.loads(made.text)["a"] in (1, 2)


@pytest.mark.parametrize(
    ("asked", "words"),
    [({"temprature": 1}, "did you mean 'temperature'"), ({"max_tokens": "x"}, "max_tokens"), ({"n": 2}, "n is 1")],
)
def test_what_cannot_be_asked_is_one_line(engine: OfflineEngine, asked: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestRefused, match=words) as refused:
        engine.generate("x", asked)
    assert "\n" not in str(refused.value)
    with pytest.raises(RequestRefused, match="context length"):
        engine.generate("word " * 5000, GREEDY)
    with pytest.raises(UnknownExpert):
        engine.generate("x", GREEDY, "pirat")


async def test_a_stream_is_the_same_answer_and_its_end_is_the_engines(engine: OfflineEngine) -> None:
    (whole,) = await asyncio.to_thread(engine.generate, "Who are you?", GREEDY, "poet")
    pieces = [piece async for piece in engine.stream("Who are you?", GREEDY, "poet")]
    assert "".join(piece.text for piece in pieces) == whole.text and len(pieces) > 5
    assert tuple(token for piece in pieces for token in piece.token_ids) == whole.token_ids
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + [whole.finish_reason]
    endless = engine.stream("Tell", {"max_tokens": 1500, "ignore_eos": True})
    await anext(endless)
    await endless.aclose()
    left = engine._runtime._engine.get_num_unfinished_requests  # type: ignore[attr-defined]
    await asyncio.to_thread(poll, lambda: left() == 0, 10, "nothing is computed any more")


@pytest.mark.parametrize("name", ["expert", "stream", "history"])
def test_the_examples_run_as_they_are(name: str, engine: OfflineEngine, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / f"offline_{name}.py"), run_name="example")["main"](engine)
    out = capsys.readouterr().out
    assert {"expert": "pirate: rank 8", "stream": "(12 tokens)", "history": "-- poet\nuser: Who are you?"}[name] in out


def test_a_program_that_is_killed_leaves_no_engine() -> None:
    """While it starts, when nobody knows yet which processes there will be."""
    with subprocess.Popen([sys.executable, str(EXAMPLES / "offline_expert.py")], env=environment()) as program:
        (engine,) = poll(lambda: _engines(program.pid), 120, "its engine is there")
        program.kill()
    poll(lambda: not _runs(engine), 30, "it is gone")


async def test_a_file_is_answered_as_by_a_cluster(vllm_worker_url: str, tmp_path: Path) -> None:
    lines = [
        json.dumps({"messages" if isinstance(prompt, list) else "prompt": prompt} | ({"model": name} if name else {}))
        for prompt, name in ASKED
    ] + ['{"prompt": "x", "max_tokens": -1}', "{", '"a text"']
    (tmp_path / "in").write_text("\n".join([*lines, '{"prompt": "x", "model": "pirat"}']) + "\n")
    words = ("infer", "--offline", "--in", "in", "--out", "out", "--max-tokens", "24", "--temperature", "0.0")
    command = [str(Path(sys.executable).with_name("clusterctl")), *words]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=tmp_path, capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 1 and f"{len(lines) + 1} lines, 3 failed" in done.stderr, done.stderr
    found = (tmp_path / "out").read_bytes().splitlines(keepends=True)
    defaults = Defaults("demo", {"max_tokens": 24, "temperature": 0.0})
    async with RequestSender(vllm_worker_url, WORKER_KEY, 8) as worker:
        expected = [line_of(await worker(ask_of(n, one.encode(), defaults))) for n, one in enumerate(lines, 1)]
    assert found[:-1] == expected
    assert json.loads(found[-1])["error"]["message"] == "The model `pirat` does not exist. (did you mean 'pirate'?)"
