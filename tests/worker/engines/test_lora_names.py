"""How vLLM renames what an adapter is for, read from its source."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from worker.engines import lora_names
from worker.engines.lora_names import PACKED, LoraNames

_REGISTRY = """
_TEXT = {
    "PlainForCausalLM": ("plain", "Plain"),
    "ChildForCausalLM": ("child", "Child"),
    "BuiltForCausalLM": ("built", "Built"),
    "MadeForCausalLM": ("built", "Made"),
    "OddForCausalLM": ("built", "Odd"),
    "LazyForCausalLM": ("vllm.models.lazy", "Lazy"),
    "ElsewhereForCausalLM": ("vllm.models.elsewhere", "Lazy"),
    "SightForConditionalGeneration": ("sight", "Sight"),
}
"""
_PLAIN = """
from torch import nn
class PlainModel(nn.Module):
    hf_to_vllm_mapper = WeightsMapper(orig_to_new_stacked={".q_proj": (".qkv_proj", "q")})
class Plain(nn.Module):
    hf_to_vllm_mapper = PlainModel.hf_to_vllm_mapper
    packed_modules_mapping = {"qkv_proj": ["q", "k"]}
"""
_CHILD = """
from .plain import Plain as Parent
from elsewhere import Mixin
class Child(Mixin, Parent):
    hf_to_vllm_mapper = Parent.hf_to_vllm_mapper | WeightsMapper(
        orig_to_new_prefix={"bert.": "", "drop.": None}, orig_to_new_substr={".attention.": ".attn."},
        orig_to_new_regex={re.compile(r"^layer\\\\.(\\\\d+)\\\\."): r"layers.\\\\1."},
        orig_to_new_suffix={".old.lora_A.weight": ".new.lora_A.weight"},
    )
"""
_BUILT = """
class Built:
    def __init__(self):
        self.hf_to_vllm_mapper = WeightsMapper(orig_to_new_prefix={"a.": "b."})
Made = make(Built)
class Odd:
    hf_to_vllm_mapper = mapper_of(1)
"""
_SIGHT = """
class Sight:
    hf_to_vllm_mapper = WeightsMapper(orig_to_new_prefix={"model.language_model.": "language_model.model."})
    def get_mm_mapping(self):
        return MultiModelKeys.from_string_field(language_model="language_model", tower_model="visual.")
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    models = tmp_path / "model_executor" / "models"
    models.mkdir(parents=True)
    other = tmp_path / "models" / "elsewhere"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("from .parts import Lazy\n")
    (other / "parts.py").write_text(_PLAIN.replace("class Plain(", "class Lazy("))
    (tmp_path / "models" / "lazy.py").write_text("if True:\n    class Lazy: pass\n")
    files = {"registry": _REGISTRY, "plain": _PLAIN, "child": _CHILD, "built": _BUILT,
             "sight": _SIGHT}  # fmt: skip
    for name, text in files.items():
        (models / f"{name}.py").write_text(text.replace("\\\\", "\\"))
    return tmp_path


def _of(architecture: str, package: Path) -> LoraNames:
    found = lora_names.of(architecture, package)
    assert found is not None
    return found


def test_what_is_stacked_or_left_out_is_no_rename(package: Path) -> None:
    found = _of("PlainForCausalLM", package)
    assert found.engine_name("model.layers.0.q_proj") == "model.layers.0.q_proj"
    assert (found.packed, found.language) == ({"qkv_proj": ("q", "k")}, None)


def test_a_class_adds_to_what_it_inherits(package: Path) -> None:
    found = _of("ChildForCausalLM", package)
    assert found.packed == {"qkv_proj": ("q", "k")}
    assert found.engine_name("bert.x.attention.q") == "x.attn.q"
    assert found.engine_name("layer.3.attention.q") == "layers.3.attn.q"
    assert found.engine_name("drop.x") == "drop.x"
    assert found.engine_name("a.old") == "a.new"


def test_a_multimodal_model_says_where_its_language_is(package: Path) -> None:
    found = _of("SightForConditionalGeneration", package)
    assert found.language == "language_model" and found.packed == PACKED
    assert found.engine_name("model.language_model.layers.0.q") == "language_model.model.layers.0.q"


def test_a_classifier_is_made_of_the_generating_model(package: Path) -> None:
    assert _of("PlainForSequenceClassification", package) == _of("PlainForCausalLM", package)


def test_relative_imports_are_of_the_files_folder(package: Path) -> None:
    assert _of("ElsewhereForCausalLM", package).engine_name("a") == "a"


@pytest.mark.parametrize("name", ["Built", "Made", "Odd", "Lazy", "Nobody", "Nobody.Else"])
def test_what_is_put_together_when_it_runs_is_not_guessed(package: Path, name: str) -> None:
    assert lora_names.of(f"{name}ForCausalLM", package) is None


def test_without_vllm_nothing_is_known(tmp_path: Path) -> None:
    assert lora_names.of("LlamaForCausalLM", tmp_path) is None


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM")
@pytest.mark.parametrize(
    ("architecture", "module", "engine"),
    [
        ("LlamaForCausalLM", "model.language_model.layers.0.mlp.up_proj", "model.language_model.layers.0.mlp.up_proj"),
        ("LlamaForSequenceClassification", "model.layers.0.mlp.up_proj", "model.layers.0.mlp.up_proj"),
        ("Qwen3ForCausalLM", "_orig_mod.model.layers.0.mlp.up_proj", "_orig_mod.model.layers.0.mlp.up_proj"),
        ("Qwen2_5_VLForConditionalGeneration", "model.layers.0.mlp.up_proj",
         "language_model.model.layers.0.mlp.up_proj"),
        ("Qwen3VLForConditionalGeneration", "model.language_model.layers.0.mlp.up_proj",
         "language_model.model.layers.0.mlp.up_proj"),
        ("Qwen3VLForConditionalGeneration", "model.visual.blocks.0.attn.qkv", "visual.blocks.0.attn.qkv"),
    ],
)  # fmt: skip
def test_the_installed_vllm_is_read_as_it_behaves(architecture: str, module: str, engine: str) -> None:
    """The right-hand names are what its own classes made of them when they were imported (0.32)."""
    found = lora_names.of(architecture)
    assert found is not None and found.engine_name(module) == engine
    assert found.packed["qkv_proj"] == ("q_proj", "k_proj", "v_proj")
