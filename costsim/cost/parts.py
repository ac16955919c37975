"""What one tensor costs an op that reads or writes it: copies made on the way, bits moved, quantize kernels before it.

That hangs on how this one tensor is stored and read, and on nothing else of a policy. So ops are counted part by part,
and a part is tabled over a few choices of formats where whole ops hang on many (`compile`).
"""

from collections.abc import Mapping
from typing import NamedTuple

from costsim.cost.classes import Alike, KernelClasses
from costsim.cost.row import Move
from costsim.cost.traffic import Held, TensorTraffic
from costsim.formats.format import Format
from costsim.graph.graph import Graph, Op
from costsim.graph.kinds import Dims, expand
from costsim.graph.steps import Passes, passes
from costsim.policy.assign import Copy
from costsim.policy.classes import Axes, last_axis

Work = Mapping[str, int]  # operations on elements, by name
NO_WORK: Work = {}


class Part(NamedTuple):
    """The work of making copies, and what is moved, over a whole training step."""

    work: Work
    moves: tuple[Move, ...]


class Cast(NamedTuple):
    """A quantize kernel before an op: source read, copy written."""

    phase: str
    written: Move
    part: Part


class Pass(NamedTuple):
    """A quantize kernel before an op: what is counted of it, how often it runs in a step, what it makes a run."""

    counts: tuple[int, ...]
    runs: int
    copy: Copy
    elements: int


def added(work: Work, more: Work) -> Work:
    """Two sorts of work as one."""
    return {name: work.get(name, 0) + more.get(name, 0) for name in {**work, **more}} if more else work


def bits_of(graph: Graph, dims: Dims, axes: Axes, format: Format) -> int:
    """Exact bits of a tensor with these dims whose boxes lie along these axes."""
    return format.bits_of_runs(graph.runs(dims, tuple([dims[axis] for axis in axes])))


def cast_times(graph: Graph, op: Op, name: str, copy: Copy) -> int:
    """How often a quantize kernel runs in a step: as often as its source changes, or as the op that it is for."""
    if copy.transient:
        return op.times
    maker = graph.producer.get(name)
    given = 1 if graph.tensors[name].role in ("weight", "state") else graph.micro_batches
    return given if maker is None else maker.times


class Parts:
    """The parts of the ops of a graph whose ops are grouped into kernels, one for all ops that are alike."""

    def __init__(self, graph: Graph, kernels: KernelClasses) -> None:
        self.graph, self.kernels = graph, kernels
        self.passes_of: dict[int, tuple[Passes, ...]] = {}  # by position of the op
        self.sizes: dict[tuple[Dims, Axes, str], tuple[int, int]] = {}

    def read(self, alike: Alike, slot: int, traffic: TensorTraffic) -> Part:
        """Of an operand: copies that the op makes for itself, and what it reads."""
        op = alike.ops[0]
        at = self.graph.reader_number(op, slot)
        held, work, reads = traffic.held[at], NO_WORK, 1
        for copy in traffic.on_chip[at]:
            work = added(work, self._making(copy, op.inputs[slot], op.times))
            reads += copy.second_read
        if alike.touched[slot] and self._on_chip(op, slot, held, traffic):
            return Part(work, ())
        pattern = op.kind.touched[slot]
        touched = None if pattern is None or held else expand(pattern, op.env)
        move = self._move(op, slot, held, traffic.format, op.times, False, touched)
        return Part(work, (*(move,) * (reads - 1), self._by_steps(op, slot, move)))

    def _by_steps(self, op: Op, slot: int, move: Move) -> Move:
        """What an op reads or writes, with the passes that eager mode makes over as much."""
        if not self.kernels.by_steps:
            return move
        if op.position not in self.passes_of:
            self.passes_of[op.position] = passes(self.graph, op)
        reads, writes = self.passes_of[op.position][slot]
        bits = move.read_bits + move.written_bits
        return move._replace(
            read_bits=move.read_bits + int(bits * reads),
            written_bits=move.written_bits + int(bits * writes),
            elements=int(move.elements * (1 + reads + writes)),
        )

    def casts(self, alike: Alike, slot: int, traffic: TensorTraffic) -> list[Cast]:
        """Of an operand: the quantize kernels that run before the op."""
        op, casts = alike.ops[0], []
        at = self.graph.reader_number(op, slot)
        for copy, source in traffic.casts[at]:
            if copy.transient and alike.touched[slot] and self._on_chip(op, slot, traffic.held[at], traffic):
                continue  # made for an op before in the same kernel
            casts.append(self.cast(op, slot, traffic.format, copy, source))
        return casts

    def cast(self, op: Op, slot: int, format: Format, copy: Copy, source: Held) -> Cast:
        """The quantize kernel that makes a copy of an operand, from a copy or from the tensor in its format."""
        name = op.inputs[slot]
        times = cast_times(self.graph, op, name, copy)
        written = self._move(op, slot, copy, format, times, True)
        read = (self._move(op, slot, source, format, times, False),) * (2 if copy.second_read else 1)
        phase = "forward" if copy.purpose == "stash" and not copy.transient else op.phase
        return Cast(phase, written, Part(self._making(copy, name, times), (*read, written)))

    def made(self, op: Op, slot: int, copy: Copy, format: Format) -> tuple[Work, Move]:
        """Of a copy that an op makes along with a result (of the tensor in whose memory that lies): work, and write."""
        root, names = self.graph.root[op.outputs[slot - len(op.inputs)]], op.inputs + op.outputs
        of = names.index(root) if root in names else slot
        return self._making(copy, root, op.times), self._move(op, of, copy, format, op.times, True)

    def raw(self, op: Op, slot: int, format: Format) -> Move:
        """The write of a result itself."""
        return self._by_steps(op, slot, self._move(op, slot, None, format, op.times, True))

    def written(self, op: Op, slot: int, traffic: TensorTraffic, of_root: TensorTraffic) -> Part:
        """Of a result: what is written of it, and of the copies of the tensor (`root`) in whose memory it lies."""
        name = op.outputs[slot - len(op.inputs)]
        root, work, moves = self.graph.root[name], NO_WORK, []
        if traffic.written or root != name:
            moves.append(self.raw(op, slot, traffic.format))
        if self.graph.maker[root] is op:  # else it is written in place later, and has its copies made then
            for copy, is_written in of_root.copies:
                making, write = self.made(op, slot, copy, of_root.format)
                work = added(work, making)
                if is_written:
                    moves.append(write)
        return Part(work, tuple(moves))

    def _making(self, copy: Copy, name: str, times: int) -> Work:
        """The work of making a copy."""
        elements = self.graph.elements(self.graph.tensors[name].dims) * times
        return {name: n * elements for name, n in copy.conversion.items()}

    def _size(self, dims: Dims, axes: Axes, format: Format) -> tuple[int, int]:
        """Bits and elements of something stored with boxes along these axes."""
        key = (dims, axes, format.name)
        size = self.sizes.get(key)
        if size is None:
            size = self.sizes[key] = bits_of(self.graph, dims, axes, format), self.graph.elements(dims)
        return size

    def _move(
        self, op: Op, slot: int, held: Held, format: Format, times: int, write: bool, touched: Dims | None = None
    ) -> Move:
        """What crosses the DRAM interface if a tensor or a copy (or a part) is read or written so many times."""
        tensor = self.graph.tensors[(op.inputs + op.outputs)[slot]]
        dims = tensor.dims if touched is None else touched
        if held is None:
            axes = format.block_axes(len(dims)) if touched is None else last_axis(dims)  # rows that are looked up
        else:
            format, axes = held.format, held.axes
        bits, elements = self._size(dims, axes, format)
        read_bits, written_bits = (0, bits * times) if write else (bits * times, 0)
        return Move(slot, held, tensor.role, read_bits, written_bits, elements * times)

    def _on_chip(self, op: Op, operand: int, held: Held, traffic: TensorTraffic) -> bool:
        """Whether the kernel has what an op reads on chip: an op before read or made just that."""
        for other, slot in self.kernels.touched_before(op, operand):
            if slot < len(other.inputs):
                if traffic.held[self.graph.reader_number(other, slot)] == held:
                    return True
            elif held is None or any(held == copy for copy, _ in traffic.copies):
                return True
        return False
