"""Layers: attention and feed forward in residuals, and their stacks."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from costsim.graph.builder import GraphBuilder
from costsim.models.attention import Rotary, attention
from costsim.models.blocks import feed_forward, norm
from costsim.models.meeting import Mask
from costsim.models.sections import Transformer

_Value = TypeVar("_Value")


def by_layer(pattern: Sequence[_Value], number: int) -> list[_Value]:
    """What a pattern says of each of so many layers: one after another, and from the first again."""
    return [pattern[i % len(pattern)] for i in range(number)]


def residual(
    b: GraphBuilder, config: Transformer, x: str, name: str, part: Callable[[str], str], normed: bool = True
) -> str:
    """x + dropout(part(x)), with norms before the part, after the part or the sum; all [batch, length, model].

    Not `normed`, it has none before the part. Source of the norms before and after a part: Gemma 2, arXiv:2408.00118,
    section 2; after it only: OLMo 2, arXiv:2501.00656, section 3.
    """
    branch = part(norm(b, config, x, f"{name}_norm") if normed and config.norm in ("pre", "sandwich") else x)
    if config.norm in ("sandwich", "branch"):
        branch = norm(b, config, branch, f"{name}_post_norm")
    total = _added(b, config, x, name, branch)
    return norm(b, config, total, f"{name}_norm") if config.norm == "post" else total


def _added(b: GraphBuilder, config: Transformer, x: str, name: str, branch: str) -> str:
    """x plus what a part made, after dropout."""
    branch = b.dropout(branch, config.dropout, name=f"{name}_dropout")
    if config.residual_multiplier is not None:
        branch = b.op("scale", branch, name=f"{name}_multiplier", factor=config.residual_multiplier)
    return b.op("add", branch, x, name=f"{name}_residual")


def parallel(
    b: GraphBuilder, config: Transformer, x: str, norms: int, parts: Mapping[str, Callable[[str], str]]
) -> str:
    """x plus what all parts make of it, none of another's result; by name, with as many norms as parts or one for all.

    Source: GPT-J and GPT-NeoX, arXiv:2204.06745, section 2.1 (a norm for each); PaLM and Falcon (one for all).
    """
    total, y = x, ""
    for name, part in parts.items():
        y = norm(b, config, x, f"{name}_norm") if norms > 1 or not y else y
        total = _added(b, config, total, name, part(y))
    return total


def layers(
    b: GraphBuilder, config: Transformer, stack: str, number: int, x: str, layer: Callable[[str, int], str]
) -> str:
    """The result of a number of layers on top of each other; each is a segment if whole layers are recomputed.

    `layer` appends one to its input and number, from 0 on. Of a stage of a pipeline those far from it are left out.
    """
    for i in b.layers_built(stack, number):
        with b.scope(f"{stack}.{i}", layer=True), b.segment_if(config.checkpointing == "full", "layer"):
            x = layer(x, i)
    return x


def residual_attention(
    b: GraphBuilder,
    config: Transformer,
    name: str,
    x: str,
    memory: str | None,
    mask: Mask,
    rotary: Rotary | None = None,
) -> str:
    """`attention` of x over `memory`, None: over itself, in a residual."""
    return residual(b, config, x, name, lambda y: attention(b, config, name, y, memory or y, mask, rotary))


def encoder_layer(b: GraphBuilder, config: Transformer, x: str, mask: Mask) -> str:
    """Self attention and feed forward, each in a residual; [batch, length, model] to the same."""
    x = residual_attention(b, config, "self_attention", x, None, mask)
    return residual(b, config, x, "ffn", lambda y: feed_forward(b, config, y))


def decoder_layer(b: GraphBuilder, config: Transformer, x: str, memory: str, mask: Mask, memory_mask: Mask) -> str:
    """Causal self attention, attention over the encoder's output `memory`, feed forward, each in a residual."""
    x = residual_attention(b, config, "self_attention", x, None, mask)
    x = residual_attention(b, config, "cross_attention", x, memory, memory_mask)
    return residual(b, config, x, "ffn", lambda y: feed_forward(b, config, y))
