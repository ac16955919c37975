"""What the tables of several sorts of model share."""

from costsim.huggingface.fields import Derived, Read, count

BIASES = {"qkv_bias": True, "out_bias": True, "ffn_bias": True}
NO_BIASES = {"qkv_bias": False, "out_bias": False, "ffn_bias": False}
PLAIN = {
    "qk_norm": False,
    "qk_norm_heads": False,
    "norm_kind": "layer",
    "norm_bias": True,
    "attention_sinks": False,
    "zero_centered_norm": False,
    "gated": False,
    "fused_norm": True,
    "upcast": False,
}
HEADS = Derived("num_attention_heads", lambda model: model["heads"])
FROM_WIDTH = Derived("hidden_size / num_attention_heads", lambda _: None)

SIZES = (
    Read("d_model", ("hidden_size",), count),
    Read("ffn_dim", ("intermediate_size",), count),
    Read("heads", ("num_attention_heads",), count),
    Read("layers", ("num_hidden_layers",), count),
    Read("vocab", ("vocab_size",), count),
    Read("max_positions", ("max_position_embeddings",), count),
)
