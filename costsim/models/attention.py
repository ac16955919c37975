"""Multi-head attention: queries, keys and values, rotary positions, scores and masks."""

import math
from typing import NamedTuple

from costsim.graph.builder import GraphBuilder
from costsim.graph.kinds import Dims
from costsim.models.blocks import FLOAT32, norm, softcap
from costsim.models.meeting import Mask, counted, mask_scores, meeting, scores_dims
from costsim.models.sections import Transformer


class Rotary(NamedTuple):
    """The tables that rotate queries and keys: tensors [length, head]."""

    cos: str
    sin: str


_EQUATIONS = {  # scores, context; b batch, q and k positions, h heads, g groups' heads, r queries of a group, e head
    False: ("bqhe,bkhe->bhqk", "bhqk,bkhe->bqhe"),
    True: ("bqgre,bkge->bgrqk", "bgrqk,bkge->bqgre"),
}


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
    the product. Source: Vaswani et al. 2017, section 3.2; the scaling as torch.nn.MultiheadAttention; groups of
    queries: Ainslie et al., arXiv:2305.13245; flash: Dao, arXiv:2307.08691, which keeps q, k, v, the result and the
    logarithms of the sums.
    """
    query_dims: Dims = ("kv_heads", "group", "head") if config.grouped else ("heads", "head")
    key_dims: Dims = ("kv_heads", "head") if config.grouped else ("heads", "head")
    flash = config.attention == "flash"
    with b.scope(name):
        # Ops on the result of a projection come right after it, so that they can be its epilogue.
        q = _projected(b, config, query, "q", query_dims, rotary)
        q = b.op("scale", q, name="scale", factor=1 / math.sqrt(config.query_pre_attn_scalar or config.head_size))
        k = _projected(b, config, memory, "k", key_dims, rotary)
        v = b.linear(memory, "v", key_dims, bias=config.qkv_bias)
        recomputed = flash or config.checkpointing == "selective"
        with b.segment_if(recomputed, "flash" if flash else "core", kernel=flash) as kept:
            scores_equation, context_equation = _EQUATIONS[config.grouped]
            scores = _scores(b, config, scores_equation, (q, k), mask)
            wide = FLOAT32 if config.upcast and not flash else ""  # flash attention's softmax never leaves the chip
            p = b.op("softmax_lse" if flash else "softmax", scores, name=f"softmax{wide}")
            if flash:
                kept.add(f"{p}.lse")
            p = b.dropout(p, config.attention_dropout)
            context = b.op(context_equation, p, v, name="context")
        return b.linear(context, "out", ("model",), inner=len(query_dims), bias=config.out_bias)


def _scores(b: GraphBuilder, config: Transformer, equation: str, operands: tuple[str, str], mask: Mask) -> str:
    """The capped and masked scores of queries and keys. Those of a dim with itself are self attention."""
    q, k = operands
    (batch, length, *_), keys = b.tensors[q].dims, b.tensors[k].dims[1]
    dims: Dims = (batch, *b.tensors[q].dims[2:-1], length, keys)
    meets = meeting(b, mask, length) if length == keys else None
    if meets is not None:
        dims = scores_dims(b, dims, counted(b, meets))
    scores = b.op(equation, q, k, name="scores", dims=dims)
    return mask_scores(b, softcap(b, scores, config.attention_softcap), mask, meets)
