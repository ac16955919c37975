"""Sums of counted rows: totals, groupings, reductions against a baseline."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from costsim.cost.laws import LAWS, Law
from costsim.cost.row import Move, Row, each_op, narrowest_scope
from costsim.graph.graph import Op
from costsim.names import SCOPES


class Reductions(NamedTuple):
    """How many times less a total is than a baseline's; None where a law is not defined, or nothing is left."""

    arithmetic_reduction: Fraction | None
    dram_reduction: Fraction | None


@dataclass(slots=True)
class Total:
    """Sums over some rows, as exact integers."""

    macs: int = 0
    priced: int = 0  # cost of the MACs that the law is defined for
    unpriced: set[str] = field(default_factory=set)  # pairs of formats that it is not defined for
    read_bits: int = 0
    written_bits: int = 0
    elements: int = 0
    vector: dict[str, int] = field(default_factory=dict)  # operations on elements, by name

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

    def add_work(self, weight: int, row: Row, law: Law) -> None:
        """Add what each op of a row computes, `weight` times."""
        if row.pair is not None:
            self.macs += weight * row.macs
            cost = law.cost(*row.pair, row.summed)
            if cost is None:
                self.unpriced.add(row.pair_name)
            else:
                self.priced += weight * row.macs * cost
        for name, n in row.vector.items():
            self.vector[name] = self.vector.get(name, 0) + weight * n

    def add_move(self, weight: int, move: Move) -> None:
        """Add what a move carries, `weight` times."""
        self.read_bits += weight * move.read_bits
        self.written_bits += weight * move.written_bits
        self.elements += weight * move.elements

    def add(self, weight: int, other: "Total") -> None:
        """Add another total, `weight` times."""
        self.macs += weight * other.macs
        self.priced += weight * other.priced
        self.unpriced |= other.unpriced
        self.read_bits += weight * other.read_bits
        self.written_bits += weight * other.written_bits
        self.elements += weight * other.elements
        for name, n in other.vector.items():
            self.vector[name] = self.vector.get(name, 0) + weight * n


def sum_rows(rows: Iterable[Row], law: str) -> Total:
    """The total of some rows of one step."""
    total = Total()
    for row in rows:
        total.add_work(len(row.ops), row, LAWS[law])
        for move in row.moves:
            total.add_move(len(row.ops), move)
    return total


def sum_scopes(rows: Iterable[Row], law: str) -> dict[str, Total]:
    """The total of the rows of one step in each scope."""
    parts: dict[str, list[Row]] = {scope: [] for scope in SCOPES}
    for row in rows:
        parts[narrowest_scope(row)].append(row)
    totals: dict[str, Total] = {}
    held = Total()
    for scope in SCOPES:
        part = sum_rows(parts[scope], law)
        part.add(1, held)
        totals[scope] = held = part
    return totals


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
    for steps, rows in weighted_rows:
        members = each_op(rows) if by in _BY_NAME else [(row.ops[0], row) for row in rows]
        for op, row in members:
            weight = steps if by in _BY_NAME else steps * len(row.ops)
            own = totals.setdefault(of_row(row, op), Total())
            own.add_work(weight, row, LAWS[law])
            for move in row.moves:
                total = totals.setdefault(of_move(move, op), Total()) if of_move else own
                total.add_move(weight, move)
    return totals
