"""Decoder-only Transformers: GPT-2, Llama and their like, with dense feed-forward layers or a mixture of experts."""

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from costsim.graph.builder import GraphBuilder
from costsim.inputs.section import Clash, Count, Field, Layers, Positive, check
from costsim.models.attention import Latent, Rotary, attention, latent_attention, rotary_tables
from costsim.models.blocks import feed_forward, norm, softcap
from costsim.models.experts import Experts, experts
from costsim.models.head import words
from costsim.models.layers import by_layer, layers, parallel, residual
from costsim.models.meeting import Mask
from costsim.models.sections import Padded, Transformer, too_long


class Model(Transformer):
    """GPT-2 (Radford et al. 2019) with the choices that Llama, Mistral, Mixtral, Qwen and Gemma make."""

    family: Literal["decoder"] = Field(description="which fields a model has, and how it is built")
    layers: Layers = Field(description="of the decoder")
    vocab: Count = Field(description="words, rows of the embedding")
    max_positions: Count = Field(description="the most tokens of a sequence; rows of a table of learned positions")
    norm: Literal["post", "pre", "sandwich", "branch"] = "pre"
    parallel: Literal["one_norm", "two_norms"] | None = Field(
        default=None, description="attention and feed forward read the same x, through one norm or one each: Falcon"
    )
    positions: Literal["learned", "rotary"] = Field(
        default="learned", description="a trained table that is added to embeddings, or queries and keys rotated"
    )
    position_offset: int = Field(default=0, ge=0, description="first rows of the position table that no token has")
    rotary_dim: Count | None = Field(
        default=None, description="elements of each head that are rotated, all unless said"
    )
    rotated: Annotated[tuple[bool, ...], Field(min_length=1)] | None = Field(
        default=None, description="whether queries and keys are rotated, layer by layer and from the first again"
    )
    local_rotary: bool = Field(default=False, description="layers with a window have tables of their own: Gemma 3")
    scale_embedding: bool = Field(default=False, description="multiply embeddings by sqrt(d_model): Gemma")
    embedding_dim: Count | None = Field(
        default=None, description="width of the embedding, projected to d_model and back for the head: OPT-350M"
    )
    embedding_multiplier: Positive | None = Field(default=None, description="multiplies embeddings: Granite")
    final_norm: bool = Field(default=True, description="a norm after the last layer")
    tied: bool = Field(default=True, description="the head is the embedding")
    windows: Annotated[tuple[Count | None, ...], Field(min_length=1)] | None = Field(
        default=None,
        description="tokens that a query sees, itself included, layer by layer and from the first again; null: all",
    )
    logits_divisor: Positive | None = Field(default=None, description="divides logits: Granite")
    logits_softcap: Positive | None = Field(default=None, description="caps logits: cap tanh(logit / cap): Gemma 2")
    experts: Experts | None = Field(default=None, description="a mixture of experts in place of feed forward")
    latent: Latent | None = Field(default=None, description="keys and values made of a narrow projection: DeepSeek")

    @check
    def _pairs_to_turn(self) -> Iterator[Clash]:
        if self.positions == "rotary" and self.rotary_dim is None and self.head_size % 2:
            yield (), f"rotary positions turn pairs, but a head has {self.head_size} elements"

    @check
    def _rotated_part(self) -> Iterator[Clash]:
        for field, value in (("rotary_dim", self.rotary_dim), ("rotated", self.rotated)):
            if value is not None and self.positions != "rotary":
                yield (field,), f"{field} is of rotary positions: say positions: rotary"
        if self.rotary_dim is not None and (self.rotary_dim > self.head_size or self.rotary_dim % 2):
            yield ("rotary_dim",), f"expected an even number of at most {self.head_size}, the size of a head"

    @check
    def _latent_rotation(self) -> Iterator[Clash]:
        if self.latent is None:
            return
        if self.positions != "rotary" or self.rotated is not None or self.grouped or self.qk_norm:
            yield ("latent",), "expected rotary positions in all layers, as many kv_heads as heads, and no qk_norm"
        if self.head_dim != self.latent.nope_dim + self.latent.rope_dim:
            yield ("head_dim",), "expected latent.nope_dim + latent.rope_dim"
        if self.rotary_dim != self.latent.rope_dim:
            yield ("rotary_dim",), f"expected latent.rope_dim, {self.latent.rope_dim}"

    @check
    def _parallel_norms(self) -> Iterator[Clash]:
        if self.parallel and self.norm != "pre":
            yield ("parallel",), "attention and feed forward that read the same x have norms before them: say norm: pre"

    @check
    def _biases_of_experts(self) -> Iterator[Clash]:
        if self.experts and self.ffn_bias:
            yield (), "experts have no biases: say ffn_bias: false"

    @check
    def _rotary_of_windows(self) -> Iterator[Clash]:
        if self.local_rotary and self.positions != "rotary":
            yield (), "local_rotary is of rotary positions: say positions: rotary"

    def stacks(self) -> dict[str, int]:
        """How many layers its stacks have, in order."""
        return {"decoder": self.layers}


class Batch(Padded):
    """One micro-batch. Packed sequences, as in pre-training, need no mask."""

    padding_mask: bool = Field(default=False, description="mask padded keys in every attention")


def sizes(model: Model, batch: Batch) -> dict[str, int]:
    """The sizes of a training step's dims. Raises ValueError if a sequence is longer than the positions."""
    tokens = batch.columns
    if tokens > model.max_positions - model.position_offset:
        raise too_long("sequences", tokens, model.max_positions, model.position_offset)
    dims = {"batch": batch.rows, "tokens": tokens, "vocab": model.vocab, **model.sizes()}
    if model.positions == "learned":
        dims["positions"] = model.max_positions
    if model.rotary_dim is not None:
        dims["rotary"] = model.rotary_dim
    if model.embedding_dim is not None:
        dims["embedding"] = model.embedding_dim
    if model.experts is not None:
        dims |= model.experts.sizes(batch.rows * tokens)
    if model.latent is not None:
        dims |= model.latent.sizes()
    return dims


def _embed(b: GraphBuilder, model: Model, table: str) -> str:
    """The embedded tokens, [batch, tokens, model], with learned positions if the model has them."""
    x = b.op("embed", table, b.given("tokens.ids", ("batch", "tokens"), values="index"), name="tokens")
    if model.embedding_dim is not None:
        x = b.linear(x, "project", ("model",), bias=False)
    if model.scale_embedding:
        x = b.op("scale", x, name="scale", factor=math.sqrt(model.d_model))
    if model.embedding_multiplier is not None:
        x = b.op("scale", x, name="multiplier", factor=model.embedding_multiplier)
    if model.positions == "learned":
        positions = b.given("positions.weight", ("positions", "model"), role="weight")
        p = b.op("embed", positions, b.given("positions.ids", ("tokens",), values="index"), name="positions")
        x = b.op("add_bias", x, p, name="add_positions")
    return b.dropout(x, model.dropout)


def _feed_forward(b: GraphBuilder, config: Model, x: str, layer: int) -> str:
    """What a layer does with each token by itself."""
    if config.experts is None or layer in (config.experts.dense_layers or ()):
        return feed_forward(b, config, x)
    return experts(b, config, config.experts, x)


def _attention(b: GraphBuilder, config: Model, x: str, mask: Mask, rotary: Rotary | None) -> str:
    if config.latent is not None:
        assert rotary is not None
        return latent_attention(b, config, config.latent, x, mask, rotary)
    return attention(b, config, "self_attention", x, x, mask, rotary)


def _layer(b: GraphBuilder, config: Model, x: str, layer: int, mask: Mask, rotary: Rotary | None) -> str:
    parts = {
        "self_attention": lambda y: _attention(b, config, y, mask, rotary),
        "ffn": lambda y: _feed_forward(b, config, y, layer),
    }
    if config.parallel:
        return parallel(b, config, x, 2 if config.parallel == "two_norms" else 1, parts)
    for name, make in parts.items():
        x = residual(b, config, x, name, make)
    return x


def forward(b: GraphBuilder, model: Model, batch: Batch, label_smoothing: float) -> str:
    """Append the forward ops, and return the name of the loss."""
    windows = by_layer(model.windows or (None,), model.layers)
    with b.scope("embedding", layer=True):
        keep = b.given("keep", ("batch", "tokens"), values="mask") if batch.padding_mask else None
        width = "model" if model.embedding_dim is None else "embedding"
        table = b.given("tokens.weight", ("vocab", width), role="weight")
        x = _embed(b, model, table)
        rotated = model.rotated or (model.positions == "rotary",)
        turned = "head" if model.rotary_dim is None else "rotary"
        rotary = rotary_tables(b, turned, windows, rotated, model.local_rotary)
    masks = [Mask(keep, causal=True, window=window) for window in windows]
    x = layers(b, model, "decoder", model.layers, x, lambda y, i: _layer(b, model, y, i, masks[i], rotary[i]))
    if model.final_norm:
        with b.scope("decoder.final", layer=True):
            x = norm(b, model, x, "norm")
    with b.scope("head", layer=True):
        if model.embedding_dim is not None:
            x = b.linear(x, "project", (width,), bias=False)
        if not model.tied:
            table = b.given("logits.weight", ("vocab", width), role="weight")
        return words(b, model.head, x, table, label_smoothing, None, lambda y: _logits(b, model, y))


def _logits(b: GraphBuilder, model: Model, y: str) -> str:
    """What the model does with its logits."""
    if model.logits_divisor is not None:
        y = b.op("scale", y, name="logits.divide", factor=1 / model.logits_divisor)
    return softcap(b, y, model.logits_softcap)
