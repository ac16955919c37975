"""Tables of encoders whose attention sees how far tokens lie apart."""

from collections.abc import Mapping
from typing import Any

from costsim.huggingface.adapters.encoders import (
    ENCODER_NO_EFFECT,
    ENCODER_READS,
    MASKED_LM,
    TEXT_FACTS,
    TIED,
    classifier,
)
from costsim.huggingface.adapters.shared import FROM_WIDTH, SIZES
from costsim.huggingface.fields import (
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
    natural,
    one_of,
    only,
    positive,
    rate,
    rope_of_types,
    shortest_period,
    spell,
)

_GLOBAL_PERIOD = 3  # of layers in which every token sees all; global_attn_every_n_layers, where it is not said


def _without(*names: str) -> Fields:
    """The facts of most encoders of text, without some that a config says."""
    return {name: fact for name, fact in TEXT_FACTS.items() if name not in names}


# --- ModernBERT -------------------------------------------------------------------------------------------------------


def _local_windows(full: Mapping[str, Any]) -> Windows:
    """Half of local_attention to each side, and the token itself, in layers that slide.

    These are those that layer_types names, else all but the first of each period. Source: configuration_modernbert.py.
    """
    number, types = count(full["num_hidden_layers"]), full.get("layer_types")
    period = count(full.get("global_attn_every_n_layers") or _GLOBAL_PERIOD)
    slides = [i % period > 0 for i in range(number)] if types is None else [t == "sliding_attention" for t in types]
    window = natural(full["local_attention"]) // 2 + 1
    return shortest_period([window if slide else None for slide in slides]) if any(slides) else ()


_MODERN_POOLING = Read("pooling", ("classifier_pooling",), one_of({"cls": "first", "mean": "mean"}))
_MODERN_CLASSIFIER = classifier("modernbert", Read("head_dropout", ("classifier_dropout",), rate))
_MODERNBERT = Adapter(
    family="encoder-classifier",
    classes={
        "ModernBertForMaskedLM": Head(facts={**MASKED_LM, "pooling": "first", "activation": "gelu"}, checks=TIED),
        "ModernBertForSequenceClassification": _MODERN_CLASSIFIER._replace(
            reads=(*_MODERN_CLASSIFIER.reads, _MODERN_POOLING)
        ),
    },
    reads=(
        *SIZES,
        Read("activation", ("hidden_activation",), activation),
        Read("norm_eps", ("norm_eps",), positive),
        Read("norm_bias", ("norm_bias",), flag),
        Read("qkv_bias", ("attention_bias",), flag),
        Read("out_bias", ("attention_bias",), flag),
        Read("ffn_bias", ("mlp_bias",), flag),
        Read("head_bias", ("classifier_bias",), flag),
        Read("logits_bias", ("decoder_bias",), flag),
        Read("activation_dropout", ("mlp_dropout",), rate),
    ),
    facts={
        **_without("norm_bias", "qkv_bias", "out_bias", "ffn_bias", "head_bias", "logits_bias", "pooling"),
        "norm": "pre",
        "first_norm": False,
        "gated": True,
        "upcast": True,  # softmax(..., dtype=torch.float32)
        "positions": "rotary",
        "local_rotary": True,
        "position_offset": 0,
        "token_types": 0,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    },
    checks={
        "layer_types": layer_types,
        "rope_parameters": rope_of_types,
        "rope_scaling": rope_of_types,
        "attention_dropout": only(0.0),  # stands behind attention's output, too, and none behind feed forward
        "embedding_dropout": only(0.0),
        "classifier_activation": only("gelu"),
        "local_attention": allowed_by(count),
        "global_attn_every_n_layers": allowed_by(count),
    },
    no_effect=(
        *(*ENCODER_NO_EFFECT, "global_rope_theta", "local_rope_theta", "initializer_cutoff_factor", "cls_token_id"),
        *("classifier_pooling", "sparse_pred_ignore_index", "deterministic_flash_attn", "reference_compile"),
        *("repad_logits_with_grad", "layer_norm_eps", "position_embedding_type"),  # read nowhere
    ),
    windows=_local_windows,
)

# --- DeBERTa-v2, and v3, whose models are of the same type ------------------------------------------------------------

_CONVOLUTION_ACTIVATIONS = {"tanh": "tanh", "gelu": "gelu", "relu": "relu", "silu": "silu"}
_KINDS = ("c2p", "p2c")


def _kinds(full: Mapping[str, Any]) -> list[str] | None:
    """Which scores against distances there are; None if there are none. Raises ValueError for what is not modelled."""
    given, relative = full.get("pos_att_type") or [], flag(full["relative_attention"])
    kinds = [kind.strip() for kind in given.lower().split("|")] if isinstance(given, str) else given
    if not isinstance(kinds, list) or any(kind not in _KINDS for kind in kinds):
        raise ValueError(f"expected c2p, p2c, or both as p2c|c2p, got {spell(given)}")
    if bool(kinds) != relative:
        raise ValueError("not modelled: pos_att_type without relative_attention, or the reverse")
    return kinds if relative else None


def _rows(_: Mapping[str, Any], full: Mapping[str, Any]) -> int | None:
    """Rows of the table of distances. Source: DebertaV2Encoder."""
    if _kinds(full) is None:
        return None
    farthest = full.get("max_relative_positions", -1)
    spans = full.get("position_buckets", -1), farthest, full["max_position_embeddings"]
    return 2 * count(next(span for span in spans if not isinstance(span, int) or span > 0))


def _of_kind(kind: str) -> Worked:
    """Whether there are scores of a kind."""

    def make(_: Mapping[str, Any], full: Mapping[str, Any]) -> bool | None:
        kinds = _kinds(full)
        return None if kinds is None else kind in kinds

    return Worked(("pos_att_type", "relative_attention"), make)


def _normed(_: Mapping[str, Any], full: Mapping[str, Any]) -> bool | None:
    norms = full.get("norm_rel_ebd", "none")
    if norms not in ("none", "layer_norm"):
        raise ValueError(f"not modelled: {spell(norms)} (known: none, layer_norm)")
    return None if _kinds(full) is None else norms == "layer_norm"


def _kernel(_: Mapping[str, Any], full: Mapping[str, Any]) -> int | None:
    return natural(full.get("conv_kernel_size", 0)) or None


def _as_wide(value: Any, config: Mapping[str, Any]) -> None:
    """A check that a width is that of the model."""
    if value is not None and value != config.get("hidden_size"):
        raise ValueError(f"not modelled: {spell(value)} where hidden_size is {spell(config.get('hidden_size'))}")


_HIDDEN_DROPOUT = Derived("hidden_dropout_prob", lambda model: model["dropout"])
_DEBERTA = Adapter(
    family="encoder-classifier",
    classes={
        "DebertaV2ForMaskedLM": Head(facts=MASKED_LM, checks=TIED),
        "DebertaV2ForSequenceClassification": classifier(
            "deberta", Read("head_dropout", ("cls_dropout",), rate, null=_HIDDEN_DROPOUT)
        ),
    },
    reads=(
        *ENCODER_READS,
        Read("head_dim", ("attention_head_size",), count, null=FROM_WIDTH),
        Read("positions", ("position_biased_input",), one_of({True: "learned", False: "none"})),
    ),
    facts={**_without("positions"), "mask_embedding": True, "position_offset": 0},
    checks={
        "pooler_dropout": only(0, 0.0),
        "pooler_hidden_act": only("gelu"),
        "pooler_hidden_size": _as_wide,
        "embedding_size": _as_wide,
        "conv_groups": only(1),
        "legacy": allowed_by(flag),  # the same head, written in two ways
    },
    no_effect=(*ENCODER_NO_EFFECT, "cls_dropout"),
    worked={
        "disentangled.rows": Worked(("position_buckets", "max_relative_positions"), _rows),
        "disentangled.content_to_position": _of_kind("c2p"),
        "disentangled.position_to_content": _of_kind("p2c"),
        "disentangled.shared": Worked(
            ("share_att_key",),
            lambda _, full: None if _kinds(full) is None else flag(full.get("share_att_key", False)),
        ),
        "disentangled.norm": Worked(("norm_rel_ebd",), _normed),
        "convolution.kernel": Worked(("conv_kernel_size",), _kernel),
        "convolution.activation": Worked(
            ("conv_act",),
            lambda _, full: (
                one_of(_CONVOLUTION_ACTIVATIONS)(full.get("conv_act", "tanh")) if _kernel({}, full) else None
            ),
        ),
    },
)

RELATIVE_ENCODERS: Mapping[str, Adapter] = {"modernbert": _MODERNBERT, "deberta-v2": _DEBERTA}
