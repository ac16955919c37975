"""Tables of decoders with rotary positions, and what those of other sorts take of them."""

from collections.abc import Mapping
from typing import Any

from costsim.huggingface.adapters.shared import BIASES, FROM_WIDTH, HEADS, NO_BIASES, SIZES
from costsim.huggingface.fields import (
    WHOLE_HEAD,
    Adapter,
    Derived,
    Fields,
    Head,
    Read,
    Windows,
    Worked,
    activation,
    allowed_by,
    count,
    flag,
    layer_types,
    one_of,
    only,
    optional,
    positive,
    rate,
    rope,
    rope_of_part,
    rotary_dim,
    share,
    shortest_period,
    spell,
    window_everywhere,
    window_of_some,
)

ROTARY_READS = (
    *SIZES,
    Read("kv_heads", ("num_key_value_heads",), count, null=HEADS),
    Read("activation", ("hidden_act",), activation),
    Read("norm_eps", ("rms_norm_eps",), positive),
    Read("attention_dropout", ("attention_dropout",), rate),
    Read("tied", ("tie_word_embeddings",), flag),
)
HEAD_DIM = Read("head_dim", ("head_dim",), count, null=FROM_WIDTH)


def bias_reads(*fields: str) -> tuple[Read, ...]:
    """Fields of ours that one flag of the config decides: biases of attention."""
    return tuple(Read(field, ("attention_bias",), flag) for field in fields)


ROTARY_FACTS = {
    "norm": "pre",
    "norm_kind": "rms",
    "fused_norm": False,  # LlamaRMSNorm and its copies are Python, in float32
    "upcast": True,  # softmax(..., dtype=torch.float32) too
    "final_norm": True,
    "positions": "rotary",
    "position_offset": 0,
    "gated": True,
    "dropout": 0.0,
    "activation_dropout": 0.0,
    "qk_norm": False,
    "qk_norm_heads": False,
    "norm_bias": True,  # of no effect on RMS norms
    "attention_sinks": False,
    "zero_centered_norm": False,
    "scale_embedding": False,
    "local_rotary": False,
}
ROTARY_CHECKS = {
    "rope_scaling": rope,
    "rope_parameters": rope,
    "partial_rotary_factor": WHOLE_HEAD,
    "layer_types": layer_types,
    "sliding_window": allowed_by(optional(count)),
}
ROTARY_NO_EFFECT = ("rope_theta",)

_LAYER_NORMS = {"norm_kind": "layer", "fused_norm": True}
_FOURFOLD = Derived("4 x hidden_size", lambda model: 4 * model["d_model"])
_PARTLY_ROTARY_CHECKS = {
    **ROTARY_CHECKS,
    "rope_scaling": rope_of_part,
    "rope_parameters": rope_of_part,
    "partial_rotary_factor": allowed_by(share),
}
_FALCON_CHECKS = {name: ROTARY_CHECKS[name] for name in ("rope_scaling", "rope_parameters")}


def _without(*names: str) -> Fields:
    """The facts of most decoders with rotary positions, without some that a config says."""
    return {name: fact for name, fact in ROTARY_FACTS.items() if name not in names}


def _head_dim(full: Mapping[str, Any]) -> int:
    """Elements of a head."""
    return count(full.get("head_dim") or count(full["hidden_size"]) // count(full["num_attention_heads"]))


def _rotated(_: Mapping[str, Any], full: Mapping[str, Any]) -> tuple[bool, ...] | None:
    """Which layers turn queries and keys: as no_rope_layers lists, else all but each last of an interval.

    Source: configuration_smollm3.py. Raises ValueError for a list of another length.
    """
    number, listed = count(full["num_hidden_layers"]), full.get("no_rope_layers")
    if listed is None:
        listed = [int((i + 1) % count(full["no_rope_layer_interval"]) != 0) for i in range(number)]
    if not isinstance(listed, list) or len(listed) != number or any(turns not in (0, 1) for turns in listed):
        raise ValueError(f"expected a list of {number} times 0 or 1, got {spell(listed)}")
    return None if all(listed) else shortest_period([bool(turns) for turns in listed])


def _window_without_rotation(full: Mapping[str, Any]) -> Windows:
    """A window if use_sliding_window: in the layers that layer_types names, else in those that do not turn."""
    if full["layer_types"] is None and full["use_sliding_window"] and full["sliding_window"] is not None:
        rotated = _rotated(full, full) or (True,)
        return tuple(None if turns else full["sliding_window"] for turns in rotated) if not all(rotated) else ()
    return window_of_some({**full, "layer_types": full["layer_types"] or ["full_attention"]})


def _falcon_kv_heads(_: Mapping[str, Any], full: Mapping[str, Any]) -> int:
    """Heads of keys: given in the newer architecture, else one, or all. Source: FalconAttention."""
    every = count(full["num_attention_heads"])
    if flag(full["new_decoder_architecture"]):
        return count(full.get("num_kv_heads") or every)
    return 1 if flag(full["multi_query"]) else every


def _falcon_parallel(_: Mapping[str, Any], full: Mapping[str, Any]) -> str | None:
    """How attention and feed forward read the same. Source: FalconDecoderLayer."""
    newer, norms = flag(full["new_decoder_architecture"]), full.get("num_ln_in_parallel_attn")
    if not flag(full["parallel_attn"]):
        if newer:
            raise ValueError("not modelled: false with new_decoder_architecture")
        return None
    if norms not in (None, 1, 2) or (norms == 2 and not newer):
        raise ValueError(f"not modelled: num_ln_in_parallel_attn {spell(norms)}")
    return "two_norms" if newer and norms != 1 else "one_norm"


ROTARY: Mapping[str, Adapter] = {
    "llama": Adapter(
        family="decoder",
        classes={"LlamaForCausalLM": Head()},
        reads=(
            *ROTARY_READS,
            HEAD_DIM,
            *bias_reads("qkv_bias", "out_bias"),
            Read("ffn_bias", ("mlp_bias",), flag),
        ),
        facts=ROTARY_FACTS,
        checks={name: check for name, check in ROTARY_CHECKS.items() if name != "sliding_window"},
        no_effect=ROTARY_NO_EFFECT,
        base="LlamaModel",
    ),
    "mistral": Adapter(
        family="decoder",
        classes={"MistralForCausalLM": Head()},
        reads=(*ROTARY_READS, HEAD_DIM),
        facts={**ROTARY_FACTS, **NO_BIASES},
        checks=ROTARY_CHECKS,
        no_effect=ROTARY_NO_EFFECT,
        windows=window_everywhere,
        base="MistralModel",
    ),
    "qwen2": Adapter(
        family="decoder",
        classes={"Qwen2ForCausalLM": Head()},
        reads=(*ROTARY_READS, HEAD_DIM),
        facts={**ROTARY_FACTS, "qkv_bias": True, "out_bias": False, "ffn_bias": False},
        checks={**ROTARY_CHECKS, "use_sliding_window": only(True, False)},
        no_effect=(*ROTARY_NO_EFFECT, "max_window_layers"),
        windows=window_of_some,
        base="Qwen2Model",
    ),
    "qwen3": Adapter(
        family="decoder",
        classes={"Qwen3ForCausalLM": Head()},
        reads=(*ROTARY_READS, Read("head_dim", ("head_dim",), count), *bias_reads("qkv_bias", "out_bias")),
        facts={**ROTARY_FACTS, "ffn_bias": False, "qk_norm": True},
        checks={**ROTARY_CHECKS, "use_sliding_window": only(True, False)},
        no_effect=(*ROTARY_NO_EFFECT, "max_window_layers"),
        windows=window_of_some,
        base="Qwen3Model",
    ),
    "phi3": Adapter(
        family="decoder",
        classes={"Phi3ForCausalLM": Head()},
        reads=(*ROTARY_READS, HEAD_DIM, Read("dropout", ("resid_pdrop",), rate)),
        facts={**_without("dropout"), **NO_BIASES},
        checks={**_PARTLY_ROTARY_CHECKS, "attention_bias": only(False)},
        no_effect=(*ROTARY_NO_EFFECT, "original_max_position_embeddings", "embd_pdrop"),  # read nowhere
        worked={"rotary_dim": rotary_dim(_head_dim, "partial_rotary_factor")},
        windows=window_everywhere,
        base="Phi3Model",
    ),
    "olmo2": Adapter(
        family="decoder",
        classes={"Olmo2ForCausalLM": Head()},
        reads=(*ROTARY_READS, *bias_reads("qkv_bias", "out_bias")),
        facts={**ROTARY_FACTS, "ffn_bias": False, "norm": "branch", "qk_norm": True, "qk_norm_heads": True},
        checks=ROTARY_CHECKS,
        no_effect=ROTARY_NO_EFFECT,
        base="Olmo2Model",
    ),
    "smollm3": Adapter(
        family="decoder",
        classes={"SmolLM3ForCausalLM": Head()},
        reads=(*ROTARY_READS, HEAD_DIM, *bias_reads("qkv_bias", "out_bias"), Read("ffn_bias", ("mlp_bias",), flag)),
        facts=ROTARY_FACTS,
        checks={**ROTARY_CHECKS, "use_sliding_window": only(True, False)},
        no_effect=(*ROTARY_NO_EFFECT, "max_window_layers", "pretraining_tp"),
        worked={"rotated": Worked(("no_rope_layers", "no_rope_layer_interval"), _rotated)},
        windows=_window_without_rotation,
        base="SmolLM3Model",
    ),
    "granite": Adapter(
        family="decoder",
        classes={"GraniteForCausalLM": Head()},
        reads=(
            *ROTARY_READS,
            HEAD_DIM,
            *bias_reads("qkv_bias", "out_bias"),
            Read("ffn_bias", ("mlp_bias",), flag),
            Read("embedding_multiplier", ("embedding_multiplier",), positive),
            Read("residual_multiplier", ("residual_multiplier",), positive),
            Read("logits_divisor", ("logits_scaling",), positive),
            Read("query_pre_attn_scalar", ("attention_multiplier",), lambda x: positive(x) ** -2, note=" ** -2"),
        ),
        facts=ROTARY_FACTS,
        checks=ROTARY_CHECKS,
        no_effect=ROTARY_NO_EFFECT,
        base="GraniteModel",
    ),
    "starcoder2": Adapter(
        family="decoder",
        classes={"Starcoder2ForCausalLM": Head()},
        reads=(
            *(read for read in ROTARY_READS if read.field != "norm_eps"),
            HEAD_DIM,
            Read("norm_eps", ("norm_epsilon",), positive),
            *(Read(bias, ("use_bias",), flag) for bias in BIASES),
            Read("dropout", ("residual_dropout",), rate),
            Read("dropout", ("embedding_dropout",), rate),
        ),
        facts={**_without("dropout"), **_LAYER_NORMS, "gated": False},
        checks={**ROTARY_CHECKS, "norm_type": only("layer_norm"), "mlp_type": only("default")},
        no_effect=(*ROTARY_NO_EFFECT, "activation_function", "layer_norm_epsilon"),  # read nowhere
        windows=window_everywhere,
        base="Starcoder2Model",
    ),
    "gpt_neox": Adapter(
        family="decoder",
        classes={"GPTNeoXForCausalLM": Head()},
        reads=(
            *(read for read in ROTARY_READS if read.field not in ("norm_eps", "kv_heads")),
            Read("norm_eps", ("layer_norm_eps",), positive),
            *bias_reads("qkv_bias", "out_bias"),
            Read("dropout", ("hidden_dropout",), rate),
            Read("parallel", ("use_parallel_residual",), one_of({True: "two_norms", False: None})),
        ),
        facts={**_without("dropout"), **_LAYER_NORMS, "gated": False, "ffn_bias": True},
        checks=_PARTLY_ROTARY_CHECKS,
        no_effect=(*ROTARY_NO_EFFECT, "rotary_emb_base"),
        worked={"rotary_dim": rotary_dim(_head_dim, "rotary_pct", "partial_rotary_factor")},
        base="GPTNeoXModel",
    ),
    "falcon": Adapter(
        family="decoder",
        classes={"FalconForCausalLM": Head()},
        reads=(
            *(read for read in SIZES if read.field != "ffn_dim"),
            Read("ffn_dim", ("ffn_hidden_size",), count, null=_FOURFOLD),
            Read("activation", ("activation",), activation),
            Read("norm_eps", ("layer_norm_epsilon",), positive),
            *(Read(bias, ("bias",), flag) for bias in BIASES),
            Read("tied", ("tie_word_embeddings",), flag),
        ),
        facts={
            **ROTARY_FACTS,
            **_LAYER_NORMS,
            "upcast": False,
            "gated": False,
            "attention_dropout": 0.0,  # given, but not applied where positions are rotary
        },
        checks={**_FALCON_CHECKS, "hidden_dropout": only(0.0), "alibi": only(False)},
        no_effect=(*ROTARY_NO_EFFECT, "apply_residual_connection_post_layernorm"),
        worked={
            "kv_heads": Worked(("num_kv_heads", "multi_query", "new_decoder_architecture"), _falcon_kv_heads),
            "parallel": Worked(
                ("parallel_attn", "num_ln_in_parallel_attn", "new_decoder_architecture"), _falcon_parallel
            ),
        },
        base="FalconModel",
    ),
}
