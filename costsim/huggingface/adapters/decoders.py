"""Tables of decoders without rotary positions."""

from collections.abc import Mapping
from typing import Any

from costsim.huggingface.adapters.shared import BIASES, PLAIN, SIZES
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
    optional,
    plus,
    positive,
    rate,
)

_FOURFOLD = Derived("4 x n_embd", lambda model: 4 * model["d_model"])


def _projected(_: Mapping[str, Any], full: Mapping[str, Any]) -> int | None:
    """The width of an embedding that is projected to that of the model."""
    width = optional(count)(full["word_embed_proj_dim"])
    return None if width in (None, full["hidden_size"]) else width


DECODERS: Mapping[str, Adapter] = {
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
            **PLAIN,
            **BIASES,
            "norm": "pre",
            "final_norm": True,
            "positions": "learned",
            "position_offset": 0,
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
    "opt": Adapter(
        family="decoder",
        classes={"OPTForCausalLM": Head()},
        reads=(
            *(read for read in SIZES if read.field not in ("ffn_dim", "max_positions")),
            Read("ffn_dim", ("ffn_dim",), count),
            Read("max_positions", ("max_position_embeddings",), plus(2), note=" + 2: OPTLearnedPositionalEmbedding"),
            Read("activation", ("activation_function",), activation),
            Read("dropout", ("dropout",), rate),
            Read("attention_dropout", ("attention_dropout",), rate),
            Read("tied", ("tie_word_embeddings",), flag),
            *(Read(bias, ("enable_bias",), flag) for bias in BIASES),
            Read("norm", ("do_layer_norm_before",), one_of({True: "pre", False: "post"})),
        ),
        facts={
            **PLAIN,
            "upcast": True,  # softmax(..., dtype=torch.float32)
            "norm_eps": 1e-5,
            "positions": "learned",
            "position_offset": 2,
            "local_rotary": False,
            "scale_embedding": False,
            "activation_dropout": 0.0,
        },
        worked={
            "final_norm": Worked(
                ("_remove_final_layer_norm", "do_layer_norm_before"),
                lambda _, full: flag(full["do_layer_norm_before"]) and not flag(full["_remove_final_layer_norm"]),
            ),
            "embedding_dim": Worked(("word_embed_proj_dim",), _projected),
        },
        checks={"activation_dropout": only(0.0)},
        base="OPTModel",
    ),
}
