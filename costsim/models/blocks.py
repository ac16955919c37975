"""Parts that all Transformer families share. Sizes are dims by name: batch, model, heads, head, ffn and the lengths."""

import math
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from costsim.graph import GraphBuilder
from costsim.kinds import Dims
from costsim.schema import Count, Positive, Rate, Strict


class Transformer(Strict):
    """What every family has. Rates are dropout rates; 0 leaves the op out."""

    d_model: Count
    ffn_dim: Count
    heads: Count
    norm: Literal["post", "pre"] = Field(default="post", description="layer norm after the residual add, or before")
    activation: Literal["relu", "gelu"] = "relu"
    norm_eps: Positive = 1e-5
    dropout: Rate = 0.0
    attention_dropout: Rate = 0.0
    activation_dropout: Rate = 0.0

    @model_validator(mode="after")
    def _heads_divide(self) -> "Transformer":
        if self.d_model % self.heads:
            raise PydanticCustomError(
                "value_error",
                "d_model {d_model} does not divide into {heads} heads",
                {"d_model": self.d_model, "heads": self.heads},
            )
        return self

    def sizes(self) -> dict[str, int]:
        """The dims that all families name alike."""
        return {
            "model": self.d_model,
            "ffn": self.ffn_dim,
            "heads": self.heads,
            "head": self.d_model // self.heads,
        }


Tokens = Annotated[int, Field(ge=1, le=10**9)]


def attention(
    b: GraphBuilder, config: Transformer, name: str, query: str, memory: str, keep: str | None, causal: bool = False
) -> str:
    """Multi-head attention of `query` over `memory`, both [batch, length, model]; returns [batch, length, model].

    `keep` [batch, memory length] is False at padding. All scores are computed, masked or not. The query is scaled
    before the product. Source: Vaswani et al. 2017, section 3.2; the scaling as torch.nn.MultiheadAttention.
    """
    with b.scope(name):
        heads: Dims = ("heads", "head")
        q = b.linear(query, "q", heads)
        q = b.op("scale", q, name="scale", factor=1 / math.sqrt(config.d_model // config.heads))
        k = b.linear(memory, "k", heads)
        v = b.linear(memory, "v", heads)
        scores = b.op("bqhe,bkhe->bhqk", q, k, name="scores")
        if keep is not None:
            scores = b.op("mask_padding", scores, keep, name="mask_padding")
        if causal:
            scores = b.op("mask_causal", scores, name="mask_causal")
        p = b.op("softmax", scores, name="softmax")
        p = b.dropout(p, config.attention_dropout)
        context = b.op("bhqk,bkhe->bqhe", p, v, name="context")
        return b.linear(context, "out", ("model",), inner=2)


def feed_forward(b: GraphBuilder, config: Transformer, x: str) -> str:
    """fc2(activation(fc1(x))), [batch, length, model] to the same."""
    with b.scope("ffn"):
        y = b.linear(x, "fc1", ("ffn",))
        y = b.op(config.activation, y, name=config.activation)
        y = b.dropout(y, config.activation_dropout)
        return b.linear(y, "fc2", ("model",))


def residual(b: GraphBuilder, config: Transformer, x: str, name: str, part: Callable[[str], str]) -> str:
    """x + dropout(part(x)), with its layer norm before the part or after the sum."""
    inner = b.layer_norm(x, f"{name}_norm", config.norm_eps) if config.norm == "pre" else x
    made = b.dropout(part(inner), config.dropout, name=f"{name}_dropout")
    total = b.op("add", made, x, name=f"{name}_residual")
    return b.layer_norm(total, f"{name}_norm", config.norm_eps) if config.norm == "post" else total


def encoder_layer(b: GraphBuilder, config: Transformer, x: str, keep: str | None) -> str:
    """Self attention and feed forward, each in a residual."""
    x = residual(b, config, x, "self_attention", lambda y: attention(b, config, "self_attention", y, y, keep))
    return residual(b, config, x, "ffn", lambda y: feed_forward(b, config, y))


def decoder_layer(
    b: GraphBuilder, config: Transformer, x: str, memory: str, keep: str | None, memory_keep: str | None
) -> str:
    """Causal self attention, attention over the encoder's output, feed forward."""
    own, cross = "self_attention", "cross_attention"
    x = residual(b, config, x, own, lambda y: attention(b, config, own, y, y, keep, causal=True))
    x = residual(b, config, x, cross, lambda y: attention(b, config, cross, y, memory, memory_keep))
    return residual(b, config, x, "ffn", lambda y: feed_forward(b, config, y))


def loss(b: GraphBuilder, logits: str, smoothing: float) -> str:
    """Cross-entropy of the last dim of `logits` with labels for all others; each micro-batch adds its share."""
    labels = b.given("labels", b.tensors[logits].dims[:-1], values="index")
    share = 1 / b.micro_batches
    return b.op("cross_entropy", logits, labels, name="cross_entropy", smoothing=smoothing, ignore=-1, share=share)
