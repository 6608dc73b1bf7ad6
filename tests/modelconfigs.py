"""config.json of well-known models, as far as it says something of sizes, and how many parameters they are known to
have."""

from __future__ import annotations

from typing import Any

LLAMA_3_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "hidden_size": 4096,
    "intermediate_size": 14336, "max_position_embeddings": 8192, "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "rope_scaling": None, "rope_theta": 500000.0, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "vocab_size": 128256,
}  # fmt: skip

LLAMA_32_1B: dict[str, Any] = {
    **LLAMA_3_8B, "head_dim": 64, "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 131072,
    "num_hidden_layers": 16, "tie_word_embeddings": True,
    "rope_scaling": {"factor": 32.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
}  # fmt: skip

QWEN_25_7B: dict[str, Any] = {
    "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "max_position_embeddings": 32768,
    "max_window_layers": 28, "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
    "sliding_window": 131072, "use_sliding_window": False, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "vocab_size": 152064,
}  # fmt: skip

QWEN_25_05B: dict[str, Any] = {
    **QWEN_25_7B, "hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14, "num_hidden_layers": 24,
    "num_key_value_heads": 2, "tie_word_embeddings": True, "vocab_size": 151936,
}  # fmt: skip

QWEN_25_14B: dict[str, Any] = {
    **QWEN_25_7B, "hidden_size": 5120, "intermediate_size": 13824, "num_attention_heads": 40, "num_hidden_layers": 48,
    "num_key_value_heads": 8,
}  # fmt: skip

QWEN_25_32B: dict[str, Any] = {**QWEN_25_14B, "intermediate_size": 27648, "num_hidden_layers": 64}

QWEN_25_72B: dict[str, Any] = {
    **QWEN_25_14B, "hidden_size": 8192, "intermediate_size": 29568, "num_attention_heads": 64, "num_hidden_layers": 80,
}  # fmt: skip

LLAMA_31_8B: dict[str, Any] = {
    **LLAMA_3_8B, "max_position_embeddings": 131072,
    "rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
}  # fmt: skip

LLAMA_33_70B: dict[str, Any] = {
    **LLAMA_31_8B, "hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_hidden_layers": 80,
}  # fmt: skip

SMOLLM2_135M: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "max_position_embeddings": 8192,
    "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16", "vocab_size": 49152,
}  # fmt: skip

EXAONE_35_78B: dict[str, Any] = {
    "model_type": "exaone", "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768,
    "num_attention_heads": 32, "num_layers": 32, "num_key_value_heads": 8, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "vocab_size": 102400,
}  # fmt: skip

EXAONE_35_24B: dict[str, Any] = {
    **EXAONE_35_78B, "head_dim": 80, "hidden_size": 2560, "intermediate_size": 7168, "num_layers": 30,
    "tie_word_embeddings": True,
}  # fmt: skip

EXAONE_35_32B: dict[str, Any] = {
    **EXAONE_35_78B, "hidden_size": 5120, "intermediate_size": 27392, "num_attention_heads": 40, "num_layers": 64,
}  # fmt: skip

MIXTRAL_8X7B: dict[str, Any] = {
    "model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768,
    "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "num_local_experts": 8, "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "vocab_size": 32000,
}  # fmt: skip

MISTRAL_7B: dict[str, Any] = {
    "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768,
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "sliding_window": 4096,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 32000,
}  # fmt: skip

QWEN3_30B_A3B: dict[str, Any] = {
    "model_type": "qwen3_moe", "attention_bias": False, "decoder_sparse_step": 1, "head_dim": 128, "hidden_size": 2048,
    "intermediate_size": 6144, "max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": [],
    "moe_intermediate_size": 768, "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8,
    "num_hidden_layers": 48, "num_key_value_heads": 4, "sliding_window": None, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip

GEMMA_2_9B: dict[str, Any] = {
    "model_type": "gemma2", "head_dim": 256, "hidden_size": 3584, "intermediate_size": 14336,
    "max_position_embeddings": 8192, "num_attention_heads": 16, "num_hidden_layers": 42, "num_key_value_heads": 8,
    "sliding_window": 4096, "torch_dtype": "float32", "vocab_size": 256000,
}  # fmt: skip

GPT_OSS_20B: dict[str, Any] = {
    "model_type": "gpt_oss", "attention_bias": True, "head_dim": 64, "hidden_size": 2880, "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 12, "max_position_embeddings": 131072,
    "num_attention_heads": 64, "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 8,
    "num_local_experts": 32, "quantization_config": {"quant_method": "mxfp4"}, "sliding_window": 128,
    "tie_word_embeddings": False, "vocab_size": 201088,
}  # fmt: skip

DEEPSEEK_V2_LITE: dict[str, Any] = {
    "model_type": "deepseek_v2", "attention_bias": False, "first_k_dense_replace": 1, "hidden_size": 2048,
    "intermediate_size": 10944, "kv_lora_rank": 512, "max_position_embeddings": 163840, "moe_intermediate_size": 1408,
    "moe_layer_freq": 1, "n_routed_experts": 64, "n_shared_experts": 2, "num_attention_heads": 16,
    "num_experts_per_tok": 6, "num_hidden_layers": 27, "num_key_value_heads": 16, "q_lora_rank": None,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "rope_scaling": {"factor": 40, "original_max_position_embeddings": 4096, "type": "yarn"}, "v_head_dim": 128,
    "vocab_size": 102400,
}  # fmt: skip

DEEPSEEK_V3: dict[str, Any] = {
    **DEEPSEEK_V2_LITE, "model_type": "deepseek_v3", "first_k_dense_replace": 3, "hidden_size": 7168,
    "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1,
    "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128,
    "q_lora_rank": 1536, "vocab_size": 129280,
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
}  # fmt: skip

PHI_3_MINI: dict[str, Any] = {
    "model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "max_position_embeddings": 4096,
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "sliding_window": 2047,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 32064,
}  # fmt: skip

QWEN3_8B: dict[str, Any] = {
    "model_type": "qwen3", "attention_bias": False, "head_dim": 128, "hidden_size": 4096, "intermediate_size": 12288,
    "max_position_embeddings": 40960, "max_window_layers": 36, "num_attention_heads": 32, "num_hidden_layers": 36,
    "num_key_value_heads": 8, "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip

QWEN15_MOE: dict[str, Any] = {
    "model_type": "qwen2_moe", "decoder_sparse_step": 1, "hidden_size": 2048, "intermediate_size": 5632,
    "max_position_embeddings": 8192, "moe_intermediate_size": 1408, "num_attention_heads": 16, "num_experts": 60,
    "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 16,
    "shared_expert_intermediate_size": 5632, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip

GEMMA_2B: dict[str, Any] = {
    "model_type": "gemma", "head_dim": 256, "hidden_size": 2048, "intermediate_size": 16384,
    "max_position_embeddings": 8192, "num_attention_heads": 8, "num_hidden_layers": 18, "num_key_value_heads": 1,
    "torch_dtype": "bfloat16", "vocab_size": 256000,
}  # fmt: skip

GEMMA_3_1B: dict[str, Any] = {
    "model_type": "gemma3_text", "head_dim": 256, "hidden_size": 1152, "intermediate_size": 6912,
    "max_position_embeddings": 32768, "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1,
    "sliding_window": 512, "sliding_window_pattern": 6, "torch_dtype": "bfloat16", "vocab_size": 262144,
}  # fmt: skip

#: Without DeepSeek's layer that predicts a second token: vLLM leaves it out as well.
TOTALS = [
    ("Llama-3-8B", LLAMA_3_8B, 8_030_261_248),
    ("Llama-3.2-1B", LLAMA_32_1B, 1_235_814_400),
    ("Qwen2.5-7B", QWEN_25_7B, 7_615_616_512),
    ("Mixtral-8x7B", MIXTRAL_8X7B, 46_702_792_704),
    ("Mistral-7B-v0.1", MISTRAL_7B, 7_241_732_096),
    ("Qwen3-30B-A3B", QWEN3_30B_A3B, 30_532_122_624),
    ("Gemma-2-9B", GEMMA_2_9B, 9_241_705_984),
    ("Phi-3-mini", PHI_3_MINI, 3_821_079_552),
    ("Qwen3-8B", QWEN3_8B, 8_190_735_360),
    ("Qwen1.5-MoE-A2.7B", QWEN15_MOE, 14_315_784_192),
    ("Gemma-2B", GEMMA_2B, 2_506_172_416),
    ("Gemma-3-1B", GEMMA_3_1B, 999_885_952),
    ("gpt-oss-20b", GPT_OSS_20B, 20_914_757_184),
    ("DeepSeek-V2-Lite", DEEPSEEK_V2_LITE, 15_706_484_224),
    ("Qwen2.5-0.5B", QWEN_25_05B, 494_032_768),
    ("Qwen2.5-14B", QWEN_25_14B, 14_770_033_664),
    ("Qwen2.5-32B", QWEN_25_32B, 32_763_876_352),
    ("Qwen2.5-72B", QWEN_25_72B, 72_706_203_648),
    ("Llama-3.3-70B", LLAMA_33_70B, 70_553_706_496),
    ("SmolLM2-135M", SMOLLM2_135M, 134_515_008),
    ("EXAONE-3.5-2.4B", EXAONE_35_24B, 2_405_327_360),
    ("EXAONE-3.5-7.8B", EXAONE_35_78B, 7_818_448_896),
    ("EXAONE-3.5-32B", EXAONE_35_32B, 32_003_200_000),
    ("DeepSeek-V3", DEEPSEEK_V3, 671_026_419_200),
]
