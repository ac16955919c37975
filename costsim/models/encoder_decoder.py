"""Encoder-decoder Transformers: fairseq's `transformer` family, BART, Marian, torch.nn.Transformer with a head."""

import math
from collections.abc import Iterator
from typing import Literal

from costsim.graph.builder import GraphBuilder
from costsim.inputs.section import Clash, Count, Field, Layers, Section, check
from costsim.models.blocks import norm
from costsim.models.head import words
from costsim.models.layers import decoder_layer, encoder_layer, layers
from costsim.models.meeting import Mask
from costsim.models.sections import Tokens, Transformer, too_long


class Model(Transformer):
    """Vaswani et al. 2017, with the choices that fairseq offers."""

    family: Literal["encoder-decoder"] = Field(description="which fields a model has, and how it is built")
    encoder_layers: Layers = Field(description="layers of the encoder")
    decoder_layers: Layers = Field(description="layers of the decoder")
    source_vocab: Count = Field(description="words of the source, rows of the encoder's embedding")
    target_vocab: Count = Field(description="words of the target, rows of the decoder's embedding")
    final_norm: bool = Field(default=False, description="a layer norm after the last layer of encoder and decoder")
    tied: Literal["none", "decoder", "embeddings", "all"] = Field(
        default="decoder",
        description="decoder: target embedding and head; embeddings: of source and target; all: those and the head",
    )
    final_dropout: bool = Field(default=False, description="dropout after that norm, too: T5")
    positions: Literal["sinusoidal", "learned", "relative"] = Field(
        default="sinusoidal", description="relative: a bias of scores by distance, shared by the layers of a stack: T5"
    )
    relative_buckets: Count | None = Field(default=None, description="rows of the tables of relative positions")
    max_positions: Count = Field(default=1024, description="rows of each position table, if positions have one")
    position_offset: int = Field(default=0, ge=0, description="first rows of the position tables that no token has")
    scale_embedding: bool = Field(default=True, description="multiply embeddings by sqrt(d_model)")
    embedding_norm: bool = Field(default=False, description="a norm of the embeddings' sum, before dropout: BART")
    scale_head: bool = Field(default=False, description="what the head reads is divided by sqrt(d_model): T5")
    logits_bias: bool = Field(default=False, description="a bias of the logits that is data, not trained: BART, Marian")

    @check
    def _relative_tables(self) -> Iterator[Clash]:
        if (self.positions == "relative") != (self.relative_buckets is not None):
            yield ("relative_buckets",), "relative_buckets and positions: relative go together"
        if self.positions == "relative" and self.grouped:
            yield ("kv_heads",), "relative positions bias the scores of as many kv_heads as heads"

    @check
    def _two_vocabularies(self) -> Iterator[Clash]:
        if self.tied in ("embeddings", "all") and self.source_vocab != self.target_vocab:
            yield (), f"tied: {self.tied} needs one vocabulary, got {self.source_vocab} and {self.target_vocab}"

    def stacks(self) -> dict[str, int]:
        """How many layers its stacks have, in order."""
        return {"encoder": self.encoder_layers, "decoder": self.decoder_layers}


class Batch(Section):
    """One micro-batch, padded to its longest sentences."""

    sequences: Tokens = Field(description="sentence pairs")
    source_tokens: Tokens = Field(description="per sentence, padding included")
    target_tokens: Tokens = Field(description="per sentence, padding included")
    padding_mask: bool = Field(default=True, description="mask padded keys in every attention")


def sizes(model: Model, batch: Batch) -> dict[str, int]:
    """The sizes of a training step's dims. Raises ValueError if a sentence is longer than the positions."""
    longest = max(batch.source_tokens, batch.target_tokens)
    if model.positions != "relative" and longest > model.max_positions - model.position_offset:
        raise too_long("sentences", longest, model.max_positions, model.position_offset)
    rows = model.relative_buckets
    return {
        **({"positions": model.max_positions} if rows is None else {"buckets": rows}),
        "batch": batch.sequences,
        "source": batch.source_tokens,
        "target": batch.target_tokens,
        "source_vocab": model.source_vocab,
        "target_vocab": model.target_vocab,
        **model.sizes(),
    }


def _embed(b: GraphBuilder, model: Model, side: str, length: str, table: str) -> str:
    ids = b.given(f"{side}_ids", ("batch", length), values="index")
    x = b.op("embed", table, ids, name=f"{side}_tokens")
    if model.scale_embedding:
        x = b.op("scale", x, name=f"{side}_scale", factor=math.sqrt(model.d_model))
    if model.positions != "relative":
        role = "weight" if model.positions == "learned" else "data"
        positions = b.given(f"{side}_position_table", ("positions", "model"), role=role)
        at = b.given(f"{side}_positions", ("batch", length), values="index")
        p = b.op("embed", positions, at, name=f"{side}_position")
        x = b.op("add", x, p, name=f"{side}_add_position")
    if model.embedding_norm:
        x = norm(b, model, x, f"{side}_norm")
    return b.dropout(x, model.dropout, name=f"{side}_dropout")


def _pair_bias(b: GraphBuilder, model: Model, side: str, length: str) -> str | None:
    """The bias of each pair of positions and head, [length, length, heads], if positions are relative.

    Its rows are looked up by the bucket of the distance; all layers of a stack share it. Source: T5, arXiv:1910.10683.
    """
    if model.positions != "relative":
        return None
    table = b.given(f"{side}_relative.weight", ("buckets", "heads"), role="weight")
    buckets = b.given(f"{side}_relative.buckets", (length, length), values="index")
    return b.op("embed", table, buckets, name=f"{side}_relative")


def _final(b: GraphBuilder, model: Model, stack: str, x: str) -> str:
    """What follows the last layer of a stack."""
    if not model.final_norm:
        return x
    with b.scope(f"{stack}.final", layer=True):
        x = norm(b, model, x, "norm")
        return b.dropout(x, model.dropout) if model.final_dropout else x


def _logits(b: GraphBuilder, model: Model, y: str, target_table: str, smoothing: float) -> str:
    """The loss of predicting a word for every token of y [batch, target, model]."""
    with b.scope("head", layer=True):
        table = target_table
        if model.tied in ("none", "embeddings"):
            table = b.given("logits.weight", ("target_vocab", "model"), role="weight")
        if model.scale_head:
            y = b.op("scale", y, name="scale", factor=1 / math.sqrt(model.d_model))
        bias = b.given("logits.bias", ("target_vocab",)) if model.logits_bias else None
        return words(b, model.head, y, table, smoothing, bias)


def forward(b: GraphBuilder, model: Model, batch: Batch, label_smoothing: float) -> str:
    """Append the forward ops, and return the name of the loss."""
    with b.scope("embedding", layer=True):
        target_table = b.given("target.weight", ("target_vocab", "model"), role="weight")
        source_table = target_table
        if model.tied in ("none", "decoder"):
            source_table = b.given("source.weight", ("source_vocab", "model"), role="weight")
        source_keep = target_keep = None
        if batch.padding_mask:
            source_keep = b.given("source_keep", ("batch", "source"), values="mask")
            target_keep = b.given("target_keep", ("batch", "target"), values="mask")
        x = _embed(b, model, "source", "source", source_table)
        among = Mask(source_keep, bias=_pair_bias(b, model, "source", "source"))
    x = layers(b, model, "encoder", model.encoder_layers, x, lambda y, _: encoder_layer(b, model, y, among))
    memory = _final(b, model, "encoder", x)
    with b.scope("embedding", layer=True):
        y = _embed(b, model, "target", "target", target_table)
        later = Mask(target_keep, causal=True, bias=_pair_bias(b, model, "target", "target"))
    across = Mask(source_keep)
    y = layers(
        b, model, "decoder", model.decoder_layers, y, lambda z, _: decoder_layer(b, model, z, memory, later, across)
    )
    return _logits(b, model, _final(b, model, "decoder", y), target_table, label_smoothing)
