"""How GEMMs add their products up: in which formats, and how many additions in each.

What a policy names is the format of all sums of a GEMM. Where it names none, the products say it. Products of floats
add as floats. Products of whole numbers add as integers as long as they share a unit: fixed point and integers
throughout, block formats inside a block; a block's sum then adds to those of the others as a float. Of operands with
blocks of two sizes the smaller count, in which the larger are taken to end. There is one addition for each product.

Sources: Darvish Rouhani et al., NeurIPS 2020 (MSFP: integers inside a box, floats across); Jacob et al., CVPR 2018
(int8 into int32). Sums of int32 that overflow are left to whoever chooses the formats.
"""

from functools import lru_cache
from typing import NamedTuple

from costsim.cost.laws import Additions
from costsim.formats.format import Format
from costsim.formats.named import parse_format
from costsim.graph.graph import Graph, Op
from costsim.graph.kinds import Dims
from costsim.policy.assign import Chain
from costsim.policy.classes import Axes

INTEGER, FLOAT = parse_format("int32"), parse_format("fp32")


class Sums(NamedTuple):
    """The formats of a GEMM's operands and of its results before they are stored; its additions, as many as MACs."""

    pair: tuple[Format, Format, Format]
    additions: Additions


class Factor(NamedTuple):
    """One of the two operands that a GEMM multiplies."""

    format: Format
    dims: Dims
    axes: Axes  # along which its blocks run
    contracted: Axes  # over which the GEMM sums


def factor(graph: Graph, op: Op, operand: int, stored: Format, chain: Chain) -> Factor:
    """An operand of a GEMM, of a tensor stored in a format, that is read through a chain of copies."""
    dims, contracted = graph.tensors[op.inputs[operand]].dims, op.kind.contracted[operand]
    if chain:
        return Factor(chain[-1].format.plain, dims, chain[-1].axes, contracted)
    return Factor(stored.plain, dims, stored.block_axes(len(dims)), contracted)


def summed(graph: Graph, op: Op) -> int:
    """How many products a GEMM adds up for an element of its result."""
    dims = graph.tensors[op.inputs[0]].dims
    return graph.elements(tuple([dims[axis] for axis in op.kind.contracted[0]]))


def sums(graph: Graph, macs: int, named: Format | None, a: Factor, b: Factor) -> Sums:
    """What a GEMM of so many MACs multiplies, and how it adds its products up, if named, in that format."""
    if named is None and a.format.whole and b.format.whole:
        shares = [share for each in (a, b) if (share := _blocks_of_products(graph, each)) is not None]
        # Whole, but where sums differ in length.
        of_blocks = max([-(-macs * blocks // products) for blocks, products in shares], default=0)
        additions = tuple([(format, n) for format, n in ((INTEGER, macs - of_blocks), (FLOAT, of_blocks)) if n])
        return Sums((a.format, b.format, FLOAT if shares else INTEGER), additions)
    accumulator = named or FLOAT
    return Sums((a.format, b.format, accumulator), ((accumulator, macs),))


def _blocks_of_products(graph: Graph, factor: Factor) -> tuple[int, int] | None:
    """How many blocks of an operand so many products of a sum meet; None if a whole sum has the same scales."""
    format, dims, axes, contracted = factor
    if not format.blocked:
        return None
    if not set(axes) <= set(contracted):
        return 1, 1  # blocks lie across the sum: each product has scales of its own
    runs = graph.runs(dims, tuple([dims[axis] for axis in axes]))
    return _smallest_blocks(format, runs, len(axes) == len(contracted))


@lru_cache(maxsize=1024)  # thousands of GEMMs multiply operands of a few shapes and formats
def _smallest_blocks(format: Format, runs: tuple[tuple[int, int], ...], whole: bool) -> tuple[int, int] | None:
    """The smallest blocks of such runs and their elements; if runs are whole sums, None where blocks are as long."""
    scales = [scale for scale in format.scales if not scale.of_tensor and not (whole and scale.contracted is None)]
    blocks = [sum(times * scale.blocks(run, 1)[1] for run, times in runs) for scale in scales]
    return (max(blocks), sum(run * times for run, times in runs)) if blocks else None
