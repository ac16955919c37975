"""Encoder-decoder Transformers: fairseq's `transformer` family, BART, Marian, torch.nn.Transformer with a head."""

import math
from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from costsim.graph.builder import GraphBuilder
from costsim.inputs.schema import Count, Layers, Strict
from costsim.models.blocks import norm
from costsim.models.head import words
from costsim.models.layers import decoder_layer, encoder_layer, layers
from costsim.models.sections import Tokens, Transformer


class Model(Transformer):
    """Vaswani et al. 2017, with the choices that fairseq offers."""

    family: Literal["encoder-decoder"]
    encoder_layers: Layers
    decoder_layers: Layers
    source_vocab: Count
    target_vocab: Count
    final_norm: bool = Field(default=False, description="a layer norm after the last layer of encoder and decoder")
    tied: Literal["none", "decoder", "all"] = Field(
        default="decoder", description="decoder: target embedding and head; all: the source embedding too"
    )
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    max_positions: Count = Field(default=1024, description="rows of each position table")
    position_offset: int = Field(default=0, ge=0, description="first rows of the position tables that no token has")
    scale_embedding: bool = Field(default=True, description="multiply embeddings by sqrt(d_model)")
    embedding_norm: bool = Field(default=False, description="a norm of the embeddings' sum, before dropout: BART")
    logits_bias: bool = Field(default=False, description="a bias of the logits that is data, not trained: BART, Marian")

    @model_validator(mode="after")
    def _one_vocabulary(self) -> "Model":
        if self.tied == "all" and self.source_vocab != self.target_vocab:
            vocabularies = {"source": self.source_vocab, "target": self.target_vocab}
            raise PydanticCustomError(
                "value_error", "tied: all needs one vocabulary, got {source} and {target}", vocabularies
            )
        return self


class Batch(Strict):
    """One micro-batch, padded to its longest sentences."""

    sequences: Tokens = Field(description="sentence pairs")
    source_tokens: Tokens = Field(description="per sentence, padding included")
    target_tokens: Tokens = Field(description="per sentence, padding included")
    padding_mask: bool = Field(default=True, description="mask padded keys in every attention")


def sizes(model: Model, batch: Batch) -> dict[str, int]:
    """The sizes of a training step's dims. Raises ValueError if a sentence is longer than the positions."""
    longest = max(batch.source_tokens, batch.target_tokens)
    if longest > model.max_positions - model.position_offset:
        less = f", {model.position_offset} of them unused," if model.position_offset else ""
        raise ValueError(f"max_positions {model.max_positions}{less} is less than the sentences' {longest} tokens")
    return {
        "batch": batch.sequences,
        "source": batch.source_tokens,
        "target": batch.target_tokens,
        "source_vocab": model.source_vocab,
        "target_vocab": model.target_vocab,
        "positions": model.max_positions,
        **model.sizes(),
    }


def _embed(b: GraphBuilder, model: Model, side: str, length: str, table: str) -> str:
    ids = b.given(f"{side}_ids", ("batch", length), values="index")
    x = b.op("embed", table, ids, name=f"{side}_tokens")
    if model.scale_embedding:
        x = b.op("scale", x, name=f"{side}_scale", factor=math.sqrt(model.d_model))
    role = "weight" if model.positions == "learned" else "data"
    positions = b.given(f"{side}_position_table", ("positions", "model"), role=role)
    at = b.given(f"{side}_positions", ("batch", length), values="index")
    p = b.op("embed", positions, at, name=f"{side}_position")
    x = b.op("add", x, p, name=f"{side}_add_position")
    if model.embedding_norm:
        x = norm(b, model, x, f"{side}_norm")
    return b.dropout(x, model.dropout, name=f"{side}_dropout")


def forward(b: GraphBuilder, model: Model, batch: Batch, label_smoothing: float) -> str:
    """Append the forward ops, and return the name of the loss."""
    with b.scope("embedding", layer=True):
        target_table = b.given("target.weight", ("target_vocab", "model"), role="weight")
        source_table = target_table
        if model.tied != "all":
            source_table = b.given("source.weight", ("source_vocab", "model"), role="weight")
        source_keep = target_keep = None
        if batch.padding_mask:
            source_keep = b.given("source_keep", ("batch", "source"), values="mask")
            target_keep = b.given("target_keep", ("batch", "target"), values="mask")
        x = _embed(b, model, "source", "source", source_table)
    x = layers(b, model, "encoder", model.encoder_layers, x, lambda y, _: encoder_layer(b, model, y, source_keep))
    if model.final_norm:
        with b.scope("encoder.final", layer=True):
            x = norm(b, model, x, "norm")
    memory = x
    with b.scope("embedding", layer=True):
        y = _embed(b, model, "target", "target", target_table)
    y = layers(
        b,
        model,
        "decoder",
        model.decoder_layers,
        y,
        lambda z, _: decoder_layer(b, model, z, memory, target_keep, source_keep),
    )
    if model.final_norm:
        with b.scope("decoder.final", layer=True):
            y = norm(b, model, y, "norm")
    with b.scope("head", layer=True):
        table = target_table
        if model.tied == "none":
            table = b.given("logits.weight", ("target_vocab", "model"), role="weight")
        bias = b.given("logits.bias", ("target_vocab",)) if model.logits_bias else None
        return words(b, model.head, y, table, label_smoothing, bias)
