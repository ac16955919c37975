"""Tables of encoders with decoders."""

from collections.abc import Mapping

from costsim.huggingface.adapters.shared import BIASES, PLAIN
from costsim.huggingface.fields import Adapter, Derived, Head, Read, activation, count, flag, one_of, only, plus, rate

_SOURCE_VOCAB = Derived("vocab_size", lambda model: model["source_vocab"])

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
    **PLAIN,
    **BIASES,
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

ENCODER_DECODERS: Mapping[str, Adapter] = {
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
    "mbart": Adapter(
        family="encoder-decoder",
        classes={"MBartForConditionalGeneration": Head()},
        reads=(
            *_BART_READS,
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
