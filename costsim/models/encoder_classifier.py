"""Encoder-only Transformers: BERT and RoBERTa with the head of a sentence task, or of masked language modelling."""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from costsim.graph.builder import GraphBuilder
from costsim.inputs.field_error import FieldError
from costsim.inputs.section import Clash, Count, Field, Layers, Rate, check
from costsim.models.blocks import activate, norm
from costsim.models.head import loss, words
from costsim.models.layers import encoder_layer, layers
from costsim.models.meeting import Mask
from costsim.models.sections import Padded, Transformer


class Classifier(NamedTuple):
    """A head of classes: what its dense layer is followed by, and whether dropout comes before it, too."""

    activation: str
    input_dropout: bool


CLASSIFIERS: Mapping[str, Classifier] = {  # the ...ForSequenceClassification of transformers
    "roberta": Classifier("tanh", True),
    "bert": Classifier("tanh", False),  # its pooler
    "distilbert": Classifier("relu", False),
    "electra": Classifier("gelu", True),
}


class Model(Transformer):
    """BERT (Devlin et al. 2019) as transformers lays it out: three embeddings and a norm, layers, and a head.

    Heads of classes, each dense, an activation and a projection of the first token, are rows of `CLASSIFIERS`.
    `masked-lm` is BertForMaskedLM's and RobertaForMaskedLM's (dense, activation and norm of every token, then the
    embedding as a decoder with a bias of its own; no pooler), `replaced-token` ElectraForPreTraining's (dense and
    activation of every token, then whether it was replaced).
    """

    family: Literal["encoder-classifier"] = Field(description="which fields a model has, and how it is built")
    layers: Layers = Field(description="of the encoder")
    vocab: Count = Field(description="words, rows of the embedding")
    max_positions: Count = Field(description="rows of the learned position table")
    token_types: int = Field(default=1, ge=0, le=1000, description="rows of the token type table; 0: none")
    position_offset: int = Field(default=0, ge=0, description="first rows of the position table that no token has")
    embedding_dim: Count | None = Field(
        default=None,
        description="width of the embedding, projected to d_model: ELECTRA",
    )
    task_head: Literal["roberta", "bert", "distilbert", "electra", "masked-lm", "replaced-token"] = Field(
        default="roberta",
        description="of classes from the first token, or of each token: its word, whether it was replaced",
    )
    classes: Count | None = Field(default=None, description="of the task heads of classes, which need it")
    head_dropout: Rate = Field(
        default=0.0, description="before each of the head's two linear layers; of some before the second only"
    )

    @check
    def _chunks_of_logits(self) -> Iterator[Clash]:
        if self.head.chunks > 1 and self.task_head != "masked-lm":
            yield (), "head.chunks cuts logits of every token: task_head masked-lm has them"

    @check
    def _classes_of_a_classifier(self) -> Iterator[Clash]:
        if (self.classes is None) == (self.task_head in CLASSIFIERS):
            yield (), f"task_head {self.task_head} {'needs' if self.classes is None else 'has no'} classes"


class Batch(Padded):
    """One micro-batch, padded to its longest sequence."""


def sizes(model: Model, batch: Batch) -> dict[str, int]:
    """The sizes of a training step's dims. Raises ValueError if a sequence is longer than the positions."""
    usable = model.max_positions - model.position_offset
    if batch.columns > usable:
        less = f", {model.position_offset} of them unused," if model.position_offset else ""
        raise ValueError(
            f"max_positions {model.max_positions}{less} is less than the sequences' {batch.columns} tokens"
        )
    classifier = {} if model.classes is None else {"classes": model.classes, "pooled": model.d_model}
    embedding = {} if model.embedding_dim is None else {"embedding": model.embedding_dim}
    bit = {"replaced": 1} if model.task_head == "replaced-token" else {}
    return {
        **embedding,
        **bit,
        "batch": batch.rows,
        "tokens": batch.columns,
        "vocab": model.vocab,
        "positions": model.max_positions,
        "types": model.token_types,
        **classifier,
        **model.sizes(),
    }


def _embed(b: GraphBuilder, model: Model) -> str:
    tables = [("tokens", "vocab"), ("positions", "positions")] + [("types", "types")] * (model.token_types > 0)
    x = ""
    for name, rows in tables:
        table = b.given(f"{name}.weight", (rows, _width(model)), role="weight")
        ids = b.given(f"{name}.ids", ("batch", "tokens"), values="index")
        part = b.op("embed", table, ids, name=name)
        x = b.op("add", x, part, name=f"add_{name}") if x else part
    x = norm(b, model, x, "norm")
    x = b.dropout(x, model.dropout)
    return x if model.embedding_dim is None else b.linear(x, "project", ("model",))


def _width(model: Model) -> str:
    """The dim of the embedding's rows."""
    return "model" if model.embedding_dim is None else "embedding"


def _classes(b: GraphBuilder, model: Model, x: str) -> str:
    """The logits of the classes, [batch, classes], from the first token of x [batch, tokens, model]."""
    x = b.op("select_first", x, name="first_token")
    head = CLASSIFIERS[model.task_head]
    if head.input_dropout:
        x = b.dropout(x, model.head_dropout, name="input_dropout")
    x = b.linear(x, "dense", ("pooled",))
    x = b.op(head.activation, x, name=head.activation)
    x = b.dropout(x, model.head_dropout, name="output_dropout")
    return b.linear(x, "logits", ("classes",))


def _words(b: GraphBuilder, model: Model, x: str, table: str, smoothing: float) -> str:
    """The loss of predicting the word of every token of x [batch, tokens, model] that has a label."""
    x = b.linear(x, "dense", (_width(model),))
    x = activate(b, model, x)
    x = norm(b, model, x, "dense_norm")
    bias = b.given("logits.bias", ("vocab",), role="weight")
    return words(b, model.head, x, table, smoothing, bias)


def _replaced(b: GraphBuilder, model: Model, x: str, smoothing: float) -> str:
    """The loss of telling for every token of x [batch, tokens, model] whether a generator replaced it.

    Source: ELECTRA, arXiv:2003.10555, section 2. Raises ValueError for smoothed labels, which two classes lack.
    """
    if smoothing:
        raise FieldError(("label_smoothing",), "of classes; the task head replaced-token tells one bit: say 0")
    x = activate(b, model, b.linear(x, "dense", ("model",)))
    logits = b.linear(x, "logits", ("replaced",))
    targets = b.given("targets", b.tensors[logits].dims, values="index")
    share = 1 / b.parts
    return b.op("binary_cross_entropy", logits, targets, name="binary_cross_entropy", ignore=-1, share=share)


def forward(b: GraphBuilder, model: Model, batch: Batch, label_smoothing: float) -> str:
    """Append the forward ops, and return the name of the loss."""
    with b.scope("embedding", layer=True):
        keep = b.given("keep", ("batch", "tokens"), values="mask") if batch.padding_mask else None
        x = _embed(b, model)
    x = layers(b, model, "encoder", model.layers, x, lambda y, _: encoder_layer(b, model, y, Mask(keep)))
    with b.scope("head", layer=True):
        if model.norm != "post":
            x = norm(b, model, x, "norm")
        if model.task_head == "masked-lm":
            return _words(b, model, x, "embedding.tokens.weight", label_smoothing)
        if model.task_head == "replaced-token":
            return _replaced(b, model, x, label_smoothing)
        return loss(b, _classes(b, model, x), label_smoothing)
