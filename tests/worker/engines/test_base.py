"""Engines are found by their file alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import worker.engines
from config.errors import UsageError
from config.topology import Capabilities
from worker.engines import base
from worker.spec import EngineSpec, Slot, WorkerEndpoint


def test_the_default_engine_comes_first_and_helpers_are_none() -> None:
    assert base.names()[0] == "vllm" and "sim" in base.names()
    assert not {"base", "flags", "foreign", "key_guard", "lora_names", "replay"} & set(base.names())


@pytest.mark.parametrize("name", base.names())
def test_every_engine_keeps_the_contract(name: str) -> None:
    engine = base.load(name)
    assert engine.name == name and engine.startup_interval > 0 and isinstance(engine.uses_gpu, bool)
    assert isinstance(engine.computes, bool) and isinstance(engine.finds_gpus, bool)
    assert isinstance(engine.capabilities, Capabilities)
    if name in ("vllm", "sim"):
        assert replace(engine.capabilities, replay=False) == Capabilities()
    spec = EngineSpec(name, "m", ("m",), extra_args=("--own", "x"))
    assert engine.memory_estimate(spec) > 0
    command = engine.command(spec, WorkerEndpoint(20_001), "secret", Slot(), {"GIVEN": "1"})
    assert "20001" in command.argv and "127.0.0.1" in command.argv
    given = command.argv.index("--own")
    own = command.argv[given + 2 :]
    assert own == () or own[0] == "--middleware"  # the user's flags come last and win: but for this one, which adds up
    assert command.env["GIVEN"] == "1" and command.env["PYTHONSAFEPATH"] == "1"
    assert command.env["VLLM_API_KEY"] == "secret" and "secret" not in " ".join(command.argv)


@pytest.mark.parametrize("name", ["vlm", "base", "flags", "", "../sim"])
def test_an_unknown_engine_names_the_known(name: str) -> None:
    with pytest.raises(UsageError, match=f"known: {', '.join(base.names())}$") as error:
        base.load(name)
    assert error.value.exit_code == 2


def test_an_engine_more_is_one_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = base.names()
    (tmp_path / "extra_for_test.py").write_text("ENGINE = object()\n")
    monkeypatch.setattr(worker.engines, "__path__", [*worker.engines.__path__, str(tmp_path)])
    assert set(base.names()) == {*before, "extra_for_test"} and base.names()[0] == "vllm"
    assert base.load("extra_for_test") is not None
