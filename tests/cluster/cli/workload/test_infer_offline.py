"""`infer --offline`: which engine its flags ask for. Answers of a real one: `tests/e2e/test_offline.py`."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import main
from worker import offline
from worker.demo import adapter_path
from worker.offline import OfflineEngine
from worker.offline.plan import OfflinePlan

PIRATE = adapter_path("pirate")


class MadeUpRuntime:
    """Says which model was asked."""

    seats = 3

    def outputs(self, *asked: object) -> Any:
        raise AssertionError("a file is asked by the API")

    async def request(self, path: str, body: bytes) -> tuple[int, bytes]:
        model = json.loads(body)["model"]
        return 200, json.dumps({"model": model, "choices": [{"text": model, "finish_reason": "stop"}]}).encode()


def _infer(monkeypatch: pytest.MonkeyPatch, *given: str) -> object:
    """The exit code."""
    monkeypatch.setattr(sys, "argv", ["clusterctl", "infer", "--in", "in", "--out", "out", *given])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[OfflinePlan]:
    """The plans of the engines that were started."""
    plans: list[OfflinePlan] = []

    @asynccontextmanager
    async def start(plan: OfflinePlan) -> AsyncIterator[MadeUpRuntime]:
        plans.append(plan)
        yield MadeUpRuntime()

    def engine(**given: Any) -> OfflineEngine:
        return OfflineEngine(**given, start=start)

    monkeypatch.setattr(offline, "OfflineEngine", engine)
    monkeypatch.chdir(tmp_path)
    Path("in").write_text('"x"\n{"prompt": "x", "model": "one"}\n')
    return plans


def test_lines_choose_among_the_adapters_that_are_given(
    started: list[OfflinePlan], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--lora-modules", f"one={PIRATE}", f"two={PIRATE}", "--", "--max-model-len", "512"]
    assert _infer(monkeypatch, "--offline", *given) == 0
    (plan,) = started
    assert {"one", "two"} <= plan.experts.keys() and plan.setup.args[-2:] == ("--max-model-len", "512")
    assert [json.loads(line)["text"] for line in Path("out").read_text().splitlines()] == ["demo", "one"]
    assert "2 lines, 0 failed" in capsys.readouterr().err
    assert _infer(monkeypatch, "--offline", *given) == 0, "nothing is asked again"
    assert "2 of them from before" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (["--offline", "--url", "http://x"], 2, "leave --url away"),
        (["--lora", "a=b"], 2, "a=b: adapters and engine flags are for --offline"),
        (["--", "--dtype", "half"], 2, "--dtype: adapters and engine flags are for --offline"),
        (["--offline", "--model", "./nowhere"], 1, "no such file"),
        (["--offline", "--lora", "a=/nowhere"], 1, "no folder"),
        (["--offline", "--in", "nowhere"], 2, "nowhere: No such file"),
    ],
)
def test_bad_input_is_one_line_and_starts_nothing(
    given: list[str], code: int, words: str, started: list[OfflinePlan], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _infer(monkeypatch, *given) == code
    err = capsys.readouterr().err
    assert words in err and not started
    assert len([line for line in err.splitlines() if line and not line.startswith(("Usage:", "Try "))]) == 1
