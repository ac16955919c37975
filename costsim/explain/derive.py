"""The cost of one op, derived step by step from dims, formats and the readers of tensors: formula, values, result.

The second way to every number of cost/count: op by op, without classes of like ops, without a memory of phases.
`costsim explain` prints the steps, and a test compares the two ways for every op.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from costsim.cost.collectives import sent_bits
from costsim.cost.row import Row, moves_by_name
from costsim.cost.traffic import Held
from costsim.explain import messages
from costsim.explain.arithmetic import arithmetic, doublings
from costsim.explain.formula import Part, Step, Term, nothing, worked
from costsim.explain.pairs import keys_met, run_lengths
from costsim.explain.readers import Follower, Use, label
from costsim.formats.format import Scale
from costsim.graph.fusion import MODELS
from costsim.graph.graph import GEMM_OPERANDS, Graph, Op
from costsim.graph.kinds import Dims, expand
from costsim.graph.pairs import pairs_of, queries_of, ragged_dim
from costsim.graph.steps import passes
from costsim.names import Traffic
from costsim.policy.assign import Assignment, Copy
from costsim.policy.classes import Axes


@dataclass(slots=True)
class Derived:
    """The steps of one op, or of the quantize kernel before it, and the numbers that a counted row has as well."""

    name: str
    op: Op
    steps: dict[Step, None] = field(default_factory=dict)  # in order, each once
    macs: int = 0
    additions: dict[str, int] = field(default_factory=dict)  # of products, by the format of their sums
    cost: int | None = 0  # in the law's unit; None where the law is not defined
    vector: dict[str, int] = field(default_factory=dict)
    moved: dict[str, tuple[int, int]] = field(default_factory=dict)  # by tensor or copy: bits read, bits written
    sent: int = 0  # bits, to other ranks

    def add(self, step: Step) -> Step:
        """Append a step, unless it is there."""
        self.steps[step] = None
        return step

    def add_sums(self) -> None:
        """Append the bits that cross the DRAM interface, in either direction and in both."""
        for what, at in (("read", 0), ("written", 1)):
            terms = [[Part(name, both[at])] for name, both in self.moved.items() if both[at]]
            self.add(worked(f"DRAM bits {what}", terms, "bit", "the sum over tensors and copies"))
        both_ways = [[Part("read", self.read_bits)], [Part("written", self.written_bits)]]
        self.add(worked("DRAM bits", both_ways, "bit", "both directions"))

    def drop_writes(self, labels: Iterable[str], why: str) -> None:
        """Count no write of these tensors and copies."""
        dropped = {f"DRAM written, {name}" for name in labels}
        self.steps = {nothing(step.what, "bit", why) if step.what in dropped else step: None for step in self.steps}
        moved = {name: (read, 0 if name in labels else written) for name, (read, written) in self.moved.items()}
        self.moved = {name: both for name, both in moved.items() if any(both)}

    @property
    def read_bits(self) -> int:
        """Bits read from DRAM."""
        return sum(read for read, _ in self.moved.values())

    @property
    def written_bits(self) -> int:
        """Bits written to DRAM."""
        return sum(written for _, written in self.moved.values())


def differences(derived: Derived, row: Row) -> list[str]:
    """Where a derivation and a counted row differ, a line each; empty if both are right."""
    pairs = {"MACs": (derived.macs, row.macs), "vector operations": (derived.vector, dict(row.vector))}
    pairs["additions"] = (derived.additions, {format.name: n for format, n in row.additions})
    pairs["bits sent"] = (derived.sent, sum(map(sent_bits, row.messages)))
    pairs["bits moved"] = (derived.moved, moves_by_name(row, derived.op))
    return [f"{derived.name}: {what}: derived {a}, counted {b}" for what, (a, b) in pairs.items() if a != b]


_OF_RANK = "a rank's part"
_TRANSFORM = (
    "n log2 n additions a block of a Hadamard transform, in the kernel that makes the copy: nothing is moved for it"
)
_Vector = dict[str, list[Term]]  # terms of the operations on elements, by name


class Deriver:
    """Works out ops of a graph under an assignment of formats, one by one. In scope `gemm` traffic is `unfused`."""

    def __init__(self, graph: Graph, assignment: Assignment, traffic: Traffic, law: str) -> None:
        self.graph, self.assignment, self.traffic, self.law = graph, assignment, traffic, law
        self.follower = Follower(graph, assignment, traffic)

    def op(self, op: Op) -> Derived:
        """Derive what an op computes and moves in a training step."""
        derived, moves = Derived(op.name, op), Derived(op.name, op)
        self._macs(derived)
        vector = self._work(op)
        uses = [use for name in dict.fromkeys(op.inputs) for use in self.follower.story(name).uses if use.op is op]
        for use in sorted(uses, key=lambda use: use.operand):
            self._read(moves, vector, use)
        for name in op.outputs:
            self._write(moves, vector, name)
        if op.kind.collective and op.inputs:
            self._collective(derived, moves, vector, uses[0])
        self._vector(derived, vector, _source_of_work(op))
        derived.steps |= moves.steps
        derived.moved, derived.sent = moves.moved, moves.sent
        return derived

    def _collective(self, derived: Derived, moves: Derived, vector: _Vector, use: Use) -> None:
        """Add what a collective reduces, and what it sends of its operand as it reads that."""
        graph, op, name = self.graph, use.op, use.op.inputs[0]
        operation, steps, terms = messages.added(graph, op)
        for step in steps:
            derived.add(step)
        if operation:
            vector.setdefault(operation, []).extend(terms)
        held = use.made[-1] if use.made else use.held
        part = messages.part_sent(graph, op)
        if part is None:
            shares = messages.flat_share(graph, op, held.format if held else self.assignment.format(name))
            share = [moves.add(step) for step in shares][-1]
        else:
            share = self._stored_part(moves, name, held, part)
        moves.sent = moves.add(messages.sent(graph, op, share)).whole

    def _stored_part(self, derived: Derived, name: str, held: Held, part: Dims) -> Step:
        """The bits of a rank's part of a tensor or a copy, packed by itself."""
        dims = self.graph.tensors[name].dims
        return self._stored(derived, name, held, None if part == dims else part, _OF_RANK)

    def casts(self, op: Op) -> Iterator[Derived]:
        """The quantize kernels that run before an op: source read, copy written.

        As often as the source changes; of a transient copy, as often as the op.
        """
        for name, cast in self.follower.casts(op):
            yield self._cast(op, name, cast.copy, cast.source)

    def _cast(self, op: Op, name: str, copy: Copy, source: Held) -> Derived:
        derived = Derived(copy.cast_name(name, op.name), op)
        maker, lasts = self.graph.producer.get(name), self.graph.tensors[name].role in ("weight", "state")
        times = maker.times if maker is not None else 1 if lasts else self.graph.micro_batches
        times = op.times if copy.transient else times
        derived.add(nothing("MACs", "MAC", "a quantize kernel multiplies no matrices"))
        vector: _Vector = {}
        self._converted(vector, copy, name, times)
        self._vector(derived, vector, "the largest of each block, for what it shares")
        self._move(derived, name, source, self._stored(derived, name, source), times, 2 if copy.second_read else 1)
        self._move(derived, name, copy, self._stored(derived, name, copy), times)
        return derived

    # --- arithmetic ---------------------------------------------------------------------------------------------------

    def _dims(self, dims: Iterable[str]) -> list[Part]:
        """The factors of a number of elements; a ragged dim and its queries are one, the pairs that meet."""
        every = tuple(dims)
        ragged = ragged_dim(every)
        if ragged is None:
            return [Part(dim, self._size(dim)) for dim in every]
        others = list(every)
        others.remove(queries_of(ragged))
        met = Part(f"pairs of {ragged}", sum(keys_met(self.graph, ragged)))
        return [met if dim == ragged else Part(dim, self._size(dim)) for dim in others]

    def _size(self, dim: str) -> int:
        """The size of a dim; of a ragged one by itself, the most keys that a query meets."""
        return max(keys_met(self.graph, dim)) if pairs_of(dim) else self.graph.sizes[dim]

    def _work(self, op: Op) -> _Vector:
        """The terms of the operations of an op, by name; `mac` is one."""
        work: _Vector = {}
        for pattern, counts in op.kind.work:
            for name, n in counts.items():
                each = [Part("each", n)] if n != 1 else []
                work.setdefault(name, []).append([*each, *_runs(op.times), *self._dims(expand(pattern, op.env))])
        return work

    def _macs(self, derived: Derived) -> None:
        op = derived.op
        terms = self._work(op).get("mac")
        if terms is None:
            derived.add(nothing("MACs", "MAC", f"{op.kind.name} is no product of matrices"))
            return
        letters = ", ".join(f"{token} is {' x '.join(dims)}" for token, dims in op.env.items())
        source = f"one for each point of the einsum {op.kind.name}: {letters}"
        derived.macs = derived.add(worked("MACs", terms, "MAC", source)).whole
        if op.gemm is not None:
            self._cost(derived)

    def _cost(self, derived: Derived) -> None:
        """The arithmetic cost of a GEMM's MACs under the law."""
        op = derived.op
        a, b = (self.assignment.multiplied(op, i) for i in (0, 1))
        for name, format in (("a", a), ("b", b)):
            what = format.family.width
            part = Part(f"{what} of {format.name}", format.width)
            derived.add(worked(f"width of {name}", [[part]], "bit", f"{format.name}: {format.source}"))
        dims = self.graph.tensors[op.inputs[0]].dims
        summed = self._dims(dims[axis] for axis in op.kind.contracted[0])
        products = derived.add(worked("products summed", [summed], "", "the dims that the einsum sums over")).whole
        steps, derived.additions, derived.cost = arithmetic(
            self.graph, self.assignment, self.law, op, derived.macs, products
        )
        derived.steps |= dict.fromkeys(steps)

    def _converted(self, vector: _Vector, copy: Copy, name: str, times: int) -> None:
        """A conversion an element of a copy, the largest of each block where blocks share something, chance, additions.

        A fast transform of n = 2^k elements adds them up k times.
        """
        term = [*_runs(times), *self._dims(self.graph.tensors[name].dims)]
        for what in ["quantize", *["cmp"] * bool(copy.format.scales), *["random"] * copy.format.stochastic]:
            vector.setdefault(what, []).append(term)
        if copy.transform:
            times_added = Part(f"log2({copy.transform.block})", doublings(copy.transform.block))
            vector.setdefault("add", []).append([times_added, *term])

    def _vector(self, derived: Derived, vector: _Vector, source: str) -> None:
        operations = {name: terms for name, terms in vector.items() if name != "mac"}
        for name, terms in operations.items():
            turned = any(part.symbol.startswith("log2(") for term in terms for part in term)
            why = "a conversion an element of each copy made" if name == "quantize" else source
            why = f"{why}; {_TRANSFORM}" if turned else why
            derived.vector[name] = derived.add(worked(f"vector operations, {name}", terms, "op", why)).whole
        if not operations:
            derived.add(nothing("vector operations", "op", source))

    # --- bits ---------------------------------------------------------------------------------------------------------

    def _stored(
        self, derived: Derived, name: str, held: Held, part: Dims | None = None, cut: str = "as much as is touched"
    ) -> Step:
        """The bits of a tensor, a copy or a part of it: of elements, and of what blocks of them share."""
        format = held.format if held else self.assignment.format(name)
        dims = self.graph.tensors[name].dims if part is None else part
        every = tuple(range(len(dims)))
        flat = format.flat and (part is None or cut == _OF_RANK)
        axes = held.axes if held and set(held.axes) <= set(every) else every if flat else every[-1:]
        what = label(name, held) + ("" if part is None else f" ({cut})")
        elements: Term = self._dims(dims)
        if format.together > 1:
            source = f"one for each {format.together} elements, of {self.graph.elements(dims)}"
            codes = Part("codes", format.codes(self.graph.elements(dims)))
            elements = [Part("codes", derived.add(worked(f"codes of {what}", [[codes]], "", source)).whole)]
        terms: list[Term] = [[*elements, Part(f"bits of {format.name}", format.element_bits)]]
        for scale in format.scales:
            number = derived.add(self._shared(f"{scale.kind}s of {what}", scale, dims, axes)).whole
            terms.append([Part(f"{scale.kind}s", number), Part("bits of each", scale.bits)])
        return derived.add(worked(f"stored bits of {what}", terms, "bit", f"{format.name}: {format.source}"))

    def _shared(self, what: str, scale: Scale, dims: Dims, axes: Axes) -> Step:
        """How many blocks share something: along the dims in which blocks lie, times across all others."""
        if ragged_dim(dims) is not None:
            return self._shared_of_pairs(what, scale, dims, axes)
        along, across = (math.prod(self.graph.sizes[dims[axis]] for axis in side) for side in _split(dims, axes))
        sides = (("elements across", across, scale.free), ("elements along", along, scale.contracted))
        parts = [_blocks(name, size, side) for name, size, side in sides if side is not None]
        run = " x ".join(dims[axis] for axis in axes)
        lie = f"of {scale.block} elements, across x along {run}" if run and parts else "of the whole tensor"
        step = worked(what, [[Part(symbol, number) for symbol, _, number in parts]], "", f"one for each block {lie}")
        return Step(what, step.formula, " * ".join(text for _, text, _ in parts) or "1", step.result, "", step.source)

    def _shared_of_pairs(self, what: str, scale: Scale, dims: Dims, axes: Axes) -> Step:
        """As `_shared`, where blocks are cut off with each query's run of keys (or each key's, of queries)."""
        lengths = run_lengths(self.graph, dims, axes)
        runs = lengths * (math.prod(int(part.value) for part in self._dims(dims)) // sum(lengths))
        rows = scale.free == 1
        number = sum(scale.number(run, 1) for run in runs) if rows else scale.number(max(runs), len(runs))
        source = f"one for each block of {scale.block} elements, cut off with each run of pairs that meet"
        return worked(what, [[Part("blocks of all runs", number)]], "", source)

    def _move(self, derived: Derived, name: str, held: Held, stored: Step, times: int, reads: int = 0) -> None:
        """Add the bits that are read (`reads` times a run) or, with 0, written."""
        term = [Part("stored bits", stored.whole), *_runs(times), *([Part("reads", reads)] if reads > 1 else [])]
        way, tensor = ("read" if reads else "written"), label(name, held)
        source = f"traffic model {self.traffic}: once a run" + (", and once for the scale" if reads > 1 else "")
        bits = derived.add(worked(f"DRAM {way}, {tensor}", [term], "bit", source)).whole
        read, written = derived.moved.get(tensor, (0, 0))
        derived.moved[tensor] = (read + bits, written) if reads else (read, written + bits)

    def _by_steps(self, derived: Derived, name: str, held: Held, stored: Step, slot: int) -> None:
        """Add what the kernels of eager mode read and write besides, as much as one operand or result each time."""
        if not MODELS[self.traffic].by_steps:
            return
        tensor, source = label(name, held), f"traffic model {self.traffic}: what lies between the kernels of the op"
        for way, times in zip(("read", "written"), passes(self.graph, derived.op)[slot], strict=True):
            if times:
                term = [Part(f"{times} of the stored bits", int(stored.whole * times)), *_runs(derived.op.times)]
                bits = derived.add(worked(f"DRAM {way} besides, {tensor}", [term], "bit", source)).whole
                read, written = derived.moved.get(tensor, (0, 0))
                derived.moved[tensor] = (read + bits, written) if way == "read" else (read, written + bits)

    def _read(self, derived: Derived, vector: _Vector, use: Use) -> None:
        """Add what a read moves: the tensor, or a copy in DRAM that stands for it; copies made on chip move none."""
        op, name = use.op, use.op.inputs[use.operand]
        labels = GEMM_OPERANDS[op.gemm] if op.gemm else op.kind.input_names
        operand, held = labels[use.operand], label(name, use.held)
        if use.held is not None:
            derived.add(nothing(f"DRAM read, {name}", "bit", f"its copy {held} stands for it as operand {operand}"))
        pattern = op.kind.touched[use.operand]
        stored = self._stored(derived, name, use.held, None if pattern is None or use.held else expand(pattern, op.env))
        why = self.follower.on_chip(use)
        if why:
            derived.add(nothing(f"DRAM read, {held}", "bit", why))
        else:
            self._move(derived, name, use.held, stored, op.times, 1 + sum(copy.second_read for copy in use.made))
            self._by_steps(derived, name, use.held, stored, use.operand)
        for copy in use.made:
            self._converted(vector, copy, name, op.times)
            self._stored(derived, name, copy)
            made = f"made on chip of {held} each time, for operand {operand}"
            derived.add(nothing(f"DRAM read, {label(name, copy)}", "bit", made))

    def _write(self, derived: Derived, vector: _Vector, name: str) -> None:
        """Add what an op writes of one of its results: the tensor, and the copies that are made along with it."""
        op, graph = derived.op, self.graph
        why = self.follower.story(name).unwritten.get(None, "")
        why = "" if graph.tensors[name].alias is not None else why
        self._written(derived, name, None, why)
        if not why:
            slot = len(op.inputs) + op.outputs.index(name)
            self._by_steps(derived, name, None, self._stored(derived, name, None), slot)
        root = graph.root[name]
        if graph.maker[root] is not op:
            return  # what is written in place later has its copies made then
        story = self.follower.story(root)
        for copy in story.copies:
            self._converted(vector, copy, root, op.times)
            self._written(derived, root, copy, story.unwritten.get(copy, ""))

    def _written(self, derived: Derived, name: str, held: Held, why_not: str) -> None:
        stored = self._stored(derived, name, held)
        if why_not:
            derived.add(nothing(f"DRAM written, {label(name, held)}", "bit", why_not))
        else:
            self._move(derived, name, held, stored, derived.op.times)


def _runs(times: int) -> list[Part]:
    return [Part("runs", times)] if times != 1 else []


def _split(dims: Dims, axes: Axes) -> tuple[Axes, Axes]:
    """The axes along which blocks lie, and the others."""
    return axes, tuple(axis for axis in range(len(dims)) if axis not in axes)


def _blocks(name: str, size: int, side: int) -> tuple[str, str, int]:
    """How many blocks of a side there are: formula, values, result; one that is cut off is a block."""
    if side == 1:
        return name, str(size), size
    return f"ceil({name} / {side})", f"ceil({size} / {side})", size // side + (size % side > 0)


def _source_of_work(op: Op) -> str:
    """Where the operations on elements come from: the op table and what its row cites."""
    if op.kind.is_contraction:
        return "an einsum has products and sums only, which are its MACs"
    cited = re.search(r"Source: (.*?)\.?\s*$", op.kind.run.__doc__ or "", re.DOTALL)
    return f"op table, {op.kind.name}" + (f"; {' '.join(cited[1].split())}" if cited else "")
