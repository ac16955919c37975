"""Which ops and tensors cost the same once ops are grouped into kernels: each class of them is counted once.

The class of a tensor moves on from number to number with every op that reads it, as in `policy.classes`, where the
speed of that is stated.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple

from costsim.collector import paused
from costsim.graph.fusion import MODELS, group_ops
from costsim.graph.graph import Graph, Op
from costsim.names import Traffic
from costsim.policy.classes import Classes, Numbering, Selectors, classify

Touch = tuple[Op, int]  # an op, and the slot that a tensor has in it: among its inputs, then its outputs


Touched = tuple[tuple[int, int], ...]  # classes and slots of the ops of a kernel that have a tensor on chip before


class Alike(NamedTuple):
    """Ops that are alike in all that they move: in the classes of their tensors, and in all else that decides it."""

    tensors: tuple[int, ...]  # of inputs, then of each output and the tensor in whose memory it lies
    place: tuple[object, ...]  # the class of the op, and which of its reads repeat another
    touched: tuple[Touched, ...]  # by operand
    ops: list[Op]


Globs = tuple[str, ...]


def is_counted(op: Op, left_out: Globs) -> bool:
    """Whether scope gemm has an op: a GEMM whose name matches none of these globs."""
    return op.gemm is not None and not any(fnmatchcase(op.original, glob) for glob in left_out)


def telling(selectors: Selectors, left_out: Globs) -> Selectors:
    """The selectors that tell ops apart by these globs too."""
    return selectors._replace(op=tuple(sorted({*selectors.op, *left_out}))) if left_out else selectors


@dataclass(frozen=True, slots=True, eq=False)
class KernelClasses:
    """A graph whose ops are grouped into kernels, and the classes that its ops and tensors have then."""

    graph: Graph
    by_steps: bool  # whether ops move what their kernels in PyTorch's eager mode do
    group: Sequence[int]  # by position of the op: its kernel
    alike: Sequence[Alike]
    traffic_of: Mapping[str, int]  # by tensor: a class within which all reads and writes are alike
    traffic: Mapping[int, tuple[str, object]]  # by such class: one tensor, and what tells it from other classes

    def touched_before(self, op: Op, operand: int) -> list[Touch]:
        """The ops of the op's kernel that have the tensor of an operand on chip before it."""
        name, root, position = op.inputs[operand], self.graph.root, op.position
        touches: list[Touch] = []
        for other in self.graph.ops[bisect_left(self.group, self.group[position], hi=position) : position]:
            if name in other.inputs:
                touches += [(other, slot) for slot, read in enumerate(other.inputs) if read == name]
            for slot, made in enumerate(other.outputs, len(other.inputs)):
                if root[made] == name:
                    touches = [(other, slot)]  # the values read before are overwritten
                elif made == name:
                    touches.append((other, slot))
        return touches + [(op, slot) for slot in range(operand) if op.inputs[slot] == name]


def kernel_classes(graph: Graph, selectors: Selectors, traffic: Traffic) -> KernelClasses:
    """The classes of a graph whose ops are grouped into kernels by a traffic model.

    The bits that an op moves depend on the formats of the tensors that it reads and writes, on the copies through which
    it and all others read them, on whether those others are in its kernel, and on what the kernel has on chip. A class
    is one of all that.

    Of three layers, the first reads what is given and nobody reads what the last makes; all else is alike:

    >>> from costsim.graph.builder import GraphBuilder
    >>> from costsim.graph.fusion import group_ops
    >>> b = GraphBuilder({"batch": 4, "model": 8})
    >>> x = b.given("x", ("batch", "model"))
    >>> for i in range(3):
    ...     x = b.op("relu", b.linear(x, f"linear{i}", ("model",), bias=False), name=f"relu{i}")
    >>> graph = b.build()
    >>> group_ops(graph, "fused")  # a relu belongs to the kernel of the GEMM before it
    (0, 0, 2, 2, 4, 4)
    >>> [[op.name for op in alike.ops] for alike in kernel_classes(graph, Selectors(), "fused").alike]
    [['linear0'], ['relu0', 'relu1'], ['linear1', 'linear2'], ['relu2']]
    """
    grouped = (group_ops(graph, traffic), MODELS[traffic].by_steps)
    return _kernel_classes(graph if selectors.elements else graph.structure, selectors, *grouped)


@lru_cache(maxsize=8)
@paused
def _kernel_classes(graph: Graph, selectors: Selectors, group: tuple[int, ...], by_steps: bool) -> KernelClasses:
    classes = classify(graph, selectors)
    traffic_of = _traffic_classes(graph, classes, group)
    traffic: dict[int, tuple[str, object]] = {}
    for name, number in traffic_of.items():
        if number not in traffic:
            traffic[number] = (name, (classes.tensors[name], _inside(graph, name, group)))
    return KernelClasses(graph, by_steps, group, _alike(graph, classes, traffic_of, group), traffic_of, traffic)


def _inside(graph: Graph, name: str, group: tuple[int, ...]) -> tuple[tuple[bool, bool], ...]:
    """By reader of a tensor: whether it runs in the kernel of the op that makes it, and in that of its last update."""
    written, updated = (op and group[op.position] for op in (graph.producer.get(name), graph.maker.get(name)))
    reading = [group[op.position] for op, _ in graph.readers.get(name, ())]
    return tuple([(kernel == written, kernel == updated) for kernel in reading])


def _traffic_classes(graph: Graph, classes: Classes, group: tuple[int, ...]) -> dict[str, int]:
    """By tensor: its class, from the class that it had and from which of its readers are inside, as in `_inside`."""
    numbers = Numbering()
    traffic_of = {name: numbers[number] for name, number in classes.tensors.items()}
    written = {name: group[op.position] for op in graph.ops for name in op.outputs}
    root = graph.root
    updated = {root[name]: group[op.position] for op in graph.ops for name in op.outputs}
    for op in graph.ops:
        kernel = group[op.position]
        for name in op.inputs:
            traffic_of[name] = numbers[traffic_of[name], kernel == written.get(name), kernel == updated.get(name)]
    return traffic_of


def _alike(graph: Graph, classes: Classes, traffic_of: Mapping[str, int], group: tuple[int, ...]) -> list[Alike]:
    """The ops of a graph, grouped by all that decides what they move."""
    members: dict[tuple[tuple[int, ...], tuple[object, ...], tuple[Touched, ...]], list[Op]] = {}
    on_chip: dict[str, Touched] = {}  # by tensor, so far in the kernel
    root, kernel = graph.root, -1
    for op, op_class in zip(graph.ops, classes.ops, strict=True):
        if group[op.position] != kernel:
            kernel, on_chip = group[op.position], {}
        tensors: list[int] = []
        touched: list[Touched] = []
        for slot, name in enumerate(op.inputs):
            before = on_chip.get(name, ())
            tensors.append(traffic_of[name])
            touched.append(before)
            on_chip[name] = (*before, (op_class, slot))
        for slot, name in enumerate(op.outputs, len(op.inputs)):
            tensors += (traffic_of[name], traffic_of[root[name]])
            on_chip[name] = on_chip[root[name]] = (*on_chip.get(name, ()), (op_class, slot))
        place = (op_class, classes.repeated.get(op.position))
        members.setdefault((tuple(tensors), place, tuple(touched)), []).append(op)
    return [Alike(*key, ops) for key, ops in members.items()]
