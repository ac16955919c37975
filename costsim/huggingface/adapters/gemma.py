"""Tables of Gemma."""

from collections.abc import Mapping

from costsim.huggingface.adapters.rotary import ROTARY_CHECKS, ROTARY_FACTS, ROTARY_NO_EFFECT, ROTARY_READS, bias_reads
from costsim.huggingface.fields import (
    Adapter,
    Derived,
    Head,
    Read,
    activation,
    allowed_by,
    count,
    gemma_activation,
    only,
    optional,
    positive,
    rope_of_types,
    window_of_types,
)

_TANH = Derived("gelu by tanh", lambda _: "gelu_new")

_GEMMA_READS = (
    *(read for read in ROTARY_READS if read.field != "activation"),
    Read("head_dim", ("head_dim",), count),
    *bias_reads("qkv_bias", "out_bias"),
)
_GEMMA_FACTS = {**ROTARY_FACTS, "ffn_bias": False, "zero_centered_norm": True, "scale_embedding": True}
_GEMMA_CHECKS = {**ROTARY_CHECKS, "use_bidirectional_attention": only(None, False)}
_GEMMA2_READS = (
    *_GEMMA_READS,
    Read("activation", ("hidden_activation",), activation),
    Read("query_pre_attn_scalar", ("query_pre_attn_scalar",), positive),
    Read("logits_softcap", ("final_logit_softcapping",), optional(positive)),
)
_GEMMA2_FACTS = {**_GEMMA_FACTS, "norm": "sandwich"}
_GEMMA2_NO_EFFECT = (*ROTARY_NO_EFFECT, "hidden_act")  # older configs have it beside hidden_activation

GEMMA: Mapping[str, Adapter] = {
    "gemma": Adapter(
        family="decoder",
        classes={"GemmaForCausalLM": Head()},
        reads=(
            *_GEMMA_READS,
            Read(
                "activation", ("hidden_act", "hidden_activation"), gemma_activation, null=_TANH, note="; gelu by tanh"
            ),
        ),
        facts=_GEMMA_FACTS,
        checks={name: check for name, check in _GEMMA_CHECKS.items() if name != "sliding_window"},
        no_effect=ROTARY_NO_EFFECT,
        base="GemmaModel",
    ),
    "gemma2": Adapter(
        family="decoder",
        classes={"Gemma2ForCausalLM": Head()},
        reads=(*_GEMMA2_READS, Read("attention_softcap", ("attn_logit_softcapping",), optional(positive))),
        facts=_GEMMA2_FACTS,
        checks=_GEMMA_CHECKS,
        no_effect=_GEMMA2_NO_EFFECT,
        windows=window_of_types(2),
        base="Gemma2Model",
    ),
    "gemma3_text": Adapter(
        family="decoder",
        classes={"Gemma3ForCausalLM": Head()},
        reads=_GEMMA2_READS,
        facts={**_GEMMA2_FACTS, "qk_norm": True, "local_rotary": True},
        checks={
            **_GEMMA_CHECKS,
            "rope_parameters": rope_of_types,
            "sliding_window_pattern": allowed_by(count),
        },
        no_effect=(*_GEMMA2_NO_EFFECT, "rope_local_base_freq", "_sliding_window_pattern"),
        windows=window_of_types(6),
        base="Gemma3TextModel",
    ),
}
