"""Counts a graph under an assignment of formats: work and DRAM bits of every op, as exact integers.

A traffic model (`fusion`) is a way to group ops into kernels: tensors born and consumed inside a group stay on chip,
what several ops of a group read is read once. Everything else is the same for all models. Counted here is compulsory
traffic, as of a buffer of any size; `tiling` adds what a finite one has to move again.
"""

from functools import lru_cache

from costsim.cost.classes import Alike, Globs, KernelClasses, is_counted, kernel_classes, telling
from costsim.cost.laws import Additions
from costsim.cost.messages import message_read
from costsim.cost.parts import NO_WORK, Parts, added, bits_of
from costsim.cost.row import Move, Row, narrowest_scope
from costsim.cost.sums import Sums, factor, summed, sums
from costsim.cost.traffic import Held, TensorTraffic, tensor_traffic
from costsim.cost.writes import WRITES, Gemms
from costsim.graph.fusion import grouping
from costsim.graph.graph import Graph, Op
from costsim.names import SCOPES, Traffic, Writes
from costsim.policy.assign import Assignment, Chain, Copy
from costsim.policy.classes import Classes, Selectors


class _Memo:
    """What is known of a graph from before, under any policy with the same selectors: little differs between phases."""

    def __init__(self) -> None:
        self.chains: dict[Chain, int] = {}  # each one's number
        self.states: dict[object, int] = {}
        self.traffic: dict[int, TensorTraffic] = {}
        self.rows: dict[object, list[Row]] = {}
        self.sums: dict[object, Sums] = {}  # GEMMs of all layers multiply the same few pairs


@lru_cache(maxsize=8)
def _memo(_graph: Graph, _selectors: Selectors, _by_steps: bool) -> _Memo:
    return _Memo()


@lru_cache(maxsize=16)
def _parts(graph: Graph, kernels: KernelClasses) -> Parts:
    return Parts(graph, kernels)


_Form = tuple[int, object, int, tuple[int, ...]]


@lru_cache(maxsize=16)
def _forms(graph: Graph, kernels: KernelClasses, classes: Classes) -> list[_Form]:
    """Of each class of tensors: its number, what tells it from others, and the classes as which it is stored and read.

    Of reads there is one a reader, -1 for those without copies.
    """
    return [
        (
            number,
            history,
            classes.stored_as[name],
            tuple([classes.read_as.get((op.position, i), -1) for op, i in graph.readers.get(name, ())]),
        )
        for number, (name, history) in kernels.traffic.items()
    ]


class _Counter:
    """Turns ops into rows. What is alike, here or in another phase, is worked out once."""

    def __init__(
        self, graph: Graph, assignment: Assignment, kernels: KernelClasses, memo: _Memo, left_out: Globs
    ) -> None:
        self.graph, self.assignment, self.kernels, self.memo, self.left_out = graph, assignment, kernels, memo, left_out
        self.parts = _parts(graph, kernels)
        self.states = self._states()
        self.of_class = _OfClass(self)

    def _states(self) -> dict[int, int]:
        """By class of tensors: a number for what it is under this assignment, in its format and its readers' copies."""
        memo, formats = self.memo, [format.name for format in self.assignment.stored]
        chains = [memo.chains.setdefault(chain, len(memo.chains)) for chain in (*self.assignment.chains, ())]
        states = {}
        for number, history, stored, reads in _forms(self.graph, self.kernels, self.assignment.classes):
            key = (history, formats[stored], tuple([chains[read] for read in reads]))  # -1: the last, which is empty
            states[number] = memo.states.setdefault(key, len(memo.states))
        return states

    def traffic(self, name: str) -> TensorTraffic:
        """How a tensor is read and what of it is written."""
        return self.of_class[self.kernels.traffic_of[name]]

    def rows(self, alike: Alike) -> list[Row]:
        """The counts of ops that are alike, after those of the quantize kernels that they need."""
        accumulator = self.assignment.accumulator(alike.ops[0])
        key = (alike.place, alike.touched, tuple([self.states[number] for number in alike.tensors]), accumulator)
        rows = self.memo.rows.get(key)
        if rows is None:
            rows = self.memo.rows[key] = self._count(alike)
        return rows if rows[-1].ops is alike.ops else [row._replace(ops=alike.ops) for row in rows]

    def _count(self, alike: Alike) -> list[Row]:
        op, graph, assignment, parts = alike.ops[0], self.graph, self.assignment, self.parts
        traffic = [self.of_class[number] for number in alike.tensors]  # of inputs, then two of each output
        rows: list[Row] = []
        moves: list[Move] = []
        macs, work = graph.work(op)
        slots = len(op.inputs)
        for slot in range(slots):
            if traffic[slot].cast:
                rows += self._casts(alike, slot, traffic[slot])
            part = parts.read(alike, slot, traffic[slot])
            work = added(work, part.work)
            moves += part.moves
        for slot in range(slots, slots + len(op.outputs)):
            at = 2 * slot - slots
            part = parts.written(op, slot, traffic[at], traffic[at + 1])
            work = added(work, part.work)
            moves += part.moves
        pair, products = None, 0
        additions: Additions = ()
        if op.gemm is not None:
            products = summed(graph, op)
            a, b = (factor(graph, op, i, traffic[i].format, assignment.chain(op, i)) for i in (0, 1))
            multiplied = (macs, assignment.accumulator(op), a, b)
            if multiplied not in self.memo.sums:
                self.memo.sums[multiplied] = sums(graph, *multiplied)
            pair, additions = self.memo.sums[multiplied]
        what = (op.kind.name, op.phase, op.gemm, graph.tensors[op.outputs[0]].role)
        messages = (message_read(self.graph, op, traffic[0]),) if op.kind.collective and op.inputs else ()
        rows.append(Row(alike.ops, None, *what, macs, products, pair, additions, work, tuple(moves), messages))
        return rows

    def _casts(self, alike: Alike, slot: int, traffic: TensorTraffic) -> list[Row]:
        """Quantize kernels of their own before ops that are alike, for one operand."""
        role = self.graph.tensors[alike.ops[0].inputs[slot]].role
        return [
            Row(alike.ops, written, "cast", phase, None, role, 0, 0, None, (), work, moves)
            for phase, written, (work, moves) in self.parts.casts(alike, slot, traffic)
        ]

    def gemm_rows(self, alike: Alike, writes: Writes) -> list[Row]:
        """Of ops that are alike, what scope `gemm` counts: GEMMs, and as many of the writes as are asked for."""
        gemm = is_counted(alike.ops[0], self.left_out)
        if not gemm and not WRITES[writes].of_others:
            return []
        rows = self.rows(alike)
        own, others = (rows[-1:], rows[:-1]) if gemm else ([], rows)
        written = [self.writes_alone(row, writes) for row in others] if WRITES[writes].of_others else ()
        return [*(row for row in written if row.moves), *(self.with_writes(row, writes) for row in own)]

    def with_writes(self, row: Row, writes: Writes) -> Row:
        """The row of a GEMM, of its writes those that are asked for."""
        moves = tuple([move for move in row.moves if move.read_bits or self.is_asked(row.ops[0], True, move, writes)])
        return row if len(moves) == len(row.moves) else row._replace(moves=moves)

    def writes_alone(self, row: Row, writes: Writes) -> Row:
        """Of a row of other ops, nothing but the writes that are asked for."""
        op = row.ops[0]
        moves = tuple([move for move in row.moves if move.written_bits and self.is_asked(op, False, move, writes)])
        return row._replace(macs=0, summed=0, pair=None, additions=(), vector=NO_WORK, moves=moves)

    def is_asked(self, op: Op, gemm: bool, move: Move, writes: Writes) -> bool:
        """Whether what a GEMM, or another op, writes is asked for."""
        readers = WRITES[writes].readers(gemm, move.role)
        name = self.graph.root[(op.inputs + op.outputs)[move.slot]]
        return readers is None or self.is_read_by(readers, name, move.copy)

    def is_read_by(self, gemms: Gemms, name: str, copy: Held) -> bool:
        """Whether one of these GEMMs reads a tensor, or a view of it, or a copy of it."""
        reads = zip(self.graph.readers.get(name, ()), self.traffic(name).held, strict=True)
        return any(
            (reader.gemm in gemms and is_counted(reader, self.left_out))
            or (reader.kind.view and self.is_read_by(gemms, reader.outputs[0], None))
            for (reader, _), held in reads
            if held == copy
        )


class _OfClass(dict[int, TensorTraffic]):
    """By class of tensors: how they are read and what of them is written, under the assignment of a counter."""

    def __init__(self, counter: _Counter) -> None:
        self.counter = counter

    def __missing__(self, number: int) -> TensorTraffic:
        counter = self.counter
        known, state = counter.memo.traffic, counter.states[number]
        traffic = known.get(state)
        if traffic is None:
            name, assignment = counter.kernels.traffic[number][0], counter.assignment
            chains = [assignment.chain(op, i) for op, i in counter.graph.readers.get(name, ())]
            format, group = assignment.format(name), counter.kernels.group
            traffic = known[state] = tensor_traffic(counter.graph, name, format, chains, group)
        self[number] = traffic
        return traffic


def stored_bits(graph: Graph, assignment: Assignment, name: str, copy: Copy | None) -> int:
    """Exact bits that a tensor takes in memory, or a copy of it."""
    dims = graph.tensors[name].dims
    format = copy.format if copy else assignment.format(name)
    axes = copy.axes if copy else format.block_axes(len(dims))
    return bits_of(graph, dims, axes, format)


@lru_cache(maxsize=16)  # tables of all scopes and traffic models have what a run has counted under its own
def count(
    graph: Graph,
    assignment: Assignment,
    traffic: Traffic = "unfused",
    scope: str = "step",
    gemm_writes: Writes = "gemms",
    gemms_left_out: Globs = (),
) -> tuple[Row, ...]:
    """Work and DRAM bits of every op of the scope, over one training step (all micro-batches); a row for all alike.

    Raw tensors that only copies stand for are not written. A cast kernel counts before the first op that reads it (of a
    stash, as part of the forward), and not in scope `gemm`, which holds nothing but GEMMs. In scope `gemm` there is
    nothing to fuse, and `gemm_writes` says which writes it has (`writes.WRITES`), those of other ops in rows of their
    own. It has no GEMM whose name matches a glob of `gemms_left_out`.

    Under `tiled` these are the rows of a buffer that holds everything; see `tiling.tile_rows`.
    """
    left_out = gemms_left_out if scope == "gemm" else ()
    selectors = telling(assignment.selectors, left_out)
    grouped = kernel_classes(graph, selectors, grouping(traffic, scope))
    counter = _Counter(graph, assignment, grouped, _memo(graph, selectors, grouped.by_steps), left_out)
    scopes = SCOPES[: SCOPES.index(scope) + 1]
    rows: list[Row] = []
    for alike in grouped.alike:
        if alike.ops[0].kind.view:
            continue
        if scope == "gemm":
            rows += counter.gemm_rows(alike, gemm_writes)
        elif narrowest_scope(alike.ops[0]) in scopes:
            rows += counter.rows(alike)
    return tuple(rows)
