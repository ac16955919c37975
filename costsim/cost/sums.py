"""How GEMMs add their products up: in which formats, and how many additions in each.

What a policy names is the format of all sums of a GEMM. Where it names none, the products say it. Products of floats
add as floats. Products of whole numbers add as integers as long as they share a unit: fixed point and integers
throughout, block formats inside a block; a block's sum then adds to those of the others as a float. Of operands with
blocks of two sizes the smaller count, in which the larger are taken to end. There is one addition for each product.

Sources: Darvish Rouhani et al., NeurIPS 2020 (MSFP: integers inside a box, floats across); Jacob et al., CVPR 2018
(int8 into int32). Sums of int32 that overflow are left to whoever chooses the formats.
"""

import math
from fractions import Fraction
from typing import NamedTuple

from costsim.cost.laws import Additions
from costsim.formats.format import Format
from costsim.formats.named import parse_format
from costsim.graph.graph import Graph, Op
from costsim.policy.assign import Assignment

INTEGER, FLOAT = parse_format("int32"), parse_format("fp32")


class Sums(NamedTuple):
    """The format of a GEMM's results before they are stored, and its additions, as many as MACs."""

    accumulator: Format
    additions: Additions


def sums(graph: Graph, assignment: Assignment, op: Op, macs: int) -> Sums:
    """How a GEMM of so many MACs adds its products up."""
    named = assignment.accumulator(op)
    if named is not None:
        return Sums(named, ((named, macs),))
    if not all(assignment.multiplied(op, operand).whole for operand in (0, 1)):
        return Sums(FLOAT, ((FLOAT, macs),))
    blocks = [part for operand in (0, 1) if (part := _blocks_per_product(graph, assignment, op, operand)) is not None]
    if not blocks:
        return Sums(INTEGER, ((INTEGER, macs),))
    of_blocks = math.ceil(macs * max(blocks))  # whole, but where sums differ in length
    both = ((INTEGER, macs - of_blocks), (FLOAT, of_blocks))
    return Sums(FLOAT, tuple((format, n) for format, n in both if n))


def _blocks_per_product(graph: Graph, assignment: Assignment, op: Op, operand: int) -> Fraction | None:
    """How many blocks of an operand a product of a sum stands for; None if a whole sum has the same scales."""
    format, dims = assignment.multiplied(op, operand), graph.tensors[op.inputs[operand]].dims
    scales = [scale for scale in format.scales if not scale.of_tensor]
    if not scales:
        return None
    chain, contracted = assignment.chain(op, operand), op.kind.contracted[operand]
    axes = chain[-1].axes if chain else format.block_axes(len(dims))
    if not set(axes) <= set(contracted):
        return Fraction(1)  # blocks lie across the sum: each product has scales of its own
    if set(axes) == set(contracted):
        scales = [scale for scale in scales if scale.contracted is not None]  # the others span the whole sum
    runs = graph.runs(dims, tuple([dims[axis] for axis in axes]))
    blocks = [sum(times * scale.blocks(run, 1)[1] for run, times in runs) for scale in scales]
    return Fraction(max(blocks), sum(run * times for run, times in runs)) if blocks else None
