"""Multi-head attention: queries, keys and values, rotary positions, scores and masks."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from costsim.graph.builder import GraphBuilder
from costsim.graph.kinds import Dims
from costsim.graph.pairs import queries_of
from costsim.inputs.section import Count, Field, Section
from costsim.models.blocks import FLOAT32, norm, softcap
from costsim.models.meeting import Mask, counted, mask_scores, meeting, scores_dims
from costsim.models.sections import Transformer


class Rotary(NamedTuple):
    """The tables that rotate queries and keys: tensors [length, head]."""

    cos: str
    sin: str


def rotary_tables(
    b: GraphBuilder, dim: str, windows: Sequence[int | None], rotated: Sequence[bool], local: bool
) -> list[Rotary | None]:
    """The tables [tokens, dim] that each layer rotates by, None if it does not.

    `windows` are those of the layers; with `local` the layers that have one have tables of their own. `rotated` says of
    each layer, and from the first again, whether it rotates.
    """
    prefixes = [
        ("local_" if local and window else "") if rotated[i % len(rotated)] else None
        for i, window in enumerate(windows)
    ]
    dims = ("tokens", dim)
    tables = {
        prefix: Rotary(b.given(f"{prefix}cos", dims), b.given(f"{prefix}sin", dims))
        for prefix in sorted({prefix for prefix in prefixes if prefix is not None})
    }
    return [None if prefix is None else tables[prefix] for prefix in prefixes]


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


class Disentangled(Section):
    """Scores of contents, and of contents against distances, which a table holds: DeBERTa."""

    rows: Count = Field(description="of the table: twice as many as distances to a side are told apart")
    content_to_position: bool = Field(default=True, description="scores of queries against distances")
    position_to_content: bool = Field(default=True, description="scores of keys against distances")
    shared: bool = Field(
        default=False, description="the weights of queries and keys project distances, too; if not, they have their own"
    )
    norm: bool = Field(default=False, description="a norm of the table")

    @property
    def terms(self) -> int:
        """How many products scores sum; their variance grows with it."""
        return 1 + self.content_to_position + self.position_to_content


class Distances(NamedTuple):
    """What tells how far tokens lie apart: tensors [rows, model], and [queries, keys], a row for each pair."""

    table: str
    ids: str


_EQUATIONS = {  # scores, context; b batch, q and k positions, h heads, g groups' heads, r queries of a group, e head
    False: ("bqhe,bkhe->bhqk", "bhqk,bkhe->bqhe"),
    True: ("bqgre,bkge->bgrqk", "bgrqk,bkge->bqgre"),
}


_Term = Callable[[Dims], str]  # appends a part of scores with these dims


def _factor(config: Transformer, terms: int = 1) -> float:
    """What scores of so many terms are scaled by."""
    return 1 / math.sqrt((config.query_pre_attn_scalar or config.head_size) * terms)


def _before(b: GraphBuilder, config: Transformer, q: str, name: str, terms: int = 1) -> str:
    """Queries, scaled if that is done before the product."""
    return b.op("scale", q, name=name, factor=_factor(config, terms)) if config.scaled == "queries" else q


def _product(b: GraphBuilder, equation: str, q: str, k: str, name: str) -> _Term:
    """A product of queries and keys."""
    return lambda dims: b.op(equation, q, k, name=name, dims=dims)


def _projected(b: GraphBuilder, config: Transformer, x: str, name: str, dims: Dims, rotary: Rotary | None) -> str:
    """Queries or keys of x, [batch, length, model] to [batch, length, *dims]: projected, normalized, rotated."""
    own = config.k_bias if name == "k" else None
    y = b.linear(x, name, dims, bias=config.qkv_bias if own is None else own)
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
        q = _before(b, config, _projected(b, config, query, "q", query_dims, rotary), "scale")
        k = b.all_keys(_projected(b, config, memory, "k", key_dims, rotary))
        v = b.all_keys(b.linear(memory, "v", key_dims, bias=config.qkv_bias))
        sinks = b.given("sinks.weight", query_dims[:-1], role="weight") if config.attention_sinks else None
        equation, context_equation = _EQUATIONS[config.grouped]
        with _core(b, config) as kept:
            scores = _scores(b, config, (q, k), [_product(b, equation, q, k, "scores")], mask)
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
        q = _before(b, config, b.linear(source, "q", ("heads", "nope"), bias=False), "scale")
        turned_q = b.op("rope", b.linear(source, "q_rope", ("heads", "rotary"), bias=False), *rotary, name="q_turned")
        turned_q = _before(b, config, turned_q, "scale_rope")
        turned_k = b.op("rope", b.linear(x, "k_rope", ("rotary",), bias=own.bias), *rotary, name="k_turned")
        turned_k = b.all_keys(turned_k)
        narrow = norm(b, config, b.linear(x, "kv_a", ("kv_rank",), bias=own.bias), "kv_a_norm")
        k = b.all_keys(b.linear(narrow, "k", ("heads", "nope"), bias=False))
        v = b.all_keys(b.linear(narrow, "v", ("heads", "value"), bias=False))
        with _core(b, config) as kept:
            terms = [
                _product(b, _EQUATIONS[False][0], q, k, "scores"),
                _product(b, "bqhe,bke->bhqk", turned_q, turned_k, "scores.1"),
            ]
            scores = _scores(b, config, (q, k), terms, mask)
            context = _context(b, config, (scores, None), _EQUATIONS[False][1], v, kept)
        return b.linear(context, "out", ("model",), inner=2, bias=config.out_bias)


def disentangled_attention(
    b: GraphBuilder, config: Transformer, own: Disentangled, x: str, mask: Mask, at: Distances
) -> str:
    """Self attention whose scores sum those of contents, and of contents against distances; [batch, length, model].

    All are scaled by one over the root of their number times the size of a head. Source: DeBERTa, arXiv:2006.03654,
    section 3.2; shared weights and the table's norm: DisentangledSelfAttention and DebertaV2Encoder of transformers.
    """
    dims, terms = ("heads", "head"), own.terms
    with b.scope("self_attention"):
        q = _before(b, config, _projected(b, config, x, "q", dims, None), "scale", terms)
        k = _projected(b, config, x, "k", dims, None)
        v = b.linear(x, "v", dims, bias=config.qkv_bias)
        table = b.dropout(at.table, config.dropout, "position_dropout")
        scored = [_product(b, _EQUATIONS[False][0], q, k, "scores")]
        if own.content_to_position:
            of_keys = b.linear(table, "position_k", dims, bias=config.qkv_bias, of="k" if own.shared else "")
            scored.append(_against(b, "pick_distances", "content_to_position", q, of_keys, at))
        if own.position_to_content:
            of_queries = b.linear(table, "position_q", dims, bias=config.qkv_bias, of="q" if own.shared else "")
            of_queries = _before(b, config, of_queries, "scale_position", terms)
            scored.append(_against(b, "pick_distances_of_keys", "position_to_content", k, of_queries, at))
        with _core(b, config) as kept:
            scores = _scores(b, config, (q, k), scored, mask, terms)
            context = _context(b, config, (scores, None), _EQUATIONS[False][1], v, kept)
        return b.linear(context, "out", ("model",), inner=2, bias=config.out_bias)


def _against(b: GraphBuilder, pick: str, name: str, x: str, table: str, at: Distances) -> _Term:
    """Scores of queries or keys against a table of distances: against each of them, of which each pair has its own."""

    def append(dims: Dims) -> str:
        every = b.op("bthe,phe->bhtp", x, table, name=f"scores.{name}")
        return b.op(pick, every, at.ids, name=name, dims=dims)

    return append


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


def _scores(
    b: GraphBuilder, config: Transformer, of: tuple[str, str], terms: Sequence[_Term], mask: Mask, number: int = 1
) -> str:
    """The scaled, capped, masked sum of terms `of` queries and keys. Those of a dim with itself are self attention.

    They are scaled as so many.
    """
    q, k = of
    (batch, length, *_), keys = b.tensors[q].dims, b.tensors[k].dims[1]
    dims: Dims = (batch, *b.tensors[q].dims[2:-1], length, keys)
    meets = meeting(b, mask, length) if length == queries_of(keys) else None
    if meets is not None:
        dims = scores_dims(b, dims, counted(b, meets))
    scores = ""
    for i, term in enumerate(terms):
        part = term(dims)
        scores = b.op("add", scores, part, name=f"scores.sum.{i}") if scores else part
    if config.scaled == "scores":
        scores = b.op("scale", scores, name="scale", factor=_factor(config, number))
    return mask_scores(b, softcap(b, scores, config.attention_softcap), mask, meets)
