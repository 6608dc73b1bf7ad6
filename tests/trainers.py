"""Adapters as five trainers leave them, made of the demo's pirate by their documented formats.

PEFT (`get_peft_model_state_dict`, checkpointing guide), Unsloth (PEFT beside its own `auto_mapping` and a pattern over
modules), LLaMA-Factory (checkpoints of transformers' Trainer, `pissa_converted`), ms-swift (`swift_type`, runs by
version, names without a prefix), Axolotl (wrappers of FSDP and torch.compile in the names, shards, `merged/`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from worker.demo import adapter_path, model_path

PREFIX = "base_model.model."

Tensors = dict[str, Any]


def tensors() -> Tensors:
    from safetensors.torch import load_file

    found: Tensors = load_file(adapter_path("pirate") / "adapter_model.safetensors")
    return found


def config(**changes: Any) -> dict[str, Any]:
    made = json.loads((adapter_path("pirate") / "adapter_config.json").read_text()) | changes
    return {name: value for name, value in made.items() if value != "left out"}


def write(folder: Path, named: Tensors, described: Mapping[str, Any] | None, file: str = "adapter_model.bin") -> Path:
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    if described is not None:
        (folder / "adapter_config.json").write_text(json.dumps(described))
    if file.endswith(".safetensors"):
        save_file(named, folder / file)
    else:
        torch.save(named, folder / file)
    return folder


def renamed(change: Callable[[str], str]) -> Tensors:
    return {change(name): tensor for name, tensor in tensors().items()}


def in_state_dict(name: str) -> str:
    """As it is called in the model while it is trained."""
    return name.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default.")


def peft_pickle(folder: Path) -> Path:
    """Before PEFT 0.7."""
    return write(folder, tensors(), config())


def peft_state_dict(folder: Path) -> Path:
    """`torch.save(model.state_dict())`, or what zero_to_fp32.py brings together: with the frozen base."""
    import torch

    frozen = {f"{PREFIX}model.layers.0.self_attn.q_proj.base_layer.weight": torch.ones(128, 128),
              f"{PREFIX}model.norm.weight": torch.ones(128)}  # fmt: skip
    return write(folder, {**renamed(in_state_dict), **frozen}, config(), "pytorch_model.bin")


def peft_shards(folder: Path) -> Path:
    """As transformers' `save_pretrained` cuts a large one."""
    every = sorted(tensors().items())
    for number, half in enumerate((every[:20], every[20:]), 1):
        write(folder, dict(half), config(), f"adapter_model-{number:05}-of-00002.safetensors")
    return folder


def unsloth(folder: Path) -> Path:
    pattern = (
        r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
        r"(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\."
        r"(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\."
        r"(?:(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)))"
    )
    extras = {"base_model_class": "LlamaForCausalLM", "parent_library": "unsloth", "unsloth_fixed": True}
    described = config(auto_mapping=extras, target_modules=pattern, base_model_name_or_path="unsloth/demo-bnb-4bit")
    write(folder / "checkpoint-60", tensors(), described, "adapter_model.safetensors")
    (folder / "README.md").write_text("unsloth")
    return folder


def llama_factory(folder: Path) -> Path:
    """Of two checkpoints the last is taken; training_args.bin, a pickle of anything, is not read."""
    for number in (100, 2000):
        write(folder / f"checkpoint-{number}", tensors(), config(layers_pattern=None, revision=None))
        (folder / f"checkpoint-{number}" / "training_args.bin").write_bytes(b"\x80\x02cos\nsystem\n(X\x04\0\0\0failtR.")
    (folder / "trainer_state.json").write_text("{}")
    return folder


def llama_factory_pissa(folder: Path) -> Path:
    write(folder, tensors(), config(init_lora_weights="pissa_niter_16"))
    write(folder / "pissa_converted", tensors(), config(), "adapter_model.safetensors")
    return folder


def ms_swift(folder: Path) -> Path:
    described = config(
        peft_type="left out", swift_type="LORA", model_key_mapping=None, lora_dtype="float32", use_merged_linear=False
    )
    for run in ("v0-20260101-100000", "v11-20260102-100000"):
        named = renamed(lambda name: in_state_dict(name).removeprefix(PREFIX))
        write(folder / run / "checkpoint-30", named, described, "adapter_model.bin")
        (folder / run / "args.json").write_text("{}")
        (folder / run / "checkpoint-30" / "additional_config.json").write_text('{"lora_dtype": null}')
    return folder


def axolotl(folder: Path) -> Path:
    """FSDP and torch.compile left their wrappers in the names."""
    named = renamed(
        lambda name: "_orig_mod." + name.replace("model.layers.", "model.layers._fsdp_wrapped_module.", 1)
    )
    write(folder, {name.replace("layers._fsdp_wrapped_module.0.", "layers.0._fsdp_wrapped_module."): tensor
                   for name, tensor in named.items()}, config())  # fmt: skip
    (folder / "config.json").write_text((model_path() / "config.json").read_text())
    return folder


def fused(folder: Path) -> Path:
    """Trained on a checkpoint whose projections were joined. The same product as that of its parts: of each, A is
    [rank, in] and is shared."""
    import torch

    made = {name: tensor for name, tensor in tensors().items() if "o_proj" in name or "down_proj" in name}
    for layer in range(4):
        for parent, whole, parts in (("self_attn", "qkv_proj", "qkv"), ("mlp", "gate_up_proj", ("gate", "up"))):
            begin = f"{PREFIX}model.layers.{layer}.{parent}"
            every = [tensors()[f"{begin}.{part}_proj.lora_B.weight"] for part in parts]
            made[f"{begin}.{whole}.lora_A.weight"] = tensors()[f"{begin}.{parts[0]}_proj.lora_A.weight"]
            made[f"{begin}.{whole}.lora_B.weight"] = torch.cat(every)
    described = config(target_modules=["qkv_proj", "gate_up_proj", "o_proj", "down_proj"])
    return write(folder, made, described, "adapter_model.safetensors")


def transposed(folder: Path) -> Path:
    named = {name: tensor.T.contiguous() for name, tensor in tensors().items()}
    return write(folder, named, config(), "adapter_model.safetensors")


#: Those that are loaded, each with a word of what is said of it.
LOADED: Mapping[str, tuple[Callable[[Path], Path], str]] = {
    "PEFT's pickle": (peft_pickle, "read 56 tensors out of adapter_model.bin"),
    "PEFT's state dict": (peft_state_dict, "left out 2 tensors of the base model"),
    "PEFT's shards": (peft_shards, "brought 2 shards together"),
    "Unsloth": (unsloth, "took checkpoint-60"),
    "LLaMA-Factory": (llama_factory, "took checkpoint-2000 of 2 adapters"),
    "LLaMA-Factory's PiSSA": (llama_factory_pissa, "took pissa_converted"),
    "ms-swift": (ms_swift, "took v11-20260102-100000/checkpoint-30 of 2 adapters"),
    "Axolotl": (axolotl, "renamed 56 tensors"),
    "fused projections": (fused, "split 4 modules qkv_proj into q_proj and k_proj and v_proj"),
    "transposed matrices": (transposed, "transposed 56 matrices"),
}


def _named(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def _empty(folder: Path) -> Path:
    import torch

    return write(folder, dict.fromkeys(tensors(), torch.zeros(0)), config())


def _two_names(folder: Path) -> Path:
    other = renamed(lambda name: in_state_dict(name).replace(".default.", ".other."))
    return write(folder, {**renamed(in_state_dict), **other}, config())


#: Those that are refused, each with a part of the sentence that says why and what to do.
REFUSED: Mapping[str, tuple[Callable[[Path], Path], str]] = {
    "Axolotl's merged model": (
        lambda folder: _named(folder, "config.json", "model-00001-of-00002.safetensors"), "serve it as a model"
    ),
    "shards of FSDP": (lambda folder: _named(folder, "pytorch_model_fsdp_0/__0_0.distcp"), "accelerate merge-weights"),
    "shards of DeepSpeed": (lambda folder: _named(folder, "zero_to_fp32.py", "latest"), "python zero_to_fp32.py"),
    "ZeRO-3's empty tensors": (_empty, "DeepSpeed's ZeRO-3 leaves them"),
    "no configuration": (lambda folder: write(folder, tensors(), None), "holds no adapter_config.json: rank, alpha"),
    "two adapters in a file": (_two_names, "holds 2 adapters (default, other)"),
    "two adapters in a folder": (
        lambda folder: write(write(folder / "one", tensors(), config()).parent / "two", tensors(), config()).parent,
        "holds 2 adapters (one, two): name one",
    ),
    "ms-swift's other tuners": (
        lambda folder: write(folder, tensors(), config(swift_type="LISA")), "ms-swift's LISA is no plain LoRA"
    ),
    "half of its shards": (
        lambda folder: write(folder, tensors(), config(), "adapter_model-00001-of-00002.bin"), "not all of them"
    ),
}  # fmt: skip

#: Those that stay what they are and that no engine serves; the checks of every adapter say so.
UNSERVED: Mapping[str, tuple[Callable[[Path], Path], str]] = {
    "PEFT's DoRA": (lambda folder: write(folder, tensors(), config(use_dora=True)), "use_dora is set"),
    "Unsloth's trained embeddings": (
        lambda folder: write(folder, tensors(), config(modules_to_save=["embed_tokens", "lm_head"])), "fully trained"
    ),
    "LLaMA-Factory's PiSSA alone": (
        lambda folder: write(folder, tensors(), config(init_lora_weights="pissa")), "changes the base model"
    ),
    "Axolotl's bias": (lambda folder: write(folder, tensors(), config(bias="lora_only")), "bias is 'lora_only'"),
    "AdaLoRA": (lambda folder: write(folder, tensors(), config(peft_type="ADALORA")), "only 'LORA' can be served"),
}  # fmt: skip
