"""Tables of decoders with a mixture of experts."""

import math
from collections.abc import Mapping
from typing import Any

from costsim.huggingface.adapters.rotary import (
    HEAD_DIM,
    ROTARY_CHECKS,
    ROTARY_FACTS,
    ROTARY_NO_EFFECT,
    ROTARY_READS,
    bias_reads,
)
from costsim.huggingface.adapters.shared import NO_BIASES
from costsim.huggingface.fields import (
    Adapter,
    Check,
    Head,
    Read,
    Windows,
    Worked,
    allowed_by,
    count,
    flag,
    natural,
    only,
    optional,
    positive,
    shortest_period,
    spell,
    window_everywhere,
    window_of_some,
    window_of_types,
)

_NUMBER = Read("experts.number", ("num_local_experts", "num_experts"), count)
_CHOSEN = Read("experts.chosen", ("num_experts_per_tok",), count)
_NO_EFFECT = (*ROTARY_NO_EFFECT, "router_aux_loss_coef")


def _stored_as(method: str) -> Check:
    """A check of how weights are stored, which policies say here."""

    def check(value: Any, _: Mapping[str, Any]) -> None:
        if value is not None and (not isinstance(value, dict) or value.get("quant_method") != method):
            raise ValueError(f"not modelled: {spell(value)} (known: quant_method {method})")

    return check


# --- Qwen -------------------------------------------------------------------------------------------------------------


def _dense_layers(_: Mapping[str, Any], full: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Layers without experts: those listed, and all but each last of a step. Source: Qwen2MoeDecoderLayer."""
    layers, step, listed = count(full["num_hidden_layers"]), count(full["decoder_sparse_step"]), full["mlp_only_layers"]
    if not isinstance(listed, (list, type(None))):
        raise ValueError(f"expected a list of numbers of layers, got {spell(listed)}")
    named = {natural(layer) for layer in listed or ()}
    return tuple(i for i in range(layers) if i in named or (i + 1) % step) or None


_QWEN_READS = (
    *ROTARY_READS,
    HEAD_DIM,
    Read("experts.number", ("num_experts", "num_local_experts"), count),
    _CHOSEN,
    Read("experts.ffn_dim", ("moe_intermediate_size",), count),
    Read("experts.renormalize", ("norm_topk_prob",), flag),
)
_QWEN_CHECKS = {
    **ROTARY_CHECKS,
    "sliding_window": allowed_by(optional(natural)),  # transformers writes 0 where it is not used
    "use_sliding_window": only(True, False),
}
_DENSE_LAYERS = {"experts.dense_layers": Worked(("mlp_only_layers", "decoder_sparse_step"), _dense_layers)}


def _window_of_every_other(full: Mapping[str, Any]) -> Windows:
    """A window if use_sliding_window: as layer_types says, else in every other layer below max_window_layers.

    Source: configuration_qwen2_moe.py.
    """
    if full["layer_types"] is not None or not full["use_sliding_window"] or not full["sliding_window"]:
        return window_of_some({**full, "layer_types": full["layer_types"] or ["full_attention"]})
    slides = [i % 2 == 0 and i < full["max_window_layers"] for i in range(full["num_hidden_layers"])]
    return shortest_period([full["sliding_window"] if slide else None for slide in slides]) if any(slides) else ()


def _window_of_all(full: Mapping[str, Any]) -> Windows:
    """A window in all layers if use_sliding_window."""
    return window_everywhere(full) if full["use_sliding_window"] else ()


# --- DeepSeek ---------------------------------------------------------------------------------------------------------


def _first_dense(_: Mapping[str, Any], full: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The first layers, which have no experts."""
    return tuple(range(min(natural(full["first_k_dense_replace"]), count(full["num_hidden_layers"])))) or None


def _shared_width(_: Mapping[str, Any], full: Mapping[str, Any]) -> int:
    """Shared experts are one of as many times the width."""
    return count(full["n_shared_experts"]) * count(full["moe_intermediate_size"])


def _latent_head(_: Mapping[str, Any], full: Mapping[str, Any]) -> int:
    """Elements of a head of queries and keys, rotated and not."""
    return count(full["qk_nope_head_dim"]) + count(full["qk_rope_head_dim"])


def _latent_scalar(said: Mapping[str, Any], full: Mapping[str, Any]) -> float | None:
    """What YaRN's mscale_all_dim makes of the scale of scores. Source: yarn_apply_mscale; None: the size of a head."""
    given = said.get("rope_scaling") or said.get("rope_parameters") or {}
    every = given.get("mscale_all_dim") or 0
    if given.get("rope_type", given.get("type", "default")) == "default" or not every:
        return None
    factor = positive(given.get("factor"))
    mscale = 0.1 * positive(every) * math.log(factor) + 1 if factor > 1 else 1.0
    return float(_latent_head(said, full) / mscale**4)


def _groups(name: str) -> Worked:
    """Groups that experts are chosen from, if there are several."""

    def make(_: Mapping[str, Any], full: Mapping[str, Any]) -> int | None:
        number = optional(count)(full["n_group"])
        several = (number or 1) > 1 and full.get("topk_method") != "greedy"
        return count(full[name]) if several else None

    return Worked((name, "topk_method"), make)


_DEEPSEEK_READS = (
    *ROTARY_READS,
    *bias_reads("out_bias", "latent.bias"),
    Read("latent.kv_rank", ("kv_lora_rank",), count),
    Read("latent.q_rank", ("q_lora_rank",), optional(count)),
    Read("latent.nope_dim", ("qk_nope_head_dim",), count),
    Read("latent.rope_dim", ("qk_rope_head_dim",), count),
    Read("rotary_dim", ("qk_rope_head_dim",), count),
    Read("latent.value_dim", ("v_head_dim",), count),
    Read("experts.number", ("n_routed_experts", "num_experts", "num_local_experts"), count),
    _CHOSEN,
    Read("experts.ffn_dim", ("moe_intermediate_size",), count),
    Read("experts.scaling", ("routed_scaling_factor",), positive),
)
_DEEPSEEK_FACTS = {**ROTARY_FACTS, "qkv_bias": False, "ffn_bias": False}
_DEEPSEEK_CHECKS = {
    **{name: check for name, check in ROTARY_CHECKS.items() if name.startswith("rope")},
    "mlp_bias": only(False),
    "moe_layer_freq": only(1),
    "quantization_config": _stored_as("fp8"),
}
_DEEPSEEK_NO_EFFECT = (
    *_NO_EFFECT,
    *("aux_loss_alpha", "seq_aux", "pretraining_tp", "ep_size", "head_dim", "qk_head_dim"),
    *(
        "rope_interleave",
        "num_nextn_predict_layers",
        "num_mtp_layers",
    ),  # pairs turn by as much; further heads are extra
)
_DEEPSEEK_WORKED = {
    "head_dim": Worked(("qk_nope_head_dim", "qk_rope_head_dim"), _latent_head),
    "query_pre_attn_scalar": Worked(("rope_scaling", "rope_parameters"), _latent_scalar),
    "experts.dense_layers": Worked(("first_k_dense_replace",), _first_dense),
    "experts.shared_ffn_dim": Worked(("n_shared_experts",), _shared_width),
    "experts.groups": _groups("n_group"),
    "experts.chosen_groups": _groups("topk_group"),
}

EXPERTS: Mapping[str, Adapter] = {
    "mixtral": Adapter(
        family="decoder",
        classes={"MixtralForCausalLM": Head()},
        reads=(*ROTARY_READS, HEAD_DIM, _NUMBER, _CHOSEN),
        facts={**ROTARY_FACTS, **NO_BIASES, "experts.renormalize": True},
        checks=ROTARY_CHECKS,
        no_effect=_NO_EFFECT,
        windows=window_everywhere,
        base="MixtralModel",
    ),
    "qwen2_moe": Adapter(
        family="decoder",
        classes={"Qwen2MoeForCausalLM": Head()},
        reads=(
            *_QWEN_READS,
            Read("qkv_bias", ("qkv_bias",), flag),
            Read("experts.shared_ffn_dim", ("shared_expert_intermediate_size",), count),
        ),
        facts={**ROTARY_FACTS, "out_bias": False, "ffn_bias": False, "experts.shared_gate": True},
        checks=_QWEN_CHECKS,
        no_effect=(*_NO_EFFECT, "max_window_layers"),
        worked=_DENSE_LAYERS,
        windows=_window_of_every_other,
        base="Qwen2MoeModel",
    ),
    "qwen3_moe": Adapter(
        family="decoder",
        classes={"Qwen3MoeForCausalLM": Head()},
        reads=(*_QWEN_READS, *bias_reads("qkv_bias", "out_bias")),
        facts={**ROTARY_FACTS, "ffn_bias": False, "qk_norm": True},
        checks=_QWEN_CHECKS,
        no_effect=(*_NO_EFFECT, "max_window_layers"),
        worked=_DENSE_LAYERS,
        windows=_window_of_all,
        base="Qwen3MoeModel",
    ),
    "gpt_oss": Adapter(
        family="decoder",
        classes={"GptOssForCausalLM": Head()},
        reads=(
            *ROTARY_READS,
            HEAD_DIM,
            *bias_reads("qkv_bias", "out_bias"),
            _NUMBER,
            _CHOSEN,
            Read("swiglu_limit", ("swiglu_limit",), positive),
            Read("swiglu_alpha", ("swiglu_alpha",), positive),
        ),
        facts={
            **ROTARY_FACTS,
            "ffn_bias": False,
            "attention_sinks": True,
            "experts.bias": True,
            "experts.router": "softmax_of_chosen",
            "experts.router_bias": True,
        },
        checks={**ROTARY_CHECKS, "quantization_config": _stored_as("mxfp4")},
        no_effect=(*_NO_EFFECT, "experts_per_token", "initial_context_length"),  # what OpenAI's own code reads
        windows=window_of_types(2),
        base="GptOssModel",
    ),
    "deepseek_v2": Adapter(
        family="decoder",
        classes={"DeepseekV2ForCausalLM": Head()},
        reads=_DEEPSEEK_READS,
        facts={**_DEEPSEEK_FACTS, "experts.renormalize": False},
        checks={
            **_DEEPSEEK_CHECKS,
            "norm_topk_prob": only(False),  # transformers looks at it no longer
            "scoring_func": only("softmax"),
            "topk_method": only("greedy", "group_limited_greedy"),
        },
        no_effect=_DEEPSEEK_NO_EFFECT,
        worked=_DEEPSEEK_WORKED,
        base="DeepseekV2Model",
    ),
    "deepseek_v3": Adapter(
        family="decoder",
        classes={"DeepseekV3ForCausalLM": Head()},
        reads=(*_DEEPSEEK_READS, Read("experts.renormalize", ("norm_topk_prob",), flag)),
        facts={
            **_DEEPSEEK_FACTS,
            "experts.router": "sigmoid",
            "experts.correction_bias": True,
            "experts.group_score": "top2",
        },
        checks={**_DEEPSEEK_CHECKS, "scoring_func": only("sigmoid"), "topk_method": only("noaux_tc")},
        no_effect=_DEEPSEEK_NO_EFFECT,
        worked=_DEEPSEEK_WORKED,
        base="DeepseekV3Model",
    ),
}
