"""Tables of decoders without rotary positions."""

from collections.abc import Mapping

from costsim.huggingface.adapters.shared import BIASES, PLAIN
from costsim.huggingface.fields import Adapter, Derived, Head, Read, activation, count, flag, positive, rate

_FOURFOLD = Derived("4 x n_embd", lambda model: 4 * model["d_model"])

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
}
