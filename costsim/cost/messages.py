"""The messages of a collective: what a rank packs and sends of a tensor, in the format in which it is read."""

from typing import cast

from costsim.cost.collectives import Message
from costsim.cost.parts import bits_of
from costsim.cost.traffic import TensorTraffic
from costsim.formats.format import Format
from costsim.graph.graph import Graph, Op
from costsim.names import Axis, Collective
from costsim.policy.classes import Axes, last_axis


def message(graph: Graph, op: Op, format: Format, axes: Axes | None) -> Message:
    """What an op sends that is a collective and reads its operand in a format whose blocks lie along these axes."""
    name: Axis = op.params["axis"]
    axis, does, how = graph.mesh[name], cast(Collective, op.kind.collective), graph.exchange
    bits = _shard_bits(graph, op, format, axes)
    return Message(does, name, axis.ranks, bits, op.times, axis.stride, how.algorithms.get(does, "ring"), how.levels)


def message_read(graph: Graph, op: Op, traffic: TensorTraffic) -> Message:
    """What a collective sends of an operand with this traffic, in the format in which it reads that."""
    at = graph.reader_number(op, 0)
    copy = traffic.on_chip[at][-1] if traffic.on_chip[at] else traffic.held[at]
    return message(graph, op, copy.format if copy else traffic.format, copy.axes if copy else None)


def _shard_bits(graph: Graph, op: Op, format: Format, axes: Axes | None) -> int:
    """Bits of one rank's share of the operand, or of the result, packed by itself; of a send, all."""
    x, y = (graph.tensors[name].dims for name in (op.inputs[0], op.outputs[0]))
    if op.kind.collective == "all_reduce":  # of a flattened tensor
        ranks = graph.mesh[op.params["axis"]].ranks
        return format.bits_of_runs(((-(-graph.elements(x) // ranks), 1),))
    part = x if op.kind.collective in ("all_gather", "send") else y
    if op.kind.collective == "all_to_all":  # some experts' rows of one rank
        part = tuple(min(a, b, key=graph.size) for a, b in zip(x, y, strict=True))
    along = axes if axes is not None and len(part) == len(x) else last_axis(part)
    return bits_of(graph, part, format.block_axes(len(part), along), format)
