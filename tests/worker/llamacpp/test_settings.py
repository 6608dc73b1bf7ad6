"""What a worker of llama.cpp makes of its flags and its model."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.engines.key_guard import KEY
from worker.gguf.header import GgufHeader
from worker.llamacpp import settings

HEADER = GgufHeader({
    "general.architecture": "llama", "llama.attention.head_count": 2, "llama.block_count": 2,
    "llama.embedding_length": 8, "llama.context_length": 8192,
}, 0)  # fmt: skip
TOKEN = HEADER.kv_bytes_per_token


@pytest.mark.parametrize(("tokens", "slots", "context", "expected"), [
    (4 * 8192, None, None, (4, 8192)),  # room for all
    (9 * 8192, None, None, (4, 8192)),
    (2 * 8192, None, None, (2, 8192)),  # a long context goes before many requests
    (5000, None, None, (1, 5000)),
    (10, None, None, (1, 512)),
    (4 * 8192, 8, None, (8, 4096)),
    (4 * 8192, None, 2048, (4, 2048)),
    (10, 3, 700, (3, 700)),
])  # fmt: skip
def test_memory_is_shared_out(
    tokens: int, slots: int | None, context: int | None, expected: tuple[int, int]
) -> None:
    assert settings.room(HEADER, tokens * TOKEN, slots, context) == expected


def test_flags_are_vllm_s(tmp_path: Path) -> None:
    environ = {KEY: "k"}
    given = settings.read(
        ["--port", "9", "--model", "/m.gguf", "--served-model-name", "a", "b", "--max-num-seqs", "2", "--cores", "0,3",
         "--lora-modules", "x=/y", "--no-enable-lora"], environ,
    )  # fmt: skip
    made = settings.settle(given, environ, HEADER)
    assert (made.key, made.names, made.slots, made.cores) == ("k", ("a", "b"), 2, (0, 3))
    assert (made.adapters, made.lora) == ((("x", "/y"),), False)


def test_without_a_key_no_worker_starts() -> None:
    with pytest.raises(ValueError, match=KEY):
        settings.read(["--port", "9", "--model", "/m"], {})


def test_an_unknown_flag_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        settings.read(["--port", "9", "--model", "/m", "--no-such-thing"], {KEY: "k"})
    assert "--no-such-thing" in capsys.readouterr().err
