"""The command line: vLLM's names, vLLM's leniency, status 2 for the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.sim.settings import SimSettings, parse


def make(*argv: str, **environ: str) -> SimSettings:
    return parse(argv, environ, 0)


def test_defaults() -> None:
    settings = make()
    assert settings.served_names == ("demo",) and settings.port == 8000 and settings.shutdown_timeout_s == 0
    assert not settings.runtime_lora and not settings.api_keys and settings.max_num_queued_reqs is None


def test_flags_of_a_launcher() -> None:
    settings = make(
        *[
            "--model",
            "m",
            "--served-model-name",
            "a",
            "b",
            "--enable-lora",
            "--max_loras",
            "4",
            "--max-model-len=8k",
            "--enforce-eager",
        ],
        *["--kv-cache-memory-bytes", "100", "--tensor-parallel-size", "2", "--no-enable-prefix-caching"],
        *["--lora-modules", "x=/p", '{"name": "y", "path": "/q", "base_model_name": "a"}'],
        VLLM_API_KEY="k",
        VLLM_ALLOW_RUNTIME_LORA_UPDATING="1",
    )
    assert settings.served_names == ("a", "b") and settings.max_loras == 4 and settings.max_model_len == 8000
    assert settings.lora_modules == (("x", "/p"), ("y", "/q"))
    assert settings.api_keys == ("k",) and settings.runtime_lora


def test_the_command_line_beats_the_environment() -> None:
    assert make("--api-key", "a", "b", VLLM_API_KEY="k").api_keys == ("a", "b")


def test_context_length_of_a_model_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 77}')
    assert make("--model", str(tmp_path)).max_model_len == 77


@pytest.mark.parametrize("argv", [["--nope"], ["--port", "x"], ["--fault", "nope"], ["--max-loras"]])
def test_usage_errors(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        make(*argv)
    assert caught.value.code == 2


@pytest.mark.parametrize("module", ["x", "=p", "{nope"])
def test_bad_lora_modules(module: str) -> None:
    with pytest.raises(ValueError):
        make("--lora-modules", module)


def test_a_profile_and_its_pace() -> None:
    settings = make("--profile", "h100-8b", "--pace", "0.25", "--max-loras", "4", "--max-cpu-loras", "64")
    assert (settings.profile, settings.pace, settings.max_cpu_loras) == ("h100-8b", 0.25, 64)
    assert make().profile is None
    assert make("--max-loras", "4").max_cpu_loras == 4


@pytest.mark.parametrize("argv", [["--profile", "nope"], ["--pace", "0"], ["--pace", "inf"], ["--stream-interval=0"]])
def test_bad_profiles(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        make(*argv)
    assert caught.value.code == 2
