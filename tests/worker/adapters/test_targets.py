"""Which of an adapter's modules vLLM would use, and that the others are named."""

from __future__ import annotations

import re

import pytest

from worker.adapters.targets import EngineSide, check_used, named
from worker.adapters.tensors import AdapterRejected
from worker.engines.lora_names import LoraNames

PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
         "mlp.down_proj")  # fmt: skip
BASE = [f"model.layers.{n}.{part}" for n in range(4) for part in PARTS]
TEXT = LoraNames()
#: As of Qwen2.5-VL.
VISION = LoraNames(
    prefixes=(
        ("model.language_model.", "language_model.model."), ("model.visual.", "visual."),
        ("lm_head.", "language_model.lm_head."), ("model.", "language_model.model."),
    ),
    language="language_model",
)  # fmt: skip


def _under(prefix: str, count: int = 28) -> dict[str, str]:
    """The adapter's modules under another beginning, with the base model's names."""
    return {f"{prefix}{name.removeprefix('model.')}": name for name in BASE[:count]}


@pytest.mark.parametrize("prefix", ["model.language_model.", "_orig_mod.model.", "model.model.", "transformer."])
def test_names_that_the_engine_does_not_know_are_refused(prefix: str) -> None:
    renamed = _under(prefix)
    with pytest.raises(AdapterRejected) as refused:
        check_used(list(renamed), renamed, BASE, EngineSide(TEXT))
    text = str(refused.value)
    assert refused.value.status == 400
    assert "drop 28 of the adapter's 28 modules" in text and text.endswith("it would use none")
    assert repr(prefix.removesuffix("model.").rstrip(".")) in text or repr(prefix.rstrip(".")) in text
    for part in PARTS:
        assert f"layers.*.{part} (4)" in text


def test_where_only_some_are_unknown_both_are_named() -> None:
    renamed = _under("_orig_mod.model.", 2)
    modules = [*renamed, *BASE[2:]]
    with pytest.raises(AdapterRejected, match=r"drop 2 of the adapter's 28 modules") as refused:
        check_used(modules, renamed, BASE, EngineSide(TEXT))
    dropped, used = str(refused.value).split("; it would use ")
    assert "_orig_mod.model.layers.*.self_attn.q_proj" in dropped
    assert "model.layers.*.mlp.down_proj (4)" in used and "model.layers.*.self_attn.q_proj (3)" in used


def test_names_that_the_engine_renames_are_used() -> None:
    for prefix in ("model.language_model.", "language_model.model."):
        renamed = _under(prefix)
        assert check_used(list(renamed), renamed, BASE, EngineSide(VISION)) == ()
    assert check_used(BASE, {}, BASE, EngineSide(VISION)) == ()


def test_an_embedding_model_is_looked_for_without_the_first_part_of_its_names() -> None:
    renamed = _under("")
    assert check_used(list(renamed), renamed, BASE, EngineSide(TEXT, pooling=True)) == ()
    with pytest.raises(AdapterRejected, match="would use none"):
        check_used(list(renamed), renamed, BASE, EngineSide(TEXT))


def test_files_that_leave_away_how_all_names_begin_are_those_of_the_engine() -> None:
    """Of an embedding model, which is served as its class names its modules."""
    bare = [name.removeprefix("model.") for name in BASE]
    assert check_used(BASE, dict(zip(BASE, bare, strict=True)), bare, EngineSide(TEXT)) == ()
    twice = {f"model.{name}": name for name in BASE}
    with pytest.raises(AdapterRejected, match="would use none"):
        check_used(list(twice), twice, BASE, EngineSide(TEXT))


def test_what_is_not_known_is_told_and_all_of_it_is_named() -> None:
    renamed = _under("model.language_model.")
    (told,) = check_used(list(renamed), renamed, BASE, EngineSide(None))
    assert "was not checked" in told and all(f"model.language_model.layers.*.{part} (4)" in told for part in PARTS)


def test_beside_the_language_model_nothing_is_adapted_unless_it_is_asked_for() -> None:
    tower = "model.visual.blocks.0.attn.qkv"
    with pytest.raises(AdapterRejected, match="--enable-tower-connector-lora"):
        check_used([*BASE, tower], {}, [*BASE, tower], EngineSide(VISION))
    (told,) = check_used([*BASE, tower], {}, [*BASE, tower], EngineSide(VISION, towers=True))
    assert told.endswith("model.visual.blocks.*.attn.qkv")


_PACKED = ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj")


@pytest.mark.parametrize(
    ("targets", "module", "used"),
    [
        (("q_proj",), _PACKED[0], True),
        (("q_proj",), _PACKED[1], True),  # packed in one matrix with q_proj, which is adapted for it
        (("qkv_proj",), _PACKED[1], True),
        (("model.layers.0.self_attn.qkv_proj",), _PACKED[1], True),
        (("model.layers.1.self_attn.qkv_proj",), _PACKED[1], False),
        (("o_proj", "gate_up_proj"), _PACKED[0], False),
        (("up_proj",), "model.layers.0.mlp.gate_proj", True),
        (("proj",), "model.layers.0.mlp.down_proj", False),
        (("model.layers.0.mlp.down_proj",), "model.layers.0.mlp.down_proj", True),
        (("experts",), "model.layers.0.mlp.experts.3.gate_proj", True),
        (("gate_proj",), "model.layers.0.mlp.experts.3.gate_proj", False),
        (("model.layers.0.mlp.experts",), "model.layers.0.mlp.experts.base_layer", True),
        (("lm_head",), "lm_head", True),
    ],
)
def test_target_modules_are_those_of_the_engine(targets: tuple[str, ...], module: str, used: bool) -> None:
    side = EngineSide(TEXT, targets)
    if used:
        assert check_used([module], {}, [module], side) == ()
    else:
        with pytest.raises(AdapterRejected, match=re.escape(f"--lora-target-modules names {', '.join(targets)} only")):
            check_used([module], {}, [module], side)


def test_the_packing_is_the_models_own() -> None:
    whole = LoraNames(packed={"qkv_proj": ("qkv_proj",)})
    with pytest.raises(AdapterRejected):
        check_used(["model.layers.0.self_attn.q_proj"], {}, BASE, EngineSide(whole, ("k_proj",)))


def test_names_are_short_and_on_one_line() -> None:
    text = named([f"a.{n}.b\n{n % 100}" for n in range(10_000)])
    assert "\n" not in text and text.endswith("and 60 more") and len(text) < 2_000
