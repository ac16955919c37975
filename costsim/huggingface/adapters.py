"""What the fields of Hugging Face `config.json` files mean to us: a table for each `model_type`.

A table says which field of a config is which of ours and what it is where it is null, what is so in every model of the
type, which values we understand, and which fields change no shape. Whatever else a config has must have the default of
its type (defaults.json), as if it were left out, or is refused by name: it may change the architecture. Source of all
tables: configuration_*.py and modeling_*.py of transformers, versions 4.0 to 5.24.
"""

from collections.abc import Mapping

from costsim.huggingface.fields import (
    WHOLE_HEAD,
    Adapter,
    Derived,
    Fields,
    Head,
    Read,
    activation,
    allowed_by,
    classes,
    count,
    flag,
    gemma_activation,
    layer_types,
    natural,
    one_of,
    only,
    optional,
    plus,
    positive,
    rate,
    rope,
    rope_of_types,
    window_everywhere,
    window_of_some,
    window_of_types,
)

_BIASES = {"qkv_bias": True, "out_bias": True, "ffn_bias": True}
_NO_BIASES = {"qkv_bias": False, "out_bias": False, "ffn_bias": False}
_PLAIN = {
    "qk_norm": False,
    "norm_kind": "layer",
    "zero_centered_norm": False,
    "gated": False,
    "fused_norm": True,
    "upcast": False,
}
_HEADS = Derived("num_attention_heads", lambda model: model["heads"])
_FOURFOLD = Derived("4 x n_embd", lambda model: 4 * model["d_model"])
_TANH = Derived("gelu by tanh", lambda _: "gelu_new")
_FROM_WIDTH = Derived("hidden_size / num_attention_heads", lambda _: None)
_HIDDEN_DROPOUT = Derived("hidden_dropout_prob", lambda model: model["dropout"])
_SOURCE_VOCAB = Derived("vocab_size", lambda model: model["source_vocab"])

_SIZES = (
    Read("d_model", ("hidden_size",), count),
    Read("ffn_dim", ("intermediate_size",), count),
    Read("heads", ("num_attention_heads",), count),
    Read("layers", ("num_hidden_layers",), count),
    Read("vocab", ("vocab_size",), count),
    Read("max_positions", ("max_position_embeddings",), count),
)

# --- decoders with rotary positions -----------------------------------------------------------------------------------


_ROTARY_READS = (
    *_SIZES,
    Read("kv_heads", ("num_key_value_heads",), count, null=_HEADS),
    Read("activation", ("hidden_act",), activation),
    Read("norm_eps", ("rms_norm_eps",), positive),
    Read("attention_dropout", ("attention_dropout",), rate),
    Read("tied", ("tie_word_embeddings",), flag),
)
_HEAD_DIM = Read("head_dim", ("head_dim",), count, null=_FROM_WIDTH)


def _bias_reads(*fields: str) -> tuple[Read, ...]:
    """Fields of ours that one flag of the config decides: biases of attention."""
    return tuple(Read(field, ("attention_bias",), flag) for field in fields)


_ROTARY_FACTS = {
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
_ROTARY_CHECKS = {
    "rope_scaling": rope,
    "rope_parameters": rope,
    "partial_rotary_factor": WHOLE_HEAD,
    "layer_types": layer_types,
    "sliding_window": allowed_by(optional(count)),
}
_ROTARY_NO_EFFECT = ("rope_theta",)

# --- Gemma ------------------------------------------------------------------------------------------------------------

_GEMMA_READS = (
    *(read for read in _ROTARY_READS if read.field != "activation"),
    Read("head_dim", ("head_dim",), count),
    *_bias_reads("qkv_bias", "out_bias"),
)
_GEMMA_FACTS = {**_ROTARY_FACTS, "ffn_bias": False, "zero_centered_norm": True, "scale_embedding": True}
_GEMMA_CHECKS = {**_ROTARY_CHECKS, "use_bidirectional_attention": only(None, False)}
_GEMMA2_READS = (
    *_GEMMA_READS,
    Read("activation", ("hidden_activation",), activation),
    Read("query_pre_attn_scalar", ("query_pre_attn_scalar",), positive),
    Read("logits_softcap", ("final_logit_softcapping",), optional(positive)),
)
_GEMMA2_FACTS = {**_GEMMA_FACTS, "norm": "sandwich"}
_GEMMA2_NO_EFFECT = (*_ROTARY_NO_EFFECT, "hidden_act")  # older configs have it beside hidden_activation

# --- encoders ---------------------------------------------------------------------------------------------------------

_ENCODER_READS = (
    *_SIZES,
    Read("activation", ("hidden_act",), activation),
    Read("norm_eps", ("layer_norm_eps",), positive),
    Read("dropout", ("hidden_dropout_prob",), rate),
    Read("attention_dropout", ("attention_probs_dropout_prob",), rate),
    Read("token_types", ("type_vocab_size",), natural),
)
_ENCODER_FACTS = {**_PLAIN, **_BIASES, "norm": "post", "activation_dropout": 0.0}
_ENCODER_NO_EFFECT = ("tie_word_embeddings",)  # a masked-lm head checks it


def _classifier(task_head: str) -> Head:
    """The head of sequence classification."""
    return Head(
        reads=(
            Read("classes", ("id2label", "num_labels", "_num_labels"), classes),
            Read("head_dropout", ("classifier_dropout",), rate, null=_HIDDEN_DROPOUT),
        ),
        facts={"task_head": task_head},
        checks={"problem_type": only(None, "single_label_classification")},
    )


_TIED = {"tie_word_embeddings": only(True)}
_MASKED_LM: Fields = {"task_head": "masked-lm", "classes": None, "head_dropout": 0.0}

# --- encoders with decoders -------------------------------------------------------------------------------------------

_BART_READS = (
    Read("d_model", ("d_model", "hidden_size"), count),
    Read("ffn_dim", ("encoder_ffn_dim",), count),
    Read("ffn_dim", ("decoder_ffn_dim",), count),
    Read("heads", ("encoder_attention_heads", "num_attention_heads"), count),
    Read("heads", ("decoder_attention_heads",), count),
    Read("encoder_layers", ("encoder_layers", "num_hidden_layers"), count),
    Read("decoder_layers", ("decoder_layers",), count),
    Read("source_vocab", ("vocab_size",), count),
    Read("activation", ("activation_function",), activation),
    Read("dropout", ("dropout",), rate),
    Read("attention_dropout", ("attention_dropout",), rate),
    Read("activation_dropout", ("activation_dropout",), rate),
    Read("scale_embedding", ("scale_embedding",), flag),
)
_BART_FACTS = {
    **_PLAIN,
    **_BIASES,
    "norm": "post",
    "norm_eps": 1e-5,
    "final_norm": False,
    "logits_bias": True,  # final_logits_bias, a buffer: added, not trained
}
# transformers no longer looks at those that begin with normalize_, add_ and static_; other values meant other models.
_BART_CHECKS = {
    "normalize_before": only(False),
    "add_final_layer_norm": only(False),
}
_BART_NO_EFFECT = ("add_bias_logits",)

# --- the tables -------------------------------------------------------------------------------------------------------

ADAPTERS: Mapping[str, Adapter] = {
    "gpt2": Adapter(
        family="decoder",
        classes={"GPT2LMHeadModel": Head()},
        reads=(
            Read("d_model", ("n_embd", "hidden_size"), count),
            Read("ffn_dim", ("n_inner",), count, null=_FOURFOLD),
            Read("heads", ("n_head", "num_attention_heads"), count),
            Read("layers", ("n_layer", "num_hidden_layers"), count),
            Read("vocab", ("vocab_size",), count),
            Read("max_positions", ("n_positions", "max_position_embeddings"), count),
            Read("activation", ("activation_function",), activation),
            Read("norm_eps", ("layer_norm_epsilon",), positive),
            Read("dropout", ("resid_pdrop",), rate),
            Read("dropout", ("embd_pdrop",), rate),
            Read("attention_dropout", ("attn_pdrop",), rate),
            Read("tied", ("tie_word_embeddings",), flag),
        ),
        facts={
            **_PLAIN,
            **_BIASES,
            "norm": "pre",
            "final_norm": True,
            "positions": "learned",
            "local_rotary": False,
            "scale_embedding": False,
            "activation_dropout": 0.0,
        },
        no_effect=(
            "n_ctx",  # the size of a buffer
            *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
            "summary_first_dropout",  # these are of GPT2DoubleHeadsModel
        ),
        base="GPT2Model",
    ),
    "llama": Adapter(
        family="decoder",
        classes={"LlamaForCausalLM": Head()},
        reads=(
            *_ROTARY_READS,
            _HEAD_DIM,
            *_bias_reads("qkv_bias", "out_bias"),
            Read("ffn_bias", ("mlp_bias",), flag),
        ),
        facts=_ROTARY_FACTS,
        checks={name: check for name, check in _ROTARY_CHECKS.items() if name != "sliding_window"},
        no_effect=_ROTARY_NO_EFFECT,
        base="LlamaModel",
    ),
    "mistral": Adapter(
        family="decoder",
        classes={"MistralForCausalLM": Head()},
        reads=(*_ROTARY_READS, _HEAD_DIM),
        facts={**_ROTARY_FACTS, **_NO_BIASES},
        checks=_ROTARY_CHECKS,
        no_effect=_ROTARY_NO_EFFECT,
        windows=window_everywhere,
        base="MistralModel",
    ),
    "mixtral": Adapter(
        family="decoder",
        classes={"MixtralForCausalLM": Head()},
        reads=(
            *_ROTARY_READS,
            _HEAD_DIM,
            Read("experts.number", ("num_local_experts", "num_experts"), count),
            Read("experts.chosen", ("num_experts_per_tok",), count),
        ),
        facts={**_ROTARY_FACTS, **_NO_BIASES, "experts.renormalize": True},
        checks=_ROTARY_CHECKS,
        no_effect=(*_ROTARY_NO_EFFECT, "router_aux_loss_coef"),
        windows=window_everywhere,
        base="MixtralModel",
    ),
    "qwen2": Adapter(
        family="decoder",
        classes={"Qwen2ForCausalLM": Head()},
        reads=(*_ROTARY_READS, _HEAD_DIM),
        facts={**_ROTARY_FACTS, "qkv_bias": True, "out_bias": False, "ffn_bias": False},
        checks={**_ROTARY_CHECKS, "use_sliding_window": only(True, False)},
        no_effect=(*_ROTARY_NO_EFFECT, "max_window_layers"),
        windows=window_of_some,
        base="Qwen2Model",
    ),
    "qwen3": Adapter(
        family="decoder",
        classes={"Qwen3ForCausalLM": Head()},
        reads=(*_ROTARY_READS, Read("head_dim", ("head_dim",), count), *_bias_reads("qkv_bias", "out_bias")),
        facts={**_ROTARY_FACTS, "ffn_bias": False, "qk_norm": True},
        checks={**_ROTARY_CHECKS, "use_sliding_window": only(True, False)},
        no_effect=(*_ROTARY_NO_EFFECT, "max_window_layers"),
        windows=window_of_some,
        base="Qwen3Model",
    ),
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
        no_effect=_ROTARY_NO_EFFECT,
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
    "bert": Adapter(
        family="encoder-classifier",
        classes={
            "BertForMaskedLM": Head(facts=_MASKED_LM, checks=_TIED),
            "BertForSequenceClassification": _classifier("bert"),
        },
        reads=_ENCODER_READS,
        facts={**_ENCODER_FACTS, "position_offset": 0},
        no_effect=_ENCODER_NO_EFFECT,
    ),
    "roberta": Adapter(
        family="encoder-classifier",
        classes={
            # RobertaLMHead has gelu whatever hidden_act says
            "RobertaForMaskedLM": Head(facts={**_MASKED_LM, "activation": "gelu"}, checks=_TIED),
            "RobertaForSequenceClassification": _classifier("roberta"),
        },
        reads=(
            *_ENCODER_READS,
            Read("position_offset", ("pad_token_id",), plus(1), note=" + 1: positions begin after it"),
        ),
        facts=_ENCODER_FACTS,
        no_effect=_ENCODER_NO_EFFECT,
    ),
    "bart": Adapter(
        family="encoder-decoder",
        classes={"BartForConditionalGeneration": Head()},
        reads=(
            *_BART_READS,
            Read("target_vocab", ("vocab_size",), count),
            Read("max_positions", ("max_position_embeddings",), plus(2), note=" + 2: BartLearnedPositionalEmbedding"),
        ),
        facts={**_BART_FACTS, "tied": "all", "positions": "learned", "position_offset": 2, "embedding_norm": True},
        checks={
            **_BART_CHECKS,
            "normalize_embedding": only(True),
            "static_position_embeddings": only(False),
            "extra_pos_embeddings": only(2),
        },
        no_effect=_BART_NO_EFFECT,
        base="BartModel",
    ),
    "marian": Adapter(
        family="encoder-decoder",
        classes={"MarianMTModel": Head()},
        reads=(
            *_BART_READS,
            Read("target_vocab", ("decoder_vocab_size",), count, null=_SOURCE_VOCAB),
            Read("max_positions", ("max_position_embeddings",), count),
            Read("tied", ("share_encoder_decoder_embeddings",), one_of({True: "all", False: "decoder"})),
        ),
        facts={**_BART_FACTS, "positions": "sinusoidal", "position_offset": 0, "embedding_norm": False},
        checks={
            **_BART_CHECKS,
            "normalize_embedding": only(False),
            "static_position_embeddings": only(True),
        },
        no_effect=(*_BART_NO_EFFECT, "extra_pos_embeddings"),
        base="MarianModel",
    ),
}

# Types with a text model inside, in `text_config`, and what its type is where it does not say it.
TEXT_MODELS: Mapping[str, str] = {"gemma3": "gemma3_text"}
