"""Counts a graph under an assignment of formats: work and DRAM bits of every op, as exact integers.

A traffic model (`fusion`) is a way to group ops into kernels: tensors born and consumed inside a group stay on chip,
what several ops of a group read is read once. Everything else is the same for all models. Counted here is compulsory
traffic, as of a buffer of any size; `tiling` adds what a finite one has to move again.
"""

from collections.abc import Mapping
from functools import lru_cache

from costsim.cost.classes import Alike, KernelClasses, kernel_classes
from costsim.cost.laws import Additions
from costsim.cost.row import Move, Row, narrowest_scope
from costsim.cost.sums import sums
from costsim.cost.traffic import Held, TensorTraffic, tensor_traffic
from costsim.formats.format import Format
from costsim.graph.fusion import group_ops, grouping
from costsim.graph.graph import Graph, Op
from costsim.graph.kinds import Dims, expand
from costsim.names import SCOPES, Traffic, Writes
from costsim.policy.assign import Assignment, Copy
from costsim.policy.classes import Axes, Selectors, last_axis


class _Memo:
    """What is known of a graph from before, under any policy with the same selectors: little differs between phases."""

    def __init__(self) -> None:
        self.states: dict[object, int] = {}
        self.traffic: dict[int, TensorTraffic] = {}
        self.rows: dict[object, list[Row]] = {}
        self.sizes: dict[tuple[Dims, Axes | None, str], tuple[int, int]] = {}


@lru_cache(maxsize=8)
def _memo(_graph: Graph, _selectors: Selectors) -> _Memo:
    return _Memo()


class _Counter:
    """Turns ops into rows. What is alike, here or in another phase, is worked out once."""

    def __init__(self, graph: Graph, assignment: Assignment, kernels: KernelClasses) -> None:
        self.graph, self.assignment, self.kernels = graph, assignment, kernels
        self.memo = _memo(graph, assignment.selectors)
        self.states = {number: self.state(*traffic) for number, traffic in kernels.traffic.items()}

    def state(self, name: str, history: object) -> int:
        """A number for what a class of tensors is under this assignment: its format and its readers' copies."""
        chains = tuple([self.assignment.chain(op, i) for op, i in self.graph.readers.get(name, ())])
        key = (history, self.assignment.format(name).name, chains)
        return self.memo.states.setdefault(key, len(self.memo.states))

    def traffic(self, name: str) -> TensorTraffic:
        """How a tensor is read and what of it is written."""
        state = self.states[self.kernels.traffic_of[name]]
        if state not in self.memo.traffic:
            self.memo.traffic[state] = tensor_traffic(self.graph, name, self.assignment, self.kernels.group)
        return self.memo.traffic[state]

    def size(self, dims: Dims, axes: Axes, format: Format) -> tuple[int, int]:
        """Bits and elements of something stored with boxes along these axes."""
        key = (dims, axes, format.name)
        size = self.memo.sizes.get(key)
        if size is None:
            size = self.memo.sizes[key] = _bits(self.graph, dims, axes, format), self.graph.elements(dims)
        return size

    def quantize(self, vector: Mapping[str, int], copy: Copy, name: str, times: int) -> Mapping[str, int]:
        """Work plus that of making a copy: a conversion an element, for what blocks share the largest of each block."""
        elements = self.graph.elements(self.graph.tensors[name].dims) * times
        more = {"quantize": elements, "cmp": elements} if copy.format.scales else {"quantize": elements}
        return {what: vector.get(what, 0) + more.get(what, 0) for what in {**vector, **more}}

    def move(self, op: Op, slot: int, held: Held, times: int, write: bool, touched: Dims | None = None) -> Move:
        """What crosses the DRAM interface if a tensor or a copy (or a part) is read or written so many times."""
        tensor = self.graph.tensors[(op.inputs + op.outputs)[slot]]
        dims = tensor.dims if touched is None else touched
        if held is None:
            format = self.assignment.format(tensor.name)
            axes = format.block_axes(len(dims)) if touched is None else last_axis(dims)  # rows that are looked up
        else:
            format, axes = held.format, held.axes
        bits, elements = self.size(dims, axes, format)
        read_bits, written_bits = (0, bits * times) if write else (bits * times, 0)
        return Move(slot, held, tensor.role, read_bits, written_bits, elements * times)

    def on_chip(self, alike: Alike, operand: int, held: Held) -> bool:
        """Whether the kernel has what ops that are alike read on chip: an op before read or made just that."""
        if not alike.touched[operand]:
            return False
        op = alike.ops[0]
        for other, slot in self.kernels.touched_before(op, operand):
            traffic = self.traffic(op.inputs[operand])
            if slot < len(other.inputs):
                if traffic.held[self.graph.reader_number(other, slot)] == held:
                    return True
            elif held is None or any(held == copy for copy, _ in traffic.copies):
                return True
        return False

    def rows(self, alike: Alike) -> list[Row]:
        """The counts of ops that are alike, after those of the quantize kernels that they need."""
        accumulator = self.assignment.accumulator(alike.ops[0])
        key = (alike.place, alike.touched, tuple([self.states[number] for number in alike.tensors]), accumulator)
        rows = self.memo.rows.get(key)
        if rows is None:
            rows = self.memo.rows[key] = [*self.cast_rows(alike), self.row(alike)]
        return rows if rows[-1].ops is alike.ops else [row._replace(ops=alike.ops) for row in rows]

    def row(self, alike: Alike) -> Row:
        """The counts of ops that are alike."""
        op = alike.ops[0]
        times, kind = op.times, op.kind
        macs, vector = self.graph.work(op)
        moves: list[Move] = []
        for i, name in enumerate(op.inputs):
            traffic, at = self.traffic(name), self.graph.reader_number(op, i)
            held = traffic.held[at]
            again = 0
            for copy in traffic.on_chip[at]:
                vector = self.quantize(vector, copy, name, times)
                again += copy.second_read
            if self.on_chip(alike, i, held):
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
        additions: Additions = ()
        if op.gemm is not None:
            dims = self.graph.tensors[op.inputs[0]].dims
            summed = self.graph.elements(tuple([dims[axis] for axis in kind.contracted[0]]))
            pair, additions = sums(self.graph, self.assignment, op, macs)
        role = self.graph.tensors[op.outputs[0]].role
        what = (kind.name, op.phase, op.gemm, role)
        return Row(alike.ops, None, *what, macs, summed, pair, additions, vector, tuple(moves))

    def gemm_rows(self, alike: Alike, writes: Writes) -> list[Row]:
        """Of ops that are alike, what scope `gemm` counts: GEMMs, and as many of the writes as are asked for."""
        gemm = alike.ops[0].gemm is not None
        if not gemm and writes != "operands":
            return []
        rows = self.rows(alike)
        own, others = (rows[-1:], rows[:-1]) if gemm else ([], rows)
        if writes == "none":
            return [row._replace(moves=tuple([move for move in row.moves if move.read_bits])) for row in own]
        written = map(self.operands, others) if writes == "operands" else ()
        return [*(row for row in written if row.moves), *own]

    def operands(self, row: Row) -> Row:
        """Of a row, nothing but the writes of what GEMMs read."""
        op = row.ops[0]
        moves = tuple([move for move in row.moves if move.written_bits and self.is_operand(op, move)])
        return row._replace(macs=0, summed=0, pair=None, additions=(), vector={}, moves=moves)

    def is_operand(self, op: Op, move: Move) -> bool:
        """Whether a GEMM reads what is moved."""
        return self.is_read_by_gemm(self.graph.root[(op.inputs + op.outputs)[move.slot]], move.copy)

    def is_read_by_gemm(self, name: str, copy: Held) -> bool:
        """Whether a GEMM reads a tensor, or a view of it, or a copy of it."""
        reads = zip(self.graph.readers.get(name, ()), self.traffic(name).held, strict=True)
        return any(
            reader.gemm is not None or (reader.kind.view and self.is_read_by_gemm(reader.outputs[0], None))
            for (reader, _), held in reads
            if held == copy
        )

    def cast_times(self, op: Op, name: str, copy: Copy) -> int:
        """How often a quantize kernel runs in a step: as often as its source changes, or as the op that it is for."""
        if copy.transient:
            return op.times
        maker = self.graph.producer.get(name)
        given = 1 if self.graph.tensors[name].role in ("weight", "state") else self.graph.micro_batches
        return given if maker is None else maker.times

    def cast_rows(self, alike: Alike) -> list[Row]:
        """Quantize kernels of their own before ops that are alike: source read, copy written."""
        ops, op, rows = alike.ops, alike.ops[0], []
        for slot, name in enumerate(op.inputs):
            traffic, at = self.traffic(name), self.graph.reader_number(op, slot)
            for copy, source in traffic.casts[at]:
                if copy.transient and self.on_chip(alike, slot, traffic.held[at]):
                    continue  # made for an op before in the same kernel
                role, times = self.graph.tensors[name].role, self.cast_times(op, name, copy)
                vector = self.quantize({}, copy, name, times)
                written = self.move(op, slot, copy, times, True)
                read = (self.move(op, slot, source, times, False),) * (2 if copy.second_read else 1)
                phase = "forward" if copy.purpose == "stash" and not copy.transient else op.phase
                rows.append(Row(ops, written, "cast", phase, None, role, 0, 0, None, (), vector, (*read, written)))
        return rows


def stored_bits(graph: Graph, assignment: Assignment, name: str, copy: Copy | None) -> int:
    """Exact bits that a tensor takes in memory, or a copy of it."""
    dims = graph.tensors[name].dims
    format = copy.format if copy else assignment.format(name)
    axes = copy.axes if copy else format.block_axes(len(dims))
    return _bits(graph, dims, axes, format)


def _bits(graph: Graph, dims: Dims, axes: Axes, format: Format) -> int:
    """Exact bits of a tensor with these dims whose boxes lie along these axes."""
    return format.bits_of_runs(graph.runs(dims, tuple([dims[axis] for axis in axes])))


@lru_cache(maxsize=16)  # tables of all scopes and traffic models have what a run has counted under its own
def count(
    graph: Graph,
    assignment: Assignment,
    traffic: Traffic = "unfused",
    scope: str = "step",
    gemm_writes: Writes = "gemms",
) -> tuple[Row, ...]:
    """Work and DRAM bits of every op of the scope, over one training step (all micro-batches); a row for all alike.

    Raw tensors that only copies stand for are not written. A cast kernel counts before the first op that reads it (of a
    stash, as part of the forward), and not in scope `gemm`, which holds nothing but GEMMs. In scope `gemm` there is
    nothing to fuse, and `gemm_writes` says which writes it has: those of GEMMs, none, or also what other ops write and
    GEMMs read, in rows of their own.

    Under `tiled` these are the rows of a buffer that holds everything; see `tiling.tile_rows`.
    """
    grouped = kernel_classes(graph, assignment.selectors, group_ops(graph, grouping(traffic, scope)))
    counter = _Counter(graph, assignment, grouped)
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
