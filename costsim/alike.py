"""What no policy can tell apart: layers repeat, so every decision and every count is made once for all that are alike.

Two tensors are stored alike if rules see the same of them; two reads are alike if rules see the same of them and of
what is read; two kernels are alike if their ops are, one by one, down to who else reads what they read and write. What
rules see of names are the globs that match (`Marks`), so a policy without globs sees no names at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from re import compile as compile_pattern
from typing import Any, NamedTuple

from costsim.autodiff import is_stashed
from costsim.graph import GEMM_OPERANDS, Graph, Op, Tensor
from costsim.kinds import Dims

Axes = tuple[int, ...]
Matched = frozenset[str]  # the globs that match a name


class Marks(NamedTuple):
    """The globs of a policy, by what they look at."""

    layer: tuple[str, ...] = ()
    name: tuple[str, ...] = ()
    op: tuple[str, ...] = ()


class Candidate(NamedTuple):
    """What rules look at: a tensor as it is stored, or (with `copy_`) a read of it. Fields as in schema.Rule."""

    role: str
    values: str
    phase: str | None
    gemm: str | None
    operand: str | None
    copy_: str | None
    layer: Matched
    name: Matched
    op: Matched


class Read(NamedTuple):
    """Reads that are alike and may go through copies: of a floating-point tensor, by a GEMM or from the stash."""

    candidate: Candidate
    stored: int  # how the tensor is stored
    dims: Dims
    stashed: bool  # whether it is the backward's, of what the forward made
    axes: Axes  # over which the GEMM sums, else the last


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """The classes of a graph's tensors and reads, numbered in order of first appearance."""

    stored: Sequence[Candidate]
    stored_as: Mapping[str, int]  # by tensor
    reads: Sequence[Read]
    read_as: Mapping[tuple[int, int], int]  # by position of the op and operand; other reads are of the tensor itself
    ops: Sequence[int]  # by position: ops of one kind, dims and place
    tensors: Mapping[str, int]  # by tensor: stored alike, with the same dims


@dataclass(frozen=True, slots=True, eq=False)
class Kernels:
    """The kernels of a graph under a way to group ops: those that are alike, op by op."""

    group: Sequence[int]  # by position of the op: its kernel
    alike: Sequence[tuple[tuple[Op, ...], ...]]  # for each class of kernels, for each op of it: all ops in its place
    traffic_of: Mapping[str, int]  # by tensor: a class within which all that is read and written is alike
    reader: Mapping[tuple[int, int], int]  # by position of the op and operand: which reader of the tensor that is


class _Numbers(dict[Any, int]):
    """Numbers things in order of first appearance."""

    def __missing__(self, key: Any) -> int:
        number = self[key] = len(self)
        return number


class _Globs(dict[str, Matched]):
    """Which of some globs match a name, looked up once a name."""

    def __init__(self, globs: tuple[str, ...]) -> None:
        self.patterns = [(glob, compile_pattern(translate(glob))) for glob in dict.fromkeys(globs)]

    def __missing__(self, name: str) -> Matched:
        matched = self[name] = frozenset(glob for glob, pattern in self.patterns if pattern.match(name))
        return matched


def last_axis(dims: Dims) -> Axes:
    """Along which the boxes of a tensor lie as it is stored; none for a scalar."""
    return (len(dims) - 1,) if dims else ()


@lru_cache(maxsize=8)
def classes(graph: Graph, marks: Marks) -> Classes:
    """The classes of tensors and reads that a policy with those globs cannot tell apart."""
    by_layer, by_name, by_op = map(_Globs, marks)
    ops, stored, shapes, reads = _Numbers(), _Numbers(), _Numbers(), _Numbers()
    op_class = [
        ops[id(op.kind), id(op.env), op.phase, op.gemm, op.times, by_layer[op.layer], by_op[op.name]]
        for op in graph.ops
    ]
    stored_as: dict[str, int] = {}
    tensors: dict[str, int] = {}
    for name, tensor in graph.tensors.items():
        root = graph.tensors[graph.root[name]]  # written in place: one memory, one format
        maker = graph.producer.get(root.name)
        phase, gemm, op_marks = (maker.phase, maker.gemm, by_op[maker.name]) if maker else (None, None, Matched())
        seen = (root.role, root.values, phase, gemm, None, None, by_layer[root.layer], by_name[root.name], op_marks)
        stored_as[name] = stored[seen]
        tensors[name] = shapes[
            stored_as[name], tensor.role, tensor.values, tensor.dims, tensor.alias is None, by_name[name]
        ]
    read_as: dict[tuple[int, int], int] = {}
    found: list[Read] = []
    for op, own in zip(graph.ops, op_class, strict=True):
        gemm, backward = op.gemm, op.phase == "backward"
        if gemm is None and not backward:
            continue
        for i, name in enumerate(op.inputs):
            tensor = graph.tensors[name]
            stashed = backward and is_stashed(graph, name)
            if tensor.values == "float" and (gemm or stashed):
                number = read_as[op.position, i] = reads[own, i, tensors[name]]
                if number == len(found):
                    marked = by_layer[op.layer], by_name[name], by_op[op.name]
                    found.append(_read(op, i, tensor, stored_as[name], stashed, marked))
    return Classes(tuple(map(Candidate._make, stored)), stored_as, found, read_as, op_class, tensors)


def _read(
    op: Op, operand: int, tensor: Tensor, stored: int, stashed: bool, marked: tuple[Matched, Matched, Matched]
) -> Read:
    label = GEMM_OPERANDS[op.gemm][operand] if op.gemm else None
    candidate = Candidate(tensor.role, tensor.values, op.phase, op.gemm, label, None, *marked)
    axes = op.kind.contracted[operand] if op.gemm else last_axis(tensor.dims)
    return Read(candidate, stored, tensor.dims, stashed, axes)


@lru_cache(maxsize=8)
def kernels(graph: Graph, marks: Marks, group: tuple[int, ...]) -> Kernels:
    """The kernels of a graph whose ops are grouped so (by position), and which of them are alike.

    What a kernel moves depends on its ops, on the formats of what they read and write, on the copies through which
    they and all others read that, and on whether those others are outside the kernel: all of it is in the class.
    """
    found = classes(graph, marks)
    op_class, tensor_class = found.ops, found.tensors
    numbers = _Numbers()
    traffic_of: dict[str, int] = {}
    for name in graph.tensors:
        producer, maker = graph.producer.get(name), graph.maker.get(name)
        written_in = group[producer.position] if producer else None
        copied_in = group[maker.position] if maker else None
        readers = tuple(
            [
                (op_class[op.position], i, group[op.position] == written_in, group[op.position] == copied_in)
                for op, i in graph.readers.get(name, ())
            ]
        )
        made = op_class[producer.position] if producer else None
        copied = op_class[maker.position] if maker else None
        traffic_of[name] = numbers[tensor_class[name], made, copied, readers]
    reader = {(op.position, i): at for readers in graph.readers.values() for at, (op, i) in enumerate(readers)}
    alike: dict[object, list[list[Op]]] = {}
    start = 0
    for end in range(1, len(graph.ops) + 1):
        if end < len(graph.ops) and group[end] == group[start]:
            continue
        kernel = graph.ops[start:end]
        names = _Numbers()  # which of the kernel's tensors is which
        key = tuple(
            [
                (
                    op_class[op.position],
                    tuple([(traffic_of[name], reader[op.position, i]) for i, name in enumerate(op.inputs)]),
                    tuple([(traffic_of[name], traffic_of[graph.root[name]]) for name in op.outputs]),
                    tuple([names[name] for name in op.inputs + op.outputs]),
                )
                for op in kernel
            ]
        )
        places = alike.setdefault(key, [[] for _ in kernel])
        for place, op in zip(places, kernel, strict=True):
            place.append(op)
        start = end
    found_alike = [tuple(tuple(place) for place in places) for places in alike.values()]
    return Kernels(group, found_alike, traffic_of, reader)
