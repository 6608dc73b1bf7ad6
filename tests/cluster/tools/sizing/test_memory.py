"""Bytes, as vLLM allocates them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cluster.tools.sizing import memory
from cluster.tools.sizing.files import Stored, count
from cluster.tools.sizing.memory import GIB
from cluster.tools.sizing.model import parse
from modelconfigs import DEEPSEEK_V3, GEMMA_2_9B, GPT_OSS_20B, LLAMA_3_8B, MISTRAL_7B, MIXTRAL_8X7B, TOTALS
from worker.adapters.tensors import Tensor

LLAMA = parse(LLAMA_3_8B)


def test_weights_follow_from_the_architecture_or_the_files() -> None:
    by_config = memory.weights(LLAMA, None)
    assert (by_config.bytes, by_config.parameters, by_config.counted) == (16_060_522_496, 8_030_261_248, False)
    assert memory.weights(replace(LLAMA, dtype="float32"), None).bytes == 2 * 16_060_522_496
    assert memory.weights(LLAMA, Stored(1000, 0, 1000)).bytes == 2000
    assert memory.weights(LLAMA, Stored(1000, 300, None)).bytes == 2300


def test_quantized_layers_and_plain_embeddings() -> None:
    model = parse({**LLAMA_3_8B, "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}})
    total = memory.weights(model, None).bytes
    embeddings = 2 * 128256 * 4096 * 2
    assert total - embeddings == pytest.approx((8_030_261_248 - 2 * 128256 * 4096) * (4 + 20 / 128) / 8, rel=0.001)
    assert 5.3 * GIB < total < 5.4 * GIB


def test_only_the_experts_of_mxfp4_are_small() -> None:
    experts = 24 * 32 * (3 * 2880 * 2880 + 3 * 2880)
    plain = {name: total for name, _, total in TOTALS}["gpt-oss-20b"] - experts
    assert memory.weights(parse(GPT_OSS_20B), None).bytes == pytest.approx(plain * 2 + experts * 4.25 / 8, rel=1e-6)


def test_what_is_packed_stays_as_it_is_stored() -> None:
    quantized = parse({**LLAMA_3_8B, "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}})
    tensors = {"a.qweight": Tensor("I32", (10, 10)), "a.scales": Tensor("F16", (10,)), "b": Tensor("F32", (3,))}
    assert count(tensors, quantized) == Stored(10, 412, None)
    assert count({"a.weight": Tensor("F32", (10, 10))}, LLAMA) == Stored(100, 0, 100)


def test_a_tied_output_is_served_once() -> None:
    tensors = {"model.embed_tokens.weight": Tensor("BF16", (8, 4)), "lm_head.weight": Tensor("BF16", (8, 4))}
    assert count(tensors, replace(LLAMA, tied=True)).plain == 32
    assert count(tensors, LLAMA).plain == 64


def test_each_gpu_holds_its_part_and_what_cannot_be_cut() -> None:
    model = parse(MIXTRAL_8X7B)
    weights = memory.weights(model, None)
    whole = (32 * 4096 * 8 + 32 * 2 * 4096 + 4096) * 2
    assert weights.each(model, 1) == weights.bytes
    assert weights.each(model, 4) == (weights.bytes - whole) // 4 + whole


def test_room_for_adapters_of_llama() -> None:
    """Inputs plus outputs of q, k, v, o, gate, up, down, of the embedding and of the output."""
    layer = 8192 + 5120 + 5120 + 8192 + 18432 + 18432 + 18432
    assert memory.adapted_numbers(LLAMA, 1) == 32 * layer + 2 * (128256 + 4096)
    assert memory.adapters(LLAMA, 1, 8, 32) == 8 * 32 * (32 * layer + 2 * (128256 + 4096)) * 2
    assert memory.adapters(LLAMA, 1, 0, 32) == 0


def test_gpus_share_one_side_of_each_adapter() -> None:
    """Inputs of matrices that are cut by outputs are whole, and the other way round; vocabularies are never cut."""
    layer = (4096 + 2048) + 2 * (4096 + 512) + (2048 + 4096) + 2 * (4096 + 7168) + (7168 + 4096)
    assert memory.adapted_numbers(LLAMA, 2) == 32 * layer + 2 * (128256 + 4096)


def test_heads_are_held_twice_where_there_are_more_gpus() -> None:
    model = replace(LLAMA, kv_heads=2)
    assert model.kv_heads_each(8) == 1
    layer = (4096 + 512) + 2 * (4096 + 128) + (512 + 4096) + 2 * (4096 + 1792) + (1792 + 4096)
    assert memory.adapted_numbers(model, 8) == 32 * layer + 2 * (128256 + 4096)


def _cache(config: dict[str, Any], ranks: int = 1, dtype: str = "auto", **more: Any) -> memory.Cache:
    return memory.cache(parse(config), ranks, dtype, **{"on_gpu": True, **more})


def test_a_token_of_llama_in_the_cache() -> None:
    cache = _cache(LLAMA_3_8B)
    assert cache.block_bytes == 16 * 131_072  # 2 x 32 layers x 8 heads x 128 x 2 bytes a token
    assert cache.request_blocks(4096) == 256 and cache.request_blocks(4097) == 257
    assert cache.tokens(1 * GIB, 4096) == 8192 and cache.at_once(GIB, 4096) == 2.0
    assert cache.blocks(-5) == 0
    assert _cache(LLAMA_3_8B, 4).block_bytes * 4 == cache.block_bytes == _cache(LLAMA_3_8B, 16).block_bytes * 8
    assert _cache(LLAMA_3_8B, dtype="fp8").block_bytes * 2 == cache.block_bytes


def test_without_gpu_blocks_are_larger() -> None:
    cache = _cache(LLAMA_3_8B, on_gpu=False)
    assert cache.block == 128 and cache.request_bytes(129) == 2 * 128 * 131_072


def test_latent_attention_caches_one_vector_on_every_gpu() -> None:
    assert _cache(DEEPSEEK_V3).block_bytes == _cache(DEEPSEEK_V3, 8).block_bytes == 16 * 61 * 576 * 2


def test_a_window_bounds_what_a_request_keeps() -> None:
    cache = _cache(MISTRAL_7B, gpu_memory=24 * GIB)
    assert cache.width == 32 and (cache.groups, cache.windowed) == (0, 1)
    assert cache.request_blocks(32768) == cache.request_blocks(16384) == -(-(4095 + 2 * 2048) // 16) + 1
    assert cache.request_blocks(100) == 7 + 1


@pytest.mark.parametrize(
    ("full", "near", "width", "groups", "windowed"),
    [(12, 12, 12, 1, 1), (10, 52, 10, 1, 6), (13, 12, 13, 1, 1), (8, 24, 8, 1, 3), (24, 0, 24, 1, 0)],
)
def test_layers_of_two_kinds_share_the_blocks(full: int, near: int, width: int, groups: int, windowed: int) -> None:
    model = replace(parse(GPT_OSS_20B), layers=full + near, windowed=near)
    cache = memory.cache(model, 1, "auto", on_gpu=True)
    assert (cache.width, cache.groups, cache.windowed) == (width, groups, windowed)


def test_a_larger_gpu_takes_larger_steps() -> None:
    assert memory.batch(80 * GIB) == (8192, 1024) and memory.batch(24 * GIB) == (2048, 256)
    big, small = (memory.gpu_overhead(parse(GEMMA_2_9B), 1, size * GIB) for size in (80, 24))
    assert big > small > GIB
    assert memory.gpu_overhead(LLAMA, 2, 24 * GIB) > memory.gpu_overhead(LLAMA, 1, 24 * GIB) - GIB // 4
