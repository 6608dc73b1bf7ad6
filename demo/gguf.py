"""Rebuild the demo model's GGUF file: `python -m demo.gguf [--out FILE]`.

Its adapters need none: a worker converts those when it loads them. All values are float32, which the bfloat16 of the
model is the upper half of: llama.cpp computes with 16-bit matrices in 16 bits.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from worker.demo import MODEL_NAME, gguf_path, model_path
from worker.gguf import weights, writer
from worker.gguf.weights import StoredTensor
from worker.gguf.writer import GgufTensor, Typed

_NORMAL, _CONTROL, _UNUSED = 1, 3, 5  # types of tokens
_ALL_F32 = 0  # type of file


def _read(folder: Path, name: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    return made


def hyperparameters(config: dict[str, Any], sampling: dict[str, Any]) -> dict[str, Typed]:
    """Sizes of the model, and what a request gets that does not say how to sample: as under vLLM, which reads it in
    generation_config.json."""
    sizes = {
        "context_length": "max_position_embeddings", "embedding_length": "hidden_size",
        "block_count": "num_hidden_layers", "feed_forward_length": "intermediate_size",
        "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
        "rope.dimension_count": "head_dim", "vocab_size": "vocab_size",
    }  # fmt: skip
    return {
        "general.architecture": Typed("str", "llama"), "general.name": Typed("str", MODEL_NAME),
        "general.file_type": Typed("u32", _ALL_F32),
        **{f"llama.{key}": Typed("u32", config[name]) for key, name in sizes.items()},
        "llama.attention.layer_norm_rms_epsilon": Typed("f32", config["rms_norm_eps"]),
        "llama.rope.freq_base": Typed("f32", config["rope_parameters"]["rope_theta"]),
        "general.sampling.temp": Typed("f32", sampling["temperature"]),
        "general.sampling.top_p": Typed("f32", sampling["top_p"]),
        "general.sampling.top_k": Typed("i32", 0), "general.sampling.min_p": Typed("f32", 0.0),
    }  # fmt: skip


def vocabulary(config: dict[str, Any], tokenizer: dict[str, Any], template: str) -> dict[str, Typed]:
    """A byte-level BPE tokenizer, and the chat template."""
    tokens, kinds = [f"[PAD{at}]" for at in range(config["vocab_size"])], [_UNUSED] * config["vocab_size"]
    for text, token in tokenizer["model"]["vocab"].items():
        tokens[token], kinds[token] = text, _NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]], kinds[added["id"]] = added["content"], _CONTROL
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    ids = {name: Typed("u32", config[f"{short}_token_id"]) for name, short in
           (("bos", "bos"), ("eos", "eos"), ("padding", "pad"))}  # fmt: skip
    return {
        "tokenizer.ggml.model": Typed("str", "gpt2"), "tokenizer.ggml.pre": Typed("str", "gpt-2"),
        "tokenizer.ggml.tokens": Typed("str", tokens, is_array=True),
        "tokenizer.ggml.token_type": Typed("i32", kinds, is_array=True),
        "tokenizer.ggml.merges": Typed("str", merges, is_array=True),
        **{f"tokenizer.ggml.{name}_token_id": token for name, token in ids.items()},
        "tokenizer.ggml.add_bos_token": Typed("bool", True), "tokenizer.chat_template": Typed("str", template),
    }  # fmt: skip


def tensor(name: str, stored: StoredTensor, config: dict[str, Any]) -> GgufTensor:
    """One of the model's, under llama.cpp's name and in its order."""
    module = weights.gguf_name(name.removesuffix(".weight"))
    heads = weights.heads_of(module, "llama", config["num_attention_heads"], config["num_key_value_heads"])
    return GgufTensor(f"{module}.weight", stored.shape, stored.kind, lambda: stored.read(heads))


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=gguf_path())
    out: Path = parser.parse_args().out
    folder = model_path()
    config, tokenizer = _read(folder, "config.json"), _read(folder, "tokenizer.json")
    values = {
        **hyperparameters(config, _read(folder, "generation_config.json")),
        **vocabulary(config, tokenizer, _read(folder, "tokenizer_config.json")["chat_template"]),
    }
    stored = weights.read_header(folder / "model.safetensors")
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("wb") as stream:
        writer.write(stream, values, [tensor(name, found, config) for name, found in stored.items()])


if __name__ == "__main__":
    main()
