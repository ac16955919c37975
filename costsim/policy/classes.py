"""What no policy can tell apart: layers repeat, so every decision and every count is made once for all that are alike.

Two tensors are stored alike if rules see the same of them; two reads are alike if rules see the same of them and of
what is read; two ops are alike if they are in all of that, down to who else reads what they read and write. What rules
see of names are the globs that match and the widths given for them (`Marks`), so most policies see no names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from re import compile as compile_pattern
from typing import TYPE_CHECKING, Any, NamedTuple

from costsim.collector import paused
from costsim.graph.autodiff import AFTER_FORWARD, is_stashed
from costsim.graph.graph import GEMM_OPERANDS, Graph, Op
from costsim.graph.kinds import Dims

if TYPE_CHECKING:
    from costsim.inputs.widths import Widths  # which reads CSV: loaded where there is some


Axes = tuple[int, ...]
Matched = frozenset[str]  # the globs that match a name


class Marks(NamedTuple):
    """The globs of a policy, by what they look at, and its table of widths."""

    layer: tuple[str, ...] = ()
    name: tuple[str, ...] = ()
    op: tuple[str, ...] = ()
    widths: Widths | None = None


class Candidate(NamedTuple):
    """What rules look at: a tensor as it is stored, or (with `copy_`) a read of it. Fields as in schema.Rule."""

    role: str
    values: str
    trainable: bool
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
    again: bool  # whether it is the backward's, of what was made again: it would be of the stash, if that were kept
    axes: Axes  # over which the GEMM sums, else the last


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """The classes of a graph's tensors and reads, numbered in order of first appearance."""

    stored: Sequence[Candidate]
    stored_as: Mapping[str, int]  # by tensor
    reads: Sequence[Read]
    read_as: Mapping[tuple[int, int], int]  # by position of the op and operand; other reads are of the tensor itself
    ops: Sequence[int]  # by position: ops of one kind, dims and place
    tensors: Mapping[str, int]  # by tensor: stored alike, with the same dims, made and read by ops that are alike
    reader: Sequence[Sequence[int]]  # by position of the op, and operand: which reader of the tensor that is
    first: Sequence[Sequence[bool]]  # so too: whether it may be the first to read the tensor through some copy


class Numbers(dict[Any, int]):
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


_NONE = Matched()
Seen = tuple[Matched, Matched, Matched, tuple[int, ...]]  # of a layer, a tensor's name, an op's; its widths


def rule_phase(op: Op) -> str:
    """The phase that rules see: what is made again is as in the forward."""
    return "forward" if op.phase == "recompute" else op.phase


def last_axis(dims: Dims) -> Axes:
    """Along which the boxes of a tensor lie as it is stored; none for a scalar."""
    return (len(dims) - 1,) if dims else ()


class _Seen:
    """What a policy sees of names, looked up once each; nothing if it has no globs or widths."""

    def __init__(self, marks: Marks) -> None:
        self.layer, self.name, self.op = map(_Globs, marks[:3])
        self.widths = marks.widths
        self.nothing: Seen | None = None if any(marks) else (_NONE, _NONE, _NONE, ())

    def __call__(self, layer: str, name: str, op: str) -> Seen:
        numbers = self.widths.numbers(layer, name) if self.widths else ()
        return self.nothing or (self.layer[layer], self.name[name], self.op[op], numbers)


@lru_cache(maxsize=8)
@paused
def classes(graph: Graph, marks: Marks) -> Classes:
    """The classes of tensors and reads that a policy with those globs and widths cannot tell apart."""
    seen = _Seen(marks)
    nothing = seen.nothing
    blind = () if nothing else None
    ops, stored, shapes, reads = Numbers(), Numbers(), Numbers(), Numbers()
    op_class = [
        ops[
            id(op.kind),
            id(op.env),
            op.phase,
            op.gemm,
            op.times,
            seen(op.layer, "", op.original) if blind is None else blind,
        ]
        for op in graph.ops
    ]
    tensors, producer = graph.tensors, graph.producer
    stored_as: dict[str, int] = {}
    shape_of: dict[str, int] = {}
    for name, (_, dims, role, layer, values, alias, trainable, again_of) in tensors.items():
        if alias is not None:
            number = stored_as[alias]  # written in place: one memory, one format
        else:
            maker = producer.get(name)
            phase, gemm, op_name = (rule_phase(maker), maker.gemm, maker.original) if maker else (None, None, "")
            its = nothing or seen(layer, again_of or name, op_name)
            number = stored[role, values, trainable, phase, gemm, None, None, its]
        stored_as[name] = number
        of_name = seen("", again_of or name, "") if blind is None else blind
        shape_of[name] = shapes[number, role, values, dims, alias is None, again_of is None, of_name]
    read_as: dict[tuple[int, int], int] = {}
    found: list[Read] = []
    for op, own in zip(graph.ops, op_class, strict=True):
        gemm, backward = op.gemm, op.phase in AFTER_FORWARD
        if gemm is None and not backward:
            continue
        for i, name in enumerate(op.inputs):
            tensor = tensors[name]
            stashed = backward and is_stashed(graph, name)
            again = backward and tensor.again is not None
            if tensor.values == "float" and (gemm or stashed or again):
                number = read_as[op.position, i] = reads[own, i, shape_of[name]]
                if number == len(found):
                    label = GEMM_OPERANDS[gemm][i] if gemm else None
                    seen_of = (rule_phase(op), gemm, label, None, *seen(op.layer, tensor.again or name, op.original))
                    candidate = Candidate(tensor.role, tensor.values, tensor.trainable, *seen_of)
                    axes = op.kind.contracted[i] if gemm else last_axis(tensor.dims)
                    found.append(Read(candidate, stored_as[name], tensor.dims, stashed, again, axes))
    candidates = [Candidate(*fields, *its) for *fields, its in stored]
    return Classes(candidates, stored_as, found, read_as, op_class, *_read_alike(graph, op_class, shape_of))


def _read_alike(
    graph: Graph, op_class: Sequence[int], shape_of: Mapping[str, int]
) -> tuple[dict[str, int], list[list[int]], list[list[bool]]]:
    """Tensors by who makes and reads them; of each reader, which it is, and whether it is the first of its class."""
    numbers = Numbers()
    tensors: dict[str, int] = {}
    reader = [[0] * len(op.inputs) for op in graph.ops]
    first = [[False] * len(op.inputs) for op in graph.ops]
    all_readers, producer_of, maker_of = graph.readers, graph.producer, graph.maker
    for name, shape in shape_of.items():
        readers: list[tuple[int, int]] = []
        for at, (op, i) in enumerate(all_readers.get(name, ())):
            position = op.position
            its = (op_class[position], i)
            reader[position][i], first[position][i] = at, its not in readers
            readers.append(its)
        producer, maker = producer_of.get(name), maker_of.get(name)
        made = op_class[producer.position] if producer else None
        copied = op_class[maker.position] if maker else None
        tensors[name] = numbers[shape, made, copied, tuple(readers)]
    return tensors, reader, first
