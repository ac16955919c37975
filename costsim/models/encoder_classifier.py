"""Encoder-only Transformers with a classification head: BERT and RoBERTa fine-tuned on a sentence task."""

from typing import Literal

from pydantic import Field

from costsim.graph import GraphBuilder
from costsim.models.blocks import Padded, Transformer, encoder_layer, layers, loss, norm
from costsim.schema import Count, Layers, Rate


class Model(Transformer):
    """RobertaForSequenceClassification's layout: three embeddings and a norm, layers, dense-tanh-projection head."""

    family: Literal["encoder-classifier"]
    layers: Layers
    vocab: Count
    max_positions: Count = Field(description="rows of the learned position table")
    token_types: int = Field(default=1, ge=0, le=1000, description="rows of the token type table; 0: none")
    classes: Count
    head_dropout: Rate = Field(default=0.0, description="before each of the head's two linear layers")


class Batch(Padded):
    """One micro-batch, padded to its longest sequence."""


def sizes(model: Model, batch: Batch) -> dict[str, int]:
    """The dims of a training step. Raises ValueError if a sequence is longer than the positions."""
    if batch.columns > model.max_positions:
        raise ValueError(f"max_positions {model.max_positions} is less than the sequences' {batch.columns} tokens")
    return {
        "batch": batch.rows,
        "tokens": batch.columns,
        "vocab": model.vocab,
        "positions": model.max_positions,
        "types": model.token_types,
        "classes": model.classes,
        "pooled": model.d_model,
        **model.sizes(),
    }


def _embed(b: GraphBuilder, model: Model) -> str:
    tables = [("tokens", "vocab"), ("positions", "positions")] + [("types", "types")] * (model.token_types > 0)
    x = ""
    for name, rows in tables:
        table = b.given(f"{name}.weight", (rows, "model"), role="weight")
        ids = b.given(f"{name}.ids", ("batch", "tokens"), values="index")
        part = b.op("embed", table, ids, name=name)
        x = b.op("add", x, part, name=f"add_{name}") if x else part
    x = norm(b, model, x, "norm")
    return b.dropout(x, model.dropout)


def forward(b: GraphBuilder, model: Model, batch: Batch, label_smoothing: float) -> str:
    """Append the forward ops up to the loss, whose name is returned."""
    with b.scope("embedding", layer=True):
        keep = b.given("keep", ("batch", "tokens"), values="mask") if batch.padding_mask else None
        x = _embed(b, model)
    x = layers(b, model, "encoder", model.layers, x, lambda y: encoder_layer(b, model, y, keep))
    with b.scope("head", layer=True):
        if model.norm == "pre":
            x = norm(b, model, x, "norm")
        x = b.op("select_first", x, name="first_token")
        x = b.dropout(x, model.head_dropout, name="input_dropout")
        x = b.linear(x, "dense", ("pooled",))
        x = b.op("tanh", x, name="tanh")
        x = b.dropout(x, model.head_dropout, name="output_dropout")
        logits = b.linear(x, "logits", ("classes",))
        return loss(b, logits, label_smoothing)
