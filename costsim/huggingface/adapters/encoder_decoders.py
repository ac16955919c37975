"""Tables of encoders with decoders."""

from collections.abc import Mapping
from typing import Any

from costsim.huggingface.adapters.shared import BIASES, NO_BIASES, PLAIN
from costsim.huggingface.fields import (
    Adapter,
    Derived,
    Head,
    Read,
    Worked,
    activation,
    count,
    flag,
    one_of,
    only,
    plus,
    positive,
    rate,
)

_ENCODER_LAYERS = Derived("num_layers", lambda model: model["encoder_layers"])
_T5_ACTIVATIONS = {  # by feed_forward_proj: the activation, and whether it gates
    "relu": ("relu", False),
    "gelu": ("gelu", False),
    "gated-gelu": ("gelu_new", True),
    "gated-silu": ("silu", True),
}
_SOURCE_VOCAB = Derived("vocab_size", lambda model: model["source_vocab"])

BART_READS = (
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
    **PLAIN,
    **BIASES,
    "norm": "post",
    "norm_eps": 1e-5,
    "final_norm": False,
    "scale_head": False,
    "final_dropout": False,
    "logits_bias": True,  # final_logits_bias, a buffer: added, not trained
}
# transformers no longer looks at those that begin with normalize_, add_ and static_; other values meant other models.
_BART_CHECKS = {
    "normalize_before": only(False),
    "add_final_layer_norm": only(False),
}
_BART_NO_EFFECT = ("add_bias_logits",)

_T5_READS = (
    Read("d_model", ("d_model", "hidden_size"), count),
    Read("ffn_dim", ("d_ff",), count),
    Read("heads", ("num_heads", "num_attention_heads"), count),
    Read("head_dim", ("d_kv", "head_dim"), count),
    Read("encoder_layers", ("num_layers", "num_hidden_layers"), count),
    Read("decoder_layers", ("num_decoder_layers",), count, null=_ENCODER_LAYERS),
    Read("source_vocab", ("vocab_size",), count),
    Read("target_vocab", ("vocab_size",), count),
    Read("relative_buckets", ("relative_attention_num_buckets",), count),
    Read("dropout", ("dropout_rate",), rate),
    Read("attention_dropout", ("dropout_rate",), rate),
    Read("activation_dropout", ("dropout_rate",), rate),
    Read("norm_eps", ("layer_norm_epsilon",), positive),
    Read("activation", ("feed_forward_proj",), one_of({name: kind for name, (kind, _) in _T5_ACTIVATIONS.items()})),
    Read("gated", ("feed_forward_proj",), one_of({name: gated for name, (_, gated) in _T5_ACTIVATIONS.items()})),
)
_T5_FACTS = {
    **{name: fact for name, fact in PLAIN.items() if name != "gated"},
    **NO_BIASES,
    "norm": "pre",
    "norm_kind": "rms",
    "fused_norm": False,  # T5LayerNorm is Python
    "final_norm": True,
    "final_dropout": True,
    "positions": "relative",
    "position_offset": 0,
    "query_pre_attn_scalar": 1.0,
    "scale_embedding": False,
    "embedding_norm": False,
    "logits_bias": False,
}
_T5_NO_EFFECT = ("relative_attention_max_distance", "n_positions", "dense_act_fn", "is_gated_act")


def _older(said: Mapping[str, Any]) -> bool:
    """Whether it is the first T5, whose head is the embedding and scaled; that of T5 1.1 is of its own, and not scaled.

    So say its configs and have its weights. transformers 5 ties both, and writes what it was in scale_decoder_outputs.
    """
    return flag(said.get("scale_decoder_outputs", said.get("tie_word_embeddings", True)))


_HEAD_OF_T5 = ("scale_decoder_outputs", "tie_word_embeddings")

ENCODER_DECODERS: Mapping[str, Adapter] = {
    "bart": Adapter(
        family="encoder-decoder",
        classes={"BartForConditionalGeneration": Head()},
        reads=(
            *BART_READS,
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
    "mbart": Adapter(
        family="encoder-decoder",
        classes={"MBartForConditionalGeneration": Head()},
        reads=(
            *BART_READS,
            Read("target_vocab", ("vocab_size",), count),
            Read("max_positions", ("max_position_embeddings",), plus(2), note=" + 2: MBartLearnedPositionalEmbedding"),
        ),
        facts={
            **_BART_FACTS,
            "norm": "pre",
            "final_norm": True,
            "tied": "all",
            "positions": "learned",
            "position_offset": 2,
            "embedding_norm": True,
        },
        checks={
            "normalize_before": only(True),
            "add_final_layer_norm": only(True),
            "normalize_embedding": only(True),
            "static_position_embeddings": only(False),
            "extra_pos_embeddings": only(2),
            "tie_word_embeddings": only(True),
        },
        no_effect=_BART_NO_EFFECT,
        base="MBartModel",
    ),
    "t5": Adapter(
        family="encoder-decoder",
        classes={"T5ForConditionalGeneration": Head()},
        reads=_T5_READS,
        facts=_T5_FACTS,
        checks={"is_encoder_decoder": only(True)},
        no_effect=_T5_NO_EFFECT,
        worked={
            "tied": Worked(_HEAD_OF_T5, lambda said, _: "all" if _older(said) else "embeddings"),
            "scale_head": Worked(_HEAD_OF_T5, lambda said, _: _older(said)),
        },
        base="T5Model",
    ),
    "mt5": Adapter(
        family="encoder-decoder",
        classes={"MT5ForConditionalGeneration": Head()},
        reads=_T5_READS,
        facts={
            **_T5_FACTS,
            "tied": "embeddings",
            "scale_head": False,
        },  # so are its weights; transformers 5 ties its head
        checks={"is_encoder_decoder": only(True)},
        no_effect=(*_T5_NO_EFFECT, "tie_word_embeddings"),
        base="MT5Model",
    ),
    "marian": Adapter(
        family="encoder-decoder",
        classes={"MarianMTModel": Head()},
        reads=(
            *BART_READS,
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
