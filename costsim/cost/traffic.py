"""How each tensor is read, through which copies, and so what of it is written to DRAM."""

from collections.abc import Sequence
from dataclasses import dataclass

from costsim.graph.graph import Graph
from costsim.policy.assign import Assignment, Copy

Held = Copy | None  # what of a tensor lies in DRAM: a copy, or the tensor itself


@dataclass(frozen=True, slots=True)
class TensorTraffic:
    """How one tensor is read by everybody, and so what of it is written: the same for all tensors of a class."""

    held: Sequence[Held]  # by reader: what crosses DRAM
    on_chip: Sequence[Sequence[Copy]]  # by reader: the copies it makes for itself
    casts: Sequence[Sequence[tuple[Copy, Held]]]  # by reader: copies that passes make before it, from what
    copies: Sequence[tuple[Copy, bool]]  # made along with the tensor, and whether they are written
    written: bool  # whether the tensor itself is


def tensor_traffic(graph: Graph, name: str, assignment: Assignment, group: Sequence[int]) -> TensorTraffic:
    """Follow every reader of a tensor down its chain of copies.

    Something is written if a kernel other than its maker's reads it, or if it is a result that nobody reads.
    """
    producer, maker = graph.producer.get(name), graph.maker.get(name)
    held_by: list[Held] = []
    on_chip: list[list[Copy]] = []
    casts: list[list[tuple[Copy, Held]]] = []
    made: dict[Copy, Copy] = {}  # along with the tensor
    cast: dict[Copy, Copy] = {}
    replaced: set[Held] = set()  # what copies made along with it stand for
    outside: dict[Held, bool] = {}  # what is read at all: whether outside its maker's kernel
    for op, operand in graph.readers.get(name, ()):
        held: Held = None
        on_chip.append([])
        casts.append([])
        for copy in assignment.chain(op, operand):
            if copy.placement == "on_chip":
                on_chip[-1].append(copy)
            elif copy.placement == "at_producer" and maker is not None:
                replaced.add(held)
                held = made.setdefault(copy, copy)
            else:
                if copy.transient or copy not in cast:
                    casts[-1].append((copy, held))
                    outside[held] = True  # the cast is a kernel of its own
                held = cast.setdefault(copy, copy)
        held_by.append(held)
        born = producer if held is None else None if held in cast else maker
        elsewhere = born is None or group[op.position] != group[born.position]
        outside[held] = outside.get(held, False) or elsewhere
    copies = [(copy, outside.get(copy, copy not in replaced)) for copy in made]
    return TensorTraffic(held_by, on_chip, casts, copies, outside.get(None, None not in replaced))
