"""What no policy can tell apart: layers repeat, so every decision and every count is made once for all that are alike.

Two tensors are stored alike if rules see the same of them; two reads are alike if rules see the same of them and of
what is read; two ops are alike if they are in all of that, down to who else reads what they read and write. What rules
see of names are the globs that match and the widths given for them (`Marks`), so most policies see no names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from re import compile as compile_pattern
from typing import Any, NamedTuple

from costsim.autodiff import is_stashed
from costsim.graph import GEMM_OPERANDS, Graph, Op
from costsim.kinds import Dims
from costsim.widths import Widths

Axes = tuple[int, ...]
Matched = frozenset[str]  # the globs that match a name


class Marks(NamedTuple):
    """The globs of a policy, by what they look at, and its table of widths."""

    layer: tuple[str, ...] = ()
    name: tuple[str, ...] = ()
    op: tuple[str, ...] = ()
    widths: Widths | None = None

    def numbers(self, layer: str, tensor: str) -> tuple[int, ...]:
        """What the widths say of a tensor, or of a read of it by an op of that layer."""
        return self.widths.of(layer, tensor) if self.widths else ()


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
    numbers: tuple[int, ...]  # of the policy's widths


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


Touch = tuple[Op, int]  # an op and the slot of a tensor in it: of its inputs, then outputs


@dataclass(frozen=True, slots=True, eq=False)
class Kernels:
    """A graph under a way to group its ops into kernels: which ops are alike in all that they move."""

    group: Sequence[int]  # by position of the op: its kernel
    alike: Sequence[tuple[Op, ...]]
    traffic_of: Mapping[str, int]  # by tensor: a class within which all that is read and written is alike
    reader: Mapping[tuple[int, int], int]  # by position of the op and operand: which reader of the tensor that is
    earlier: Mapping[tuple[int, int], tuple[Touch, ...]]  # so too: who has the tensor on chip before, in the kernel


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
    by_layer, by_name, by_op = map(_Globs, marks[:3])
    ops, stored, shapes, reads = _Numbers(), _Numbers(), _Numbers(), _Numbers()
    op_class = [
        ops[
            (id(op.kind), id(op.env), op.phase, op.gemm, op.times)
            + (by_layer[op.layer], by_op[op.name], marks.numbers(op.layer, ""))
        ]
        for op in graph.ops
    ]
    stored_as: dict[str, int] = {}
    tensors: dict[str, int] = {}
    for name, tensor in graph.tensors.items():
        root = graph.tensors[graph.root[name]]  # written in place: one memory, one format
        maker = graph.producer.get(root.name)
        phase, gemm, op_marks = (maker.phase, maker.gemm, by_op[maker.name]) if maker else (None, None, Matched())
        marked = by_layer[root.layer], by_name[root.name], op_marks, marks.numbers(root.layer, root.name)
        stored_as[name] = stored[root.role, root.values, phase, gemm, None, None, *marked]
        tensors[name] = shapes[
            (stored_as[name], tensor.role, tensor.values, tensor.dims, tensor.alias is None)
            + (by_name[name], marks.numbers("", name))
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
                    marked = by_layer[op.layer], by_name[name], by_op[op.name], marks.numbers(op.layer, name)
                    label = GEMM_OPERANDS[gemm][i] if gemm else None
                    candidate = Candidate(tensor.role, tensor.values, op.phase, gemm, label, None, *marked)
                    axes = op.kind.contracted[i] if gemm else last_axis(tensor.dims)
                    found.append(Read(candidate, stored_as[name], tensor.dims, stashed, axes))
    return Classes(tuple(map(Candidate._make, stored)), stored_as, found, read_as, op_class, tensors)


@lru_cache(maxsize=8)
def kernels(graph: Graph, marks: Marks, group: tuple[int, ...]) -> Kernels:
    """A graph whose ops are grouped into kernels so (by position).

    What an op moves depends on the formats of what it reads and writes, on the copies through which it and all others
    read that, on whether those others are in its kernel, and on what the kernel has on chip: all of it is in the class.
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
    reader: dict[tuple[int, int], int] = {}
    first: dict[tuple[int, int], bool] = {}  # whether it may be the first to read the tensor through some copy
    for of_tensor in graph.readers.values():
        before: set[tuple[int, int]] = set()
        for at, (op, i) in enumerate(of_tensor):
            reader[op.position, i] = at
            first[op.position, i] = (op_class[op.position], i) not in before
            before.add((op_class[op.position], i))
    alike: dict[object, list[Op]] = {}
    earlier: dict[tuple[int, int], tuple[Touch, ...]] = {}
    on_chip: dict[str, tuple[Touch, ...]] = {}
    for op in graph.ops:
        if op.position == 0 or group[op.position] != group[op.position - 1]:
            on_chip = {}
        inputs = []
        for i, name in enumerate(op.inputs):
            touches = on_chip.get(name, ())
            if touches:
                earlier[op.position, i] = touches
            on_chip[name] = (*touches, (op, i))
            before_this = tuple([(op_class[other.position], slot) for other, slot in touches])
            inputs.append((traffic_of[name], first[op.position, i], before_this))
        outputs = []
        for slot, name in enumerate(op.outputs, len(op.inputs)):
            root = graph.root[name]
            outputs.append((traffic_of[name], traffic_of[root]))
            on_chip[name] = on_chip[root] = (*on_chip.get(name, ()), (op, slot))
        alike.setdefault((op_class[op.position], *inputs, *outputs), []).append(op)
    return Kernels(group, [tuple(ops) for ops in alike.values()], traffic_of, reader, earlier)
