"""Sums of counted rows: totals, groupings, reductions against a baseline."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate
from typing import NamedTuple, TypeVar

from costsim.cost.collectives import sent_bits
from costsim.cost.laws import LAWS, Law
from costsim.cost.row import Move, Row, each_op, narrowest_scope
from costsim.graph.graph import Op
from costsim.names import SCOPES, Axis

_Key = TypeVar("_Key")


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
    additions: Mapping[str, int] = field(default_factory=dict)  # of products, by the format of their sums
    vector: Mapping[str, int] = field(default_factory=dict)  # operations on elements, by name
    sent_bits: Mapping[Axis, int] = field(default_factory=dict)  # by a rank to others, by axis of the mesh

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
        return Total(
            self.macs + other.macs,
            self.priced + other.priced,
            self.unpriced | other.unpriced,
            self.read_bits + other.read_bits,
            self.written_bits + other.written_bits,
            self.elements + other.elements,
            _added(self.additions, other.additions),
            _added(self.vector, other.vector),
            _added(self.sent_bits, other.sent_bits),
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
            {name: times * n for name, n in self.additions.items()},
            {name: times * n for name, n in self.vector.items()},
            {axis: times * n for axis, n in self.sent_bits.items()},
        )


def _added(a: Mapping[_Key, int], b: Mapping[_Key, int]) -> dict[_Key, int]:
    return {name: a.get(name, 0) + b.get(name, 0) for name in {**a, **b}}


Part = tuple[int, Row | None, Sequence[Move]]  # how often it counts; a row for what its ops compute; what they move


def _sum(parts: Iterable[Part], law: Law) -> Total:
    """The total of all parts, in one pass over plain integers: thousands of rows are summed for a table."""
    macs = priced = read_bits = written_bits = elements = 0
    unpriced: set[str] = set()
    additions: dict[str, int] = {}
    vector: dict[str, int] = {}
    sent: dict[Axis, int] = {}
    for weight, row, moves in parts:
        if row is not None:
            for message in row.messages:
                sent[message.axis] = sent.get(message.axis, 0) + weight * sent_bits(message)
            if row.pair is not None:
                macs += weight * row.macs
                cost = row.cost(law)
                if cost is None:
                    unpriced.add(row.pair_name)
                else:
                    priced += weight * cost
                for format, n in row.additions:
                    additions[format.name] = additions.get(format.name, 0) + weight * n
            for name, n in row.vector.items():
                vector[name] = vector.get(name, 0) + weight * n
        for move in moves:
            read_bits += weight * move.read_bits
            written_bits += weight * move.written_bits
            elements += weight * move.elements
    return Total(macs, priced, frozenset(unpriced), read_bits, written_bits, elements, additions, vector, sent)


def sum_rows(rows: Iterable[Row], law: str) -> Total:
    """The total of some rows of one step."""
    return _sum(((len(row.ops), row, row.moves) for row in rows), LAWS[law])


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
    "gemm": (lambda row, _: row.gemm_name, None),
}
_BY_NAME = ("layer", "tensor", "op")


def group(weighted_rows: Iterable[tuple[int, Sequence[Row]]], by: str, law: str) -> dict[str, Total]:
    """Totals by one of GROUPINGS, of lists of rows each weighted by a number of steps; in order of first appearance.

    Work belongs to the tensor (or role) that an op makes, traffic to the tensor that moves; sums over all groups
    equal the total.
    """
    of_row, of_move = GROUPINGS[by]
    parts: dict[str, list[Part]] = {}
    for steps, rows in weighted_rows:
        members = each_op(rows) if by in _BY_NAME else [(row.ops[0], row) for row in rows]
        for op, row in members:
            weight = steps if by in _BY_NAME else steps * len(row.ops)
            own = parts.setdefault(of_row(row, op), [])
            own.append((weight, row, () if of_move else row.moves))
            if of_move:
                for move in row.moves:
                    parts.setdefault(of_move(move, op), []).append((weight, None, (move,)))
    return {name: _sum(own, LAWS[law]) for name, own in parts.items()}
