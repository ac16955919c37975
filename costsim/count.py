"""Counts a graph under an assignment of formats: work and DRAM bits of every op, as exact integers.

A traffic model is a way to group ops into kernels: tensors born and consumed inside a group stay on chip, what several
ops of a group read is read once. `unfused` has one op a group. Everything else is the same for all models.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from costsim.assign import Assignment, Axes, Copy
from costsim.formats import Format
from costsim.graph import Graph, Op, Tensor
from costsim.kinds import Dims, expand
from costsim.laws import LAWS, Law

TRAFFIC_MODELS = ("unfused", "fused")
SCOPES = ("gemm", "layer", "step")


class Move(NamedTuple):
    """Bits that cross the DRAM interface for one op, of one tensor or copy, over a whole training step."""

    tensor: str  # what is moved: a tensor's or a copy's name
    role: str  # of the tensor whose values they are
    read_bits: int
    written_bits: int
    elements: int  # moved in either direction


class Row(NamedTuple):
    """One op of a training step, counted over all its runs in the step."""

    op: str
    kind: str
    phase: str
    layer: str
    gemm: str | None
    result: Tensor  # what it makes; groupings by role and tensor give the op's work to this
    macs: int
    summed: int  # products in each sum of a GEMM, else 0
    pair: tuple[Format, Format, Format] | None  # operands and accumulator of the MACs
    vector: Mapping[str, int]  # operations on elements, by name; `quantize` is one conversion to another format
    moves: tuple[Move, ...]

    @property
    def pair_name(self) -> str:
        """The formats of the MACs, for tables."""
        if self.pair is None:
            return "no MACs"
        a, b, accumulator = self.pair
        return f"{a.name} x {b.name} + {accumulator.name}"


@lru_cache(maxsize=1)
def group_ops(graph: Graph, traffic: str, scope: str) -> tuple[int, ...]:
    """The kernel that each op belongs to. Groups are runs of consecutive ops, so any grouping can be executed.

    `fused`: an op joins the kernel of the op before it if its kind fuses, it reads something made in that kernel (or
    nothing at all, as a drawn mask), and both run equally often in the same phase; a GEMM starts a kernel and takes
    what follows as its epilogue.
    In scope `gemm` only GEMMs exist, so there is nothing to fuse.
    """
    if traffic == "unfused" or scope == "gemm":
        return tuple(range(len(graph.ops)))
    groups: list[int] = []
    made: set[str] = set()
    before: Op | None = None
    for op in graph.ops:
        joins = (
            before is not None
            and op.kind.fuses
            and not op.kind.is_contraction
            and (op.phase, op.times) == (before.phase, before.times)
            and (not op.inputs or not made.isdisjoint(op.inputs))
        )
        if not joins:
            made = set()
        groups.append(groups[-1] if joins else len(groups))
        made.update(op.outputs)
        before = op
    return tuple(groups)


def in_scope(op: Op, scope: str) -> bool:
    """`gemm`: matrix products only; `layer`: all ops of forward and backward; `step`: the update too."""
    if scope == "gemm":
        return op.gemm is not None
    return scope == "step" or op.phase != "update"


_SEVERAL = -1

Held = str | Copy  # what lies in DRAM: a tensor, or a copy of it


class _Traffic:
    """Who reads what from DRAM, and which copies must be made for it: known before any op is counted."""

    def __init__(self, graph: Graph, assignment: Assignment, groups: Sequence[int]) -> None:
        self.graph, self.groups = graph, groups
        self.reads: list[tuple[Held, ...]] = []  # of each op, by operand
        self.made_on_chip: dict[str, list[Copy]] = {}  # by op: copies made at each read
        self.written: dict[str, dict[Copy, None]] = {}  # by op: copies written along with their source
        self.casts: dict[Copy, tuple[int, Held]] = {}  # stored copies: before which op they are made, and from what
        self.reader: dict[Held, int] = {}  # the kernel that reads it, _SEVERAL if more than one does
        self.replaced: set[Held] = set()  # what copies made along with it stand for
        chained = {name for name, _ in assignment.copies}
        reader = self.reader
        for at, op in enumerate(graph.ops):
            held: tuple[Held, ...] = op.inputs
            if op.name in chained:
                held = tuple([self._follow(at, op, i, assignment) for i in range(len(op.inputs))])
            self.reads.append(held)
            group = groups[at]
            for item in held:
                if reader.setdefault(item, group) != group:
                    reader[item] = _SEVERAL

    def _follow(self, at: int, op: Op, operand: int, assignment: Assignment) -> Held:
        """What that operand is read as, down its chain of copies; notes where each of them is made."""
        held: Held = op.inputs[operand]
        for copy in assignment.copies.get((op.name, operand), ()):
            if copy.placement == "on_chip":
                self.made_on_chip.setdefault(op.name, []).append(copy)
                continue
            maker = self.graph.maker.get(copy.tensor)
            if copy.placement == "at_producer" and maker is not None:
                self.written.setdefault(maker.name, {})[copy] = None
                self.replaced.add(held)
            elif copy not in self.casts:
                self.casts[copy] = (at, held)
                self.reader[held] = _SEVERAL  # the cast is a kernel of its own
            held = copy
        return held

    def must_write(self, held: Held, group: int) -> bool:
        """Whether it goes to DRAM: a kernel other than its maker's reads it, or it is a result that nobody reads."""
        reader = self.reader.get(held)
        return held not in self.replaced if reader is None else reader != group


class _Counter:
    """Turns ops into rows. What ops of the same kind, dims and formats share is worked out once."""

    def __init__(self, graph: Graph, assignment: Assignment, traffic: _Traffic) -> None:
        self.graph, self.assignment, self.traffic = graph, assignment, traffic
        self.sizes: dict[tuple[Dims, Axes | None, str], tuple[int, int]] = {}
        self.moved_once: dict[Held, tuple[str, str, int, int]] = {}
        self.works: dict[tuple[str, int, int], tuple[int, Mapping[str, int]]] = {}

    def size(self, dims: Dims, axes: Axes | None, format: Format) -> tuple[int, int]:
        """Bits and elements of something stored with boxes along these axes; None: along the last."""
        key = (dims, axes, format.name)
        found = self.sizes.get(key)
        if found is None:
            elements = self.graph.elements(dims)
            run = self.graph.elements(dims[-1:] if axes is None else tuple(dims[axis] for axis in axes))
            found = self.sizes[key] = format.stored_bits(elements, run), elements
        return found

    def work(self, op: Op) -> tuple[int, Mapping[str, int]]:
        """MACs and vector operations of all runs of an op."""
        key = (op.kind.name, id(op.env), op.times)  # one environment per kind and dims
        found = self.works.get(key)
        if found is None:
            vector: dict[str, int] = {}
            for pattern, counts in op.kind.work:
                points = self.graph.elements(expand(pattern, op.env)) * op.times
                for name, n in counts.items():
                    vector[name] = vector.get(name, 0) + n * points
            found = self.works[key] = vector.pop("mac", 0), vector
        return found

    def quantize(self, vector: Mapping[str, int], copy: Copy, times: int) -> Mapping[str, int]:
        """Work plus that of making a copy: a conversion an element, for what blocks share the largest of each block."""
        elements = self.graph.elements(self.graph.tensors[copy.tensor].dims) * times
        more = {"quantize": elements, "cmp": elements if copy.format.scales else 0}
        return {name: vector.get(name, 0) + more.get(name, 0) for name in {**vector, **more}}

    def moved(self, held: Held) -> tuple[str, str, int, int]:
        """What one crossing of the DRAM interface moves: name, role, bits, elements."""
        found = self.moved_once.get(held)
        if found is None:
            if isinstance(held, Copy):
                tensor, name, axes, format = self.graph.tensors[held.tensor], held.name, held.axes, held.format
            else:
                tensor, name, axes, format = self.graph.tensors[held], held, None, self.assignment.formats[held]
            bits, elements = self.size(tensor.dims, axes, format)
            found = self.moved_once[held] = (name, tensor.role, bits, elements)
        return found

    def read(self, held: Held, times: int) -> Move:
        """All of it is read, so many times."""
        name, role, bits, elements = self.moved(held)
        return Move(name, role, bits * times, 0, elements * times)

    def written(self, held: Held, times: int) -> Move:
        """All of it is written, so many times."""
        name, role, bits, elements = self.moved(held)
        return Move(name, role, 0, bits * times, elements * times)

    def read_part(self, name: str, touched: Dims, times: int) -> Move:
        """A part of a tensor is read, so many times."""
        bits, elements = self.size(touched, None, self.assignment.formats[name])
        return Move(name, self.graph.tensors[name].role, bits * times, 0, elements * times)

    def row(self, at: int, op: Op, loaded: set[Held]) -> Row:
        """The counts of one op; `loaded` is what its kernel has on chip already."""
        traffic, times, kind = self.traffic, op.times, op.kind
        moves: list[Move] = []
        for i, held in enumerate(traffic.reads[at]):
            if held in loaded:
                continue
            loaded.add(held)
            pattern = kind.touched[i]
            if pattern is None or isinstance(held, Copy):
                moves.append(self.read(held, times))
            else:
                moves.append(self.read_part(held, expand(pattern, op.env), times))
        macs, vector = self.work(op)
        for copy in traffic.made_on_chip.get(op.name, ()):
            vector = self.quantize(vector, copy, times)
        group = traffic.groups[at]
        for name in op.outputs:
            if traffic.must_write(name, group) or self.graph.tensors[name].alias is not None:
                moves.append(self.written(name, times))
            loaded.add(name)
        for copy in traffic.written.get(op.name, ()):
            vector = self.quantize(vector, copy, times)
            if traffic.must_write(copy, group):
                moves.append(self.written(copy, times))
            loaded.add(copy)
        pair, summed = None, 0
        if op.gemm is not None:
            dims = self.graph.tensors[op.inputs[0]].dims
            summed = self.graph.elements(tuple([dims[axis] for axis in kind.contracted[0]]))
            multiplied = self.assignment.multiplied
            pair = (multiplied(op, 0), multiplied(op, 1), self.assignment.accumulator)
        result = self.graph.tensors[op.outputs[0]]
        return Row(op.name, kind.name, op.phase, op.layer, op.gemm, result, macs, summed, pair, vector, tuple(moves))

    def cast_row(self, copy: Copy, source: Held, reader: Op) -> Row:
        """A quantize kernel of its own: source read, copy written, as often as the source changes."""
        result = self.graph.tensors[copy.tensor]
        maker = self.graph.producer.get(copy.tensor)
        given = 1 if result.role in ("weight", "state") else self.graph.micro_batches
        times = given if maker is None else maker.times
        vector = self.quantize({}, copy, times)
        moves = (self.read(source, times), self.written(copy, times))
        phase = "forward" if copy.why == "stash" else reader.phase
        return Row(f"{copy.name}.cast", "cast", phase, result.layer, None, result, 0, 0, None, vector, moves)


def count(graph: Graph, assignment: Assignment, traffic: str = "unfused", scope: str = "step") -> list[Row]:
    """Work and DRAM bits of every op of the scope, over one training step (all micro-batches).

    Raw tensors that only copies stand for are not written. A cast kernel counts before the first op that reads it (of a
    stash, as part of the forward), and not in scope `gemm`, which holds nothing but GEMMs.
    """
    groups = group_ops(graph, traffic, scope)
    found = _Traffic(graph, assignment, groups)
    counter = _Counter(graph, assignment, found)
    casts: dict[int, list[tuple[Copy, Held]]] = {}
    for copy, (at, source) in found.casts.items():
        casts.setdefault(at, []).append((copy, source))
    rows: list[Row] = []
    loaded: set[Held] = set()
    for at, op in enumerate(graph.ops):
        if not in_scope(op, scope):
            continue
        if scope != "gemm":
            rows += [counter.cast_row(copy, source, op) for copy, source in casts.get(at, ())]
        if at == 0 or groups[at] != groups[at - 1]:
            loaded = set()
        rows.append(counter.row(at, op, loaded))
    return rows


@dataclass(slots=True)
class Total:
    """Sums over some rows, as exact integers."""

    macs: int = 0
    priced: int = 0  # cost of the MACs that the law is defined for
    unpriced: set[str] = field(default_factory=set)  # pairs of formats that it is not defined for
    read_bits: int = 0
    written_bits: int = 0
    elements: int = 0
    vector: dict[str, int] = field(default_factory=dict)  # operations on elements, by name

    @property
    def arithmetic_cost(self) -> int | None:
        """Cost of all MACs in the law's unit; None if the law is not defined for some."""
        return None if self.unpriced else self.priced

    @property
    def dram_bits(self) -> int:
        """Bits that cross the DRAM interface, both ways."""
        return self.read_bits + self.written_bits

    def add_work(self, weight: int, row: Row, law: Law) -> None:
        """Add what a row computes, `weight` times."""
        if row.pair is not None:
            self.macs += weight * row.macs
            cost = law.cost(*row.pair, row.summed)
            if cost is None:
                self.unpriced.add(row.pair_name)
            else:
                self.priced += weight * row.macs * cost
        for name, n in row.vector.items():
            self.vector[name] = self.vector.get(name, 0) + weight * n

    def add_move(self, weight: int, move: Move) -> None:
        """Add what a move carries, `weight` times."""
        self.read_bits += weight * move.read_bits
        self.written_bits += weight * move.written_bits
        self.elements += weight * move.elements

    def add(self, weight: int, other: "Total") -> None:
        """Add another total, `weight` times."""
        self.macs += weight * other.macs
        self.priced += weight * other.priced
        self.unpriced |= other.unpriced
        self.read_bits += weight * other.read_bits
        self.written_bits += weight * other.written_bits
        self.elements += weight * other.elements
        for name, n in other.vector.items():
            self.vector[name] = self.vector.get(name, 0) + weight * n


def sum_rows(rows: Iterable[Row], law: str) -> Total:
    """The total of some rows of one step."""
    total = Total()
    for row in rows:
        total.add_work(1, row, LAWS[law])
        for move in row.moves:
            total.add_move(1, move)
    return total


# How to group: the group of a row's work, and of a move where that is not the row's.
GROUPINGS: dict[str, tuple[Callable[[Row], str], Callable[[Move], str] | None]] = {
    "phase": (lambda row: row.phase, None),
    "kind": (lambda row: row.kind, None),
    "layer": (lambda row: row.layer, None),
    "role": (lambda row: row.result.role, lambda move: move.role),
    "tensor": (lambda row: row.result.name, lambda move: move.tensor),
    "op": (lambda row: row.op, None),
    "pair": (lambda row: row.pair_name, None),
}


def group(weighted_rows: Iterable[tuple[int, Row]], by: str, law: str) -> dict[str, Total]:
    """Totals by one of GROUPINGS, each row weighted by a number of steps; groups in order of first appearance.

    Work belongs to the tensor (or role) that an op makes, traffic to the tensor that moves; sums over all groups
    equal the total.
    """
    of_row, of_move = GROUPINGS[by]
    totals: dict[str, Total] = {}
    for weight, row in weighted_rows:
        own = totals.setdefault(of_row(row), Total())
        own.add_work(weight, row, LAWS[law])
        for move in row.moves:
            total = totals.setdefault(of_move(move), Total()) if of_move else own
            total.add_move(weight, move)
    return totals
