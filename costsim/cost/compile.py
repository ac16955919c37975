"""A step compiled to tables: what it costs under any policy of a space, as sums over a few choices each.

A part of an op hangs on how one tensor is stored and read, its arithmetic on how two are: on two or three variables of
the space each. So each part is counted once for every combination of those, by the very functions that `count` uses,
and parts that hang on the same variables are one table. A policy then costs a lookup a table; all are exact integers.

int64 holds every sum, which is proved by the sum of each table's largest entries; where it does not, entries are
Python integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from costsim.cost.traffic import TensorTraffic, tensor_traffic
from costsim.formats.format import Format
from costsim.graph.fusion import group_ops, grouping
from costsim.graph.graph import Graph, Op
from costsim.names import SCOPES, Scope, Traffic, Writes
from costsim.policy.assign import Chain
from costsim.policy.space import Family, Outcomes, Space

Integers = NDArray[Any]  # of int64, or of Python integers


class Counts(NamedTuple):
    """What is counted of a step, as in `totals.Total`."""

    priced: int = 0  # the MACs' cost under the law
    unpriced_macs: int = 0  # MACs of which the law has no price
    read_bits: int = 0
    written_bits: int = 0
    quantize: int = 0  # conversions of elements to another format


class _Form(NamedTuple):
    """How a tensor is stored, and by reader, through which copies it is read: all that a policy says of it."""

    format: Format
    chains: tuple[Chain, ...]


class Table(NamedTuple):
    """Counts by combination of a few variables, with the last variable the fastest."""

    variables: tuple[int, ...]
    counts: Integers  # [combinations, what is counted]


@dataclass(frozen=True, eq=False)
class Compiled:
    """The tables of a step."""

    space: Space
    tables: tuple[Table, ...]

    def evaluate(self, points: NDArray[np.integer[Any]]) -> Integers:
        """Counts of policies, [points, what is counted]; a point is the place of a choice for each variable."""
        total = np.zeros((len(points), len(Counts._fields)), self.tables[0].counts.dtype if self.tables else np.int64)
        for variables, counts in self.tables:
            total += counts.take(_places(self.space.sizes, variables, points), axis=0)
        return total

    def one(self, combination: Sequence[int]) -> Counts:
        """The counts of one policy."""
        return Counts(*map(int, self.evaluate(np.array([combination]))[0]))


def _places(sizes: Sequence[int], variables: Sequence[int], points: NDArray[np.integer[Any]]) -> NDArray[np.intp]:
    """By point: the place of its combination in a table over these variables."""
    places = np.zeros(len(points), np.intp)
    for i in variables:
        places = places * sizes[i] + points[:, i]
    return places


_MERGED = 4096  # tables of fewer combinations than this are merged: a lookup less, and still in the cache


class _Compiler:
    """Works out the tables of one graph under one convention."""

    def __init__(self, graph: Graph, space: Space, index: int, traffic: Traffic, scope: Scope) -> None:
        self.graph, self.space = graph, space
        self.family = Family(graph, space, index)
        group = group_ops(graph, grouping(traffic, scope))
        self.kernels = kernel_classes(graph, self.family.selectors, group)
        self.parts = Parts(graph, self.kernels)
        self.forms = {number: self._forms(name) for number, (name, _) in self.kernels.traffic.items()}
        self.traffic: dict[tuple[int, _Form], TensorTraffic] = {}
        self.tables: dict[tuple[int, ...], Integers] = {}

    def _forms(self, name: str) -> Outcomes[_Form]:
        family, classes = self.family, self.family.classes
        stored = family.stored[classes.stored_as[name]]
        numbers = [classes.read_as.get((op.position, i)) for op, i in self.graph.readers.get(name, ())]
        chains = [None if number is None else family.chains[number] for number in numbers]

        def form(chosen: Mapping[int, int]) -> _Form:
            read = tuple([() if chain is None else family.pick(chain, chosen) for chain in chains])
            return _Form(family.pick(stored, chosen), read)

        return family.outcomes([stored, *(chain for chain in chains if chain is not None)], form)

    def _traffic(self, name: str, form: _Form) -> TensorTraffic:
        number = self.kernels.traffic_of[name]
        if (number, form) not in self.traffic:
            traffic = tensor_traffic(self.graph, name, form.format, form.chains, self.kernels.group)
            self.traffic[number, form] = traffic
        return self.traffic[number, form]

    def add(self, of: Outcomes[Any], counts: Sequence[Counts]) -> None:
        """Add what has these counts, by its value."""
        if any(map(any, counts)):
            table = np.array(counts, object)[list(of.which)]
            self.tables[of.variables] = self.tables[of.variables] + table if of.variables in self.tables else table

    def part(self, alike: Alike, slot: int, writes: Writes | None) -> None:
        """Add what a tensor costs ops that are alike. `writes`: of scope gemm, else None."""
        op = alike.ops[0]
        name = (op.inputs + op.outputs)[slot]
        root = self.graph.root[name]
        of_name, of_root = (self.forms[self.kernels.traffic_of[each]] for each in (name, root))
        if name == root:
            forms: Outcomes[Any] = of_name
            pairs = [(form, form) for form in of_name.values]
        else:
            pick = self.family.pick
            forms = self.family.outcomes(
                [of_name, of_root], lambda chosen: (pick(of_name, chosen), pick(of_root, chosen))
            )
            pairs = list(forms.values)
        counts = []
        for form, form_of_root in pairs:
            traffic, traffic_of_root = self._traffic(name, form), self._traffic(root, form_of_root)
            if slot < len(op.inputs):
                own = self.parts.read(alike, slot, traffic)
                casts = [cast.part for cast in self.parts.casts(alike, slot, traffic)]
            else:
                own, casts = self.parts.written(op, slot, traffic, traffic_of_root), []
            counted = self._counted(op, own, casts, traffic_of_root, writes)
            counts.append(_of_parts(counted, len(alike.ops)))
        self.add(forms, counts)

    def _counted(
        self, op: Op, own: Part, casts: Sequence[Part], of_root: TensorTraffic, writes: Writes | None
    ) -> Iterator[Part]:
        """Of an op's parts, what a scope counts, as `count` says it."""
        if writes is None:
            yield own
            yield from casts
            return
        if op.gemm is not None:
            yield own if writes != "none" else own._replace(moves=tuple(move for move in own.moves if move.read_bits))
        if writes == "operands":
            for part in casts if op.gemm is not None else (own, *casts):
                operands = (m for m in part.moves if m.written_bits and self.parts.is_operand(op, m, of_root))
                yield Part({}, tuple(operands))

    def arithmetic(self, alike: Alike, law: Law) -> None:
        """Add the cost of the MACs of GEMMs that are alike."""
        op, family, graph = alike.ops[0], self.family, self.graph
        macs, _ = graph.work(op)
        dims = graph.tensors[op.inputs[0]].dims
        summed = graph.elements(tuple([dims[axis] for axis in op.kind.contracted[0]]))
        stored = [family.stored[family.classes.stored_as[name]] for name in op.inputs[:2]]
        numbers = [family.classes.read_as.get((op.position, i)) for i in (0, 1)]
        chains = [None if number is None else family.chains[number] for number in numbers]
        named = family.accumulators[family.classes.stored_as[op.outputs[0]]]

        def price(chosen: Mapping[int, int]) -> int | None:
            of = [
                factor(
                    graph, op, i, family.pick(stored[i], chosen), () if chain is None else family.pick(chain, chosen)
                )
                for i, chain in enumerate(chains)
            ]
            (a, b, _), additions = sums(graph, macs, family.pick(named, chosen), *of)
            return law.cost(a, b, summed, macs, additions)

        prices = family.outcomes([named, *stored, *(chain for chain in chains if chain is not None)], price)
        times = len(alike.ops)
        self.add(
            prices,
            [
                Counts(unpriced_macs=times * macs) if each is None else Counts(priced=times * each)
                for each in prices.values
            ],
        )


def _of_parts(parts: Iterator[Part], times: int) -> Counts:
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
    """The tables of a step in the phase of that index. Traffic without a buffer only: tiles hang on a whole kernel.

    Raises InputError for choices that do not fit.
    """
    compiler = _Compiler(graph, space, index, traffic, scope)
    scopes = SCOPES[: SCOPES.index(scope) + 1]
    for alike in compiler.kernels.alike:
        op = alike.ops[0]
        if scope == "gemm" and op.gemm is None and gemm_writes != "operands":
            continue
        if scope != "gemm" and narrowest_scope(op) not in scopes:
            continue
        for slot in range(len(op.inputs) + len(op.outputs)):
            compiler.part(alike, slot, gemm_writes if scope == "gemm" else None)
        if op.gemm is not None:
            compiler.arithmetic(alike, LAWS[law])
    return Compiled(space, tuple(_merged(space.sizes, compiler.tables)))


# --- fewer tables -----------------------------------------------------------------------------------------------------


def _widened(sizes: Sequence[int], table: Table, variables: tuple[int, ...]) -> Integers:
    """The counts of a table by combination of more variables, of which it has some, all in order."""
    shape = [sizes[i] if i in table.variables else 1 for i in variables]
    counts = table.counts.reshape(*shape, table.counts.shape[-1])
    whole = np.broadcast_to(counts, (*(sizes[i] for i in variables), table.counts.shape[-1]))
    return whole.reshape(-1, table.counts.shape[-1])


def _merged(sizes: Sequence[int], tables: Mapping[tuple[int, ...], Integers]) -> Iterator[Table]:
    """Tables in which small ones are merged, as int64 if that holds every sum."""
    merged: list[Table] = []
    for variables, counts in sorted(tables.items(), key=lambda item: (-len(item[0]), item[0])):
        table = Table(variables, counts)
        for i, other in enumerate(merged):
            union = tuple(sorted({*variables, *other.variables}))
            if set(variables) <= set(other.variables) or prod(sizes[v] for v in union) <= _MERGED:
                merged[i] = Table(union, _widened(sizes, table, union) + _widened(sizes, other, union))
                break
        else:
            merged.append(table)
    largest = [
        sum(int(max(column)) for column in columns) for columns in zip(*(t.counts.T for t in merged), strict=True)
    ]
    fits = all(bound < 2**63 for bound in largest)
    for variables, counts in merged:
        yield Table(variables, counts.astype(np.int64) if fits else counts)
