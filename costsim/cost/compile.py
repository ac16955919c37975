"""A step compiled to tables: what it costs under any policy of a space, as a sum of terms over a few choices each.

What a read costs hangs on the copies through which that op reads, the arithmetic of a GEMM on those of two operands: on
two or three variables of the space each. What is made and written of a tensor is a question of whether any of its
readers wants it. So there are two sorts of terms: a table has a count for every combination of its variables; an
alternative has one count, if any of its conditions holds. Both are worked out by the very functions that `count` uses.
A policy then costs a lookup a term; all are exact integers.

int64 holds every sum, which is proved by the sum of the largest entries; where it does not, they are Python integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from costsim.cost.classes import Alike, kernel_classes
from costsim.cost.laws import LAWS, Law
from costsim.cost.parts import Part, Parts
from costsim.cost.row import narrowest_scope
from costsim.cost.sums import factor, sums
from costsim.cost.traffic import Held, Reading, elsewhere, follow, tensor_traffic
from costsim.formats.format import Format
from costsim.graph.fusion import group_ops, grouping
from costsim.graph.graph import Graph, Op
from costsim.names import SCOPES, Scope, Traffic, Writes
from costsim.policy.assign import Chain, Copy
from costsim.policy.space import Family, Outcomes, Space

Integers = NDArray[Any]  # of int64, or of Python integers
Points = NDArray[np.integer[Any]]  # [policies, variables]: the place of a choice


class Counts(NamedTuple):
    """What is counted of a step, as in `totals.Total`."""

    priced: int = 0  # the MACs' cost under the law
    unpriced_macs: int = 0  # MACs of which the law has no price
    read_bits: int = 0
    written_bits: int = 0
    quantize: int = 0  # conversions of elements to another format


class Table(NamedTuple):
    """Counts by combination of a few variables, with the last variable the fastest."""

    variables: tuple[int, ...]
    counts: Integers  # [combinations, what is counted]


class Condition(NamedTuple):
    """For which combinations of a few variables something is so."""

    variables: tuple[int, ...]
    holds: tuple[bool, ...]


class Alternative(NamedTuple):
    """Counts of what is there if any condition holds."""

    conditions: frozenset[Condition]
    counts: Integers  # [what is counted]


@dataclass(frozen=True, eq=False)
class Compiled:
    """The terms of a step."""

    space: Space
    tables: tuple[Table, ...]
    alternatives: tuple[Alternative, ...]

    def evaluate(self, points: Points) -> Integers:
        """Counts of policies, [policies, what is counted]."""
        total = np.zeros((len(points), len(Counts._fields)), self.tables[0].counts.dtype if self.tables else np.int64)
        for variables, counts in self.tables:
            total += counts.take(self._places(variables, points), axis=0)
        for conditions, counts in self.alternatives:
            any_holds = np.zeros(len(points), bool)
            for variables, holds in conditions:
                any_holds |= np.array(holds).take(self._places(variables, points))
            total += any_holds[:, None] * counts
        return total

    def one(self, combination: Sequence[int]) -> Counts:
        """The counts of one policy."""
        return Counts(*map(int, self.evaluate(np.array([combination]))[0]))

    def _places(self, variables: Sequence[int], points: Points) -> NDArray[np.intp]:
        """By policy: the place of its combination of these variables."""
        places = np.zeros(len(points), np.intp)
        for i in variables:
            places = places * self.space.sizes[i] + points[:, i]
        return places


class _Reader(NamedTuple):
    """An op that reads a tensor, as that operand; through which copies."""

    op: Op
    operand: int
    chains: Outcomes[Chain]


class _Compiler:
    """Works out the terms of one graph under one convention. `writes`: those of scope gemm, None in other scopes."""

    def __init__(self, graph: Graph, space: Space, index: int, traffic: Traffic, scope: Scope, writes: Writes) -> None:
        self.graph, self.space = graph, space
        self.writes = writes if scope == "gemm" else None
        self.scopes = SCOPES[: SCOPES.index(scope) + 1]
        self.family = Family(graph, space, index)
        self.kernels = kernel_classes(graph, self.family.selectors, group_ops(graph, grouping(traffic, scope)))
        self.parts = Parts(graph, self.kernels)
        self.tables: dict[tuple[int, ...], Integers] = {}
        self.alternatives: dict[frozenset[Condition], Integers] = {}
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

    def add(self, of: Outcomes[Any], counts: Sequence[Counts]) -> None:
        """Add what has these counts, by its value."""
        if any(map(any, counts)):
            table = np.array(counts, object)[list(of.which)]
            self.tables[of.variables] = self.tables.get(of.variables, 0) + table

    def add_if_any(self, conditions: Iterable[Outcomes[bool]], counts: Counts) -> None:
        """Add what is there if any condition holds."""
        possible = [condition for condition in conditions if any(condition.values)]
        if any(not condition.variables for condition in possible):
            self.add(Outcomes((), (0,), (None,)), [counts])
        elif possible and any(counts):
            key = frozenset(Condition(c.variables, tuple([c.values[i] for i in c.which])) for c in possible)
            self.alternatives[key] = self.alternatives.get(key, 0) + np.array(counts, object)

    # --- reads ---

    def read(self, alike: Alike, slot: int) -> None:
        """Add what ops that are alike read of an operand, with copies that they make, or have made for one kernel."""
        op, family = alike.ops[0], self.family
        name = op.inputs[slot]
        stored, readers = self.stored(name), self.readers(name)
        told = {self.graph.reader_number(op, slot)}  # of other readers it matters what they have on chip already
        if alike.touched[slot]:
            touches = self.kernels.touched_before(op, slot)
            told |= {self.graph.reader_number(other, i) for other, i in touches if i < len(other.inputs)}

        def count(chosen: Mapping[int, int]) -> Counts:
            chains = [family.pick(reader.chains, chosen) if i in told else () for i, reader in enumerate(readers)]
            traffic = tensor_traffic(self.graph, name, family.pick(stored, chosen), chains, self.kernels.group)
            parts = [self.parts.read(alike, slot, traffic)]
            if self.writes is None:
                casts = self.parts.casts(alike, slot, traffic)
                parts += [cast.part for cast in casts if cast.written.copy and cast.written.copy.transient]
            return _of_parts(parts, len(alike.ops))

        counts = family.outcomes([stored, *(readers[i].chains for i in told)], count)
        self.add(counts, counts.values)

    # --- what is made and written if any reader wants it ---

    def when(self, name: str, wants: _Wants, format: Format | None = None) -> list[Outcomes[bool]]:
        """By reader of a tensor that may want something: when it does; `format`: if the tensor is stored in that."""
        stored, group, family = self.stored(name), self.kernels.group, self.family
        conditions = []
        for op, _, chains in self.readers(name):
            readings = [follow(chain, name in self.graph.maker) for chain in chains.values]
            so = [wants(op, reading, elsewhere(self.graph, name, op, reading, group)) for reading in readings]
            if any(so):
                condition = family.outcomes([chains], lambda chosen, of=chains, so=so: so[family.place(of, chosen)])
                if format is not None and len(stored.values) > 1:
                    in_format = family.outcomes([stored], lambda chosen: family.pick(stored, chosen) == format)
                    condition = self.both(condition, in_format)
                conditions.append(condition)
        return conditions

    def both(self, a: Outcomes[bool], b: Outcomes[bool]) -> Outcomes[bool]:
        """When both are so."""
        pick = self.family.pick
        return self.family.outcomes([a, b], lambda chosen: pick(a, chosen) and pick(b, chosen))

    def when_operand(self, name: str, held: Held, format: Format | None = None) -> list[Outcomes[bool]]:
        """When a GEMM reads this of a tensor, and somebody does in another kernel than it was made in."""
        gemms = self.when(name, lambda op, reading, _: op.gemm is not None and reading.held == held, format)
        if all(
            elsewhere(self.graph, name, op, follow((), True), self.kernels.group) for op, _, _ in self.readers(name)
        ):
            return gemms
        others = self.when(name, lambda _, reading, outside: outside and reading.held == held, format)
        return [self.both(gemm, other) for gemm in gemms for other in others]

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
                    written = Counts(written_bits=times * cast.written.written_bits)
                    self.add_if_any(
                        self.when(name, lambda op, r, _, copy=copy: op.gemm is not None and r.held == copy), written
                    )
                    continue
                conditions = self.when(
                    name,
                    lambda op, r, _, cast=(copy, source): self.counted(op) and cast in r.casts,
                    format if source is None else None,
                )
                self.add_if_any(conditions, _of_parts([cast.part], times))

    def written(self, alike: Alike, slot: int) -> None:
        """Add what ops that are alike write of a result, and of the copies of the tensor in whose memory it lies."""
        op, times = alike.ops[0], len(alike.ops)
        if self.writes == "none":
            return self.made(alike, slot)
        name = op.outputs[slot - len(op.inputs)]
        root, stored = self.graph.root[name], self.stored(name)
        operands = self.writes == "operands" and op.gemm is None
        counts = [
            Counts(written_bits=times * self.parts.raw(op, slot, format).written_bits) for format in stored.values
        ]
        if operands:
            for format, count in zip(stored.values, counts, strict=True):
                self.add_if_any(self.when_operand(root, None, format), count)
        elif root != name or not self.readers(name):
            self.add(stored, counts)
        else:
            for format, count in zip(stored.values, counts, strict=True):
                self.add_if_any(self.when(name, _reads(None), format), count)
        return self.made(alike, slot, operands)

    def made(self, alike: Alike, slot: int, operands: bool = False) -> None:
        """Add the copies that ops that are alike make along with a result. `operands`: only writes for GEMMs."""
        op, times = alike.ops[0], len(alike.ops)
        root = self.graph.root[op.outputs[slot - len(op.inputs)]]
        if self.graph.maker[root] is not op:
            return
        every = (
            copy for reader in self.readers(root) for chain in reader.chains.values for copy in follow(chain, True).made
        )
        for copy in dict.fromkeys(every):
            work, move = self.parts.made(op, slot, copy, self.stored(root).values[0])
            written = Counts(written_bits=times * move.written_bits)
            if operands:
                self.add_if_any(self.when_operand(root, copy), written)
                continue
            made = self.when(root, lambda _, reading, __, copy=copy: copy in reading.made)
            self.add_if_any(made, Counts(quantize=times * work["quantize"]))
            if self.writes != "none":
                self.add_if_any(self.when(root, _reads(copy)), written)

    # --- arithmetic ---

    def arithmetic(self, alike: Alike, law: Law) -> None:
        """Add the cost of the MACs of GEMMs that are alike."""
        op, graph, pick = alike.ops[0], self.graph, self.family.pick
        macs, _ = graph.work(op)
        dims = graph.tensors[op.inputs[0]].dims
        summed = graph.elements(tuple([dims[axis] for axis in op.kind.contracted[0]]))
        operands = [(i, self.stored(op.inputs[i]), self.chains(op, i)) for i in (0, 1)]
        named = self.family.accumulators[self.family.classes.stored_as[op.outputs[0]]]

        def price(chosen: Mapping[int, int]) -> int | None:
            a, b = (factor(graph, op, i, pick(stored, chosen), pick(chain, chosen)) for i, stored, chain in operands)
            pair, additions = sums(graph, macs, pick(named, chosen), a, b)
            return law.cost(*pair[:2], summed, macs, additions)

        prices = self.family.outcomes([named, *(each for _, *both in operands for each in both)], price)
        times = len(alike.ops)
        unpriced = Counts(unpriced_macs=times * macs)
        self.add(prices, [unpriced if each is None else Counts(priced=times * each) for each in prices.values])

    def counted(self, op: Op) -> bool:
        """Whether the scope has the op, or of what it reads and writes what GEMMs read."""
        return self.writes is not None or narrowest_scope(op) in self.scopes


_Wants = Callable[[Op, Reading, bool], bool]  # of a reader: how it reads, and whether in another kernel


def _reads(held: Held) -> _Wants:
    """Whether a reader reads this from DRAM, itself in another kernel or by a pass before it."""
    return lambda _, reading, outside: (outside and reading.held == held) or any(s == held for _, s in reading.casts)


def _of_parts(parts: Iterable[Part], times: int) -> Counts:
    """The counts of so many times these parts."""
    read = written = quantize = 0
    for work, moves in parts:
        quantize += work.get("quantize", 0)
        for move in moves:
            read += move.read_bits
            written += move.written_bits
    return Counts(read_bits=times * read, written_bits=times * written, quantize=times * quantize)


def compile_step(
    graph: Graph, space: Space, traffic: Traffic, scope: Scope, gemm_writes: Writes, law: str, index: int = 0
) -> Compiled:
    """The terms of a step in the phase of that index. Traffic without a buffer only: tiles hang on a whole kernel.

    Raises InputError for choices that do not fit.
    """
    compiler = _Compiler(graph, space, index, traffic, scope, gemm_writes)
    for alike in compiler.kernels.alike:
        op = alike.ops[0]
        if not compiler.counted(op):
            continue
        if compiler.writes is None or op.gemm is not None:
            for slot in range(len(op.inputs)):
                compiler.read(alike, slot)
        if compiler.writes in (None, "operands") or op.gemm is not None:
            for slot in range(len(op.outputs)):
                compiler.written(alike, len(op.inputs) + slot)
        if op.gemm is not None:
            compiler.arithmetic(alike, LAWS[law])
    if compiler.writes in (None, "operands"):
        for name, _ in compiler.kernels.traffic.values():
            compiler.casts(name)
    return _merged(space, compiler.tables, compiler.alternatives)


# --- fewer terms ------------------------------------------------------------------------------------------------------

_MERGED = 4096  # tables of at most so many combinations are merged: a lookup less, and still in the cache


def _widened(sizes: Sequence[int], table: Table, variables: tuple[int, ...]) -> Integers:
    """The counts of a table by combination of more variables, of which it has some, all in order."""
    shape = [sizes[i] if i in table.variables else 1 for i in variables]
    counts = table.counts.reshape(*shape, -1)
    whole = np.broadcast_to(counts, (*(sizes[i] for i in variables), counts.shape[-1]))
    return whole.reshape(-1, counts.shape[-1])


def _union(sizes: Sequence[int], parts: Iterable[Sequence[int]]) -> tuple[int, ...] | None:
    """The variables of several tables, if one of them all is small enough."""
    union = tuple(sorted({i for variables in parts for i in variables}))
    return union if prod(sizes[i] for i in union) <= _MERGED else None


def _as_table(sizes: Sequence[int], conditions: Iterable[Condition], counts: Integers, union: tuple[int, ...]) -> Table:
    """An alternative as a table."""
    holds = [_widened(sizes, Table(of, np.array(so)[:, None]), union) for of, so in conditions]
    return Table(union, np.logical_or.reduce(holds).astype(object) * counts)


def _merged(
    space: Space, tables: Mapping[tuple[int, ...], Integers], alternatives: Mapping[frozenset[Condition], Integers]
) -> Compiled:
    """The terms, where small ones are merged, as int64 if that holds every sum."""
    sizes, kept = space.sizes, []
    every = [Table(*item) for item in tables.items()]
    for conditions, counts in alternatives.items():
        union = _union(sizes, (condition.variables for condition in conditions))
        if union is None:
            kept.append(Alternative(conditions, counts))
        else:
            every.append(_as_table(sizes, conditions, counts, union))
    merged: list[Table] = []
    for table in sorted(every, key=lambda table: (-len(table.variables), table.variables)):
        for i, other in enumerate(merged):
            union = _union(sizes, (table.variables, other.variables))
            if union is not None:
                merged[i] = Table(union, _widened(sizes, table, union) + _widened(sizes, other, union))
                break
        else:
            merged.append(table)
    largest = [table.counts.max(axis=0) for table in merged] + [counts for _, counts in kept]
    dtype: Any = np.int64 if all(int(bound) < 2**63 for bound in np.sum(largest, axis=0)) else object
    return Compiled(
        space,
        tuple(table._replace(counts=table.counts.astype(dtype)) for table in merged),
        tuple(each._replace(counts=each.counts.astype(dtype)) for each in kept),
    )
