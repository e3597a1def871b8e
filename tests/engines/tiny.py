"""A model of every kind that transformers has, made so small that it takes a tenth of a second."""

from __future__ import annotations

from typing import Any

VOCABULARY = 437
ROWS = 2
"""Layers."""
SIZES: dict[str, object] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(
        ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"), ROWS
    ),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads", "mamba_n_heads", "mamba_num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "index_n_heads"), 2),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "dff", "n_inner"), 64),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 64),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 128),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "mamba_d_state", "mamba_d_head"), 16),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank"), 16),
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "index_head_dim"), 8),
    **dict.fromkeys(("n_group", "topk_group"), 1),
    **dict.fromkeys(("linear_num_heads", "linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("linear_head_dim", "linear_key_head_dim", "linear_value_head_dim"), 8),
    "hidden_size_per_layer_input": 8,
    "hidden_size_global": 32,
    "rotary_dim": 4,
    "num_experts_per_tok": 2,
    "index_topk": 64,
    "is_decoder": True,
    "causal": True,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
"""What a configuration gets of these where it has a field of that name."""
LINEAR = ["linear_attention", "full_attention"]
INDEXER = {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8} | {
    "indexer_budget": 64,
    "indexer_compress_ratio": 4,
}
MORE: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "blt": {"encoder_hash_byte_group_vocab": 100},
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
        }
    },
    "dbrx": {"attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0}, "ffn_config": {"hidden_size": 32}},
    "dots1": {"n_shared_experts": 1},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2, "mamba_dt_rank": 4},
    "kimi_linear": {"layer_types": LINEAR},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8},
    "nemotron_h": {"n_groups": 2},
    "qwen3_5": {"text_config": {"layer_types": LINEAR}},
    "qwen3_5_moe": {"text_config": {"layer_types": LINEAR}},
    "qwen3_5_moe_text": {"layer_types": LINEAR},
    "qwen3_5_text": {"layer_types": LINEAR},
    "qwen3_next": {"layer_types": LINEAR},
    "qwen4_exp": {"text_config": {"layer_types": LINEAR, **INDEXER}},
    "qwen4_exp_text": {"layer_types": LINEAR, **INDEXER},
    "reformer": {"attn_layers": ["local", "local"], "axial_pos_embds": False},
    "roc_bert": {"pronunciation_embed_dim": 8, "shape_embed_dim": 8, "shape_vocab_size": 50},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
}
"""What some kinds want beside it."""


def tiny_config(kind: str, **changes: object) -> Any:
    """The smallest configuration of a kind of model that its code can run."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    made = CONFIG_MAPPING[kind]
    default = made()
    settings = _known(default)
    for part in default.sub_configs:
        if getattr(default, part, None) is not None:
            settings[part] = _known(getattr(default, part))
    for name, value in {**MORE.get(kind, {}), **changes}.items():
        settings[name] = {**settings[name], **value} if name in default.sub_configs else value
    return made(**settings)


def _known(config: Any) -> dict[str, Any]:
    fields = {*config.to_dict(), *config.attribute_map}
    known = {name: value for name, value in SIZES.items() if name in fields}
    if "kv_lora_rank" in known and "num_key_value_heads" in known:  # latent attention: as many heads as of queries
        known["num_key_value_heads"] = known["num_attention_heads"]
    return known
