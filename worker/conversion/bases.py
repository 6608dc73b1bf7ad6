"""What a conversion asks of the base model: how many rows its weights have, and its heads. Blocking; ours to trust."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from config import bounded
from worker.gguf import header, weights
from worker.gguf.header import GgufHeader, NotGguf
from worker.gguf.weights import NotConvertible
from worker.jobs.job import JobFailed

#: GGUF's name of each architecture, by Hugging Face's model_type, where they differ.
_ARCHITECTURES = {"gemma3_text": "gemma3", "mistral": "llama"}


def rows(model: Path) -> Mapping[str, int]:
    """Of each module's weight; {} where they cannot be read."""
    found: dict[str, int] = {}
    try:
        for file in sorted(model.glob("*.safetensors")):
            for name, tensor in weights.read_header(file).items():
                module, _, kind = name.rpartition(".")
                if kind == "weight" and len(tensor.shape) == 2:
                    found[module] = tensor.shape[0]
    except (NotConvertible, OSError):
        return {}
    return found


def gguf_header(model: Path) -> GgufHeader:
    """Of a GGUF file, or what one made of the model in a folder would say. Raises JobFailed."""
    try:
        if model.is_file():
            return header.read(model)
        config = bounded.read_object(model / "config.json")
        architecture = str(config["model_type"])
        architecture = _ARCHITECTURES.get(architecture, architecture)
        heads = int(config["num_attention_heads"])
        kv_heads = int(config.get("num_key_value_heads") or heads)
    except (OSError, ValueError, KeyError, TypeError, NotGguf) as error:
        raise JobFailed(f"--base {model}: neither a GGUF file nor a model's folder ({error})", 400) from None
    return GgufHeader({
        "general.architecture": architecture, f"{architecture}.attention.head_count": heads,
        f"{architecture}.attention.head_count_kv": kv_heads,
    }, 0)  # fmt: skip
