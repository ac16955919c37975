"""Which transforms fit what they are asked for: both operands of a GEMM, in blocks that fill what it sums over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from costsim.graph.graph import Graph
from costsim.policy.classes import Axes, Classes, Read


class Transform(NamedTuple):
    """A Hadamard transform: its blocks lie along the axes over which a GEMM sums, flattened in this order."""

    block: int  # elements
    axes: Axes

    @property
    def name(self) -> str:
        """As rules spell it."""
        return f"hadamard{self.block}"


def misfit(graph: Graph, read: Read, block: int) -> str:
    """Why what is read cannot be transformed in blocks of so many elements; "" if it can."""
    name = f"a tensor of {' x '.join(read.dims) or 'no dims'}"
    if read.candidate.gemm is None:
        return f"{name} is read by an op that is no GEMM, and only a GEMM undoes a transform; say gemm"
    if graph.ragged(read.dims) is not None:
        return f"{name} has pairs of tokens that do not meet, which fill no blocks"
    summed = tuple([read.dims[axis] for axis in read.axes])
    elements = graph.elements(summed)
    if elements % block:
        return f"blocks of {block} do not divide the {elements} elements along {' x '.join(summed)}, of {name}"
    return ""


def one_sided(graph: Graph, classes: Classes, blocks: Mapping[int, int]) -> Iterator[tuple[Read, str]]:
    """Operands of GEMMs that are transformed while the other is not, or is in other blocks, and what is wrong.

    `blocks` are the elements of a block by class of reads.
    """
    for op in graph.ops if blocks else ():
        if op.gemm is None:
            continue
        reads = [classes.read_as.get((op.position, operand), -1) for operand in (0, 1)]
        first, second = (blocks.get(read, 0) for read in reads)
        if first != second:
            how = [f"in blocks of {block}" if block else "not at all" for block in (first, second)]
            sides = f"{op.inputs[0]} is transformed {how[0]}, {op.inputs[1]} {how[1]}"
            yield classes.reads[reads[0] if first else reads[1]], f"{op.name}: {sides}; the product would be another"
