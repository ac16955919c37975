"""All that a total has, compiled: every sort of operation on elements, additions by accumulator, bits and elements.

Where a search needs a few costs, a sweep shows everything that `run` does; so a term has a column for each of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from costsim.cost.classes import Alike
from costsim.cost.compile import Compiler, OfGemms
from costsim.cost.laws import LAWS, Law
from costsim.cost.parts import Part, Work, added
from costsim.cost.sums import summed
from costsim.cost.terms import Points, Terms, merged
from costsim.cost.totals import Total
from costsim.graph.graph import Graph
from costsim.names import Scope, Traffic
from costsim.policy.space import Space

_FIXED = ("priced", "unpriced", "read_bits", "written_bits", "elements")
_WIDTHS = (12, 48, 192)  # columns: those, and one for each conversion and for each format that sums are in
_VECTOR, _SUM = "vector ", "sum "


class _NarrowError(Exception):
    """There are more columns than were made room for."""


class _Compiler(Compiler):
    """Works out the terms with all columns, of which there are at most so many."""

    width: int
    columns: dict[str, int]

    def row(self, counts: Mapping[str, int]) -> tuple[int, ...]:
        """Counts by name as columns, new ones if nobody has asked for them."""
        row = [0] * self.width
        for name, n in counts.items():
            at = self.columns.setdefault(name, len(self.columns))
            if at >= self.width:
                raise _NarrowError
            row[at] += n
        return tuple(row)

    def counts(self, parts: Iterable[Part], times: int) -> Any:
        """What is counted of so many times these parts."""
        total: dict[str, int] = {}
        for work, moves in parts:
            for name, n in _of_work(work).items():
                total[name] = total.get(name, 0) + times * n
            for move in moves:
                for name, n in zip(_FIXED[2:], (move.read_bits, move.written_bits, move.elements), strict=True):
                    total[name] = total.get(name, 0) + times * n
        return self.row(total)

    def arithmetic(self, alike: Alike, law: Law) -> None:
        """Add the cost of the MACs of GEMMs that are alike, and their additions."""
        op, times = alike.ops[0], len(alike.ops)
        macs, products = self.graph.work(op)[0], summed(self.graph, op)
        of = self.products(op, lambda of: (law.cost(*of.pair[:2], products, macs, of.additions), of.additions))
        rows = []
        for price, additions in of.values:
            cost = {"unpriced": macs} if price is None else {"priced": price}
            rows.append(self.row({k: times * n for k, n in {**cost, **_of_sums(additions)}.items()}))
        self.sum.add(of, rows)

    def own_work(self) -> tuple[int, dict[str, int]]:
        """What ops do whatever their formats: MACs, and operations on elements by name."""
        products, own = 0, dict[str, int]()
        for alike in self.kernels.alike:
            op, times = alike.ops[0], len(alike.ops)
            if op.kind.view or not (self.gemm(op) if self.writes is not None else self.counted(op)):
                continue
            macs, work = self.graph.work(op)
            products += times * macs if op.gemm is not None else 0
            for name, n in work.items():
                own[name] = own.get(name, 0) + times * n
        return products, own


def _of_work(work: Work) -> dict[str, int]:
    return {_VECTOR + name: n for name, n in work.items()}


def _of_sums(additions: Sequence[tuple[Any, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for format, n in additions:
        sums[_SUM + format.name] = sums.get(_SUM + format.name, 0) + n
    return sums


@dataclass(frozen=True, eq=False)
class Totals:
    """A step under any policy of a space."""

    terms: Terms
    columns: Mapping[str, int]
    macs: int
    work: Work  # on elements, whatever the policy

    def of(self, points: Points) -> list[Total | None]:
        """The totals of policies; None for one that the law has no price for."""
        return [self._total(row) for row in self.terms.evaluate(points).tolist()]

    @cached_property
    def _named(self) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """The columns of operations on elements and of sums, by name."""
        vector, sums = (
            {name.removeprefix(start): at for name, at in self.columns.items() if name.startswith(start)}
            for start in (_VECTOR, _SUM)
        )
        return vector, sums

    def _total(self, row: Sequence[int]) -> Total | None:
        priced, unpriced, read, written, elements = row[: len(_FIXED)]
        if unpriced:
            return None
        vector, sums = ({name: row[at] for name, at in of.items() if row[at]} for of in self._named)
        return Total(self.macs, priced, frozenset(), read, written, elements, sums, added(self.work, vector))


def compile_totals(
    graph: Graph, space: Space, traffic: Traffic, scope: Scope, of_gemms: OfGemms, law: str, index: int = 0
) -> Totals:
    """A step in the phase of that index, on one device. Raises InputError for choices that do not fit."""
    for width in _WIDTHS:
        compiler = _Compiler(graph, space, index, traffic, scope, of_gemms)
        compiler.width, compiler.columns = width, {name: at for at, name in enumerate(_FIXED)}
        with suppress(_NarrowError):
            compiler.all_traffic()
            compiler.all_arithmetic(LAWS[law])
            return Totals(merged(compiler.sum.terms(space)), compiler.columns, *compiler.own_work())
    raise AssertionError(f"more than {_WIDTHS[-1]} sorts of work")
