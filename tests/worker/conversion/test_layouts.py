"""What becomes of names, shapes and configurations; without a tensor."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.conversion.layouts import PREFIX, Cut, Layout, Unservable, arrange

Q = "model.layers.0.self_attn.q_proj"
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}


def _pair(begin: str = PREFIX + Q, a: str = "lora_A.weight", b: str = "lora_B.weight") -> dict[str, tuple[int, ...]]:
    return {f"{begin}.{a}": (8, 32), f"{begin}.{b}": (48, 8)}


def _names(layout: Layout) -> dict[str, str]:
    return {new: cut.source for new, cut in layout.cuts.items()}


def test_what_is_as_it_should_be_is_left_alone() -> None:
    layout = arrange(CONFIG, _pair())
    assert layout == Layout({name: Cut(name) for name in _pair()}, CONFIG, ())


def test_names_without_the_prefix_are_read_by_the_engine_and_stay() -> None:
    assert not arrange(CONFIG, _pair(Q)).done


@pytest.mark.parametrize(
    "begin",
    [
        "module." + PREFIX + Q, "_orig_mod.module." + PREFIX + Q,
        "_orig_mod." + PREFIX + Q, PREFIX + PREFIX + Q, PREFIX + "_orig_mod." + Q,
        PREFIX + "model.layers.0._fsdp_wrapped_module.self_attn.q_proj",
        "_fsdp_wrapped_module." + PREFIX + "model.layers.0._checkpoint_wrapped_module.self_attn._orig_mod.q_proj",
    ],
)
def test_wrappers_go(begin: str) -> None:
    layout = arrange(CONFIG, _pair(begin))
    assert set(layout.cuts) == set(_pair())
    assert layout.done[0].startswith("renamed 2 tensors: ")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lora_A.default.weight", "lora_A.weight"), ("lora_B.my-adapter.weight", "lora_B.weight"),
        ("lora_embedding_A.default", "lora_embedding_A"), ("lora_magnitude_vector.default", "lora_magnitude_vector"),
        ("lora_magnitude_vector.default.weight", "lora_magnitude_vector"),
    ],
)  # fmt: skip
def test_the_name_of_the_adapter_goes(name: str, expected: str) -> None:
    layout = arrange(CONFIG, {f"{PREFIX}{Q}.{name}": (8, 8)})
    assert list(layout.cuts) == [f"{PREFIX}{Q}.{expected}"]


def test_a_head_that_was_trained_as_a_whole_gets_its_own_name_and_its_copy_goes() -> None:
    head = {f"{PREFIX}score.modules_to_save.default.weight": (2, 8), f"{PREFIX}score.original_module.weight": (2, 8)}
    layout = arrange(CONFIG, {**_pair(), **head})
    assert _names(layout)[f"{PREFIX}score.weight"] == f"{PREFIX}score.modules_to_save.default.weight"
    assert len(layout.cuts) == 3 and "left out 1 tensor of the base model" in layout.done[0]


def test_the_frozen_base_goes_and_what_peft_copies_of_embeddings_stays() -> None:
    kept = {f"{PREFIX}model.embed_tokens.base_layer.weight": (9, 9)}
    frozen = {f"{PREFIX}{Q}.base_layer.weight": (9, 9), f"{PREFIX}model.norm.weight": (9,)}
    assert set(arrange(CONFIG, {**_pair(), **kept}).cuts) == {*_pair(), *kept}
    assert set(arrange(CONFIG, {**_pair(), **frozen}).cuts) == set(_pair())


def test_experts_in_one_tensor_are_no_frozen_base() -> None:
    name = f"{PREFIX}model.layers.0.mlp.experts.base_layer"
    assert set(arrange(CONFIG, _pair(name)).cuts) == set(_pair(name))


def _fused(rows: int = 80) -> dict[str, tuple[int, ...]]:
    begin = f"{PREFIX}model.layers.0.self_attn.qkv_proj"
    return {f"{begin}.lora_A.weight": (8, 32), f"{begin}.lora_B.weight": (rows, 8)}


BASE = {f"language_model.model.layers.0.self_attn.{part}_proj": 48 if part == "q" else 16 for part in "qkv"}


def test_a_fused_module_becomes_its_parts() -> None:
    config = {**CONFIG, "target_modules": ["qkv_proj", "o_proj"], "alpha_pattern": {"layers.0.self_attn.qkv_proj": 4}}
    layout = arrange(config, _fused(), BASE)
    begin, source = f"{PREFIX}model.layers.0.self_attn", f"{PREFIX}model.layers.0.self_attn.qkv_proj"
    assert layout.cuts == {
        f"{begin}.{part}.lora_{side}.weight": Cut(f"{source}.lora_{side}.weight", rows if side == "B" else None)
        for part, rows in (("q_proj", (0, 48)), ("k_proj", (48, 64)), ("v_proj", (64, 80))) for side in "AB"
    }
    assert layout.config["target_modules"] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert layout.config["alpha_pattern"] == {f"layers.0.self_attn.{part}_proj": 4 for part in "qkv"}


def test_a_fused_module_stays_where_the_base_has_it_or_nothing_is_known() -> None:
    assert set(arrange(CONFIG, _fused()).cuts) == set(_fused())
    own = {"model.layers.0.self_attn.qkv_proj": 80}
    assert set(arrange(CONFIG, _fused(), {**BASE, **own}).cuts) == set(_fused())


def test_matrices_that_lie_the_other_way_are_turned_only_if_all_do() -> None:
    turned = {name: shape[::-1] for name, shape in _pair().items()}
    layout = arrange(CONFIG, turned)
    assert all(cut.transposed for cut in layout.cuts.values()) and len(layout.cuts) == 2
    other = PREFIX + "model.layers.1.self_attn.q_proj"
    assert not arrange(CONFIG, {**turned, **_pair(other)}).done
    assert not arrange({**CONFIG, "r": 32}, dict.fromkeys(_pair(), (32, 32))).done  # either way: as it should be


def test_target_modules_are_named_where_the_configuration_does_not() -> None:
    layout = arrange({**CONFIG, "target_modules": None}, _pair())
    assert layout.config["target_modules"] == ["q_proj"]


@pytest.mark.parametrize(
    ("config", "tensors", "told"),
    [
        (CONFIG, dict.fromkeys(_pair(), (0,)), "2 of its 2 tensors are empty"),
        (CONFIG, {"model.norm.weight": (3,)}, "such as model.norm.weight, is a LoRA matrix"),
        (CONFIG, _pair(a="lora_A.one.weight", b="lora_B.two.weight"), "holds 2 adapters (one, two)"),
        (CONFIG, {**_pair(), **_pair("module." + PREFIX + Q)}, "twice, under two names"),
        (CONFIG, _fused(81), "81 rows"),
        ({**CONFIG, "swift_type": "LONGLORA"}, _pair(), "swift export --merge_lora true"),
        ({**CONFIG, "swift_type": "LORA", "use_merged_linear": True}, _pair(), "merged linear layers"),
        (CONFIG, {"x" * 2000: (1,)}, "names of more than"),
    ],
)
def test_what_cannot_be_brought_over_is_refused(config: dict[str, Any], tensors: dict[str, Any], told: str) -> None:
    with pytest.raises(Unservable, match=re.escape(told)):
        arrange(config, tensors, BASE)


PARTS = st.sampled_from(
    ["model", "layers", "0", "q_proj", "lora_A", "default", "weight", "base_layer", "module", "_orig_mod"]
)
NAMES = st.lists(PARTS, min_size=1, max_size=7).map(".".join)


@given(st.dictionaries(NAMES, st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=6), st.integers(0, 9))
def test_it_ends_in_a_layout_of_what_was_there_or_in_a_sentence_and_a_second_time_changes_nothing(
    tensors: dict[str, Any], rank: int
) -> None:
    try:
        layout = arrange({**CONFIG, "r": rank}, tensors)
    except Unservable as error:
        assert "\n" not in str(error)
        return
    assert {cut.source for cut in layout.cuts.values()} <= set(tensors)
    shapes = {
        new: tensors[cut.source][::-1] if cut.transposed else tensors[cut.source] for new, cut in layout.cuts.items()
    }
    if any("lora_" in name for name in shapes):
        assert not arrange(layout.config, shapes).done
