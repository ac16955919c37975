"""What no policy can tell apart: layers repeat, so every decision and every count is made once for a whole class.

Tensors are stored alike if rules see the same of them. Reads are alike if rules see the same of them and of what is
read. Ops are alike if they are so in all of that, down to who else reads what they read and write. Rules see of a name
the globs that match it and the widths given for it, and of a size the bounds that it reaches (`Selectors`), so most
policies see neither.

Classes are numbers. The class of a tensor moves on to another number with every op that reads or writes it, so that
tensors with the same history end with the same number, and no two histories are ever compared. Written plainly, with a
`Candidate` for each tensor and read and a tuple of readers for each tensor, a step of llama-2-7b took 1.24 times as
long: tests/benchmarks/test_speed.py, test_training_step_built_counted_and_its_memory[7B-bf16-mixed].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from re import compile as compile_pattern
from typing import TYPE_CHECKING, Any, NamedTuple

from costsim.collector import paused
from costsim.graph.autodiff import AFTER_FORWARD, is_stashed
from costsim.graph.graph import GEMM_OPERANDS, Graph, Op
from costsim.graph.kinds import Dims
from costsim.inputs.spans import layers_in
from costsim.names import Gemm, Operand, Values

if TYPE_CHECKING:
    from costsim.inputs.widths import Widths  # which reads CSV: loaded where there is some


Axes = tuple[int, ...]  # of a tensor: places of its dims
Matched = frozenset[str]  # the globs that match a name
Reached = frozenset[int]  # the numbers of elements that rules name and that a tensor has at least
# What rules see of a layer, a tensor and an op: of their names, and of the tensor's size and widths.
Seen = tuple[Matched, Matched, Matched, Reached, tuple[int, ...]]


class Selectors(NamedTuple):
    """What a policy's rules select by: globs over layers, tensors and ops, numbers of elements, a table of widths.

    Among those over layers are spans of layers, with `LAYERS` before them.
    """

    layer: tuple[str, ...] = ()
    name: tuple[str, ...] = ()
    op: tuple[str, ...] = ()
    elements: tuple[int, ...] = ()
    widths: Widths | None = None


class Candidate(NamedTuple):
    """What rules look at: a tensor as stored, or (with `copy_`) a read of it. Fields are as in `schema_policy.Rule`."""

    role: str
    values: Values
    trainable: bool
    phase: str | None
    gemm: Gemm | None
    operand: Operand | None
    copy_: str | None
    layer: Matched
    name: Matched
    op: Matched
    elements_at_least: Reached
    numbers: tuple[int, ...]  # of the policy's widths
    naming: Matched = Matched()  # of the globs in op: those by which a rule can ask for an operand copy
    collective: str | None = None  # that writes the tensor, or reads it


class Read(NamedTuple):
    """A class of reads that may go through copies: of a floating-point tensor, by a GEMM, from the stash or by name."""

    candidate: Candidate
    stored: int  # the class of the tensor as it is stored
    dims: Dims
    stashed: bool  # whether the backward reads a tensor of the forward
    recomputed: bool  # whether the backward reads a recomputed tensor, which would be stashed if it were kept
    axes: Axes  # over which the GEMM sums, else the last


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """The classes of a graph's tensors, reads and ops."""

    stored: Sequence[Candidate]
    stored_as: Mapping[str, int]  # by tensor: its place in `stored`
    reads: Sequence[Read]
    read_as: Mapping[tuple[int, int], int]  # by position of the op and operand: its place in `reads`, if it has one
    ops: Sequence[int]  # by position: a class of ops of one kind, dims and place
    tensors: Mapping[str, int]  # by tensor: a class of one form, made and read by ops that are alike
    repeated: Mapping[int, tuple[int, ...]]  # by position of the op: operands that an op of its class has read before


class Numbering(dict[Any, int]):
    """Gives things numbers, in order of first appearance."""

    def __missing__(self, key: Any) -> int:
        number = self[key] = len(self)
        return number


class _MatchingGlobs(dict[str, Matched]):
    """By name: which of some globs match it, worked out once a name."""

    def __init__(self, globs: tuple[str, ...]) -> None:
        self.patterns = [(glob, compile_pattern(translate(glob))) for glob in dict.fromkeys(globs)]

    def __missing__(self, name: str) -> Matched:
        matched = self[name] = frozenset(glob for glob, pattern in self.patterns if pattern.match(name))
        return matched


LAYERS = "layers "  # before spans of layers, among the globs over layers


class _MatchingLayers(_MatchingGlobs):
    """By layer: which of some globs match its name, and which spans of layers have it."""

    def __init__(self, globs: tuple[str, ...], stacks: Mapping[str, int]) -> None:
        self.spans = [glob for glob in globs if glob.startswith(LAYERS)]
        self.stacks = stacks
        super().__init__(tuple(glob for glob in globs if not glob.startswith(LAYERS)))

    def __missing__(self, name: str) -> Matched:
        stack, _, layer = name.rpartition(".")
        matched = super().__missing__(name)
        if self.spans and stack in self.stacks and layer.isdigit():
            within = (layers_in(span.removeprefix(LAYERS), self.stacks[stack]) for span in self.spans)
            having = (span for span, layers in zip(self.spans, within, strict=True) if int(layer) in layers)
            matched = self[name] = matched.union(having)
        return matched


class _ReachedBounds(dict[Dims, Reached]):
    """By dims: which of some numbers of elements a tensor of these dims has at least."""

    def __init__(self, graph: Graph, bounds: tuple[int, ...]) -> None:
        self.graph, self.bounds = graph, bounds

    def __missing__(self, dims: Dims) -> Reached:
        elements = self.graph.elements(dims)
        reached = self[dims] = frozenset(bound for bound in self.bounds if elements >= bound)
        return reached


_NOTHING_SEEN: Seen = (Matched(), Matched(), Matched(), Reached(), ())
_Matcher = Callable[[str, str, str, Dims], Seen]  # of the names of a layer, a tensor and an op, and the tensor's dims


def _matcher(graph: Graph, selectors: Selectors) -> _Matcher:
    """The function that tells what rules see of names and sizes."""
    if not any(selectors):
        return lambda _layer, _name, _op, _dims: _NOTHING_SEEN
    layers = _MatchingLayers(selectors.layer, graph.stacks)
    names, ops = map(_MatchingGlobs, selectors[1:3])
    reached, widths = _ReachedBounds(graph, selectors.elements), selectors.widths

    def match(layer: str, name: str, op: str, dims: Dims) -> Seen:
        numbers = widths.numbers(layer, name) if widths else ()
        return layers[layer], names[name], ops[op], reached[dims], numbers

    return match


def rule_phase(op: Op) -> str:
    """The phase that rules see: a recomputing op has that of the forward."""
    return "forward" if op.phase == "recompute" else op.phase


def last_axis(dims: Dims) -> Axes:
    """The axis along which the boxes of a stored tensor lie; none for a scalar."""
    return (len(dims) - 1,) if dims else ()


def classify(graph: Graph, selectors: Selectors) -> Classes:
    """The classes of tensors, reads and ops that a policy with those globs and widths cannot tell apart.

    Two layers have the classes of one, and `x`, which is given, has one more:

    >>> from costsim.graph.builder import GraphBuilder
    >>> b = GraphBuilder({"batch": 4, "model": 8})
    >>> x = b.given("x", ("batch", "model"))
    >>> for layer in ("layer.0", "layer.1"):
    ...     with b.scope(layer, layer=True):
    ...         x = b.op("relu", b.linear(x, "linear", ("model",), bias=False), name="relu")
    >>> graph = b.build()
    >>> [op.name for op in graph.ops]
    ['layer.0.linear', 'layer.0.relu', 'layer.1.linear', 'layer.1.relu']
    >>> classes = classify(graph, Selectors())
    >>> classes.ops
    [0, 1, 0, 1]
    >>> [classes.stored_as[name] for name in ("x", "layer.0.linear.weight", "layer.1.linear.weight")]
    [0, 1, 1]
    >>> [classes.stored_as[op.outputs[0]] for op in graph.ops]
    [2, 3, 2, 3]
    >>> classes.read_as  # x and its weight, then the result of relu and its weight
    {(0, 0): 0, (0, 1): 1, (2, 0): 2, (2, 1): 1}

    A policy with rules for one layer tells it from the other:

    >>> classify(graph, Selectors(layer=("layer.0",))).ops
    [0, 1, 2, 3]
    """
    return _classify(graph if selectors.elements else graph.structure, selectors)


@lru_cache(maxsize=8)
@paused
def _classify(graph: Graph, selectors: Selectors) -> Classes:
    match = _matcher(graph, selectors)
    ops = _op_classes(graph, match)
    stored, stored_as, forms = _storage_classes(graph, match)
    reads, read_as = _read_classes(graph, ops, (stored_as, forms), match, _naming(graph, match))
    tensors, repeated = _tensor_classes(graph, ops, forms)
    return Classes(stored, stored_as, reads, read_as, ops, tensors, repeated)


def _axis(op: Op) -> str | None:
    """The axis of the mesh on which ranks do an op together."""
    return op.params["axis"] if op.kind.collective else None


def _op_classes(graph: Graph, match: _Matcher) -> list[int]:
    """By position of the op: its class."""
    numbers = Numbering()
    return [
        numbers[id(op.kind), id(op.env), op.phase, op.gemm, op.times, _axis(op), match(op.layer, "", op.original, ())]
        for op in graph.ops
    ]


def _storage_classes(graph: Graph, match: _Matcher) -> tuple[list[Candidate], dict[str, int], dict[str, int]]:
    """The classes of tensors as they are stored; by tensor, the place of its class; by tensor, its form.

    Tensors of one form are stored alike and have the same role, dims and name matches, whoever makes and reads them.
    """
    stored, forms = Numbering(), Numbering()
    stored_as: dict[str, int] = {}
    form_of: dict[str, int] = {}
    producer, viewed = graph.producer, graph.viewed
    for name, tensor in graph.tensors.items():
        _, dims, role, layer, values, alias, trainable, recomputes, share_of = tensor
        original = recomputes or share_of or name
        if (held := alias or viewed.get(name)) is not None:
            number = stored_as[held]  # written in place, or a view: one memory, one format
        else:
            maker = producer.get(name)
            phase, gemm, op_name = (rule_phase(maker), maker.gemm, maker.original) if maker else (None, None, "")
            matches = match(layer, original, op_name, dims)
            traits = (role, values, trainable, phase, gemm, None, None)
            number = stored[*traits, *matches, Matched(), _collective(maker)]
        stored_as[name] = number
        matches = match("", original, "", dims)
        form_of[name] = forms[number, role, values, dims, alias is None, recomputes is None, matches]
    return [Candidate(*fields) for fields in stored], stored_as, form_of


def _collective(op: Op | None) -> str | None:
    """The collective that an op is."""
    return (op.kind.collective or None) if op else None


def _naming(graph: Graph, match: _Matcher) -> Callable[[Op], Matched]:
    """By op: the globs by which rules can ask for copies of its operands.

    Rules about operands are about GEMMs, so a glob that matches one selects GEMMs alone, whatever else it matches. Ops
    that write in place, or are views, read no copies.
    """

    def matched(op: Op) -> Matched:
        return match(op.layer, "", op.original, ())[2]

    of_gemms = Matched().union(*{matched(op) for op in graph.ops if op.gemm})

    def naming(op: Op) -> Matched:
        if op.gemm:
            return matched(op)
        in_place = op.kind.lies_in or any(graph.tensors[name].alias is not None for name in op.outputs)
        return Matched() if op.phase == "update" or in_place else matched(op) - of_gemms

    return naming


def _read_classes(
    graph: Graph,
    ops: Sequence[int],
    storage: tuple[Mapping[str, int], Mapping[str, int]],
    match: _Matcher,
    naming: Callable[[Op], Matched],
) -> tuple[list[Read], dict[tuple[int, int], int]]:
    """The classes of reads that may go through copies; by position of the op and operand, the place of its class.

    `storage` has, by tensor, the class as which it is stored and its form.
    """
    numbers, (stored_as, forms) = Numbering(), storage
    reads: list[Read] = []
    read_as: dict[tuple[int, int], int] = {}
    for op, op_class in zip(graph.ops, ops, strict=True):
        gemm, after_forward = op.gemm, op.phase in AFTER_FORWARD
        named, collective = naming(op), _collective(op)
        if gemm is None and not after_forward and not named and not collective:
            continue
        for i, name in enumerate(op.inputs):
            tensor = graph.tensors[name]
            stashed = after_forward and is_stashed(graph, name)
            recomputed = after_forward and tensor.recomputes is not None
            asked = (
                gemm or collective or (named and op.kind.touched[i] is None)
            )  # of what is looked up, rows are read, no copy
            if tensor.values != "float" or not (asked or stashed or recomputed):
                continue
            number = read_as[op.position, i] = numbers[op_class, i, forms[name]]
            if number == len(reads):
                operand = GEMM_OPERANDS[gemm][i] if gemm else None
                matches = match(op.layer, tensor.original, op.original, tensor.dims)
                traits = (tensor.role, tensor.values, tensor.trainable, rule_phase(op), gemm, operand, None)
                axes = op.kind.contracted[i] if gemm else last_axis(tensor.dims)
                candidate = Candidate(*traits, *matches, named if asked else Matched(), collective)
                reads.append(Read(candidate, stored_as[name], tensor.dims, stashed, recomputed, axes))
    return reads, read_as


_WRITTEN = -1  # in place of an operand, where an op makes the tensor


class _Histories(dict[tuple[int, int, int], int]):
    """Numbers the histories of tensors: a key is the number so far, the class of the next op, and its operand."""

    def __init__(self, forms: int) -> None:
        self.readers: list[frozenset[tuple[int, int]]] = [frozenset()] * forms  # by number: classes and operands so far
        self.repeats: set[int] = set()  # numbers of histories whose last reader is like one before

    def __missing__(self, key: tuple[int, int, int]) -> int:
        number = self[key] = len(self.readers)
        before, op_class, operand = key
        readers, reader = self.readers[before], (op_class, operand)
        if reader in readers:
            self.repeats.add(number)
        self.readers.append(readers | {reader})
        return number


def _tensor_classes(
    graph: Graph, ops: Sequence[int], forms: Mapping[str, int]
) -> tuple[dict[str, int], dict[int, tuple[int, ...]]]:
    """By tensor: its class, from its form and history; by position of the op: operands that one alike read before."""
    numbers = _Histories(len(set(forms.values())))
    tensors = dict(forms)
    repeated: dict[int, tuple[int, ...]] = {}
    root, repeats = graph.root, numbers.repeats
    for op, op_class in zip(graph.ops, ops, strict=True):
        for i, name in enumerate(op.inputs):
            tensors[name] = number = numbers[tensors[name], op_class, i]
            if number in repeats:
                repeated[op.position] = (*repeated.get(op.position, ()), i)
        for name in op.outputs:
            tensors[name] = numbers[tensors[name], op_class, _WRITTEN]
            if (updated := root[name]) != name:
                tensors[updated] = numbers[tensors[updated], op_class, _WRITTEN]
    return tensors, repeated
