"""Sums of counted rows: totals, groupings, reductions against a baseline."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate
from typing import NamedTuple

from costsim.cost.laws import LAWS, Law
from costsim.cost.row import Move, Row, each_op, narrowest_scope
from costsim.graph.graph import Op
from costsim.names import SCOPES


class Reductions(NamedTuple):
    """How many times less a total is than a baseline's; None where a law is not defined, or nothing is left."""

    arithmetic_reduction: Fraction | None
    dram_reduction: Fraction | None


@dataclass(frozen=True, slots=True)
class Total:
    """Sums over some rows, as exact integers. They add up, and multiply by how often rows count."""

    macs: int = 0
    priced: int = 0  # cost of the MACs that the law is defined for
    unpriced: frozenset[str] = frozenset()  # pairs of formats that it is not defined for
    read_bits: int = 0
    written_bits: int = 0
    elements: int = 0
    vector: Mapping[str, int] = field(default_factory=dict)  # operations on elements, by name

    @property
    def arithmetic_cost(self) -> int | None:
        """Cost of all MACs in the law's unit; None if the law is not defined for some."""
        return None if self.unpriced else self.priced

    @property
    def dram_bits(self) -> int:
        """Bits that cross the DRAM interface, both ways."""
        return self.read_bits + self.written_bits

    def reductions(self, base: "Total") -> "Reductions":
        """How many times less than `base` this is."""
        costs = base.arithmetic_cost, self.arithmetic_cost
        return Reductions(
            Fraction(costs[0], costs[1]) if costs[0] is not None and costs[1] else None,
            Fraction(base.dram_bits, self.dram_bits) if self.dram_bits else None,
        )

    def __add__(self, other: "Total") -> "Total":
        """The sum of both."""
        ours, theirs = self.vector, other.vector
        return Total(
            self.macs + other.macs,
            self.priced + other.priced,
            self.unpriced | other.unpriced,
            self.read_bits + other.read_bits,
            self.written_bits + other.written_bits,
            self.elements + other.elements,
            {name: ours.get(name, 0) + theirs.get(name, 0) for name in {**ours, **theirs}},
        )

    def __rmul__(self, times: int) -> "Total":
        """So many times the same."""
        return Total(
            times * self.macs,
            times * self.priced,
            self.unpriced,
            times * self.read_bits,
            times * self.written_bits,
            times * self.elements,
            {name: times * n for name, n in self.vector.items()},
        )


def _work(row: Row, law: Law) -> Total:
    """What each op of a row computes."""
    if row.pair is None:
        return Total(vector=row.vector)
    cost = law.cost(*row.pair, row.summed)
    if cost is None:
        return Total(row.macs, unpriced=frozenset({row.pair_name}), vector=row.vector)
    return Total(row.macs, row.macs * cost, vector=row.vector)


def _traffic(moves: Sequence[Move]) -> Total:
    """What moves carry."""
    return Total(
        read_bits=sum([move.read_bits for move in moves]),
        written_bits=sum([move.written_bits for move in moves]),
        elements=sum([move.elements for move in moves]),
    )


def sum_rows(rows: Iterable[Row], law: str) -> Total:
    """The total of some rows of one step."""
    return sum((len(row.ops) * (_work(row, LAWS[law]) + _traffic(row.moves)) for row in rows), Total())


def sum_scopes(rows: Iterable[Row], law: str) -> dict[str, Total]:
    """The total of the rows of one step in each scope."""
    parts: dict[str, list[Row]] = {scope: [] for scope in SCOPES}
    for row in rows:
        parts[narrowest_scope(row)].append(row)
    totals = accumulate(sum_rows(part, law) for part in parts.values())
    return dict(zip(SCOPES, totals, strict=True))


# How to group: the group of an op's work, and of a move where that is not the op's. Groups that go by names tell ops
# apart that are alike.
GROUPINGS: dict[str, tuple[Callable[[Row, Op], str], Callable[[Move, Op], str] | None]] = {
    "phase": (lambda row, _: row.phase, None),
    "kind": (lambda row, _: row.kind, None),
    "layer": (lambda _, op: op.layer, None),
    "role": (lambda row, _: row.role, lambda move, _: move.role),
    "tensor": (Row.result, Move.tensor),
    "op": (Row.name, None),
    "pair": (lambda row, _: row.pair_name, None),
    "gemm": (lambda row, _: row.gemm or "no GEMM", None),
}
_BY_NAME = ("layer", "tensor", "op")


def group(weighted_rows: Iterable[tuple[int, list[Row]]], by: str, law: str) -> dict[str, Total]:
    """Totals by one of GROUPINGS, of lists of rows each weighted by a number of steps; in order of first appearance.

    Work belongs to the tensor (or role) that an op makes, traffic to the tensor that moves; sums over all groups
    equal the total.
    """
    of_row, of_move = GROUPINGS[by]
    totals: dict[str, Total] = {}

    def add(name: str, part: Total) -> None:
        totals[name] = totals.get(name, Total()) + part

    for steps, rows in weighted_rows:
        members = each_op(rows) if by in _BY_NAME else [(row.ops[0], row) for row in rows]
        for op, row in members:
            weight = steps if by in _BY_NAME else steps * len(row.ops)
            work = _work(row, LAWS[law])
            if of_move is None:
                add(of_row(row, op), weight * (work + _traffic(row.moves)))
                continue
            add(of_row(row, op), weight * work)
            for move in row.moves:
                add(of_move(move, op), weight * _traffic((move,)))
    return totals
