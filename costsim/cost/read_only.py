"""What of the weights is never written lies in flash, where a workload says so: its size, and what is read of it.

It takes none of the memory. Of a weight of which a share of the channels is trained, that share lies in memory and the
rest in flash, each as a tensor of its own. Copies of frozen weights lie in memory. Source: Lin et al., NeurIPS 2022,
arXiv:2206.15472 (256 KB of SRAM, 1 MB of flash).
"""

import math
from collections.abc import Iterable

from costsim.cost.parts import bits_of
from costsim.cost.row import Row, each_op
from costsim.formats.format import Format
from costsim.graph.graph import Graph
from costsim.policy.assign import Assignment


def _is_weight(graph: Graph, name: str) -> bool:
    """Whether it is a weight that a step starts with."""
    tensor = graph.tensors[name]
    return tensor.role == "weight" and tensor.alias is None and name not in graph.producer


def _whole_bits(graph: Graph, name: str, format: Format) -> int:
    dims = graph.tensors[name].dims
    return bits_of(graph, dims, format.block_axes(len(dims)), format)


def flash_bits(graph: Graph, name: str, format: Format) -> int:
    """Exact bits of a tensor that lie in flash: of a weight what is not trained, of all else none."""
    if not graph.frozen_in_flash or not _is_weight(graph, name):
        return 0
    if name not in graph.parts:
        return 0 if graph.tensors[name].trainable else _whole_bits(graph, name, format)
    whole, trained = (graph.shape(each) for each in (name, graph.parts[name]))
    rest = [all_ - some or all_ for all_, some in zip(whole, trained, strict=True)]
    elements = math.prod(rest)
    return format.stored_bits(elements, elements if format.flat else rest[-1])


def resident_bits(graph: Graph, name: str, format: Format) -> int:
    """Exact bits of a tensor that lie in memory: those that do not lie in flash."""
    if not flash_bits(graph, name, format):
        return _whole_bits(graph, name, format)
    return _whole_bits(graph, graph.parts[name], format) if name in graph.parts else 0


def size_in_flash(graph: Graph, assignment: Assignment) -> int:
    """Bytes of all that lies in flash, each weight in whole bytes."""
    weights = (weight.name for weight in graph.weights)
    return sum(-(-flash_bits(graph, name, assignment.format(name)) // 8) for name in weights)


def flash_read_bits(graph: Graph, assignment: Assignment, rows: Iterable[Row]) -> int:
    """Of the bits that counted ops read, those that come from flash; the others cross the DRAM interface."""
    read = 0
    for op, row in each_op(rows) if graph.frozen_in_flash else ():
        for move in row.moves:
            name = graph.root[(op.inputs + op.outputs)[move.slot]]
            if move.copy is None and move.read_bits and (lies := flash_bits(graph, name, assignment.format(name))):
                whole = _whole_bits(graph, name, assignment.format(name))
                read += move.read_bits // whole * lies if name in graph.parts else move.read_bits
    return read
