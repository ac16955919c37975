"""How each tensor is read, through which copies, and so what of it is written to DRAM."""

from collections.abc import Sequence
from typing import NamedTuple

from costsim.formats.format import Format
from costsim.graph.graph import Graph, Op
from costsim.policy.assign import Chain, Copy

Held = Copy | None  # what of a tensor lies in DRAM: a copy, or the tensor itself


class TensorTraffic(NamedTuple):
    """How one tensor is read by everybody, and so what of it is written: the same for all tensors of a class."""

    format: Format  # as it is stored
    held: Sequence[Held]  # by reader: what crosses DRAM
    on_chip: Sequence[Sequence[Copy]]  # by reader: the copies it makes for itself
    casts: Sequence[Sequence[tuple[Copy, Held]]]  # by reader: copies that passes make before it, from what
    copies: Sequence[tuple[Copy, bool]]  # made along with the tensor, and whether they are written
    written: bool  # whether the tensor itself is
    cast: bool  # whether there are casts


class Reading(NamedTuple):
    """How one reader reads a tensor, whatever others do."""

    held: Held  # what crosses DRAM
    on_chip: Sequence[Copy]  # copies it makes for itself
    made: Sequence[Copy]  # along with the tensor
    casts: Sequence[tuple[Copy, Held]]  # by passes before it, from what


def follow(chain: Chain, made_here: bool) -> Reading:
    """Follow a reader down its chain of copies. `made_here`: an op of the step makes the tensor, and copies with it."""
    held: Held = None
    on_chip, made, casts = [], [], []
    for copy in chain:
        if copy.placement == "on_chip":
            on_chip.append(copy)
            continue
        if copy.placement == "at_producer" and made_here:
            made.append(copy)
        else:
            casts.append((copy, held))
        held = copy
    return Reading(held, on_chip, made, casts)


def elsewhere(graph: Graph, name: str, op: Op, reading: Reading, group: Sequence[int]) -> bool:
    """Whether what an op reads of a tensor was made in another kernel."""
    cast = bool(reading.casts) and reading.casts[-1][0] is reading.held
    born = None if cast else graph.producer.get(name) if reading.held is None else graph.maker.get(name)
    return born is None or group[op.position] != group[born.position]


def tensor_traffic(
    graph: Graph, name: str, format: Format, chains: Sequence[Chain], group: Sequence[int]
) -> TensorTraffic:
    """How all readers of a tensor read it, of which there is one chain a reader, in their order.

    Something is written if a kernel other than its maker's reads it, or if it is a result that nobody reads.
    """
    made_here = name in graph.maker
    held: list[Held] = []
    on_chip: list[Sequence[Copy]] = []
    casts: list[list[tuple[Copy, Held]]] = []
    made: list[Copy] = []
    first: dict[Held, Held] = {None: None}  # what is the same has the label of whoever asks for it first
    outside: set[Held] = set()
    for chain, (op, _) in zip(chains, graph.readers.get(name, ()), strict=True):
        reading = follow(chain, made_here)
        for copy in reading.made:
            if copy not in first:
                first[copy] = copy
                made.append(copy)
        casts.append([])
        for copy, source in reading.casts:
            if copy.transient or copy not in first:
                casts[-1].append((copy, first[source]))
                outside.add(source)  # such a pass is a kernel of its own
            first.setdefault(copy, copy)
        held.append(first[reading.held])
        on_chip.append(reading.on_chip)
        if elsewhere(graph, name, op, reading, group):
            outside.add(reading.held)
    copies = [(copy, copy in outside) for copy in made]
    return TensorTraffic(format, held, on_chip, casts, copies, not held or None in outside, any(casts))
