"""What a manifest may say, and one sentence for what it may not."""

from __future__ import annotations

from typing import Any

import pytest

from config.manifests.schema import parse


def _one(profile: dict[str, Any], **entry: Any) -> dict[str, Any]:
    return {"models": {"m": {"path": "org/m", "profiles": [{"name": "p", **profile}], **entry}}}


def test_a_whole_one() -> None:
    found = parse({"version": 1, "models": {
        "short": "org/short",
        "long": {"path": "./x", "description": "said", "profiles": [
            {"name": "h100", "when": {"gpu": "H100", "count": 2, "memory-gb": 80}, "tensor-parallel-size": 2,
             "quantization": "fp8", "dtype": "bfloat16", "max_model_len": 4096, "max_loras": 2, "max_lora_rank": 8,
             "max_cpu_loras": 9, "args": "--trust-remote-code"},
            {"name": "none", "engine": "llama_cpp", "when": {"platform": ["darwin-arm64", "linux"]}},
        ]},
    }})  # fmt: skip
    assert (found["short"].path, found["short"].profiles) == ("org/short", ())
    big, plain = found["long"].profiles
    assert (big.when.gpu, big.when.count, big.when.memory_gb) == (("H100",), 2, 80.0)
    assert big.flags == {
        "--quantization": ("fp8",), "--dtype": ("bfloat16",), "--max-model-len": ("4096",), "--max-loras": ("2",),
        "--max-lora-rank": ("8",), "--max-cpu-loras": ("9",),
    }  # fmt: skip
    assert big.args == ("--trust-remote-code",)
    assert (plain.engine, plain.when.platform, plain.flags) == ("llamacpp", ("darwin-arm64", "linux"), {})


def test_no_adapters_is_a_flag_of_its_own() -> None:
    assert parse(_one({"max_loras": 0}))["m"].profiles[0].flags == {"--no-enable-lora": ()}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"model": {}}, "unknown key 'model' (did you mean 'models'?)"),
        ({"version": 2}, "version: Input should be 1"),
        ({"models": {"m": {"pth": "x"}}}, "models.m"),
        ({"models": {"m": {"path": "x", "descripton": ""}}}, "models.m: unknown key 'descripton' (did you mean 'descr"),
        (_one({"engin": "x"}), "models.m.profiles[0]: unknown key 'engin' (did you mean 'engine'?)"),
        (_one({"when": {"gpus": "H100"}}), "models.m.profiles[0].when: unknown key 'gpus' (did you mean 'gpu'?)"),
        (_one({"when": {"memory": 80}}), "(did you mean 'memory_gb'?)"),
        (_one({"when": {"cpu": True, "count": 1}}), "cpu is a machine without GPUs"),
        (_one({"when": {"memory_gb": float("nan")}}), "models.m.profiles[0].when.memory_gb: "),
        (_one({"when": {"count": 0}}), "models.m.profiles[0].when.count: "),
        (_one({"tensor_parallel_size": 2, "when": {"gpu": "H100"}}), "tensor_parallel_size 2 needs a count"),
        (_one({"engine": "mlx", "dtype": "float16"}), "dtype is a flag of vLLM; engine mlx has its own in args"),
        (_one({"args": ["--port", "1"]}), "--port is set by the cluster itself"),
        (_one({"name": "a b"}), "'a b' is no name of a profile"),
        (_one({}, description="x" * 257), "models.m.description: "),
        ({"models": {"m": {"path": "x", "profiles": [{"name": "p"}, {"name": "p"}]}}}, "'p' is there twice"),
        ({"models": {"m": {"path": "x", "profiles": [{"name": f"p{n}"} for n in range(33)]}}}, "models.m.profiles: "),
        ({"models": {f"m{n}": "x" for n in range(257)}}, "models: "),
        ({"models": {"a/b": "x"}}, "'a/b' is no name of a model"),
        ({"models": {"default": "x"}}, "'default' is no name of a model"),
        ({"models": {1: "x"}}, "1 is no name of a model"),
        ({"models": [1]}, "models: "),
        ({"models": {"m": {"path": ""}}}, "models.m.path: it is empty"),
        ({1: 2}, ""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(written: dict[Any, Any], said: str) -> None:
    with pytest.raises(ValueError) as error:
        parse(written)
    assert said in str(error.value) and "\n" not in str(error.value)
