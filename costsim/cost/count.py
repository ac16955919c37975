"""Counts a graph under an assignment of formats: work and DRAM bits of every op, as exact integers.

A traffic model (`fusion`) is a way to group ops into kernels: tensors born and consumed inside a group stay on chip,
what several ops of a group read is read once. Everything else is the same for all models. Counted here is compulsory
traffic, as of a buffer of any size; `tiling` adds what a finite one has to move again.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from costsim.cost.laws import LAWS, Law
from costsim.formats.format import Format
from costsim.graph.fusion import TRAFFIC_MODELS as TRAFFIC_MODELS  # known here by name, too
from costsim.graph.fusion import group_ops as group_ops
from costsim.graph.fusion import grouping
from costsim.graph.graph import Graph, Op
from costsim.graph.kinds import Dims, expand
from costsim.policy.assign import Assignment, Copy
from costsim.policy.classes import Alike, Axes, Kernels, Marks, kernels

SCOPES = ("gemm", "layer", "step")


class Move(NamedTuple):
    """Bits that cross the DRAM interface for one op, of one tensor or copy, over a whole training step."""

    slot: int  # which tensor: of the op's inputs, then outputs
    copy: Copy | None  # of it, None: the tensor itself
    role: str  # of the tensor whose values they are
    read_bits: int
    written_bits: int
    elements: int  # moved in either direction

    def tensor(self, op: Op) -> str:
        """The name of what is moved: a tensor's or a copy's."""
        name = (op.inputs + op.outputs)[self.slot]
        return f"{name}{self.copy.label}" if self.copy else name


class Row(NamedTuple):
    """What each of some ops that are alike costs, over all its runs in a training step."""

    ops: list[Op]
    cast: Move | None  # set on the quantize kernel that makes this copy for the op
    kind: str
    phase: str
    gemm: str | None
    role: str  # of the result
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

    def name(self, op: Op) -> str:
        """The op's name, or that of the quantize kernel before it."""
        return f"{self.cast.tensor(op)}.cast" if self.cast else op.name

    def result(self, op: Op) -> str:
        """The tensor that is made or copied; groupings by tensor give the op's work to it."""
        return (op.inputs + op.outputs)[self.cast.slot] if self.cast else op.outputs[0]


def narrowest_scope(op: "Op | Row") -> str:
    """The first scope that an op is in; each scope holds those before it.

    `gemm`: matrix products; `layer`: all ops of forward and backward; `step`: the update too.
    """
    return "gemm" if op.gemm is not None else "step" if op.phase == "update" else "layer"


Held = Copy | None  # what of a tensor lies in DRAM: a copy, or the tensor itself


@dataclass(frozen=True, slots=True)
class _Traffic:
    """How one tensor is read by everybody, and so what of it is written: the same for all tensors of a class."""

    held: Sequence[Held]  # by reader: what crosses DRAM
    on_chip: Sequence[Sequence[Copy]]  # by reader: the copies it makes for itself
    casts: Sequence[Sequence[tuple[Copy, Held]]]  # by reader: stored copies made before it, and from what
    copies: Sequence[tuple[Copy, bool]]  # made along with the tensor, and whether they are written
    written: bool  # whether the tensor itself is


def _traffic(graph: Graph, name: str, assignment: Assignment, group: Sequence[int]) -> _Traffic:
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
                if copy not in cast:
                    casts[-1].append((copy, held))
                    outside[held] = True  # the cast is a kernel of its own
                held = cast.setdefault(copy, copy)
        held_by.append(held)
        born = producer if held is None else None if held in cast else maker
        elsewhere = born is None or group[op.position] != group[born.position]
        outside[held] = outside.get(held, False) or elsewhere
    copies = [(copy, outside.get(copy, copy not in replaced)) for copy in made]
    return _Traffic(held_by, on_chip, casts, copies, outside.get(None, None not in replaced))


class _Memo:
    """What was found of a graph before, under whatever policy with the same marks: little differs between phases."""

    def __init__(self) -> None:
        self.states: dict[object, int] = {}
        self.traffic: dict[int, _Traffic] = {}
        self.rows: dict[object, list[Row]] = {}
        self.sizes: dict[tuple[Dims, Axes | None, str], tuple[int, int]] = {}


@lru_cache(maxsize=8)
def _memo(_graph: Graph, _marks: Marks) -> _Memo:
    return _Memo()


class _Counter:
    """Turns ops into rows. What is alike, here or in another phase, is worked out once."""

    def __init__(self, graph: Graph, assignment: Assignment, kernels: Kernels) -> None:
        self.graph, self.assignment, self.kernels = graph, assignment, kernels
        self.reader = assignment.classes.reader
        self.memo = _memo(graph, assignment.marks)
        self.states = [self.state(name, its) for name, its in kernels.traffic]

    def state(self, name: str, its: object) -> int:
        """A number for what a class of tensors is under this assignment: its format and its readers' copies."""
        chains = tuple([self.assignment.chain(op, i) for op, i in self.graph.readers.get(name, ())])
        key = (its, self.assignment.format(name).name, chains)
        return self.memo.states.setdefault(key, len(self.memo.states))

    def traffic(self, name: str) -> _Traffic:
        """How a tensor is read and what of it is written."""
        state = self.states[self.kernels.traffic_of[name]]
        if state not in self.memo.traffic:
            self.memo.traffic[state] = _traffic(self.graph, name, self.assignment, self.kernels.group)
        return self.memo.traffic[state]

    def size(self, dims: Dims, axes: Axes | None, format: Format) -> tuple[int, int]:
        """Bits and elements of something stored with boxes along these axes; None: along the last."""
        key = (dims, axes, format.name)
        found = self.memo.sizes.get(key)
        if found is None:
            elements = self.graph.elements(dims)
            run = self.graph.elements(dims[-1:] if axes is None else tuple([dims[axis] for axis in axes]))
            found = self.memo.sizes[key] = format.stored_bits(elements, run), elements
        return found

    def quantize(self, vector: Mapping[str, int], copy: Copy, name: str, times: int) -> Mapping[str, int]:
        """Work plus that of making a copy: a conversion an element, for what blocks share the largest of each block."""
        elements = self.graph.elements(self.graph.tensors[name].dims) * times
        more = {"quantize": elements, "cmp": elements} if copy.format.scales else {"quantize": elements}
        return {what: vector.get(what, 0) + more.get(what, 0) for what in {**vector, **more}}

    def move(self, op: Op, slot: int, held: Held, times: int, write: bool, touched: Dims | None = None) -> Move:
        """What crosses the DRAM interface if a tensor or a copy (or a part) is read or written so many times."""
        tensor = self.graph.tensors[(op.inputs + op.outputs)[slot]]
        axes, format = (held.axes, held.format) if held else (None, self.assignment.format(tensor.name))
        bits, elements = self.size(tensor.dims if touched is None else touched, axes, format)
        read_bits, written_bits = (0, bits * times) if write else (bits * times, 0)
        return Move(slot, held, tensor.role, read_bits, written_bits, elements * times)

    def on_chip(self, op: Op, operand: int, held: Held) -> bool:
        """Whether the kernel has what the op reads on chip: an op before read or made just that."""
        for other, slot in self.kernels.earlier.get((op.position, operand), ()):
            traffic = self.traffic(op.inputs[operand])
            if slot < len(other.inputs):
                if traffic.held[self.reader[other.position][slot]] == held:
                    return True
            elif held is None or any(held == copy for copy, _ in traffic.copies):
                return True
        return False

    def rows(self, alike: Alike) -> list[Row]:
        """The counts of ops that are alike, after those of the quantize kernels that they need."""
        accumulator = self.assignment.accumulator.name
        key = (alike.rest, tuple([self.states[number] for number in alike.tensors]), accumulator)
        found = self.memo.rows.get(key)
        if found is None:
            found = self.memo.rows[key] = [*self.cast_rows(alike.ops), self.row(alike.ops)]
        return found if found[-1].ops is alike.ops else [row._replace(ops=alike.ops) for row in found]

    def row(self, ops: list[Op]) -> Row:
        """The counts of ops that are alike."""
        op = ops[0]
        times, kind = op.times, op.kind
        macs, vector = self.graph.work(op)
        moves: list[Move] = []
        for i, name in enumerate(op.inputs):
            traffic, at = self.traffic(name), self.reader[op.position][i]
            held = traffic.held[at]
            again = 0
            for copy in traffic.on_chip[at]:
                vector = self.quantize(vector, copy, name, times)
                again += copy.second_read
            if self.on_chip(op, i, held):
                continue
            pattern = kind.touched[i]
            part = None if pattern is None or held else expand(pattern, op.env)
            moves += [self.move(op, i, held, times, False, part)] * (1 + again)
        for slot, name in enumerate(op.outputs, len(op.inputs)):
            if self.traffic(name).written or self.graph.tensors[name].alias is not None:
                moves.append(self.move(op, slot, None, times, True))
            root = self.graph.root[name]
            if self.graph.maker[root] is not op:
                continue  # what is written in place later has its copies made then
            names = op.inputs + op.outputs
            of = names.index(root) if root in names else slot
            for copy, written in self.traffic(root).copies:
                vector = self.quantize(vector, copy, root, times)
                if written:
                    moves.append(self.move(op, of, copy, times, True))
        pair, summed = None, 0
        if op.gemm is not None:
            dims = self.graph.tensors[op.inputs[0]].dims
            summed = self.graph.elements(tuple([dims[axis] for axis in kind.contracted[0]]))
            multiplied = self.assignment.multiplied
            pair = (multiplied(op, 0), multiplied(op, 1), self.assignment.accumulator)
        role = self.graph.tensors[op.outputs[0]].role
        return Row(ops, None, kind.name, op.phase, op.gemm, role, macs, summed, pair, vector, tuple(moves))

    def cast_rows(self, ops: list[Op]) -> list[Row]:
        """Quantize kernels of their own before ops: source read, copy written, as often as the source changes."""
        op, rows = ops[0], []
        for slot, name in enumerate(op.inputs):
            for copy, source in self.traffic(name).casts[self.reader[op.position][slot]]:
                role = self.graph.tensors[name].role
                maker = self.graph.producer.get(name)
                given = 1 if role in ("weight", "state") else self.graph.micro_batches
                times = given if maker is None else maker.times
                vector = self.quantize({}, copy, name, times)
                written = self.move(op, slot, copy, times, True)
                read = (self.move(op, slot, source, times, False),) * (2 if copy.second_read else 1)
                phase = "forward" if copy.why == "stash" else op.phase
                rows.append(Row(ops, written, "cast", phase, None, role, 0, 0, None, vector, (*read, written)))
        return rows


def stored_bits(graph: Graph, assignment: Assignment, name: str, copy: Copy | None) -> int:
    """Exact bits that a tensor takes in memory, or a copy of it."""
    dims = graph.tensors[name].dims
    format = copy.format if copy else assignment.format(name)
    run = graph.elements(tuple([dims[axis] for axis in copy.axes]) if copy else dims[-1:])
    return format.stored_bits(graph.elements(dims), run)


def count(graph: Graph, assignment: Assignment, traffic: str = "unfused", scope: str = "step") -> list[Row]:
    """Work and DRAM bits of every op of the scope, over one training step (all micro-batches); a row for all alike.

    Raw tensors that only copies stand for are not written. A cast kernel counts before the first op that reads it (of a
    stash, as part of the forward), and not in scope `gemm`, which holds nothing but GEMMs. In scope `gemm` there is
    nothing to fuse. Under `tiled` these are the rows of a buffer that holds everything; see `tiling.tile_rows`.
    """
    found = kernels(graph, assignment.marks, group_ops(graph, grouping(traffic, scope)))
    counter = _Counter(graph, assignment, found)
    scopes = SCOPES[: SCOPES.index(scope) + 1]
    rows: list[Row] = []
    for alike in found.alike:
        if narrowest_scope(alike.ops[0]) in scopes:
            its = counter.rows(alike)
            rows += its if scope != "gemm" else its[-1:]
    return rows


class Reductions(NamedTuple):
    """How many times less a total is than a baseline's; None where a law is not defined, or nothing is left."""

    arithmetic_reduction: Fraction | None
    dram_reduction: Fraction | None


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

    def reductions(self, base: "Total") -> "Reductions":
        """How many times less than `base` this is."""
        costs = base.arithmetic_cost, self.arithmetic_cost
        return Reductions(
            Fraction(costs[0], costs[1]) if costs[0] is not None and costs[1] else None,
            Fraction(base.dram_bits, self.dram_bits) if self.dram_bits else None,
        )

    def add_work(self, weight: int, row: Row, law: Law) -> None:
        """Add what each op of a row computes, `weight` times."""
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
        total.add_work(len(row.ops), row, LAWS[law])
        for move in row.moves:
            total.add_move(len(row.ops), move)
    return total


def sum_scopes(rows: Iterable[Row], law: str) -> dict[str, Total]:
    """The total of the rows of one step in each scope."""
    parts: dict[str, list[Row]] = {scope: [] for scope in SCOPES}
    for row in rows:
        parts[narrowest_scope(row)].append(row)
    totals: dict[str, Total] = {}
    held = Total()
    for scope in SCOPES:
        part = sum_rows(parts[scope], law)
        part.add(1, held)
        totals[scope] = held = part
    return totals


# How to group: the group of an op's work, and of a move where that is not the op's. Groups that go by names tell ops
# apart that are alike.
GROUPINGS: dict[str, tuple[Callable[[Row, Op], str], Callable[[Move, Op], str] | None]] = {
    "phase": (lambda row, _: row.phase, None),
    "kind": (lambda row, _: row.kind, None),
    "layer": (lambda _, op: op.layer, None),
    "role": (lambda row, _: row.role, lambda move, _: move.role),
    "tensor": (Row.result, Move.tensor),
    "op": (Row.name, None),
    "pair": (lambda row, _: row.pair_name, None),
    "gemm": (lambda row, _: row.gemm or "no GEMM", None),
}
_BY_NAME = ("layer", "tensor", "op")


def each_op(rows: Iterable[Row]) -> list[tuple[Op, Row]]:
    """Every op with its row, in the order of the graph."""
    return sorted(((op, row) for row in rows for op in row.ops), key=lambda pair: pair[0].position)


def group(weighted_rows: Iterable[tuple[int, list[Row]]], by: str, law: str) -> dict[str, Total]:
    """Totals by one of GROUPINGS, of lists of rows each weighted by a number of steps; in order of first appearance.

    Work belongs to the tensor (or role) that an op makes, traffic to the tensor that moves; sums over all groups
    equal the total.
    """
    of_row, of_move = GROUPINGS[by]
    totals: dict[str, Total] = {}
    for steps, rows in weighted_rows:
        members = each_op(rows) if by in _BY_NAME else [(row.ops[0], row) for row in rows]
        for op, row in members:
            weight = steps if by in _BY_NAME else steps * len(row.ops)
            own = totals.setdefault(of_row(row, op), Total())
            own.add_work(weight, row, LAWS[law])
            for move in row.moves:
                total = totals.setdefault(of_move(move, op), Total()) if of_move else own
                total.add_move(weight, move)
    return totals
