"""Which pairs of tokens a model's attention lets meet, and which of them are counted: masks, and ragged scores."""

from collections.abc import Mapping
from typing import NamedTuple

from costsim.graph.builder import GraphBuilder
from costsim.graph.graph import Graph
from costsim.graph.kinds import Dims
from costsim.graph.pairs import RAGGED, Pairs, pairs_of
from costsim.names import AttentionPairs


class Mask(NamedTuple):
    """What hides keys from queries: padding, what comes later, and what lies too far off; and what biases pairs."""

    keep: str | None = None  # tensor [batch, keys], False at padding
    causal: bool = False
    window: int | None = None  # tokens that a query sees, itself included; without causal to each side
    bias: str | None = None  # tensor [queries, keys, heads], added to the scores


class Counting(NamedTuple):
    """What of a mask is counted as work that is not done; sentences of a pack never meet in fact."""

    causal: bool = False
    window: bool = False
    packed: bool = False


COUNTED: Mapping[AttentionPairs, Counting] = {
    "square": Counting(),  # as PyTorch's FlopCounterMode counts, and as eager attention computes
    "causal": Counting(causal=True),
    "window": Counting(causal=True, window=True),
    "packed": Counting(packed=True),
    "packed-causal": Counting(causal=True, packed=True),
    "packed-window": Counting(causal=True, window=True, packed=True),
}


def meeting(b: GraphBuilder, mask: Mask, dim: str) -> Pairs:
    """The pairs of tokens along a dim that meet in self attention under a mask, padding left aside."""
    window = mask.window if mask.window is not None and mask.window < b.sizes[dim] * b.ring else None
    tokens = b.sizes.unread(dim) * b.ring  # which are resized with the graph
    return Pairs(dim, tokens, mask.causal, window, b.sentences, b.ring)


def counted(b: GraphBuilder, meets: Pairs) -> Pairs:
    """The pairs that are counted of those that meet, as the workload's `attention_pairs` says."""
    counting = COUNTED[b.attention_pairs]
    causal = meets.causal and counting.causal
    window = meets.window if causal == meets.causal and counting.window else None
    return Pairs(meets.dim, meets.tokens, causal, window, meets.lengths if counting.packed else (), meets.ranks)


def scores_dims(b: GraphBuilder, dims: Dims, pairs: Pairs) -> Dims:
    """The dims of scores, the last of which is ragged where not all pairs are counted."""
    if pairs.label == "square":
        return dims
    b.pairs[pairs.label] = pairs
    return (*dims[:-1], f"{dims[-1]}{RAGGED}{pairs.label}")


def mask_scores(b: GraphBuilder, scores: str, mask: Mask, meets: Pairs | None) -> str:
    """Append bias and masks of scores. What only hides later keys is `mask_causal`, all else `mask_pairs`."""
    if mask.bias is not None:
        scores = b.op("add_pair_bias", scores, mask.bias, name="position_bias")
    if mask.keep is not None:
        scores = b.op("mask_padding", scores, mask.keep, name="mask_padding")
    if meets is None or meets.label == "square":
        return scores
    if meets.label == "causal":
        return b.op("mask_causal", scores, name="mask_causal")
    b.pairs[meets.label] = meets
    return b.op("mask_pairs", scores, name="mask_pairs", pairs=meets.label)


def describe(graph: Graph, attention_pairs: AttentionPairs) -> str:
    """Which pairs of tokens are counted, in words; "" where no mask but padding hides any."""
    dims = {tensor.dims for tensor in graph.tensors.values()} if graph.pairs else set()
    if ragged := {pairs_of(dim) for each in dims for dim in each} - {""}:
        every = [(label, graph.pairs[label]) for label in sorted(ragged)]
        sums = [(label, of.number, of.queries_number * of.tokens) for label, of in every]
        return "; ".join(f"{label}: {number} of {square} pairs of tokens" for label, number, square in sums)
    if any(op.kind.name in ("mask_causal", "mask_pairs") for op in graph.ops):
        return f"{attention_pairs}: all pairs of tokens, masked or not"
    return ""
