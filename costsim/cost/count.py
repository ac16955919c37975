"""Counts a graph under an assignment of formats: work and DRAM bits of every op, as exact integers.

A traffic model (`fusion`) is a way to group ops into kernels: tensors born and consumed inside a group stay on chip,
what several ops of a group read is read once. Everything else is the same for all models. Counted here is compulsory
traffic, as of a buffer of any size; `tiling` adds what a finite one has to move again.
"""

from collections.abc import Callable
from functools import lru_cache

from costsim.cost.classes import Alike, Globs, KernelClasses, is_counted, kernel_classes, telling
from costsim.cost.laws import Additions
from costsim.cost.parts import NO_WORK, Parts, added, bits_of
from costsim.cost.row import Move, Row, narrowest_scope
from costsim.cost.sums import factor, sums
from costsim.cost.traffic import Held, TensorTraffic, tensor_traffic
from costsim.graph.fusion import group_ops, grouping
from costsim.graph.graph import Graph, Op
from costsim.names import SCOPES, Traffic, Writes
from costsim.policy.assign import Assignment, Copy
from costsim.policy.classes import Selectors


class _Memo:
    """What is known of a graph from before, under any policy with the same selectors: little differs between phases."""

    def __init__(self) -> None:
        self.states: dict[object, int] = {}
        self.traffic: dict[int, TensorTraffic] = {}
        self.rows: dict[object, list[Row]] = {}


@lru_cache(maxsize=8)
def _memo(_graph: Graph, _selectors: Selectors) -> _Memo:
    return _Memo()


@lru_cache(maxsize=16)
def _parts(graph: Graph, kernels: KernelClasses) -> Parts:
    return Parts(graph, kernels)


class _Counter:
    """Turns ops into rows. What is alike, here or in another phase, is worked out once."""

    def __init__(
        self, graph: Graph, assignment: Assignment, kernels: KernelClasses, memo: _Memo, left_out: Globs
    ) -> None:
        self.graph, self.assignment, self.kernels, self.memo, self.left_out = graph, assignment, kernels, memo, left_out
        self.parts = _parts(graph, kernels)
        self.states = {number: self.state(*traffic) for number, traffic in kernels.traffic.items()}

    def chains(self, name: str) -> list[tuple[Copy, ...]]:
        """By reader of a tensor: the copies through which it reads."""
        return [self.assignment.chain(op, i) for op, i in self.graph.readers.get(name, ())]

    def state(self, name: str, history: object) -> int:
        """A number for what a class of tensors is under this assignment: its format and its readers' copies."""
        key = (history, self.assignment.format(name).name, tuple(self.chains(name)))
        return self.memo.states.setdefault(key, len(self.memo.states))

    def traffic(self, name: str) -> TensorTraffic:
        """How a tensor is read and what of it is written."""
        state = self.states[self.kernels.traffic_of[name]]
        traffic = self.memo.traffic.get(state)
        if traffic is None:
            format, group = self.assignment.format(name), self.kernels.group
            traffic = self.memo.traffic[state] = tensor_traffic(self.graph, name, format, self.chains(name), group)
        return traffic

    def rows(self, alike: Alike) -> list[Row]:
        """The counts of ops that are alike, after those of the quantize kernels that they need."""
        return [*self._known(self.casts, alike), *self._known(self.own, alike)]

    def _known(self, count: Callable[[Alike], list[Row]], alike: Alike) -> list[Row]:
        """Rows of ops that are alike, from before if there are such."""
        accumulator = self.assignment.accumulator(alike.ops[0])
        states = tuple([self.states[number] for number in alike.tensors])
        key = (count.__name__, alike.place, alike.touched, states, accumulator)
        rows = self.memo.rows.get(key)
        if rows is None:
            rows = self.memo.rows[key] = count(alike)
        return rows if not rows or rows[-1].ops is alike.ops else [row._replace(ops=alike.ops) for row in rows]

    def own(self, alike: Alike) -> list[Row]:
        """The counts of ops that are alike."""
        op, graph, assignment = alike.ops[0], self.graph, self.assignment
        macs, work = graph.work(op)
        parts = [self.parts.read(alike, slot, self.traffic(name)) for slot, name in enumerate(op.inputs)]
        for slot, name in enumerate(op.outputs, len(op.inputs)):
            parts.append(self.parts.written(op, slot, self.traffic(name), self.traffic(graph.root[name])))
        for part in parts:
            work = added(work, part.work)
        pair, summed = None, 0
        additions: Additions = ()
        if op.gemm is not None:
            dims = graph.tensors[op.inputs[0]].dims
            summed = graph.elements(tuple([dims[axis] for axis in op.kind.contracted[0]]))
            a, b = (factor(graph, op, i, assignment.format(op.inputs[i]), assignment.chain(op, i)) for i in (0, 1))
            pair, additions = sums(graph, macs, assignment.accumulator(op), a, b)
        what = (op.kind.name, op.phase, op.gemm, graph.tensors[op.outputs[0]].role)
        moves = tuple([move for part in parts for move in part.moves])
        return [Row(alike.ops, None, *what, macs, summed, pair, additions, work, moves)]

    def casts(self, alike: Alike) -> list[Row]:
        """Quantize kernels of their own before ops that are alike."""
        rows = []
        for slot, name in enumerate(alike.ops[0].inputs):
            role = self.graph.tensors[name].role
            for phase, written, (work, moves) in self.parts.casts(alike, slot, self.traffic(name)):
                rows.append(Row(alike.ops, written, "cast", phase, None, role, 0, 0, None, (), work, moves))
        return rows

    def gemm_rows(self, alike: Alike, writes: Writes) -> list[Row]:
        """Of ops that are alike, what scope `gemm` counts: GEMMs, and as many of the writes as are asked for."""
        gemm = is_counted(alike.ops[0], self.left_out)
        own = self._known(self.own, alike) if gemm else []
        if writes == "none":
            return [row._replace(moves=tuple([move for move in row.moves if move.read_bits])) for row in own]
        if writes == "operands":
            others = self._known(self.casts, alike) if gemm else self.rows(alike)
            return [*(row for row in map(self.operands, others) if row.moves), *own]
        return own

    def operands(self, row: Row) -> Row:
        """Of a row, nothing but the writes of what GEMMs read."""
        op = row.ops[0]
        moves = tuple([move for move in row.moves if move.written_bits and self.is_operand(op, move)])
        return row._replace(macs=0, summed=0, pair=None, additions=(), vector=NO_WORK, moves=moves)

    def is_operand(self, op: Op, move: Move) -> bool:
        """Whether a GEMM reads what is moved."""
        return self.is_read_by_gemm(self.graph.root[(op.inputs + op.outputs)[move.slot]], move.copy)

    def is_read_by_gemm(self, name: str, copy: Held) -> bool:
        """Whether a GEMM reads a tensor, or a view of it, or a copy of it."""
        reads = zip(self.graph.readers.get(name, ()), self.traffic(name).held, strict=True)
        return any(
            is_counted(reader, self.left_out) or (reader.kind.view and self.is_read_by_gemm(reader.outputs[0], None))
            for (reader, _), held in reads
            if held == copy
        )


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
    nothing to fuse, and `gemm_writes` says which writes it has: those of GEMMs, none, or also what other ops write and
    GEMMs read, in rows of their own. It has no GEMM whose name matches a glob of `gemms_left_out`.

    Under `tiled` these are the rows of a buffer that holds everything; see `tiling.tile_rows`.
    """
    left_out = gemms_left_out if scope == "gemm" else ()
    selectors = telling(assignment.selectors, left_out)
    grouped = kernel_classes(graph, selectors, group_ops(graph, grouping(traffic, scope)))
    counter = _Counter(graph, assignment, grouped, _memo(graph, selectors), left_out)
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
