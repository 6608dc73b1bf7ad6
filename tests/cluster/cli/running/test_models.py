"""`model`: what is asked of the cluster, and what is shown."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cluster.cli import cli
from cluster.models import swapping
from inprocess import running
from worker.demo import adapter_path

Start = Callable[..., Any]

ADAPTER = str(adapter_path("pirate"))


@pytest.fixture
async def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    monkeypatch.setattr(swapping, "EVERY", 0.02)
    monkeypatch.setattr("cluster.cli.running.models._LOOK_EVERY", 0.02)

    @asynccontextmanager
    async def made(**settings: Any) -> AsyncIterator[Callable[..., Any]]:
        async with running(tmp_path / "state", monkeypatch, **settings) as cluster:

            async def run(*args: str) -> Result:
                words = [*args[:2], "--url", cluster.balancer.url, *args[2:]]
                return await asyncio.to_thread(CliRunner().invoke, cli, words, standalone_mode=False)

            yield run

    return made


async def test_the_life_of_a_model(start: Start) -> None:
    async with start(model="org/m") as run:
        assert "org/m" not in (await run("model", "list")).output, "one model, which is not managed"
        loaded = await run(
            "model", "load", "b", "--model", "demo", "--lora", f"mine={ADAPTER}", "--idle-timeout", "15m", "--pin",
            "--", "--max-loras", "2",
        )
        assert (loaded.exit_code, loaded.output) == (0, "b: up, 1 of 1 workers ready\n"), loaded.output
        listed = (await run("model", "list")).output
        assert [line.split()[:2] for line in listed.splitlines()[1:]] == [["org/m", "up"], ["b", "up"]]
        assert "default, pinned" in listed
        shown = json.loads((await run("model", "show", "b", "--json")).output)
        assert (shown["idle_timeout"], shown["pinned"], shown["engine"]) == (900.0, True, "sim")
        assert "pinned: yes" in (await run("model", "show", "b")).output
        assert (await run("model", "unpin", "b")).output == "b: not pinned, up\n"
        assert (await run("model", "sleep", "b")).exit_code == 0
        assert (await run("model", "wake", "b")).output == "b: up, 1 of 1 workers ready\n"
        assert (await run("model", "pin", "b")).output == "b: pinned, up\n"
        assert (await run("model", "unload", "b")).output == "b unloaded, and its adapters mine\n"
        assert "no models" in (await run("model", "list")).output


async def test_what_is_wrong_is_said_in_a_line(start: Start) -> None:
    async with start(models={"a": "demo"}) as run:
        for args, says in [
            (("load", "b", "--model", "demo", "--engine", "vlm"), "did you mean 'vllm'?"),
            (("load", "b", "--model", "demo", "--lora", "x"), "--lora: NAME=PATH is needed"),
            (("load", "b", "--model", "demo", "--idle-timeout", "soon"), "idle_timeout: a time such as"),
            (("show", "aa"), "no model 'aa' (did you mean 'a'?)"), (("unload", "aa"), "no model 'aa'"),
        ]:  # fmt: skip
            found = await run("model", *args)
            assert found.exit_code != 0 and says in f"{found.output}{found.exception}", (args, found.output)


async def test_a_start_that_fails_is_told(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    async with start(models={"a": {"path": "demo", "pinned": True}}, max_concurrent_models=1) as run:
        loaded = await run("model", "load", "b", "--model", "demo")
        assert loaded.return_value == 1 and "b has failed: there is no room for it beside a" in loaded.output


async def test_other_commands_take_the_model(start: Start) -> None:
    models = {name: {"path": "demo", "on_demand": False, "max": 2} for name in "ab"}
    async with start(models=models) as run:
        asked = await run("scale", "2", "--no-wait")
        assert asked.exit_code != 0 and "of which model?" in str(asked.exception)
        assert (await run("scale", "2", "--model", "a", "--no-wait")).output == "scaling: 0 ready, 2 wanted\n"
        assert (await run("strategy", "random", "--model", "a")).output == "strategy random\n"
        assert (await run("lora", "load", "mine", ADAPTER, "--model", "b")).exit_code == 0
        assert (await run("restart", "--rolling", "--model", "b", "--no-spare", "--no-wait")).exit_code == 0
