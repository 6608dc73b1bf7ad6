"""Console scripts of other packages, with what they serve behind the guard."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from harness import WORKER_KEY
from worker.engines.foreign import serve
from worker.engines.foreign.rules import RequestRules, Serving

SERVING = Serving("transformers", ("m",), 3)


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", WORKER_KEY)
    for name in ("__init__", "load"):  # put back afterwards
        monkeypatch.setattr(uvicorn.Config, name, getattr(uvicorn.Config, name))
    serve.guard(RequestRules("some"), SERVING)


async def _nobody(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("nobody is let through")


async def _nothing() -> Any:
    raise AssertionError("nothing is read")


def _ask(config: uvicorn.Config, key: str) -> int:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {key}".encode())]
    scope = {"type": "http", "method": "GET", "path": "/clusterctl/seats", "headers": headers}
    asyncio.run(config.loaded_app(scope, _nothing, send))
    return int(sent[0]["status"])


def test_what_is_served_is_behind_the_guard_whatever_was_asked_for(guarded: None) -> None:
    config = uvicorn.Config(_nobody, interface="asgi3", access_log=True, timeout_keep_alive=5)
    config.load()
    assert _ask(config, "wrong") == 401 and _ask(config, WORKER_KEY) == 200
    assert config.timeout_keep_alive == 75 and config.access_log is False


@pytest.mark.parametrize("more", [{"workers": 2}, {"reload": True}])
def test_nothing_is_served_by_processes_that_know_nothing_of_the_guard(guarded: None, more: dict[str, Any]) -> None:
    with pytest.raises(SystemExit, match="several processes"):
        uvicorn.Config("some:app", **more)


def test_without_a_key_nothing_is_served(guarded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY")
    with pytest.raises(ValueError, match="VLLM_API_KEY"):
        uvicorn.Config(_nobody, interface="asgi3").load()


@pytest.mark.processes
def test_the_command_is_that_of_its_package_and_unknown_ones_are_named(tmp_path: Path) -> None:
    about = tmp_path / "given-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: given\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[console_scripts]\ngiven = given:main\n")
    (tmp_path / "given.py").write_text("import sys\ndef main():\n    print(sys.argv)\n    return 7\n")
    for name, code, said in (("given", 7, "['given', '--x', '1']"), ("no-such", 1, "no installed package has")):
        argv = [sys.executable, "-m", "worker.engines.foreign.serve", SERVING.to_json(), name, "--x", "1"]
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "VLLM_API_KEY": "k"}
        run = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        assert (run.returncode, said in run.stdout + run.stderr) == (code, True), run.stderr
    assert json.loads(SERVING.to_json())["names"] == ["m"]
