"""Tables of decoders with rotary positions, and what those of other sorts take of them."""

from collections.abc import Mapping

from costsim.huggingface.adapters.shared import FROM_WIDTH, HEADS, NO_BIASES, SIZES
from costsim.huggingface.fields import (
    WHOLE_HEAD,
    Adapter,
    Head,
    Read,
    activation,
    allowed_by,
    count,
    flag,
    layer_types,
    only,
    optional,
    positive,
    rate,
    rope,
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
    "gated": True,
    "dropout": 0.0,
    "activation_dropout": 0.0,
    "qk_norm": False,
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
}
