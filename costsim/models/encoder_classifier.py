"""Encoder-only Transformers: BERT, DeBERTa, ModernBERT, with heads of sentences or of masked language modelling."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, NamedTuple

from costsim.graph.builder import GraphBuilder
from costsim.inputs.field_error import FieldError
from costsim.inputs.section import Clash, Count, Field, Layers, Rate, Section, check
from costsim.models.attention import (
    Disentangled,
    Distances,
    Rotary,
    attention,
    disentangled_attention,
    rotary_tables,
)
from costsim.models.blocks import activate, convolution, feed_forward, norm
from costsim.models.head import loss, words
from costsim.models.layers import by_layer, layers, residual
from costsim.models.meeting import Mask
from costsim.models.sections import Padded, Transformer, too_long


class Classifier(NamedTuple):
    """A head of classes: what its dense layer is followed by, and whether dropout comes before it, too."""

    activation: str
    input_dropout: bool
    norm: bool = False  # after the activation


CLASSIFIERS: Mapping[str, Classifier] = {  # the ...ForSequenceClassification of transformers
    "roberta": Classifier("tanh", True),
    "bert": Classifier("tanh", False),  # its pooler
    "distilbert": Classifier("relu", False),
    "electra": Classifier("gelu", True),
    "deberta": Classifier("gelu", False),
    "modernbert": Classifier("gelu", False, norm=True),
}


class Convolution(Section):
    """Beside the first layer: norm(layer + activation(dropout(convolution of what the layer reads))): DeBERTa-v2."""

    kernel: Count = Field(description="tokens of a patch, an odd number")
    activation: Literal["relu", "gelu", "tanh", "silu"] = Field(default="tanh", description="behind the convolution")

    @check
    def _odd(self) -> Iterator[Clash]:
        if self.kernel % 2 == 0:
            yield ("kernel",), "expected an odd number: as many patches as tokens"


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
    max_positions: Count = Field(description="the most tokens of a sequence; rows of the learned position table")
    positions: Literal["learned", "rotary", "none"] = Field(
        default="learned", description="a trained table that is added to embeddings, or queries and keys rotated"
    )
    windows: Annotated[tuple[Count | None, ...], Field(min_length=1)] | None = Field(
        default=None,
        description="tokens that a query sees to each side, itself included, layer by layer and from the first again; "
        "null: all",
    )
    local_rotary: bool = Field(default=False, description="layers with a window have tables of their own: ModernBERT")
    disentangled: Disentangled | None = Field(default=None, description="scores against distances, too: DeBERTa")
    convolution: Convolution | None = Field(default=None, description="beside the first layer: DeBERTa-v2")
    mask_embedding: bool = Field(default=False, description="embeddings of masked padding are 0: DeBERTa")
    first_norm: bool = Field(default=True, description="a norm before the first layer's attention, if before others'")
    token_types: int = Field(default=1, ge=0, le=1000, description="rows of the token type table; 0: none")
    position_offset: int = Field(default=0, ge=0, description="first rows of the position table that no token has")
    embedding_dim: Count | None = Field(
        default=None,
        description="width of the embedding, projected to d_model: ELECTRA",
    )
    task_head: Literal[
        "roberta", "bert", "distilbert", "electra", "deberta", "modernbert", "masked-lm", "replaced-token"
    ] = Field(
        default="roberta",
        description="of classes from the first token, or of each token: its word, whether it was replaced",
    )
    pooling: Literal["first", "mean"] = Field(
        default="first", description="what heads of classes read: the first token, or the mean of all but padding"
    )
    head_bias: bool = Field(default=True, description="of the head's dense layer")
    logits_bias: bool = Field(default=True, description="of masked-lm's logits")
    classes: Count | None = Field(default=None, description="of the task heads of classes, which need it")
    head_dropout: Rate = Field(
        default=0.0, description="before each of the head's two linear layers; of some before the second only"
    )

    @check
    def _distances(self) -> Iterator[Clash]:
        if self.disentangled is None:
            return
        if self.disentangled.terms == 1:
            yield ("disentangled",), "expected content_to_position, position_to_content, or both"
        if self.positions == "rotary" or self.grouped or self.qk_norm:
            yield ("disentangled",), "expected as many kv_heads as heads, no rotary positions and no qk_norm"
        if self.attention == "flash":
            yield ("attention",), "scores against distances are made op by op: say attention: eager"

    @check
    def _pairs_to_turn(self) -> Iterator[Clash]:
        if self.positions == "rotary" and self.head_size % 2:
            yield (), f"rotary positions turn pairs, but a head has {self.head_size} elements"
        if self.local_rotary and self.positions != "rotary":
            yield ("local_rotary",), "local_rotary is of rotary positions: say positions: rotary"

    @check
    def _chunks_of_logits(self) -> Iterator[Clash]:
        if self.head.chunks > 1 and self.task_head != "masked-lm":
            yield (), "head.chunks cuts logits of every token: task_head masked-lm has them"

    @check
    def _classes_of_a_classifier(self) -> Iterator[Clash]:
        if (self.classes is None) == (self.task_head in CLASSIFIERS):
            yield (), f"task_head {self.task_head} {'needs' if self.classes is None else 'has no'} classes"

    def stacks(self) -> dict[str, int]:
        """How many layers its stacks have, in order."""
        return {"encoder": self.layers}


class Batch(Padded):
    """One micro-batch, padded to its longest sequence."""


def sizes(model: Model, batch: Batch) -> dict[str, int]:
    """The sizes of a training step's dims. Raises ValueError if a sequence is longer than the positions."""
    usable = model.max_positions - model.position_offset
    if batch.columns > usable:
        raise too_long("sequences", batch.columns, model.max_positions, model.position_offset)
    classifier = {} if model.classes is None else {"classes": model.classes, "pooled": model.d_model}
    embedding = {} if model.embedding_dim is None else {"embedding": model.embedding_dim}
    bit = {"replaced": 1} if model.task_head == "replaced-token" else {}
    return {
        **embedding,
        **bit,
        "batch": batch.rows,
        "tokens": batch.columns,
        "vocab": model.vocab,
        **({"positions": model.max_positions} if model.positions == "learned" else {}),
        "types": model.token_types,
        **({} if model.disentangled is None else {"distances": model.disentangled.rows}),
        **({} if model.convolution is None else {"kernel": model.convolution.kernel}),
        **classifier,
        **model.sizes(),
    }


def _embed(b: GraphBuilder, model: Model, keep: str | None) -> str:
    tables = [("tokens", "vocab")]
    tables += [("positions", "positions")] * (model.positions == "learned") + [("types", "types")] * (
        model.token_types > 0
    )
    x = ""
    for name, rows in tables:
        table = b.given(f"{name}.weight", (rows, _width(model)), role="weight")
        ids = b.given(f"{name}.ids", ("batch", "tokens"), values="index")
        part = b.op("embed", table, ids, name=name)
        x = b.op("add", x, part, name=f"add_{name}") if x else part
    x = norm(b, model, x, "norm")
    if model.mask_embedding:
        x = _masked(b, x, keep)
    x = b.dropout(x, model.dropout)
    return x if model.embedding_dim is None else b.linear(x, "project", ("model",))


def _masked(b: GraphBuilder, x: str, keep: str | None, name: str = "mask") -> str:
    """x [batch, tokens, model] with zeros at padding, if it is masked."""
    return x if keep is None else b.op("scale_rows", x, keep, name=name)


def _distances(b: GraphBuilder, model: Model) -> Distances | None:
    """The table of distances, and which row each pair of tokens has, if scores need them."""
    if model.disentangled is None:
        return None
    table = b.given("distances.weight", ("distances", "model"), role="weight")
    if model.disentangled.norm:
        table = norm(b, model, table, "distances_norm")
    return Distances(table, b.given("distances.ids", ("tokens", "tokens"), values="index"))


def _width(model: Model) -> str:
    """The dim of the embedding's rows."""
    return "model" if model.embedding_dim is None else "embedding"


def _classes(b: GraphBuilder, model: Model, x: str, keep: str | None) -> str:
    """The logits of the classes, [batch, classes], from the first token of x [batch, tokens, model], or from all."""
    if model.pooling == "mean":
        x = b.op("mean_pool", x, keep or b.given("keep", ("batch", "tokens"), values="mask"), name="mean_pool")
    else:
        x = b.op("select_first", x, name="first_token")
    head = CLASSIFIERS[model.task_head]
    if head.input_dropout:
        x = b.dropout(x, model.head_dropout, name="input_dropout")
    x = b.linear(x, "dense", ("pooled",), bias=model.head_bias)
    x = b.op(head.activation, x, name=head.activation)
    if head.norm:
        x = norm(b, model, x, "dense_norm")
    x = b.dropout(x, model.head_dropout, name="output_dropout")
    return b.linear(x, "logits", ("classes",))


def _words(b: GraphBuilder, model: Model, x: str, table: str, smoothing: float) -> str:
    """The loss of predicting the word of every token of x [batch, tokens, model] that has a label."""
    x = b.linear(x, "dense", (_width(model),), bias=model.head_bias)
    x = activate(b, model, x)
    x = norm(b, model, x, "dense_norm")
    bias = b.given("logits.bias", ("vocab",), role="weight") if model.logits_bias else None
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


def _layer(
    b: GraphBuilder, model: Model, x: str, layer: int, mask: Mask, rotary: Rotary | None, at: Distances | None
) -> str:
    """Self attention and feed forward, each in a residual; [batch, tokens, model] to the same."""

    def attend(y: str) -> str:
        if model.disentangled is not None and at is not None:
            return disentangled_attention(b, model, model.disentangled, y, mask, at)
        return attention(b, model, "self_attention", y, y, mask, rotary)

    y = residual(b, model, x, "self_attention", attend, normed=model.first_norm or layer > 0)
    y = residual(b, model, y, "ffn", lambda z: feed_forward(b, model, z))
    return y if model.convolution is None or layer > 0 else _convolved(b, model, model.convolution, (x, y), mask.keep)


def _convolved(b: GraphBuilder, model: Model, own: Convolution, given: tuple[str, str], keep: str | None) -> str:
    """What a layer made, and a convolution of what it read; both [batch, tokens, model], to the same."""
    read, made = given
    z = convolution(b, read, "convolution", "model", ("tokens", "kernel"))
    z = b.dropout(_masked(b, z, keep, "convolution.mask"), model.dropout, "convolution_dropout")
    z = b.op(own.activation, z, name=f"convolution.{own.activation}")
    z = norm(b, model, b.op("add", made, z, name="convolution.add"), "convolution_norm")
    return _masked(b, z, keep, "convolution.mask_norm")


def forward(b: GraphBuilder, model: Model, batch: Batch, label_smoothing: float) -> str:
    """Append the forward ops, and return the name of the loss."""
    windows = by_layer(model.windows or (None,), model.layers)
    with b.scope("embedding", layer=True):
        keep = b.given("keep", ("batch", "tokens"), values="mask") if batch.padding_mask else None
        x = _embed(b, model, keep)
        at = _distances(b, model)
        rotary = rotary_tables(b, "head", windows, (model.positions == "rotary",), model.local_rotary)
    masks = [Mask(keep, window=window) for window in windows]
    x = layers(b, model, "encoder", model.layers, x, lambda y, i: _layer(b, model, y, i, masks[i], rotary[i], at))
    with b.scope("head", layer=True):
        if model.norm != "post":
            x = norm(b, model, x, "norm")
        if model.task_head == "masked-lm":
            return _words(b, model, x, "embedding.tokens.weight", label_smoothing)
        if model.task_head == "replaced-token":
            return _replaced(b, model, x, label_smoothing)
        return loss(b, _classes(b, model, x, keep), label_smoothing)
