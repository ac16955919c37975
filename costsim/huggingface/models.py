"""What the fields of Hugging Face `config.json` files mean to us: a table for each `model_type`.

A table says which field of a config is which of ours and what it is where it is missing or null, what is so in every
model of the type, which values we understand, and which fields change no shape. Whatever else a config has is refused
by name: it may change the architecture. Source of all tables: configuration_*.py and modeling_*.py of transformers,
versions 4.0 to 5.0.
"""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from costsim.errors import nearest, one_line
from costsim.inputs.schema import MAX_INTEGER

Parse = Callable[[Any], Any]  # a value of a config as one of ours; raises ValueError
Check = Callable[[Any, Mapping[str, Any]], None]  # raises ValueError for a value that we do not understand
Fields = Mapping[str, Any]  # ours, by name; a dot enters a section

NEEDED = object()  # an error where it is missing
REFUSED = object()  # null is a value like others


class Derived(NamedTuple):
    """A value that follows from our fields read before."""

    text: str  # how the comment tells it
    make: Callable[[Fields], Any]


class Read(NamedTuple):
    """How one field of ours is read. Reads of the same field must agree."""

    ours: str
    names: tuple[str, ...]  # spellings in the config; those that are given must agree
    parse: Parse
    missing: Any = NEEDED  # a value or Derived: what transformers takes
    null: Any = REFUSED  # the same for null
    note: str = ""  # ends the comment: what parse does to the value


class Head(NamedTuple):
    """What a class in `architectures` adds to its type."""

    reads: tuple[Read, ...] = ()
    facts: Fields = MappingProxyType({})
    checks: Mapping[str, Check] = MappingProxyType({})


class Window(NamedTuple):
    """Attention to the last tokens only: the size if the config does not say it, and the field that turns it on."""

    missing: int | None
    switch: str = ""


class Adapter(NamedTuple):
    """The table of a `model_type`."""

    family: str
    classes: Mapping[str, Head]  # by name; the first is taken where `architectures` is missing
    reads: tuple[Read, ...]
    facts: Fields  # so in every model of the type
    checks: Mapping[str, Check] = MappingProxyType({})
    no_effect: tuple[str, ...] = ()  # on shapes, besides NO_EFFECT
    base: str = ""  # the class without a head, if its parameters are those of the first of `classes`
    window: Window | None = None


# --- values -----------------------------------------------------------------------------------------------------------


def spell(value: Any) -> str:
    """A value as JSON, cut if it is long."""
    return one_line(json.dumps(value, ensure_ascii=False))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e300 < value < 1e300


def _natural(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"expected an integer of at least 0, got {spell(value)}")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_INTEGER:
        raise ValueError(f"expected an integer from 1 to {MAX_INTEGER}, got {spell(value)}")
    return value


def _plus(more: int) -> Parse:
    return lambda value: _natural(value) + more


def _rate(value: Any) -> float:
    if not _number(value) or not 0 <= value < 1:
        raise ValueError(f"expected a rate from 0 to below 1, got {spell(value)}")
    return float(value)


def _positive(value: Any) -> float:
    if not _number(value) or value <= 0:
        raise ValueError(f"expected a number above 0, got {spell(value)}")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {spell(value)}")
    return value


def _one_of(values: Mapping[Any, Any]) -> Parse:
    """What a table has for the value."""

    def parse(value: Any) -> Any:
        if not isinstance(value, (str, bool)) or value not in values:
            known = [key if isinstance(key, str) else spell(key) for key in values]
            raise ValueError(f"not modelled: {spell(value)}{nearest(value, known)}")
        return values[value]

    return parse


def _classes(value: Any) -> int:
    """The number of classes from `num_labels` or `id2label`."""
    number = len(value) if isinstance(value, dict) else _count(value)
    if number < 2:
        raise ValueError("one class is a regression, whose loss is not modelled")
    return number


_activation = _one_of(
    {
        "relu": "relu",
        "gelu": "gelu",
        "gelu_python": "gelu",
        "gelu_new": "gelu_new",  # the three below are ways to write the same function
        "gelu_fast": "gelu_new",
        "gelu_pytorch_tanh": "gelu_new",
        "silu": "silu",
        "swish": "silu",
    }
)


# --- checks -----------------------------------------------------------------------------------------------------------


def _only(*allowed: Any) -> Check:
    """Values that mean what we model."""

    def check(value: Any, _: Mapping[str, Any]) -> None:
        if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed):
            raise ValueError(f"not modelled: {spell(value)} (known: {', '.join(map(spell, allowed))})")

    return check


def _window_size(value: Any, _: Mapping[str, Any]) -> None:
    if value is not None:
        _count(value)


_LAYER_TYPES = ("full_attention", "sliding_attention")  # of the second, the full square is counted


def _layer_types(value: Any, config: Mapping[str, Any]) -> None:
    if value is None:
        return
    if not isinstance(value, list):
        raise ValueError(f"expected a list, got {spell(value)}")
    for one in value:
        if one not in _LAYER_TYPES:
            raise ValueError(f"not modelled: {spell(one)}{nearest(one, _LAYER_TYPES)}")
    if len(value) != config.get("num_hidden_layers"):
        raise ValueError(f"{len(value)} layers, but num_hidden_layers is {spell(config.get('num_hidden_layers'))}")


# Ways to make the tables of cosines and sines: none changes their shape.
_ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
_ROPE_FIELDS = (
    *("rope_theta", "factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    *("attention_factor", "beta_fast", "beta_slow", "short_factor", "long_factor", "mscale", "mscale_all_dim"),
    "truncate",
)
_WHOLE_HEAD = _only(1.0)  # rotary positions turn the whole head


def _rope(value: Any, config: Mapping[str, Any]) -> None:
    """`rope_scaling`, or `rope_parameters`, its newer spelling."""
    if value is None:
        return
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {spell(value)}")
    for name, inner in value.items():
        if name in ("type", "rope_type"):
            if inner not in _ROPE_TYPES:
                raise ValueError(f"{name} is not modelled: {spell(inner)}{nearest(inner, _ROPE_TYPES)}")
        elif name == "partial_rotary_factor":
            _WHOLE_HEAD(inner, config)
        elif name not in _ROPE_FIELDS:
            raise ValueError(f"unknown field {one_line(name)!r}{nearest(name, _ROPE_FIELDS, most=0)}")


# --- the tables -------------------------------------------------------------------------------------------------------

# Fields of any config that change no shape: names, tokens, generation, what weights are stored in, what is returned.
NO_EFFECT = (
    *("_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "architectures", "model_type"),
    *("torch_dtype", "dtype", "use_bfloat16", "torchscript", "tf_legacy_loss", "return_dict", "output_past"),
    *("output_hidden_states", "output_attentions", "use_cache", "tokenizer_class", "prefix", "finetuning_task"),
    *("task_specific_params", "initializer_range", "initializer_factor", "init_std", "save_step"),
    *("keys_to_ignore_at_inference", "_attn_implementation", "attn_implementation", "_attn_implementation_autoset"),
    *("gradient_checkpointing", "chunk_size_feed_forward"),  # when, not what is computed; the first is ours to choose
    *("id2label", "label2id", "num_labels", "_num_labels", "problem_type"),  # heads of classes read them
    *("classifier_dropout", "classif_dropout"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "mask_token_id", "decoder_start_token_id"),
    *("forced_bos_token_id", "forced_eos_token_id", "force_bos_token_to_be_generated"),
    *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty"),
    *("temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size"),
    *("encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores"),
    *("return_dict_in_generate", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens"),
    *("begin_suppress_tokens",),
)
# Fields of any config that would change the architecture.
CHECKS: Mapping[str, Check] = {
    "pruned_heads": _only({}, [], None),
    "add_cross_attention": _only(False),
    "cross_attention_hidden_size": _only(None),
    "tie_encoder_decoder": _only(False),
}

_BIASES = {"qkv_bias": True, "out_bias": True, "ffn_bias": True}
_NO_BIASES = {"qkv_bias": False, "out_bias": False, "ffn_bias": False}
_PLAIN = {"qk_norm": False, "norm_kind": "layer", "gated": False}
_HEADS = Derived("num_attention_heads", lambda its: its["heads"])
_FOURFOLD = Derived("4 x n_embd", lambda its: 4 * its["d_model"])

_SIZES = (
    Read("d_model", ("hidden_size",), _count),
    Read("ffn_dim", ("intermediate_size",), _count),
    Read("heads", ("num_attention_heads",), _count),
    Read("layers", ("num_hidden_layers",), _count),
    Read("vocab", ("vocab_size",), _count),
    Read("max_positions", ("max_position_embeddings",), _count),
)


_FROM_WIDTH = Derived("hidden_size / num_attention_heads", lambda _: None)


def _rotary(kv_heads: Any, eps: float, head_dim: Any = _FROM_WIDTH) -> tuple[Read, ...]:
    """Llama's fields; the types differ in what they take where a field is missing."""
    null = head_dim if head_dim is _FROM_WIDTH else REFUSED  # a type with a number of its own takes no null
    return (
        *_SIZES,
        Read("kv_heads", ("num_key_value_heads",), _count, kv_heads, null=_HEADS),
        Read("head_dim", ("head_dim",), _count, head_dim, null=null),
        Read("activation", ("hidden_act",), _activation, "silu"),
        Read("norm_eps", ("rms_norm_eps",), _positive, eps),
        Read("attention_dropout", ("attention_dropout",), _rate, 0.0),
        Read("tied", ("tie_word_embeddings",), _flag, False),
    )


def _bias_reads(*ours: str) -> tuple[Read, ...]:
    """One flag for the biases of attention."""
    return tuple(Read(name, ("attention_bias",), _flag, False) for name in ours)


_ROTARY_FACTS = {
    "norm": "pre",
    "norm_kind": "rms",
    "final_norm": True,
    "positions": "rotary",
    "gated": True,
    "dropout": 0.0,
    "activation_dropout": 0.0,
    "qk_norm": False,
}
_ROTARY_CHECKS = {
    "rope_scaling": _rope,
    "rope_parameters": _rope,
    "partial_rotary_factor": _WHOLE_HEAD,
    "layer_types": _layer_types,
    "sliding_window": _window_size,
    "is_encoder_decoder": _only(False),
}
_ROTARY_NO_EFFECT = ("rope_theta",)

_ENCODER_READS = (
    *_SIZES,
    Read("activation", ("hidden_act",), _activation, "gelu"),
    Read("norm_eps", ("layer_norm_eps",), _positive, 1e-12),
    Read("dropout", ("hidden_dropout_prob",), _rate, 0.1),
    Read("attention_dropout", ("attention_probs_dropout_prob",), _rate, 0.1),
    Read("token_types", ("type_vocab_size",), _natural, 2),
)
_ENCODER_FACTS = {**_PLAIN, **_BIASES, "norm": "post", "activation_dropout": 0.0}
_ENCODER_CHECKS = {
    "position_embedding_type": _only("absolute"),
    "is_decoder": _only(False),
    "is_encoder_decoder": _only(False),
}
_ENCODER_NO_EFFECT = ("tie_word_embeddings",)  # a masked-lm head checks it
_HIDDEN_DROPOUT = Derived("hidden_dropout_prob", lambda its: its["dropout"])


def _classifier(task_head: str) -> Head:
    return Head(
        (
            Read("classes", ("id2label", "num_labels", "_num_labels"), _classes, 2),
            Read("head_dropout", ("classifier_dropout",), _rate, _HIDDEN_DROPOUT, null=_HIDDEN_DROPOUT),
        ),
        {"task_head": task_head},
        {"problem_type": _only(None, "single_label_classification")},
    )


_TIED = {"tie_word_embeddings": _only(True)}
_MASKED_LM: Fields = {"task_head": "masked-lm", "classes": None, "head_dropout": 0.0}

_BART_READS = (
    Read("d_model", ("d_model", "hidden_size"), _count),
    Read("ffn_dim", ("encoder_ffn_dim",), _count),
    Read("ffn_dim", ("decoder_ffn_dim",), _count),
    Read("heads", ("encoder_attention_heads", "num_attention_heads"), _count),
    Read("heads", ("decoder_attention_heads",), _count),
    Read("encoder_layers", ("encoder_layers", "num_hidden_layers"), _count),
    Read("decoder_layers", ("decoder_layers",), _count),
    Read("source_vocab", ("vocab_size",), _count),
    Read("activation", ("activation_function",), _activation, "gelu"),
    Read("dropout", ("dropout",), _rate, 0.1),
    Read("attention_dropout", ("attention_dropout",), _rate, 0.0),
    Read("activation_dropout", ("activation_dropout",), _rate, 0.0),
    Read("scale_embedding", ("scale_embedding",), _flag, False),
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
    "is_encoder_decoder": _only(True),
    "normalize_before": _only(False),
    "add_final_layer_norm": _only(False),
    "encoder_layerdrop": _only(0.0),
    "decoder_layerdrop": _only(0.0),
    **_TIED,
}
_BART_NO_EFFECT = ("add_bias_logits",)

ADAPTERS: Mapping[str, Adapter] = {
    "gpt2": Adapter(
        "decoder",
        {"GPT2LMHeadModel": Head()},
        (
            Read("d_model", ("n_embd", "hidden_size"), _count),
            Read("ffn_dim", ("n_inner",), _count, _FOURFOLD, null=_FOURFOLD),
            Read("heads", ("n_head", "num_attention_heads"), _count),
            Read("layers", ("n_layer", "num_hidden_layers"), _count),
            Read("vocab", ("vocab_size",), _count),
            Read("max_positions", ("n_positions", "max_position_embeddings"), _count),
            Read("activation", ("activation_function",), _activation, "gelu_new"),
            Read("norm_eps", ("layer_norm_epsilon",), _positive, 1e-5),
            Read("dropout", ("resid_pdrop",), _rate, 0.1),
            Read("dropout", ("embd_pdrop",), _rate, 0.1),
            Read("attention_dropout", ("attn_pdrop",), _rate, 0.1),
            Read("tied", ("tie_word_embeddings",), _flag, True),
        ),
        {
            **_PLAIN,
            **_BIASES,
            "norm": "pre",
            "final_norm": True,
            "positions": "learned",
            "activation_dropout": 0.0,
        },
        checks={
            "scale_attn_weights": _only(True),
            "scale_attn_by_inverse_layer_idx": _only(False),
            "reorder_and_upcast_attn": _only(False),
            "is_encoder_decoder": _only(False),
        },
        no_effect=(
            "n_ctx",  # the size of a buffer
            *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
            "summary_first_dropout",  # these are of GPT2DoubleHeadsModel
        ),
        base="GPT2Model",
    ),
    "llama": Adapter(
        "decoder",
        {"LlamaForCausalLM": Head()},
        (
            *_rotary(kv_heads=_HEADS, eps=1e-6),
            *_bias_reads("qkv_bias", "out_bias"),
            Read("ffn_bias", ("mlp_bias",), _flag, False),
        ),
        _ROTARY_FACTS,
        checks={
            **{name: check for name, check in _ROTARY_CHECKS.items() if name != "sliding_window"},
            "pretraining_tp": _only(1),
        },
        no_effect=_ROTARY_NO_EFFECT,
        base="LlamaModel",
    ),
    "mistral": Adapter(
        "decoder",
        {"MistralForCausalLM": Head()},
        _rotary(kv_heads=8, eps=1e-6),
        {**_ROTARY_FACTS, **_NO_BIASES},
        checks=_ROTARY_CHECKS,
        no_effect=_ROTARY_NO_EFFECT,
        base="MistralModel",
        window=Window(missing=4096),
    ),
    "mixtral": Adapter(
        "decoder",
        {"MixtralForCausalLM": Head()},
        (
            *_rotary(kv_heads=8, eps=1e-5),
            Read("experts.number", ("num_local_experts", "num_experts"), _count, 8),
            Read("experts.chosen", ("num_experts_per_tok",), _count, 2),
        ),
        {**_ROTARY_FACTS, **_NO_BIASES, "experts.renormalize": True},
        checks={
            **_ROTARY_CHECKS,
            "router_jitter_noise": _only(0.0),
            "output_router_logits": _only(False),  # true adds an auxiliary loss
        },
        no_effect=(*_ROTARY_NO_EFFECT, "router_aux_loss_coef"),
        base="MixtralModel",
        window=Window(missing=None),
    ),
    "qwen2": Adapter(
        "decoder",
        {"Qwen2ForCausalLM": Head()},
        _rotary(kv_heads=32, eps=1e-6),
        {**_ROTARY_FACTS, "qkv_bias": True, "out_bias": False, "ffn_bias": False},
        checks={**_ROTARY_CHECKS, "use_sliding_window": _only(True, False)},
        no_effect=(*_ROTARY_NO_EFFECT, "max_window_layers"),
        base="Qwen2Model",
        window=Window(missing=4096, switch="use_sliding_window"),
    ),
    "qwen3": Adapter(
        "decoder",
        {"Qwen3ForCausalLM": Head()},
        (*_rotary(kv_heads=32, eps=1e-6, head_dim=128), *_bias_reads("qkv_bias", "out_bias")),
        {**_ROTARY_FACTS, "ffn_bias": False, "qk_norm": True},
        checks={**_ROTARY_CHECKS, "use_sliding_window": _only(True, False)},
        no_effect=(*_ROTARY_NO_EFFECT, "max_window_layers"),
        base="Qwen3Model",
        window=Window(missing=4096, switch="use_sliding_window"),
    ),
    "bert": Adapter(
        "encoder-classifier",
        {
            "BertForMaskedLM": Head(facts=_MASKED_LM, checks=_TIED),
            "BertForSequenceClassification": _classifier("bert"),
        },
        _ENCODER_READS,
        {**_ENCODER_FACTS, "position_offset": 0},
        checks=_ENCODER_CHECKS,
        no_effect=_ENCODER_NO_EFFECT,
    ),
    "roberta": Adapter(
        "encoder-classifier",
        {
            # RobertaLMHead has gelu whatever hidden_act says
            "RobertaForMaskedLM": Head(facts={**_MASKED_LM, "activation": "gelu"}, checks=_TIED),
            "RobertaForSequenceClassification": _classifier("roberta"),
        },
        (
            *_ENCODER_READS,
            Read("position_offset", ("pad_token_id",), _plus(1), 2, note=" + 1: positions begin after it"),
        ),
        _ENCODER_FACTS,
        checks=_ENCODER_CHECKS,
        no_effect=_ENCODER_NO_EFFECT,
    ),
    "bart": Adapter(
        "encoder-decoder",
        {"BartForConditionalGeneration": Head()},
        (
            *_BART_READS,
            Read("target_vocab", ("vocab_size",), _count),
            Read("max_positions", ("max_position_embeddings",), _plus(2), note=" + 2: BartLearnedPositionalEmbedding"),
        ),
        {**_BART_FACTS, "tied": "all", "positions": "learned", "position_offset": 2, "embedding_norm": True},
        checks={
            **_BART_CHECKS,
            "normalize_embedding": _only(True),
            "static_position_embeddings": _only(False),
            "extra_pos_embeddings": _only(2),
        },
        no_effect=_BART_NO_EFFECT,
        base="BartModel",
    ),
    "marian": Adapter(
        "encoder-decoder",
        {"MarianMTModel": Head()},
        (
            *_BART_READS,
            *(
                Read("target_vocab", ("decoder_vocab_size",), _count, same, null=same)
                for same in (Derived("vocab_size", lambda its: its["source_vocab"]),)
            ),
            Read("max_positions", ("max_position_embeddings",), _count),
            Read("tied", ("share_encoder_decoder_embeddings",), _one_of({True: "all", False: "decoder"}), "all"),
        ),
        {**_BART_FACTS, "positions": "sinusoidal", "position_offset": 0, "embedding_norm": False},
        checks={
            **_BART_CHECKS,
            "normalize_embedding": _only(False),
            "static_position_embeddings": _only(True),
        },
        no_effect=(*_BART_NO_EFFECT, "extra_pos_embeddings"),
        base="MarianModel",
    ),
}
