"""A step compiled: what it costs under any policy of a space, as a sum of terms that hang on a few choices each.

What a read costs hangs on the copies through which that op reads, the arithmetic of a GEMM on those of two operands: on
two or three variables of the space each. What is made and written of a tensor is a question of whether any of its
readers wants it. Each term is worked out for all its combinations, by the very functions that `count` uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from costsim.cost.classes import Alike, Globs, is_counted, kernel_classes, telling
from costsim.cost.laws import LAWS, Law
from costsim.cost.parts import NO_WORK, Part, Parts, Pass, cast_times
from costsim.cost.row import Move, Row, narrowest_scope
from costsim.cost.sums import Sums, factor, summed, sums
from costsim.cost.terms import Counts, Sum, Terms
from costsim.cost.tiling import tiled_row
from costsim.cost.traffic import Held, Reading, TensorTraffic, elsewhere, follow, tensor_traffic
from costsim.cost.writes import NEVER, WRITES, Gemms
from costsim.errors import InputError
from costsim.formats.format import Format
from costsim.graph.fusion import grouping
from costsim.graph.graph import Graph, Op
from costsim.names import SCOPES, Scope, Traffic, Writes
from costsim.policy.assign import Chain, Copy
from costsim.policy.space import Outcomes, Space

T = TypeVar("T")
OfGemms = tuple[Writes, Globs]  # what scope gemm counts: which writes, and names of the GEMMs that it leaves out


class _Reader(NamedTuple):
    """An op that reads a tensor, as that operand; through which copies."""

    op: Op
    operand: int
    chains: Outcomes[Chain]


class Compiler:
    """Works out the terms of one graph under one convention. `writes`: those of scope gemm, None in other scopes."""

    def __init__(
        self,
        graph: Graph,
        space: Space,
        index: int,
        traffic: Traffic,
        scope: Scope,
        of_gemms: OfGemms,
        buffer_bytes: int | None = None,
    ) -> None:
        if buffer_bytes is not None and any(op.kernel for op in graph.ops):
            raise InputError("traffic tiled: blocks of flash attention are not searched; say --traffic fused")
        self.graph, self.space, self.buffer_bytes = graph, space, buffer_bytes
        self.writes = WRITES[of_gemms[0]] if scope == "gemm" else None
        self.left_out = of_gemms[1] if scope == "gemm" else ()
        self.scopes = SCOPES[: SCOPES.index(scope) + 1]
        self.family = space.family(graph, index)
        selectors = telling(self.family.selectors, self.left_out)
        self.kernels = kernel_classes(graph, selectors, grouping(traffic, scope))
        self.parts = Parts(graph, self.kernels)
        self.sum = Sum()
        self._sums: dict[int, Outcomes[Sums]] = {}  # by position of the GEMM
        self.members: dict[int, int] = {}  # by class: how many tensors it has
        for number in self.kernels.traffic_of.values():
            self.members[number] = self.members.get(number, 0) + 1

    # --- what hangs on what ---

    def stored(self, name: str) -> Outcomes[Format]:
        """How a tensor is stored."""
        return self.family.stored[self.family.classes.stored_as[name]]

    def chains(self, op: Op, operand: int) -> Outcomes[Chain]:
        """Through which copies an op reads."""
        number = self.family.classes.read_as.get((op.position, operand))
        return Outcomes((), (0,), ((),)) if number is None else self.family.chains[number]

    def readers(self, name: str) -> list[_Reader]:
        """Who reads a tensor."""
        return [_Reader(op, i, self.chains(op, i)) for op, i in self.graph.readers.get(name, ())]

    # --- terms ---

    def counts(self, parts: Iterable[Part], times: int) -> tuple[int, ...]:
        """What is counted of so many times these parts."""
        return of_parts(parts, times)

    def add_passes(self, of: Outcomes[tuple[Pass, ...]], number: int) -> None:
        """Add quantize kernels that run before each of so many ops."""
        none = [0] * len(self.counts((), 0))
        counts = [(none, *(one.counts for one in each)) for each in of.values]
        self.sum.add(of, [[number * sum(n) for n in zip(*each, strict=True)] for each in counts])

    def add_pass_if_any(self, conditions: Sequence[Outcomes[bool]], one: Pass, number: int) -> None:
        """Add so many quantize kernels, which run if any condition holds."""
        self.sum.add_if_any(conditions, [number * n for n in one.counts])

    def moved(self, move: Move, times: int) -> tuple[int, ...]:
        """What is counted of so many times a move."""
        return self.counts([Part(NO_WORK, (move,))], times)

    def one_pass(self, part: Part, op: Op, name: str, copy: Copy) -> Pass:
        """A quantize kernel before an op."""
        elements = self.graph.elements(self.graph.tensors[name].dims)
        return Pass(self.counts([part], 1), cast_times(self.graph, op, name, copy), copy, elements)

    # --- reads ---

    def reading(
        self, alike: Alike, slot: int
    ) -> tuple[list[Outcomes[Any]], Callable[[Mapping[int, int]], TensorTraffic]]:
        """On what it hangs how ops that are alike read an operand, and the traffic of that by combination of it."""
        op, family = alike.ops[0], self.family
        name = op.inputs[slot]
        stored, readers = self.stored(name), self.readers(name)
        told = {self.graph.reader_number(op, slot)}  # of other readers it matters what they have on chip already
        if alike.touched[slot]:
            touches = self.kernels.touched_before(op, slot)
            told |= {self.graph.reader_number(other, i) for other, i in touches if i < len(other.inputs)}

        def traffic(chosen: Mapping[int, int]) -> TensorTraffic:
            chains = [family.pick(reader.chains, chosen) if i in told else () for i, reader in enumerate(readers)]
            return tensor_traffic(self.graph, name, family.pick(stored, chosen), chains, self.kernels.group)

        return [stored, *(readers[i].chains for i in told)], traffic

    def read(self, alike: Alike, slot: int) -> None:
        """Add what ops that are alike read of an operand, with copies that they make, or have made for one kernel."""
        op, family, times = alike.ops[0], self.family, len(alike.ops)
        of, traffic = self.reading(alike, slot)

        def passes(chosen: Mapping[int, int]) -> tuple[Pass, ...]:
            casts = self.parts.casts(alike, slot, traffic(chosen))
            made = [(cast.part, cast.written.copy) for cast in casts]
            return tuple(
                [self.one_pass(part, op, op.inputs[slot], copy) for part, copy in made if copy and copy.transient]
            )

        counts = family.outcomes(of, lambda chosen: self.counts([self.parts.read(alike, slot, traffic(chosen))], times))
        self.sum.add(counts, counts.values)
        chains = self.chains(op, slot)
        if self.writes is None and any(copy.transient for chain in chains.values for copy in chain):
            self.add_passes(family.outcomes(of, passes), times)

    def read_again(self, alike: Alike, buffer_bytes: int) -> None:
        """Add what GEMMs that are alike move again for a buffer, which hangs on what both operands read."""
        op, family, times = alike.ops[0], self.family, len(alike.ops)
        pairs = self.products(op, lambda of: of.pair)
        reads = [self.reading(alike, slot) for slot in (0, 1)]
        what = (op.kind.name, op.phase, op.gemm, self.graph.tensors[op.outputs[0]].role)

        def again(chosen: Mapping[int, int]) -> tuple[int, ...]:
            parts = [self.parts.read(alike, slot, traffic(chosen)) for slot, (_, traffic) in enumerate(reads)]
            once = tuple([move for part in parts for move in part.moves])
            row = Row(alike.ops, None, *what, 0, 0, family.pick(pairs, chosen), (), NO_WORK, once)
            more = tiled_row(self.graph, row, 8 * buffer_bytes).moves
            counts = (self.counts([Part(NO_WORK, moves)], times) for moves in (more, once))
            return tuple([a - b for a, b in zip(*counts, strict=True)])

        counts = family.outcomes([pairs, *(each for of, _ in reads for each in of)], again)
        self.sum.add(counts, counts.values)

    # --- what is made and written if any reader wants it ---

    def when(self, name: str, wants: _Wants, format: Format | None = None) -> list[Outcomes[bool]]:
        """By reader of a tensor that may want something: when it does; `format`: if the tensor is stored in that."""
        stored, group, family = self.stored(name), self.kernels.group, self.family
        conditions = []
        for op, _, chains in self.readers(name):
            readings = [follow(chain, name in self.graph.maker) for chain in chains.values]
            so = [wants(op, reading, elsewhere(self.graph, name, op, reading, group)) for reading in readings]
            if any(so):
                condition = family.outcomes([chains], partial(self.so, chains, so))
                if format is not None and len(stored.values) > 1:
                    in_format = family.outcomes([stored], lambda chosen: family.pick(stored, chosen) == format)
                    condition = self.both(condition, in_format)
                conditions.append(condition)
        return conditions

    def so(self, of: Outcomes[Any], so: Sequence[bool], chosen: Mapping[int, int]) -> bool:
        """Whether what has these values has one for which something is so."""
        return so[self.family.place(of, chosen)]

    def both(self, a: Outcomes[bool], b: Outcomes[bool]) -> Outcomes[bool]:
        """When both are so."""
        pick = self.family.pick
        return self.family.outcomes([a, b], lambda chosen: pick(a, chosen) and pick(b, chosen))

    def asked(self, op: Op, name: str) -> Gemms | None:
        """The GEMMs of which one must read what an op writes of a tensor, if that is to count; None: whoever does."""
        role = self.graph.tensors[name].role
        return None if self.writes is None else self.writes.readers(self.gemm(op), role)

    def when_read_by(self, gemms: Gemms, name: str, held: Held, format: Format | None = None) -> list[Outcomes[bool]]:
        """When one of these GEMMs reads this of a tensor, or of a view of it."""

        def wants(op: Op, reading: Reading, _: bool) -> bool:
            return op.gemm in gemms and self.gemm(op) and reading.held == held

        conditions = self.when(name, wants, format)
        for view in dict.fromkeys(op.outputs[0] for op, _, _ in self.readers(name) if op.kind.view):
            seen = self.when(name, partial(_views, view, held), format)
            conditions += [self.both(a, b) for a in seen for b in self.when_read_by(gemms, view, None)]
        return conditions

    def when_written(
        self, gemms: Gemms | None, name: str, held: Held, format: Format | None = None
    ) -> list[Outcomes[bool]]:
        """When this of a tensor is written, as somebody reads it in another kernel than made it, and is asked for."""
        if gemms is None:
            return self.when(name, _reads(held), format)
        asked = self.when_read_by(gemms, name, held, format)
        if all(
            elsewhere(self.graph, name, op, follow((), True), self.kernels.group) for op, _, _ in self.readers(name)
        ):
            return asked
        return [self.both(a, b) for a in asked for b in self.when(name, _reads(held), format)]

    def casts(self, name: str) -> None:
        """Add the quantize kernels that make copies of a tensor once, for all tensors of its class."""
        stored, times = self.stored(name), self.members[self.kernels.traffic_of[name]]
        casts: dict[tuple[Copy, Held], tuple[Op, int]] = {}
        for op, operand, chains in self.readers(name):
            if self.counted(op):
                every = [cast for chain in chains.values for cast in follow(chain, name in self.graph.maker).casts]
                casts |= {cast: (op, operand) for cast in every if not cast[0].transient and cast not in casts}
        for (copy, source), (op, operand) in casts.items():
            formats = stored.values if source is None else stored.values[:1]
            for format in formats if self.writes is None else formats[:1]:
                cast = self.parts.cast(op, operand, format, copy, source)
                if self.writes is not None:
                    gemms = self.writes.readers(False, self.graph.tensors[name].role) or NEVER
                    part, conditions = Part(NO_WORK, (cast.written,)), self.when_read_by(gemms, name, copy)
                else:
                    wants = partial(self._casts, (copy, source))
                    part, conditions = cast.part, self.when(name, wants, format if source is None else None)
                self.add_pass_if_any(conditions, self.one_pass(part, op, name, copy), times)

    def _casts(self, cast: tuple[Copy, Held], op: Op, reading: Reading, _outside: bool) -> bool:
        return self.counted(op) and cast in reading.casts

    def written(self, alike: Alike, slot: int) -> None:
        """Add what ops that are alike write of a result, and of the copies of the tensor in whose memory it lies."""
        op, times = alike.ops[0], len(alike.ops)
        name = op.outputs[slot - len(op.inputs)]
        root, stored, gemms = self.graph.root[name], self.stored(name), self.asked(op, name)
        counts = [self.moved(self.parts.raw(op, slot, format), times) for format in stored.values]
        if gemms is None and (root != name or not self.readers(name)):
            self.sum.add(stored, counts)
        elif gemms != NEVER:
            for format, count in zip(stored.values, counts, strict=True):
                self.sum.add_if_any(self.when_written(gemms, root, None, format), count)
        self.made(alike, slot)

    def made(self, alike: Alike, slot: int) -> None:
        """Add the copies that ops that are alike make along with a result."""
        op, times = alike.ops[0], len(alike.ops)
        root = self.graph.root[op.outputs[slot - len(op.inputs)]]
        if self.graph.maker[root] is not op:
            return
        every = (
            copy for reader in self.readers(root) for chain in reader.chains.values for copy in follow(chain, True).made
        )
        gemms = self.asked(op, root)
        for copy in dict.fromkeys(every):
            work, move = self.parts.made(op, slot, copy, self.stored(root).values[0])
            if self.writes is None or self.gemm(op):
                self.sum.add_if_any(self.when(root, partial(_makes, copy)), self.counts([Part(work, ())], times))
            if gemms != NEVER:
                self.sum.add_if_any(self.when_written(gemms, root, copy), self.moved(move, times))

    # --- arithmetic ---

    def products(self, op: Op, value: Callable[[Sums], T]) -> Outcomes[T]:
        """Something that hangs on what a GEMM multiplies, and on how it adds its products up; these are found once."""
        if op.position not in self._sums:
            self._sums[op.position] = self._sums_of(op)
        of, pick = self._sums[op.position], self.family.pick
        return self.family.outcomes([of], lambda chosen: value(pick(of, chosen)))

    def _sums_of(self, op: Op) -> Outcomes[Sums]:
        graph, pick = self.graph, self.family.pick
        macs, _ = graph.work(op)
        operands = [(i, self.stored(op.inputs[i]), self.chains(op, i)) for i in (0, 1)]
        named = self.family.accumulators[self.family.classes.stored_as[op.outputs[0]]]

        def make(chosen: Mapping[int, int]) -> Sums:
            a, b = (factor(graph, op, i, pick(stored, chosen), pick(chain, chosen)) for i, stored, chain in operands)
            return sums(graph, macs, pick(named, chosen), a, b)

        return self.family.outcomes([named, *(stored for _, stored, _ in operands), *(c for _, _, c in operands)], make)

    def arithmetic(self, alike: Alike, law: Law) -> None:
        """Add the cost of the MACs of GEMMs that are alike."""
        op, times = alike.ops[0], len(alike.ops)
        macs, products = self.graph.work(op)[0], summed(self.graph, op)
        prices = self.products(op, lambda of: law.cost(*of.pair[:2], products, macs, of.additions))
        unpriced = Counts(unpriced_macs=times * macs)
        self.sum.add(prices, [unpriced if each is None else Counts(priced=times * each) for each in prices.values])

    # --- all of them ---

    def moves(self, alike: Alike) -> None:
        """Add what ops that are alike move, with the copies that they make."""
        op = alike.ops[0]
        if self.writes is None or self.gemm(op):
            for slot in range(len(op.inputs)):
                self.read(alike, slot)
            if self.buffer_bytes is not None and op.gemm is not None and not op.kind.view:
                self.read_again(alike, self.buffer_bytes)
        for slot in range(len(op.outputs)):
            self.written(alike, len(op.inputs) + slot)

    def all_casts(self) -> None:
        """Add the quantize kernels that make copies once."""
        for name, _ in self.kernels.traffic.values() if self.writes is None or self.writes.of_others else ():
            self.casts(name)

    def all_traffic(self) -> None:
        """Add what is moved, with the copies that are made."""
        for alike in self.kernels.alike:
            if self.counted(alike.ops[0]):
                self.moves(alike)
        self.all_casts()

    def all_arithmetic(self, law: Law) -> None:
        """Add the cost of all MACs."""
        for alike in self.kernels.alike:
            if self.gemm(alike.ops[0]) and not alike.ops[0].kind.view:
                self.arithmetic(alike, law)

    def priced(self, law: str) -> Terms:
        """The terms of arithmetic alone, under a law."""
        self.sum = Sum()
        self.all_arithmetic(LAWS[law])
        return self.sum.terms(self.space)

    def gemm(self, op: Op) -> bool:
        """Whether it is a GEMM, and none that scope gemm leaves out."""
        return is_counted(op, self.left_out)

    def counted(self, op: Op) -> bool:
        """Whether the scope has the op, or of what it reads and writes what GEMMs read."""
        if self.writes is not None and not self.writes.of_others and not self.gemm(op):
            return False
        return not op.kind.view and (self.writes is not None or narrowest_scope(op) in self.scopes)


_Wants = Callable[[Op, Reading, bool], bool]  # of a reader: how it reads, and whether in another kernel


def _reads(held: Held) -> _Wants:
    """Whether a reader reads this from DRAM, itself in another kernel or by a pass before it."""
    return lambda _, reading, outside: (outside and reading.held == held) or any(s == held for _, s in reading.casts)


def _views(view: str, held: Held, op: Op, reading: Reading, _outside: bool) -> bool:
    return view in op.outputs and reading.held == held


def _makes(copy: Copy, _op: Op, reading: Reading, _outside: bool) -> bool:
    return copy in reading.made


def of_parts(parts: Iterable[Part], times: int) -> Counts:
    """The counts of so many times these parts."""
    read = written = quantize = 0
    for work, moves in parts:
        quantize += work.get("quantize", 0)
        for move in moves:
            read += move.read_bits
            written += move.written_bits
    return Counts(read_bits=times * read, written_bits=times * written, quantize=times * quantize)


def compile_step(
    graph: Graph,
    space: Space,
    traffic: Traffic,
    scope: Scope,
    of_gemms: OfGemms,
    law: str | None,
    index: int = 0,
    buffer_bytes: int | None = None,
) -> Terms:
    """The terms of a step in the phase of that index. `law`: None leaves arithmetic out; `buffer_bytes`: if tiled.

    Raises InputError for choices that do not fit, for a buffer that is too small, and for flash attention in tiles.
    """
    compiler = Compiler(graph, space, index, traffic, scope, of_gemms, buffer_bytes)
    compiler.all_traffic()
    if law is not None:
        compiler.all_arithmetic(LAWS[law])
    return compiler.sum.terms(space)
