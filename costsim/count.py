"""Counts a graph under an assignment of formats: work and DRAM bits of every op, as exact integers.

A traffic model is a way to group ops into kernels: tensors born and consumed inside a group stay on chip, what several
ops of a group read is read once. `unfused` has one op a group. Everything else is the same for all models.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from costsim.formats import Format
from costsim.graph import Graph, Op, Tensor
from costsim.kinds import Dims, expand
from costsim.policy import Assignment, Copy

TRAFFIC_MODELS = ("unfused", "fused")
SCOPES = ("gemm", "layer", "step")


@dataclass(frozen=True, slots=True)
class Law:
    """What a MAC costs as a function of its operands' formats, and who says so."""

    unit: str
    cost: Callable[[Format, Format], int]
    source: str


LAWS = {
    "product": Law(
        "bit^2", lambda a, b: a.width * b.width, "area and energy of an array multiplier grow as the product of its widths"
    ),
}


@dataclass(frozen=True, slots=True)
class Move:
    """Bits that cross the DRAM interface for one op, of one tensor or copy, over a whole training step."""

    tensor: str  # what is moved: a tensor's or a copy's name
    role: str  # of the tensor whose values they are
    read_bits: int
    written_bits: int
    elements: int  # moved in either direction


@dataclass(frozen=True, slots=True)
class Row:
    """One op of a training step, counted over all its runs in the step."""

    op: str
    kind: str
    phase: str
    layer: str
    gemm: str | None
    result: Tensor  # what it makes; groupings by role and tensor give the op's work to this
    macs: int
    pair: tuple[Format, Format, Format] | None  # operands and accumulator of the MACs
    vector: Mapping[str, int]  # operations on elements, by name; `quantize` is one conversion to another format
    moves: tuple[Move, ...]


def group_ops(graph: Graph, traffic: str, scope: str) -> list[int]:
    """The kernel that each op belongs to. Groups are runs of consecutive ops, so any grouping can be executed.

    `fused`: an op joins the kernel of the op before it if its kind fuses, it reads something made in that kernel, and
    both run equally often in the same phase; a GEMM starts a kernel and takes what follows as its epilogue.
    In scope `gemm` only GEMMs exist, so there is nothing to fuse.
    """
    if traffic == "unfused" or scope == "gemm":
        return list(range(len(graph.ops)))
    groups: list[int] = []
    made: set[str] = set()
    before: Op | None = None
    for op in graph.ops:
        joins = (
            before is not None
            and op.kind.fuses
            and not op.kind.is_contraction
            and (op.phase, op.times) == (before.phase, before.times)
            and not made.isdisjoint(op.inputs)
        )
        if not joins:
            made = set()
        groups.append(groups[-1] if joins else len(groups))
        made.update(op.outputs)
        before = op
    return groups


def in_scope(op: Op, scope: str) -> bool:
    """`gemm`: matrix products only; `layer`: all ops of forward and backward; `step`: the update too."""
    if scope == "gemm":
        return op.gemm is not None
    return scope == "step" or op.phase != "update"


Held = str | Copy  # what lies in DRAM: a tensor, or a copy of it


@dataclass
class _Traffic:
    """What each op reads from and writes to DRAM, found in two passes: who reads what, then what must be written."""

    graph: Graph
    assignment: Assignment
    groups: list[int]
    reads: list[tuple[Held, ...]] = field(default_factory=list)  # of each op, by operand
    made_on_chip: dict[str, list[Copy]] = field(default_factory=dict)  # by op: copies made at each read
    casts: dict[Copy, int] = field(default_factory=dict)  # stored copies, with the op before which they are made
    written: dict[str, list[Copy]] = field(default_factory=dict)  # by op: copies written along with the source
    readers: dict[Held, set[int]] = field(default_factory=dict)  # the kernels that read it
    maker: dict[str, Op] = field(default_factory=dict)  # who writes a tensor's memory last

    def __post_init__(self) -> None:
        for op in self.graph.ops:
            for name in op.outputs:
                self.maker[self.graph.root(name)] = op
        for at, op in enumerate(self.graph.ops):
            self.reads.append(tuple([self._read(at, op, i, name) for i, name in enumerate(op.inputs)]))

    def _read(self, at: int, op: Op, operand: int, name: str) -> Held:
        """What that operand is read as; notes which copies must be made for it, and where."""
        chain = self.assignment.copies.get((op.name, operand), ())
        held: Held = name
        for copy in chain:
            if copy.placement == "on_chip":
                self.made_on_chip.setdefault(op.name, []).append(copy)
                continue
            self._make(at, copy, held)
            held = copy
        self.readers.setdefault(held, set()).add(self.groups[at])
        return held

    def _make(self, at: int, copy: Copy, source: Held) -> None:
        maker = self.maker.get(copy.tensor)
        if copy.placement == "at_producer" and maker is not None:
            copies = self.written.setdefault(maker.name, [])
            if copy not in copies:
                copies.append(copy)
        elif copy not in self.casts:
            self.casts[copy] = at
            self.readers.setdefault(source, set()).add(-1)  # a kernel of its own

    def must_write(self, held: Held, group: int) -> bool:
        """Whether it goes to DRAM: someone outside the kernel that makes it reads it, or nobody does (a result)."""
        readers = self.readers.get(held)
        return readers is None or bool(readers - {group})


class _Counter:
    """Turns ops into rows. Sizes and bits are worked out once for all tensors of the same dims."""

    def __init__(self, graph: Graph, assignment: Assignment, traffic: _Traffic) -> None:
        self.graph, self.assignment, self.traffic = graph, assignment, traffic
        self.bits_of: dict[tuple[Dims, Format, Dims], int] = {}
        self.work_of: dict[int, dict[str, int]] = {}

    def size(self, held: Held, touched: Dims | None = None) -> tuple[int, int]:
        """Bits and elements of a tensor or copy, or of the part of it that is touched."""
        if isinstance(held, Copy):
            dims, format, along = self.graph.tensors[held.tensor].dims, held.format, held.along
        else:
            dims, format = self.graph.tensors[held].dims, self.assignment.formats[held]
            along = dims[-1:]
        if touched is not None:
            dims = touched
        elements = self.graph.elements(dims)
        key = (dims, format, along)
        bits = self.bits_of.get(key)
        if bits is None:
            bits = self.bits_of[key] = format.stored_bits(elements, self.graph.elements(along))
        return bits, elements

    def work(self, op: Op) -> dict[str, int]:
        """Operations of one run of an op, by name; `mac` among them."""
        key = id(op.env)  # one environment per kind and dims
        found = self.work_of.get(key)
        if found is None:
            found = {}
            for pattern, counts in op.kind.work:
                points = self.graph.elements(expand(pattern, op.env))
                for name, n in counts.items():
                    found[name] = found.get(name, 0) + n * points
            self.work_of[key] = found
        return found

    def quantize(self, vector: dict[str, int], copy: Copy, times: int) -> None:
        """The work of making a copy: one conversion an element, and for shared exponents the largest of each box."""
        elements = self.size(copy)[1] * times
        vector["quantize"] = vector.get("quantize", 0) + elements
        if copy.format.shared_bits:
            vector["cmp"] = vector.get("cmp", 0) + elements

    def move(self, held: Held, times: int, read: bool, touched: Dims | None = None) -> Move:
        bits, elements = self.size(held, touched)
        bits *= times
        tensor = self.graph.tensors[held.tensor if isinstance(held, Copy) else held]
        name = held.name if isinstance(held, Copy) else held
        return Move(name, tensor.role, bits if read else 0, 0 if read else bits, elements * times)

    def row(self, at: int, op: Op, loaded: set[Held]) -> Row:
        """The counts of one op; `loaded` is what its kernel has on chip already."""
        moves: list[Move] = []
        for i, held in enumerate(self.traffic.reads[at]):
            if held in loaded:
                continue
            loaded.add(held)
            pattern = (op.kind.touches or {}).get(op.kind.inputs[i].name)
            moves.append(self.move(held, op.times, True, pattern and expand(pattern, op.env)))
        vector = {name: n * op.times for name, n in self.work(op).items()}
        macs = vector.pop("mac", 0)
        for copy in self.traffic.made_on_chip.get(op.name, ()):
            self.quantize(vector, copy, op.times)
        group = self.traffic.groups[at]
        for name in op.outputs:
            if self.graph.tensors[name].alias is not None or self.traffic.must_write(name, group):
                moves.append(self.move(name, op.times, False))
            loaded.add(name)
        for copy in self.traffic.written.get(op.name, ()):
            self.quantize(vector, copy, op.times)
            if self.traffic.must_write(copy, group):
                moves.append(self.move(copy, op.times, False))
            loaded.add(copy)
        pair = None
        if op.gemm is not None:
            multiplied = self.assignment.multiplied
            pair = (multiplied(op, 0), multiplied(op, 1), self.assignment.accumulator)
        result = self.graph.tensors[op.outputs[0]]
        return Row(
            op.name, op.kind.name, op.phase, op.layer, op.gemm, result, macs, pair, vector, tuple(moves)
        )

    def cast_row(self, copy: Copy, reader: Op) -> Row:
        """A quantize kernel of its own: source read, copy written, as often as its first reader runs."""
        source: Held = copy.of if copy.of is not None and copy.of.placement != "on_chip" else copy.tensor
        vector: dict[str, int] = {}
        self.quantize(vector, copy, reader.times)
        moves = (self.move(source, reader.times, True), self.move(copy, reader.times, False))
        result = self.graph.tensors[copy.tensor]
        phase = "forward" if copy.why == "stash" else reader.phase
        return Row(f"{copy.name}.cast", "cast", phase, result.layer, None, result, 0, None, vector, moves)


def count(graph: Graph, assignment: Assignment, traffic: str = "unfused", scope: str = "step") -> list[Row]:
    """Work and DRAM bits of every op of the scope, over one training step (all micro-batches).

    Raw tensors that only copies stand for are not written. Cast kernels count where their reader does, outside scope
    `gemm`, which holds nothing but GEMMs.
    """
    groups = group_ops(graph, traffic, scope)
    found = _Traffic(graph, assignment, groups)
    counter = _Counter(graph, assignment, found)
    casts: dict[int, list[Copy]] = {}
    for copy, at in found.casts.items():
        casts.setdefault(at, []).append(copy)
    rows: list[Row] = []
    loaded: set[Held] = set()
    for at, op in enumerate(graph.ops):
        if not in_scope(op, scope):
            continue
        if scope != "gemm":
            rows += [counter.cast_row(copy, op) for copy in casts.get(at, ())]
        if at == 0 or groups[at] != groups[at - 1]:
            loaded = set()
        rows.append(counter.row(at, op, loaded))
    return rows


def arithmetic_cost(rows: Iterable[Row], law: str) -> int:
    """The cost of all MACs under a law, in the law's unit (exact)."""
    cost = LAWS[law].cost
    return sum(row.macs * cost(row.pair[0], row.pair[1]) for row in rows if row.pair is not None)


def dram_bits(rows: Iterable[Row]) -> int:
    """All bits read and written."""
    return sum(move.read_bits + move.written_bits for row in rows for move in row.moves)


@dataclass(slots=True)
class Total:
    """Sums over some rows, as exact integers."""

    macs: int = 0
    arithmetic_cost: int = 0
    read_bits: int = 0
    written_bits: int = 0
    elements: int = 0
    vector: Counter[str] = field(default_factory=Counter)

    @property
    def dram_bits(self) -> int:
        """Bits that cross the DRAM interface, both ways."""
        return self.read_bits + self.written_bits


def _pair_name(row: Row) -> str:
    if row.pair is None:
        return "no MACs"
    a, b, accumulator = row.pair
    return f"{a.name} x {b.name} + {accumulator.name}"


# How to group: the group of a row's work, and of each of its moves.
GROUPINGS: dict[str, tuple[Callable[[Row], str], Callable[[Row, Move], str]]] = {
    "phase": (lambda row: row.phase, lambda row, move: row.phase),
    "kind": (lambda row: row.kind, lambda row, move: row.kind),
    "layer": (lambda row: row.layer, lambda row, move: row.layer),
    "op": (lambda row: row.op, lambda row, move: row.op),
    "pair": (_pair_name, lambda row, move: _pair_name(row)),
    "role": (lambda row: row.result.role, lambda row, move: move.role),
    "tensor": (lambda row: row.result.name, lambda row, move: move.tensor),
}


def group(weighted_rows: Iterable[tuple[int, Row]], by: str, law: str) -> dict[str, Total]:
    """Totals by one of GROUPINGS, each row weighted by a number of steps; groups in order of first appearance.

    Work belongs to the tensor (or role) that an op makes, traffic to the tensor that moves; sums over all groups
    equal the total.
    """
    of_row, of_move = GROUPINGS[by]
    totals: dict[str, Total] = {}
    for weight, row in weighted_rows:
        total = totals.setdefault(of_row(row), Total())
        total.macs += weight * row.macs
        total.arithmetic_cost += weight * arithmetic_cost((row,), law)
        for name, n in row.vector.items():
            total.vector[name] += weight * n
        for move in row.moves:
            total = totals.setdefault(of_move(row, move), Total())
            total.read_bits += weight * move.read_bits
            total.written_bits += weight * move.written_bits
            total.elements += weight * move.elements
    return totals
