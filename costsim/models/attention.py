"""Multi-head attention: queries, keys and values, rotary positions, scores and masks."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from costsim.graph.builder import GraphBuilder
from costsim.graph.kinds import Dims
from costsim.inputs.section import Count, Field, Section
from costsim.models.blocks import FLOAT32, norm, softcap
from costsim.models.meeting import Mask, counted, mask_scores, meeting, scores_dims
from costsim.models.sections import Transformer


class Rotary(NamedTuple):
    """The tables that rotate queries and keys: tensors [length, head]."""

    cos: str
    sin: str


class Latent(Section):
    """Multi-head latent attention: keys and values made of a narrow projection, and one rotated key for all heads."""

    kv_rank: Count = Field(description="width of what keys and values are made of")
    q_rank: Count | None = Field(default=None, description="width of what queries are made of; made of x if not said")
    nope_dim: Count = Field(description="elements of each head of queries and keys that are not rotated")
    rope_dim: Count = Field(description="elements that are; of keys the same for all heads")
    value_dim: Count = Field(description="elements of each head of values")
    bias: bool = Field(default=False, description="of the narrow projections")

    def sizes(self) -> dict[str, int]:
        """The dims."""
        dims = {"kv_rank": self.kv_rank, "nope": self.nope_dim, "value": self.value_dim}
        return dims if self.q_rank is None else {**dims, "q_rank": self.q_rank}


_EQUATIONS = {  # scores, context; b batch, q and k positions, h heads, g groups' heads, r queries of a group, e head
    False: ("bqhe,bkhe->bhqk", "bhqk,bkhe->bqhe"),
    True: ("bqgre,bkge->bgrqk", "bgrqk,bkge->bqgre"),
}


def _factor(config: Transformer) -> float:
    """What scores are scaled by."""
    return 1 / math.sqrt(config.query_pre_attn_scalar or config.head_size)


def _projected(b: GraphBuilder, config: Transformer, x: str, name: str, dims: Dims, rotary: Rotary | None) -> str:
    """Queries or keys of x, [batch, length, model] to [batch, length, *dims]: projected, normalized, rotated."""
    y = b.linear(x, name, dims, bias=config.qkv_bias)
    if config.qk_norm:
        y = norm(b, config, y, f"{name}_norm", over=len(dims) if config.qk_norm_heads else 1)
    return y if rotary is None else b.op("rope", y, *rotary, name=f"{name}_rope")


def attention(
    b: GraphBuilder,
    config: Transformer,
    name: str,
    query: str,
    memory: str,
    mask: Mask,
    rotary: Rotary | None = None,
) -> str:
    """Multi-head attention of `query` over `memory`, both [batch, length, model], to [batch, length, model].

    All scores are computed, masked or not, unless the workload counts only pairs that meet. The query is scaled before
    the product, or the scores after it. Source: Vaswani et al. 2017, section 3.2; the scaling as
    torch.nn.MultiheadAttention or as transformers has it; groups of queries: Ainslie et al., arXiv:2305.13245; flash:
    Dao, arXiv:2307.08691, which keeps q, k, v, the result and the logarithms of the sums.
    """
    query_dims: Dims = ("kv_heads", "group", "head") if config.grouped else ("heads", "head")
    key_dims: Dims = ("kv_heads", "head") if config.grouped else ("heads", "head")
    with b.scope(name):
        # Ops on the result of a projection come right after it, so that they can be its epilogue.
        q = _projected(b, config, query, "q", query_dims, rotary)
        if config.scaled == "queries":
            q = b.op("scale", q, name="scale", factor=_factor(config))
        k = _projected(b, config, memory, "k", key_dims, rotary)
        v = b.linear(memory, "v", key_dims, bias=config.qkv_bias)
        sinks = b.given("sinks.weight", query_dims[:-1], role="weight") if config.attention_sinks else None
        equation, context_equation = _EQUATIONS[config.grouped]
        with _core(b, config) as kept:
            scores = _scores(b, config, [(equation, q, k)], mask)
            context = _context(b, config, (scores, sinks), context_equation, v, kept)
        return b.linear(context, "out", ("model",), inner=len(query_dims), bias=config.out_bias)


def latent_attention(b: GraphBuilder, config: Transformer, own: Latent, x: str, mask: Mask, rotary: Rotary) -> str:
    """Self attention whose keys and values are made of a narrow projection; [batch, length, model] to the same.

    Scores are the sum of two products, of what is rotated and of what is not; transformers concatenates the operands
    for one product, of as many MACs. Source: DeepSeek-V2, arXiv:2405.04434, section 2.1.
    """
    with b.scope("self_attention"):
        source = x
        if own.q_rank is not None:
            source = norm(b, config, b.linear(x, "q_a", ("q_rank",), bias=own.bias), "q_a_norm")
        q = b.linear(source, "q", ("heads", "nope"), bias=False)
        if config.scaled == "queries":
            q = b.op("scale", q, name="scale", factor=_factor(config))
        turned_q = b.op("rope", b.linear(source, "q_rope", ("heads", "rotary"), bias=False), *rotary, name="q_turned")
        if config.scaled == "queries":
            turned_q = b.op("scale", turned_q, name="scale_rope", factor=_factor(config))
        turned_k = b.op("rope", b.linear(x, "k_rope", ("rotary",), bias=own.bias), *rotary, name="k_turned")
        narrow = norm(b, config, b.linear(x, "kv_a", ("kv_rank",), bias=own.bias), "kv_a_norm")
        k = b.linear(narrow, "k", ("heads", "nope"), bias=False)
        v = b.linear(narrow, "v", ("heads", "value"), bias=False)
        with _core(b, config) as kept:
            products = [(_EQUATIONS[False][0], q, k), ("bqhe,bke->bhqk", turned_q, turned_k)]
            scores = _scores(b, config, products, mask)
            context = _context(b, config, (scores, None), _EQUATIONS[False][1], v, kept)
        return b.linear(context, "out", ("model",), inner=2, bias=config.out_bias)


def _core(b: GraphBuilder, config: Transformer) -> AbstractContextManager[set[str]]:
    """What is between the projections, as a segment if it is made again for the backward."""
    flash = config.attention == "flash"
    recomputed = flash or config.checkpointing == "selective"
    return b.segment_if(recomputed, "flash" if flash else "core", kernel=flash)


def _context(
    b: GraphBuilder, config: Transformer, given: tuple[str, str | None], equation: str, v: str, kept: set[str]
) -> str:
    """The values that softmax of the scores weighs; `given` are scores and sinks, if there are any."""
    scores, sinks = given
    flash = config.attention == "flash"
    wide = FLOAT32 if config.upcast and not flash else ""  # flash attention's softmax never leaves the chip
    kind = ("softmax" if sinks is None else "softmax_sink") + "_lse" * flash
    p = b.op(kind, scores, *(() if sinks is None else (sinks,)), name=f"softmax{wide}")
    if flash:
        kept.add(f"{p}.lse")
    p = b.dropout(p, config.attention_dropout)
    return b.op(equation, p, v, name="context")


def _scores(b: GraphBuilder, config: Transformer, products: Sequence[tuple[str, str, str]], mask: Mask) -> str:
    """The scaled, capped, masked sum of products of queries and keys. Those of a dim with itself are self attention."""
    _, q, k = products[0]
    (batch, length, *_), keys = b.tensors[q].dims, b.tensors[k].dims[1]
    dims: Dims = (batch, *b.tensors[q].dims[2:-1], length, keys)
    meets = meeting(b, mask, length) if length == keys else None
    if meets is not None:
        dims = scores_dims(b, dims, counted(b, meets))
    scores = ""
    for i, (equation, of_q, of_k) in enumerate(products):
        product = b.op(equation, of_q, of_k, name=f"scores.{i}" if i else "scores", dims=dims)
        scores = b.op("add", scores, product, name=f"scores.sum.{i}") if scores else product
    if config.scaled == "scores":
        scores = b.op("scale", scores, name="scale", factor=_factor(config))
    return mask_scores(b, softcap(b, scores, config.attention_softcap), mask, meets)
