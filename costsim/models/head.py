"""Heads over a vocabulary: logits and loss, of all rows at once or in chunks of rows, where logits are never whole."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

from costsim.graph.builder import GraphBuilder
from costsim.inputs.field_error import FieldError
from costsim.inputs.section import Count, Field, Section

CHUNK_DIMS = ("chunk", "last_chunk")  # rows of all chunks but the last, and of the last
_IGNORE = -1  # the label of rows that do not count


class Head(Section):
    """How logits and loss are computed: whole, or in chunks of rows (tokens), each with its own logits."""

    chunks: Count = Field(default=1, description="so many chunks of as many rows each, but for a shorter last one")
    backward: Literal["in_place", "at_once", "recompute"] = Field(
        default="in_place",
        description="of a chunk: by the loss's kernel, in the logits' memory; right behind the loss; "
        "or in the backward, for which its logits are made again",
    )


# By what `Head.backward` says: the kind of op that a chunk's loss is, and its name.
_LOSSES = {
    "in_place": ("cross_entropy_in_place", "cross_entropy_in_place"),
    "at_once": ("cross_entropy_chunk", "cross_entropy"),
    "recompute": ("cross_entropy_chunk", "cross_entropy"),
}


class _Chunk(NamedTuple):
    """One chunk of the rows: its number, its hidden states and its labels."""

    number: int
    x: str
    labels: str


def loss(b: GraphBuilder, logits: str, smoothing: float) -> str:
    """Cross-entropy of `logits` [..., classes] with labels [...]; each micro-batch has its share of the sum."""
    labels = b.given("labels", b.tensors[logits].dims[:-1], values="index")
    share = 1 / b.parts
    return b.op("cross_entropy", logits, labels, name="cross_entropy", smoothing=smoothing, ignore=_IGNORE, share=share)


def chunk_sizes(rows: int, chunks: int) -> tuple[int, ...]:
    """Rows of each chunk: all have as many but the last, which may have fewer; so there may be fewer chunks.

    So does torch.chunk.

    >>> chunk_sizes(10, 4), chunk_sizes(10, 6)
    ((3, 3, 3, 1), (2, 2, 2, 2, 2))
    """
    each = -(-rows // chunks)
    return (*(each,) * (-(-rows // each) - 1), rows - (-(-rows // each) - 1) * each)


def words(
    b: GraphBuilder,
    head: Head,
    x: str,
    table: str,
    smoothing: float,
    bias: str | None = None,
    after: Callable[[str], str] = lambda logits: logits,
) -> str:
    """The loss of predicting a word for every token of x [batch, length, model] with a table [vocabulary, model].

    The logits have a bias [vocabulary], if given; `after` appends what the model does with them. Raises FieldError if
    there are more chunks than rows.
    """

    def logits(equation: str, rows: str) -> str:
        y = b.op(equation, rows, table, name="logits")
        return after(y if bias is None else b.op("add_bias", y, bias, name="logits.add_bias"))

    if head.chunks == 1:
        return loss(b, logits("btd,vd->btv", x), smoothing)
    x = b.whole(x)
    labels = b.given("labels", b.tensors[x].dims[:-1], values="index")
    counted = b.op("count_labels", labels, name="counted", ignore=_IGNORE)
    share, (kind, name) = 1 / b.parts, _LOSSES[head.backward]
    parts: list[str] = []
    for number, rows, own in _cut(b, head.chunks, x, labels):
        at_once = head.backward != "recompute"
        with b.numbered(number), b.segment_if(True, f"chunk.{number}", at_once=at_once):
            y = logits("td,vd->tv", rows)
            parts.append(b.op(kind, y, own, counted, name=name, smoothing=smoothing, ignore=_IGNORE, share=share))
    total = parts[0]
    for number, part in enumerate(parts[1:], 1):
        total = b.op("add", total, part, name=f"loss.{number}")
    return total


def _cut(b: GraphBuilder, chunks: int, x: str, labels: str) -> list[_Chunk]:
    """Views of hidden states and labels, chunk by chunk."""
    rows = math.prod(b.sizes[dim] for dim in b.tensors[labels].dims)
    if chunks > rows:
        raise FieldError(("model", "head", "chunks"), f"{chunks} chunks of {rows} rows (tokens of a micro-batch)")
    sizes = chunk_sizes(rows, chunks)
    b.sizes |= zip(CHUNK_DIMS, (sizes[0], sizes[-1]), strict=True)
    cut: list[_Chunk] = []
    for number in range(len(sizes)):
        at = number if number < len(sizes) - 1 else -1
        views: list[str] = []
        for of, name in (("hidden", x), ("labels", labels)):
            whole = b.tensors[name]
            dims = (CHUNK_DIMS[at < 0], *whole.dims[len(b.tensors[labels].dims) :])
            view = whole._replace(name=f"{name}.rows.{number}", dims=dims)
            views.append(b.op("take_rows", name, name=f"{of}.rows.{number}", outputs=[view], at=at))
        cut.append(_Chunk(number, *views))
    return cut
