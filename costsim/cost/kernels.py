"""Which ops and tensors cost the same once ops are grouped into kernels: they are counted once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from costsim.collector import paused
from costsim.graph.graph import Graph, Op
from costsim.policy.classes import Marks, Numbers, classes

Touch = tuple[Op, int]  # an op and the slot of a tensor in it: of its inputs, then outputs


class Alike(NamedTuple):
    """Ops that are alike in all that they move: in the tensors' classes, and in the rest that it depends on."""

    tensors: tuple[int, ...]  # of inputs, then of outputs and those in whose place they are written
    rest: tuple[object, ...]
    ops: list[Op]


@dataclass(frozen=True, slots=True, eq=False)
class Kernels:
    """A graph under a way to group its ops into kernels, so that it is known what is read within one."""

    group: Sequence[int]  # by position of the op: its kernel
    alike: Sequence[Alike]
    traffic_of: Mapping[str, int]  # by tensor: a class within which all that is read and written is alike
    traffic: Sequence[tuple[str, object]]  # of each such class: one tensor, and what tells it from the others
    earlier: Mapping[tuple[int, int], tuple[Touch, ...]]  # by reader, who has the tensor on chip before in the kernel


@lru_cache(maxsize=8)
@paused
def kernels(graph: Graph, marks: Marks, group: tuple[int, ...]) -> Kernels:
    """A graph whose ops are grouped into kernels so (by position).

    What an op moves depends on the formats of what it reads and writes, on the copies through which it and all others
    read that, on whether those others are in its kernel, and on what the kernel has on chip: all of it is in the class.
    """
    found = classes(graph, marks)
    op_class, first = found.ops, found.first
    numbers = Numbers()
    traffic_of: dict[str, int] = {}
    described: list[tuple[str, object]] = []
    all_readers, producer_of, maker_of = graph.readers, graph.producer, graph.maker
    for name, number in found.tensors.items():
        producer, maker = producer_of.get(name), maker_of.get(name)
        written, copied = group[producer.position] if producer else -1, group[maker.position] if maker else -1
        inside = [
            (at, kernel == written, kernel == copied)
            for at, (op, _) in enumerate(all_readers.get(name, ()))
            if (kernel := group[op.position]) == written or kernel == copied
        ]
        key = (number, tuple(inside))
        traffic_of[name] = number = numbers[key]
        if number == len(described):
            described.append((name, key))
    alike: dict[object, Alike] = {}
    earlier: dict[tuple[int, int], tuple[Touch, ...]] = {}
    on_chip: dict[str, tuple[Touch, ...]] = {}
    all_roots, before = graph.root, -1
    for op in graph.ops:
        position = op.position
        if group[position] != before:
            before, on_chip = group[position], {}
        tensors: list[int] = []
        rest: list[object] = [op_class[position]]
        rest += first[position]
        slot = 0
        for name in op.inputs:
            tensors.append(traffic_of[name])
            touches = on_chip.get(name, ())
            if touches:
                earlier[position, slot] = touches
                rest.append(slot)
                rest.append(tuple([(op_class[other.position], at) for other, at in touches]))
            on_chip[name] = (*touches, (op, slot))
            slot += 1
        for name in op.outputs:
            root = all_roots[name]
            tensors += (traffic_of[name], traffic_of[root])
            on_chip[name] = on_chip[root] = (*on_chip.get(name, ()), (op, slot))
            slot += 1
        its = (tuple(tensors), tuple(rest))
        like = alike.get(its)
        if like is None:
            alike[its] = Alike(*its, [op])
        else:
            like.ops.append(op)
    return Kernels(group, list(alike.values()), traffic_of, described, earlier)
