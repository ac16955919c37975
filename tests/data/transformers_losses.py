"""Writes transformers_losses.json: parameters, FLOPs, loss and gradients of tiny models, as transformers computes them.

cd tests && python -m data.transformers_losses, with torch 2.13.0 and transformers 5.24.0; with names of models it makes
those anew and keeps the rest. Weights, tokens and pixels are sines, which the test makes once more; of each gradient
its norm and its projection on sines are kept, in the order that costsim has it. Only what is trained is counted.
What transformers converts to float32 is kept in float64 here. The parameters of the configs in tests/data/configs are
counted on the meta device.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
from data.gemma_losses import described, weight

DATA = Path(__file__).parent
SEQUENCES, TOKENS, TARGETS, VOCAB = 2, 8, 6, 11

# --- tiny configs -----------------------------------------------------------------------------------------------------

ROTARY = {
    "vocab_size": VOCAB,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "tie_word_embeddings": False,
}
OPT = {
    "vocab_size": VOCAB,
    "hidden_size": 8,
    "ffn_dim": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "dropout": 0.0,
}
NEOX = {name: value for name, value in ROTARY.items() if name != "num_key_value_heads"} | {"num_attention_heads": 2}
FALCON = {name: value for name, value in NEOX.items() if name != "intermediate_size"}
FALCON |= {"num_attention_heads": 4, "hidden_size": 16, "ffn_hidden_size": 20, "tie_word_embeddings": True}
WORDS = ("vocab_size", "max_position_embeddings", "pad_token_id")
BERT = {
    "vocab_size": VOCAB,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
DISTILBERT = {
    "vocab_size": VOCAB,
    "dim": 8,
    "hidden_dim": 12,
    "n_layers": 2,
    "n_heads": 2,
    "max_position_embeddings": 16,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "seq_classif_dropout": 0.0,
}
THREE_CLASSES = {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
MBART = {
    "vocab_size": VOCAB,
    "d_model": 8,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_ffn_dim": 12,
    "decoder_ffn_dim": 12,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "max_position_embeddings": 16,
    "dropout": 0.0,
    "scale_embedding": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
# Rows of whole 16 bytes in experts: grouped products, of which transformers_saved.py keeps what is saved, want them.
QWEN = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
DEEPSEEK = {
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 2,
    "moe_intermediate_size": 8,
    "first_k_dense_replace": 1,
    "q_lora_rank": 6,
    "kv_lora_rank": 6,
    "qk_nope_head_dim": 2,
    "qk_rope_head_dim": 4,
    "v_head_dim": 5,
    "routed_scaling_factor": 1.5,
}
VIT = {name: value for name, value in BERT.items() if "dropout" not in name and name not in WORDS}
T5 = {
    "vocab_size": VOCAB,
    "d_model": 8,
    "d_kv": 5,
    "d_ff": 12,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 2,
    "relative_attention_num_buckets": 6,
    "relative_attention_max_distance": 7,
    "dropout_rate": 0.0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
MODERNBERT = {name: value for name, value in BERT.items() if "dropout" not in name} | {"cls_token_id": 1}
MODERNBERT |= {"num_hidden_layers": 4, "local_attention": 5, "bos_token_id": 1, "eos_token_id": 1, "sep_token_id": 1}
DEBERTA = {**BERT, "relative_attention": True, "type_vocab_size": 0}
DEBERTA_V3 = {
    **DEBERTA,
    "position_biased_input": False,
    "position_buckets": 3,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
}
WHISPER = {name: value for name, value in MBART.items() if name not in ("max_position_embeddings", "scale_embedding")}
WHISPER |= {"num_mel_bins": 5, "max_source_positions": TOKENS, "max_target_positions": 16, "decoder_start_token_id": 1}
MODELS = {
    "opt": ("OPTForCausalLM", {"model_type": "opt", **OPT}),
    "opt projected": (
        "OPTForCausalLM",
        {"model_type": "opt", **OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 6, "enable_bias": False},
    ),
    "phi3": (
        "Phi3ForCausalLM",
        {"model_type": "phi3", **ROTARY, "hidden_size": 16, "partial_rotary_factor": 0.5, "sliding_window": 3},
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", {"model_type": "gpt_neox", **NEOX, "rotary_pct": 0.5}),
    "gpt_neox one after another": (
        "GPTNeoXForCausalLM",
        {"model_type": "gpt_neox", **NEOX, "use_parallel_residual": False, "rotary_pct": 1.0},
    ),
    "falcon": ("FalconForCausalLM", {"model_type": "falcon", **FALCON}),
    "falcon newer": (
        "FalconForCausalLM",
        {"model_type": "falcon", **FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": True},
    ),
    "falcon one after another": (
        "FalconForCausalLM",
        {"model_type": "falcon", **FALCON, "parallel_attn": False, "multi_query": False},
    ),
    "olmo2": ("Olmo2ForCausalLM", {"model_type": "olmo2", **ROTARY}),
    "smollm3": ("SmolLM3ForCausalLM", {"model_type": "smollm3", **ROTARY, "no_rope_layers": [1, 0]}),
    "granite": (
        "GraniteForCausalLM",
        {
            "model_type": "granite",
            **ROTARY,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.25,
            "logits_scaling": 2.0,
        },
    ),
    "starcoder2": ("Starcoder2ForCausalLM", {"model_type": "starcoder2", **ROTARY, "sliding_window": 3}),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        {"model_type": "qwen2_moe", **ROTARY, **QWEN, "shared_expert_intermediate_size": 7, "mlp_only_layers": [1]},
    ),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        {"model_type": "qwen3_moe", **ROTARY, **QWEN, "norm_topk_prob": True, "head_dim": 6},
    ),
    "gpt_oss": (
        "GptOssForCausalLM",
        {
            "model_type": "gpt_oss",
            **ROTARY,
            "head_dim": 6,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 3,
            "swiglu_limit": 0.4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
    "deepseek_v2": (
        "DeepseekV2ForCausalLM",
        {"model_type": "deepseek_v2", **ROTARY, **DEEPSEEK, "q_lora_rank": None, "topk_method": "greedy"},
    ),
    "deepseek_v2 groups": (
        "DeepseekV2ForCausalLM",
        {
            "model_type": "deepseek_v2",
            **ROTARY,
            **DEEPSEEK,
            "n_group": 2,
            "topk_group": 1,
            "topk_method": "group_limited_greedy",
        },
    ),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        {"model_type": "deepseek_v3", **ROTARY, **DEEPSEEK, "n_group": 2, "topk_group": 1, "num_mtp_layers": 0},
    ),
    "distilbert": ("DistilBertForMaskedLM", {"model_type": "distilbert", **DISTILBERT}),
    "distilbert classes": (
        "DistilBertForSequenceClassification",
        {"model_type": "distilbert", **DISTILBERT, **THREE_CLASSES},
    ),
    "electra": ("ElectraForPreTraining", {"model_type": "electra", **BERT, "embedding_size": 6}),
    "electra words": ("ElectraForMaskedLM", {"model_type": "electra", **BERT, "embedding_size": 6}),
    "electra classes": (
        "ElectraForSequenceClassification",
        {"model_type": "electra", **BERT, **THREE_CLASSES, "embedding_size": 6},
    ),
    "mbart": ("MBartForConditionalGeneration", {"model_type": "mbart", **MBART}),
    "vit": (
        "ViTForImageClassification",
        {"model_type": "vit", **VIT, **THREE_CLASSES, "image_size": 6, "patch_size": 2, "num_channels": 3},
    ),
    "t5": ("T5ForConditionalGeneration", {"model_type": "t5", **T5}),
    "t5 1.1": (
        "T5ForConditionalGeneration",
        {"model_type": "t5", **T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "mt5": ("MT5ForConditionalGeneration", {"model_type": "mt5", **T5, "tie_word_embeddings": False}),
    "modernbert": ("ModernBertForMaskedLM", {"model_type": "modernbert", **MODERNBERT}),
    "modernbert classes": (
        "ModernBertForSequenceClassification",
        {"model_type": "modernbert", **MODERNBERT, **THREE_CLASSES, "classifier_pooling": "mean", "norm_bias": True},
    ),
    "deberta-v2": ("DebertaV2ForMaskedLM", {"model_type": "deberta-v2", **DEBERTA_V3}),
    "deberta-v2 convolution": (
        "DebertaV2ForMaskedLM",
        {"model_type": "deberta-v2", **DEBERTA_V3, "conv_kernel_size": 3, "conv_act": "gelu"},
    ),
    "deberta-v2 classes": (
        "DebertaV2ForSequenceClassification",
        {"model_type": "deberta-v2", **DEBERTA, **THREE_CLASSES, "pos_att_type": ["c2p"], "max_relative_positions": 9},
    ),
    "whisper": ("WhisperForConditionalGeneration", {"model_type": "whisper", **WHISPER}),
}

# --- names ------------------------------------------------------------------------------------------------------------
# By the module of transformers, # for the number of a layer: that of costsim; or a function that takes the parameter's
# elements apart (rows are outputs).


def in_turn(target, *parts):
    """Rows of several layers, as many each, in turn."""
    return lambda rows, _: {f"{target}{part}": x for part, x in zip(parts, np.split(rows, len(parts)), strict=True)}


def grouped(target):
    """Rows of q, k and v, one after another, with fewer heads of k and v."""

    def take(rows, config):
        heads, keys = config["num_attention_heads"], config.get("num_key_value_heads", config["num_attention_heads"])
        head = len(rows) // (heads + 2 * keys)
        cut = np.split(rows, [heads * head, (heads + keys) * head])
        return {f"{target}{part}": x for part, x in zip("qkv", cut, strict=True)}

    return take


def by_head(target):
    """Rows of q, k and v of each head, or of each group of heads, in turn."""

    def take(rows, config):
        heads = config["num_attention_heads"]
        if config["model_type"] == "falcon" and config.get("new_decoder_architecture"):
            groups, queries = config["num_kv_heads"], heads // config["num_kv_heads"]
        elif config["model_type"] == "falcon" and config.get("multi_query", True):
            groups, queries = 1, heads
        else:
            groups, queries = heads, 1
        cut = rows.reshape(groups, queries + 2, -1, *rows.shape[1:])
        parts = {"q": cut[:, :-2], "k": cut[:, -2], "v": cut[:, -1]}
        return {f"{target}{part}": x.reshape(-1, *rows.shape[1:]) for part, x in parts.items()}

    return take


def of_experts(target, *parts, rows=1, step=False):
    """Elements [expert, rows, columns], of which `rows` says the axis of the outputs, of several layers beside others.

    They are one after another, or with `step` in turn.
    """

    def take(elements, _):
        matrices = elements if rows == 2 or elements.ndim == 2 else elements.swapaxes(1, 2)
        every = len(parts)
        cut = [matrices[..., i::every] for i in range(every)] if step else np.split(matrices, every, axis=-1)
        return {f"{target}{part}": x for part, x in zip(parts, cut, strict=True)}

    return take


def latent(target, *parts):
    """Rows of heads, each of which has so many of each part; rows that are turned in pairs lie as halves in costsim."""

    def take(rows, config):
        sizes = {"nope": config["qk_nope_head_dim"], "rope": config["qk_rope_head_dim"]}
        sizes |= {"value": config["v_head_dim"], "rank": config["kv_lora_rank"]}
        each = sum(sizes[size] for _, size in parts)
        cut = np.split(rows.reshape(-1, each, *rows.shape[1:]), np.cumsum([sizes[s] for _, s in parts])[:-1], axis=1)
        taken = {}
        for (part, size), x in zip(parts, cut, strict=True):
            halves = np.concatenate([x[:, ::2], x[:, 1::2]], axis=1) if size == "rope" else x
            taken[f"{target}{part}"] = halves.reshape(-1, *rows.shape[1:])
        return taken

    return take


def convolution(target):
    """Elements [outputs, channels, places] of a patch, which lie [places, channels, outputs] in costsim."""
    return lambda elements, _: {target: elements.transpose(2, 1, 0)}


ATTENTION = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "out", "q_norm": "q_norm", "k_norm": "k_norm"}
LLAMA = {
    "model.embed_tokens": "embedding.tokens",
    "model.norm": "decoder.final.norm",
    "lm_head": "head.logits",
    **{f"model.layers.#.self_attn.{theirs}": f"decoder.#.self_attention.{ours}" for theirs, ours in ATTENTION.items()},
    "model.layers.#.mlp.gate_proj": "decoder.#.ffn.fc1",
    "model.layers.#.mlp.up_proj": "decoder.#.ffn.fc3",
    "model.layers.#.mlp.down_proj": "decoder.#.ffn.fc2",
    "model.layers.#.mlp.gate_up_proj": in_turn("decoder.#.ffn.", "fc1", "fc3"),
    "model.layers.#.mlp.c_fc": "decoder.#.ffn.fc1",
    "model.layers.#.mlp.c_proj": "decoder.#.ffn.fc2",
    "model.layers.#.self_attn.qkv_proj": grouped("decoder.#.self_attention."),
    "model.layers.#.self_attn.sinks": "decoder.#.self_attention.sinks.weight",
    "model.layers.#.self_attn.q_a_proj": "decoder.#.self_attention.q_a",
    "model.layers.#.self_attn.q_a_layernorm": "decoder.#.self_attention.q_a_norm",
    "model.layers.#.self_attn.kv_a_layernorm": "decoder.#.self_attention.kv_a_norm",
    "model.layers.#.self_attn.q_b_proj": latent("decoder.#.self_attention.", ("q", "nope"), ("q_rope", "rope")),
    "model.layers.#.self_attn.kv_b_proj": latent("decoder.#.self_attention.", ("k", "nope"), ("v", "value")),
    "model.layers.#.self_attn.kv_a_proj_with_mqa": latent(
        "decoder.#.self_attention.", ("kv_a", "rank"), ("k_rope", "rope")
    ),
    "model.layers.#.mlp.gate": "decoder.#.experts.router",
    "model.layers.#.mlp.router": "decoder.#.experts.router",
    "model.layers.#.mlp.shared_expert_gate": "decoder.#.experts.shared_gate",
    **{
        f"model.layers.#.mlp.{shared}.{theirs}": f"decoder.#.experts.shared.{ours}"
        for shared in ("shared_expert", "shared_experts")
        for theirs, ours in {"gate_proj": "fc1", "up_proj": "fc3", "down_proj": "fc2"}.items()
    },
    "model.layers.#.mlp.experts.gate_up_proj": of_experts("decoder.#.experts.", "fc1.weight", "fc3.weight"),
    "model.layers.#.mlp.experts.down_proj": of_experts("decoder.#.experts.", "fc2.weight"),
    "model.layers.#.input_layernorm": "decoder.#.self_attention_norm",
    "model.layers.#.post_attention_layernorm": "decoder.#.ffn_norm",
    "model.layers.#.post_feedforward_layernorm": "decoder.#.ffn_post_norm",
}
OPT_NAMES = {
    "model.decoder.embed_tokens": "embedding.tokens",
    "model.decoder.embed_positions": "embedding.positions",
    "model.decoder.project_in": "embedding.project",
    "model.decoder.project_out": "head.project",
    "model.decoder.final_layer_norm": "decoder.final.norm",
    **{
        f"model.decoder.layers.#.self_attn.{theirs}": f"decoder.#.self_attention.{ours}"
        for theirs, ours in {**ATTENTION, "out_proj": "out"}.items()
    },
    "model.decoder.layers.#.self_attn_layer_norm": "decoder.#.self_attention_norm",
    "model.decoder.layers.#.fc1": "decoder.#.ffn.fc1",
    "model.decoder.layers.#.fc2": "decoder.#.ffn.fc2",
    "model.decoder.layers.#.final_layer_norm": "decoder.#.ffn_norm",
}
NEOX_NAMES = {
    "gpt_neox.embed_in": "embedding.tokens",
    "gpt_neox.final_layer_norm": "decoder.final.norm",
    "lm_head": "head.logits",
    "gpt_neox.layers.#.attention.query_key_value": by_head("decoder.#.self_attention."),
    "gpt_neox.layers.#.attention.dense": "decoder.#.self_attention.out",
    "gpt_neox.layers.#.mlp.dense_h_to_4h": "decoder.#.ffn.fc1",
    "gpt_neox.layers.#.mlp.dense_4h_to_h": "decoder.#.ffn.fc2",
    "gpt_neox.layers.#.input_layernorm": "decoder.#.self_attention_norm",
    "gpt_neox.layers.#.post_attention_layernorm": "decoder.#.ffn_norm",
}
FALCON_NAMES = {
    "transformer.word_embeddings": "embedding.tokens",
    "transformer.ln_f": "decoder.final.norm",
    "transformer.h.#.self_attention.query_key_value": by_head("decoder.#.self_attention."),
    "transformer.h.#.self_attention.dense": "decoder.#.self_attention.out",
    "transformer.h.#.mlp.dense_h_to_4h": "decoder.#.ffn.fc1",
    "transformer.h.#.mlp.dense_4h_to_h": "decoder.#.ffn.fc2",
    "transformer.h.#.input_layernorm": "decoder.#.self_attention_norm",
    "transformer.h.#.ln_attn": "decoder.#.self_attention_norm",
    "transformer.h.#.ln_mlp": "decoder.#.ffn_norm",
    "transformer.h.#.post_attention_layernorm": "decoder.#.ffn_norm",
}
BERT_LAYER = {
    "attention.self.query": "self_attention.q",
    "attention.self.key": "self_attention.k",
    "attention.self.value": "self_attention.v",
    "attention.output.dense": "self_attention.out",
    "attention.output.LayerNorm": "self_attention_norm",
    "intermediate.dense": "ffn.fc1",
    "output.dense": "ffn.fc2",
    "output.LayerNorm": "ffn_norm",
}
ELECTRA_NAMES = {
    "electra.embeddings.word_embeddings": "embedding.tokens",
    "electra.embeddings.position_embeddings": "embedding.positions",
    "electra.embeddings.token_type_embeddings": "embedding.types",
    "electra.embeddings.LayerNorm": "embedding.norm",
    "electra.embeddings_project": "embedding.project",
    **{f"electra.encoder.layer.#.{theirs}": f"encoder.#.{ours}" for theirs, ours in BERT_LAYER.items()},
    "discriminator_predictions.dense": "head.dense",
    "discriminator_predictions.dense_prediction": "head.logits",
    "generator_predictions.dense": "head.dense",
    "generator_predictions.LayerNorm": "head.dense_norm",
    "generator_lm_head": "head.logits",
    "classifier.dense": "head.dense",
    "classifier.out_proj": "head.logits",
}
DISTILBERT_LAYER = {
    "attention.q_lin": "self_attention.q",
    "attention.k_lin": "self_attention.k",
    "attention.v_lin": "self_attention.v",
    "attention.out_lin": "self_attention.out",
    "sa_layer_norm": "self_attention_norm",
    "ffn.lin1": "ffn.fc1",
    "ffn.lin2": "ffn.fc2",
    "output_layer_norm": "ffn_norm",
}
DISTILBERT_NAMES = {
    "distilbert.embeddings.word_embeddings": "embedding.tokens",
    "distilbert.embeddings.position_embeddings": "embedding.positions",
    "distilbert.embeddings.LayerNorm": "embedding.norm",
    **{f"distilbert.transformer.layer.#.{theirs}": f"encoder.#.{ours}" for theirs, ours in DISTILBERT_LAYER.items()},
    "vocab_transform": "head.dense",
    "vocab_layer_norm": "head.dense_norm",
    "vocab_projector": "head.logits",
    "pre_classifier": "head.dense",
    "classifier": "head.logits",
}
BART_ATTENTION = {**ATTENTION, "out_proj": "out"}
MBART_LAYER = {
    **{f"self_attn.{theirs}": f"self_attention.{ours}" for theirs, ours in BART_ATTENTION.items()},
    **{f"encoder_attn.{theirs}": f"cross_attention.{ours}" for theirs, ours in BART_ATTENTION.items()},
    "self_attn_layer_norm": "self_attention_norm",
    "encoder_attn_layer_norm": "cross_attention_norm",
    "fc1": "ffn.fc1",
    "fc2": "ffn.fc2",
    "final_layer_norm": "ffn_norm",
}
MBART_NAMES = {
    "model.shared": "embedding.target",
    "model.encoder.embed_positions": "embedding.source_position_table",
    "model.decoder.embed_positions": "embedding.target_position_table",
    "model.encoder.layernorm_embedding": "embedding.source_norm",
    "model.decoder.layernorm_embedding": "embedding.target_norm",
    "model.encoder.layer_norm": "encoder.final.norm",
    "model.decoder.layer_norm": "decoder.final.norm",
    **{
        f"model.{stack}.layers.#.{theirs}": f"{stack}.#.{ours}"
        for stack in ("encoder", "decoder")
        for theirs, ours in MBART_LAYER.items()
    },
}
VIT_LAYER = {
    **{f"attention.{theirs}": f"self_attention.{ours}" for theirs, ours in ATTENTION.items()},
    "layernorm_before": "self_attention_norm",
    "layernorm_after": "ffn_norm",
    "mlp.fc1": "ffn.fc1",
    "mlp.fc2": "ffn.fc2",
}
VIT_NAMES = {
    "vit.embeddings.cls_token": lambda rows, _: {"embedding.class_token.weight": rows},
    "vit.embeddings.position_embeddings": lambda rows, _: {"embedding.positions.weight": rows},
    "vit.embeddings.patch_embeddings.projection.weight": lambda rows, _: {
        "embedding.patches.weight": rows.reshape(len(rows), -1).T
    },
    "vit.embeddings.patch_embeddings.projection": "embedding.patches",
    "vit.layernorm": "head.norm",
    "classifier": "head.logits",
    **{f"vit.layers.#.{theirs}": f"encoder.#.{ours}" for theirs, ours in VIT_LAYER.items()},
}
T5_LAST = {"encoder": 1, "decoder": 2}
T5_LAYERS = {
    "encoder": {"0": ("SelfAttention", "self_attention"), "1": ("DenseReluDense", "ffn")},
    "decoder": {
        "0": ("SelfAttention", "self_attention"),
        "1": ("EncDecAttention", "cross_attention"),
        "2": ("DenseReluDense", "ffn"),
    },
}
T5_NAMES = {
    "shared": "embedding.target",
    "lm_head": "head.logits",
    "encoder.final_layer_norm": "encoder.final.norm",
    "decoder.final_layer_norm": "decoder.final.norm",
    "encoder.block.#.layer.0.SelfAttention.relative_attention_bias": "embedding.source_relative",
    "decoder.block.#.layer.0.SelfAttention.relative_attention_bias": "embedding.target_relative",
    **{
        f"{stack}.block.#.layer.{number}.{theirs}.{inner}": f"{stack}.#.{ours}.{part}"
        for stack, parts in T5_LAYERS.items()
        for number, (theirs, ours) in parts.items()
        for inner, part in {"q": "q", "k": "k", "v": "v", "o": "out", "wi": "fc1", "wi_0": "fc1", "wi_1": "fc3"}.items()
    },
    **{f"{stack}.block.#.layer.{last}.DenseReluDense.wo": f"{stack}.#.ffn.fc2" for stack, last in T5_LAST.items()},
    **{
        f"{stack}.block.#.layer.{number}.layer_norm": f"{stack}.#.{ours}_norm"
        for stack, parts in T5_LAYERS.items()
        for number, (_, ours) in parts.items()
    },
}
MODERNBERT_LAYER = {
    "attn_norm": "self_attention_norm",
    "attn.Wo": "self_attention.out",
    "mlp_norm": "ffn_norm",
    "mlp.Wo": "ffn.fc2",
}
MODERNBERT_NAMES = {
    "model.embeddings.tok_embeddings": "embedding.tokens",
    "model.embeddings.norm": "embedding.norm",
    "model.layers.#.attn.Wqkv": in_turn("encoder.#.self_attention.", "q", "k", "v"),
    "model.layers.#.mlp.Wi": in_turn("encoder.#.ffn.", "fc1", "fc3"),
    **{f"model.layers.#.{theirs}": f"encoder.#.{ours}" for theirs, ours in MODERNBERT_LAYER.items()},
    "model.final_norm": "head.norm",
    "head.dense": "head.dense",
    "head.norm": "head.dense_norm",
    "decoder": "head.logits",
    "classifier": "head.logits",
}
DEBERTA_LAYER = {
    **{f"attention.self.{theirs}_proj": f"self_attention.{theirs[0]}" for theirs in ("query", "key", "value")},
    "attention.self.pos_key_proj": "self_attention.position_k",
    "attention.self.pos_query_proj": "self_attention.position_q",
    **{theirs: ours for theirs, ours in BERT_LAYER.items() if "attention.self" not in theirs},
}
DEBERTA_NAMES = {
    "deberta.embeddings.word_embeddings": "embedding.tokens",
    "deberta.embeddings.position_embeddings": "embedding.positions",
    "deberta.embeddings.LayerNorm": "embedding.norm",
    "deberta.encoder.rel_embeddings": "embedding.distances",
    "deberta.encoder.LayerNorm": "embedding.distances_norm",
    "deberta.encoder.conv.conv.weight": convolution("encoder.0.convolution.weight"),
    "deberta.encoder.conv.conv": "encoder.0.convolution",
    "deberta.encoder.conv.LayerNorm": "encoder.0.convolution_norm",
    **{f"deberta.encoder.layer.#.{theirs}": f"encoder.#.{ours}" for theirs, ours in DEBERTA_LAYER.items()},
    "cls.predictions": "head.logits",
    "cls.predictions.transform.dense": "head.dense",
    "cls.predictions.transform.LayerNorm": "head.dense_norm",
    "pooler.dense": "head.dense",
    "classifier": "head.logits",
}
WHISPER_NAMES = {
    **{name: ours for name, ours in MBART_NAMES.items() if "layernorm_embedding" not in name},
    **{
        f"model.encoder.conv{n}{ending}": made
        for n in (1, 2)
        for ending, made in {
            ".weight": convolution(f"embedding.conv{n}.weight"),
            "": f"embedding.conv{n}",
        }.items()
    },
    "model.decoder.embed_tokens": "embedding.target",
    "model.decoder.embed_positions": "embedding.target_position_table",
}
OLMO2 = {"model.layers.#.post_attention_layernorm": "decoder.#.self_attention_post_norm"}
GPT_OSS = {
    f"model.layers.#.mlp.experts.{theirs}{kind}": of_experts(
        "decoder.#.experts.", *(f"{part}.{ending}" for part in parts), rows=2, step=True
    )
    for theirs, parts in {"gate_up_proj": ("fc1", "fc3"), "down_proj": ("fc2",)}.items()
    for kind, ending in {"": "weight", "_bias": "bias"}.items()
}
DEEPSEEK_NAMES = {
    "model.layers.#.self_attn.q_proj": latent("decoder.#.self_attention.", ("q", "nope"), ("q_rope", "rope")),
}
NAMES = {
    "opt": OPT_NAMES,
    "gpt_neox": NEOX_NAMES,
    "falcon": FALCON_NAMES,
    "olmo2": {**LLAMA, **OLMO2},
    "gpt_oss": {**LLAMA, **GPT_OSS},
    "deepseek_v2": {**LLAMA, **DEEPSEEK_NAMES},
    "deepseek_v3": {**LLAMA, **DEEPSEEK_NAMES},
    "distilbert": DISTILBERT_NAMES,
    "electra": ELECTRA_NAMES,
    "mbart": MBART_NAMES,
    "t5": T5_NAMES,
    "vit": VIT_NAMES,
    "mt5": T5_NAMES,
    "modernbert": MODERNBERT_NAMES,
    "deberta-v2": DEBERTA_NAMES,
    "whisper": WHISPER_NAMES,
}
WITHOUT_WEIGHT = ("source_position_table", "target_position_table")  # tensors of costsim that are no `.weight`


def parts_of(name, shape, config, linear):
    """The weights of costsim that a parameter of transformers is: {name: indices of its elements, in their order}."""
    module, _, kind = name.rpartition(".")
    numbers = re.findall(r"\.(\d+)\.", module + ".")
    names = NAMES.get(config["model_type"], LLAMA)
    whole, module = (re.sub(r"\.\d+\.", ".#.", f"{text}.", count=1)[:-1] for text in (name, module))
    target = names[whole] if whole in names else names[module]
    rows = np.arange(np.prod(shape)).reshape(shape)
    parts = {target: rows} if isinstance(target, str) else target(rows, config)
    named = {}
    for ours, indices in parts.items():
        full = ours.replace("#", numbers[0]) if numbers else ours
        suffix = "" if full.endswith(WITHOUT_WEIGHT) or whole in names else f".{kind}"
        named[full + suffix] = (indices.T if linear and kind == "weight" else indices).reshape(-1)
    return named


# --- what transformers computes ---------------------------------------------------------------------------------------


def ids(sequences=SEQUENCES, tokens=TOKENS):
    """Ids from 2 on, so that none is padding."""
    return 2 + np.arange(sequences * tokens).reshape(sequences, tokens) ** 2 % (VOCAB - 2)


def batch_of(make):
    """What the model of a class is given, as arrays."""
    if make.endswith("ForPreTraining"):
        return {"input_ids": ids(), "labels": ids() % 2}
    if make.endswith("ForImageClassification"):
        pixels = np.sin(np.arange(SEQUENCES * 3 * 6 * 6) * 1.3).reshape(SEQUENCES, 3, 6, 6)
        return {"pixel_values": pixels, "labels": np.arange(SEQUENCES) % 3}
    if make.startswith("Whisper"):
        spectrograms = np.sin(np.arange(SEQUENCES * 5 * 2 * TOKENS) * 1.3).reshape(SEQUENCES, 5, 2 * TOKENS)
        targets = ids(tokens=TARGETS)
        return {"input_features": spectrograms, "decoder_input_ids": targets, "labels": targets[:, ::-1].copy()}
    if make.endswith("ForSequenceClassification"):
        return {"input_ids": ids(), "labels": np.arange(SEQUENCES) % 3}
    if make.endswith("ForConditionalGeneration"):
        targets = ids(tokens=TARGETS)
        return {"input_ids": ids(), "decoder_input_ids": targets, "labels": targets[:, ::-1].copy()}
    return {"input_ids": ids(), "labels": ids()}


def untied(config):
    """Whether the head is of its own, though transformers 5 ties it: T5 1.1's and mT5's weights are published so."""
    return "t5" in config["model_type"] and not config.get("tie_word_embeddings", True)


def made(make, kind, config):
    """The model of a class."""
    import torch
    import transformers

    model = getattr(transformers, make)(kind)
    if untied(config):
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return model


def fill(model, config):
    """Give all weights their sines, and return the parts of each parameter."""
    import torch

    linear = ((name, m) for name, m in model.named_modules() if isinstance(m, torch.nn.Linear))
    kinds = {id(m.weight) for name, m in linear if name != "lm_head"}  # words are rows in costsim, too
    kinds |= {id(m.weight) for m in model.modules() if type(m).__name__.endswith("Router")}
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    parts = {
        name: parts_of(name, tuple(p.shape), config, id(p) in kinds - embeddings)
        for name, p in model.named_parameters()
    }
    for name, parameter in model.named_parameters():
        flat = np.empty(parameter.numel())
        for ours, indices in parts[name].items():
            flat[indices] = weight(ours, indices.size)
        parameter.data = torch.tensor(flat).reshape(parameter.shape)
    if not untied(config):
        model.tie_weights()
    return parts


def losses(make, config):
    """What is kept of a tiny model."""
    import torch
    import transformers
    from torch.utils.flop_counter import FlopCounterMode

    kind = transformers.AutoConfig.for_model(**config)
    kind._attn_implementation = "eager"
    kind._experts_implementation = "eager"
    torch.manual_seed(0)
    model = made(make, kind, config).double().train()
    parts = fill(model, config)
    batch = {name: torch.tensor(values) for name, values in batch_of(make).items()}
    cached = make.endswith(("ForCausalLM", "ForConditionalGeneration"))
    no_cache = {"use_cache": False} if cached else {}
    with FlopCounterMode(display=False) as flops:
        loss = model(**batch, **no_cache).loss
        forward = flops.get_total_flops()
        loss.backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        flat = parameter.grad.flatten().numpy()
        gradients |= {ours: described(ours, flat[indices]) for ours, indices in parts[name].items()}
    return {
        "class": make,
        "config": {**config, "architectures": [make]},
        "parameters": trained(model),
        "flops_forward": forward,
        "flops_backward": flops.get_total_flops() - forward,
        "loss": loss.item(),
        "gradients": gradients,
    }


def trained(model):
    """The number of parameters that are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def real_parameters(path):
    """The parameters of a config's model, on the meta device."""
    import torch
    import transformers

    config = json.loads(path.read_text())
    make = config["architectures"][0].replace("BartModel", "BartForConditionalGeneration")
    with torch.device("meta"):
        model = made(make, transformers.AutoConfig.for_model(**config), config)
    return trained(model)


def in_float64():
    """Have PyTorch take float64 for float32, whatever the code says."""
    import torch

    torch.set_default_dtype(torch.float64)
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double


def main():
    path = DATA / "transformers_losses.json"
    wanted = sys.argv[1:] or list(MODELS)
    before = json.loads(path.read_text()) if sys.argv[1:] else {"models": {}}
    import torch
    import transformers

    parameters = {each.stem: real_parameters(each) for each in sorted((DATA / "configs").glob("*.json"))}
    in_float64()
    models = {name: losses(*MODELS[name]) if name in wanted else before["models"][name] for name in MODELS}
    kept = {
        "origin": "transformers_losses.py",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "parameters": parameters,
        "models": models,
    }
    path.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
