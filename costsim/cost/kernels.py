"""A step compiled kernel by kernel: what the time of each kernel hangs on, for any policy of a space.

A kernel takes as long as its arithmetic or its traffic, so no sum over a step says how long that takes. Quantize
kernels before an op are kernels of their own, which are launched if some reader wants the copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from costsim.cost.classes import Alike
from costsim.cost.collectives import Message
from costsim.cost.compile import Compiler, OfGemms
from costsim.cost.messages import message_read
from costsim.cost.parts import Part, Pass
from costsim.cost.terms import Sum, Terms
from costsim.cost.traffic import tensor_traffic
from costsim.formats.format import Format
from costsim.graph.graph import Graph, Op
from costsim.names import Scope, Traffic
from costsim.policy.space import Outcomes, Space

Pair = tuple[Format, Format, Format]


class Moved(NamedTuple):
    """What is counted of a kernel besides its MACs."""

    vector_ops: int
    dram_bits: int


class Gemm(NamedTuple):
    """A GEMM of a kernel: its MACs over all runs in a step, and which formats it multiplies and sums."""

    macs: int
    runs: int
    pairs: Outcomes[Pair]


class OfOp(NamedTuple):
    """What one op of a kernel moves, as counts in `Moved`, and multiplies."""

    op: Op
    moved: Terms
    gemms: tuple[Gemm, ...]


class Kernel(NamedTuple):
    """A kernel, how many of a step are alike, and how often each runs."""

    number: int
    runs: int
    gemms: tuple[Gemm, ...]
    moved: Terms  # counts as in `Moved`
    always: bool  # else it runs only if it moves something
    messages: tuple[Outcomes[Message], ...]  # to other ranks
    ops: tuple[OfOp, ...]  # op by op


class Kernels(NamedTuple):
    """A step, kernel by kernel."""

    graph: Graph
    space: Space
    kernels: tuple[Kernel, ...]
    before: tuple[tuple[int, Outcomes[tuple[Pass, ...]]], ...]  # quantize kernels before so many ops, by their choices
    if_any: tuple[tuple[int, tuple[Outcomes[bool], ...], Pass], ...]  # so many, which run if any condition holds


class _KernelCompiler(Compiler):
    """Works out the terms of each kernel by itself."""

    def __init__(
        self, graph: Graph, space: Space, index: int, traffic: Traffic, scope: Scope, of_gemms: OfGemms
    ) -> None:
        super().__init__(graph, space, index, traffic, scope, of_gemms)
        self.before: list[tuple[int, Outcomes[tuple[Pass, ...]]]] = []
        self.if_any: list[tuple[int, tuple[Outcomes[bool], ...], Pass]] = []

    def counts(self, parts: Iterable[Part], times: int) -> Moved:
        """Operations on elements and bits moved of so many times these parts."""
        vector_ops = dram_bits = 0
        for work, moves in parts:
            vector_ops += sum(work.values())
            dram_bits += sum([move.read_bits + move.written_bits for move in moves])
        return Moved(times * vector_ops, times * dram_bits)

    def add_passes(self, of: Outcomes[tuple[Pass, ...]], number: int) -> None:
        """Add quantize kernels that run before each of so many ops."""
        self.before.append((number, of))

    def add_pass_if_any(self, conditions: Sequence[Outcomes[bool]], one: Pass, number: int) -> None:
        """Add so many quantize kernels, which run if any condition holds, and not if they move nothing."""
        possible = tuple([condition for condition in conditions if any(condition.values)])
        if possible and any(one.counts):
            self.if_any.append((number, possible, one))

    def of_one(self, alike: Alike) -> tuple[Terms, tuple[Gemm, ...]]:
        """What one of some ops that are alike moves and multiplies; quantize kernels before all of them are added."""
        op, first = alike.ops[0], len(self.before)
        self.sum = Sum()
        self.moves(alike._replace(ops=[op]))
        self.before[first:] = [(len(alike.ops), of) for _, of in self.before[first:]]
        if self.writes is None or self.gemm(op):
            macs, work = self.graph.work(op)
            self.sum.add(Outcomes((), (0,), (None,)), [Moved(sum(work.values()), 0)])
            if self.gemm(op) and macs:
                gemm = Gemm(macs, op.times, self.products(op, lambda of: of.pair))
                return self.sum.terms(self.space), (gemm,)
        return self.sum.terms(self.space), ()

    def messages(self, op: Op) -> tuple[Outcomes[Message], ...]:
        """What a collective sends, by how its operand is stored and read."""
        if not op.kind.collective or not op.inputs or self.writes is not None:
            return ()
        name, family, graph = op.inputs[0], self.family, self.graph
        stored, chains = self.stored(name), self.chains(op, 0)
        at, readers = graph.reader_number(op, 0), range(len(self.readers(name)))

        def sent(chosen: Mapping[int, int]) -> Message:
            own = [family.pick(chains, chosen) if i == at else () for i in readers]
            traffic = tensor_traffic(graph, name, family.pick(stored, chosen), own, self.kernels.group)
            return message_read(graph, op, traffic)

        return (family.outcomes([stored, chains], sent),)

    def all_kernels(self) -> tuple[Kernel, ...]:
        """The kernels of a step, those that are alike once."""
        alike_of = {op.position: i for i, alike in enumerate(self.kernels.alike) for op in alike.ops}
        members: dict[int, list[Op]] = {}
        for op in self.graph.ops:
            if self.counted(op):
                members.setdefault(self.kernels.group[op.position], []).append(op)
        alike: dict[tuple[int, ...], list[list[Op]]] = {}
        for ops in members.values():
            alike.setdefault(tuple([alike_of[op.position] for op in ops]), []).append(ops)
        of_one = {i: self.of_one(self.kernels.alike[i]) for i in dict.fromkeys(i for key in alike for i in key)}
        kernels = []
        for key, same in alike.items():
            total, ops = Sum(), same[0]
            for i in key:
                total.include(of_one[i][0])
            gemms = tuple([gemm for i in key for gemm in of_one[i][1]])
            each = tuple([OfOp(op, *of_one[i]) for op, i in zip(ops, key, strict=True)])
            always = self.writes is None or any(map(self.gemm, ops))
            messages = tuple([message for op in ops for message in self.messages(op)])
            kernels.append(Kernel(len(same), ops[0].times, gemms, total.terms(self.space), always, messages, each))
        return tuple(kernels)


def compile_kernels(
    graph: Graph, space: Space, traffic: Traffic, scope: Scope, of_gemms: OfGemms, index: int = 0
) -> Kernels:
    """The kernels of a step in the phase of that index. Raises InputError for choices that do not fit."""
    compiler = _KernelCompiler(graph, space, index, traffic, scope, of_gemms)
    kernels = compiler.all_kernels()
    compiler.all_casts()
    return Kernels(graph, space, kernels, tuple(compiler.before), tuple(compiler.if_any))
