"""What is counted of any policy of a space, as a sum of terms, each a lookup; for one policy or millions of them.

There are two sorts of terms. A table has a count for every combination of a few variables. An alternative has one,
for policies for which any of its conditions holds: what is made or written if any reader wants it. All are exact
integers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from costsim.policy.space import Outcomes, Space

Integers = NDArray[Any]  # of int64, or of Python integers
Points = NDArray[np.integer[Any]]  # [policies, variables]: the place of a choice


_BLOCK = 1 << 16  # policies that are evaluated at once


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
class Terms:
    """What is counted under any policy of a space, as a sum of terms."""

    space: Space
    tables: tuple[Table, ...]
    alternatives: tuple[Alternative, ...]

    def evaluate(self, points: Points) -> Integers:
        """Counts of policies, [policies, what is counted]. What it takes besides that does not grow with policies."""
        some = [table.counts for table in self.tables] + [counts for _, counts in self.alternatives]
        columns, dtype = (some[0].shape[-1], some[0].dtype) if some else (len(Counts._fields), np.int64)
        total = np.zeros((len(points), columns), dtype)
        for since in range(0, len(points), _BLOCK):
            self._add(points[since : since + _BLOCK], total[since : since + _BLOCK])
        return total

    def _add(self, points: Points, total: Integers) -> None:
        for variables, counts in self.tables:
            total += counts.take(places(self.space, variables, points), axis=0)
        for conditions, counts in self.alternatives:
            any_holds = np.zeros(len(points), bool)
            for variables, holds in conditions:
                any_holds |= np.array(holds).take(places(self.space, variables, points))
            total += any_holds[:, None] * counts

    def one(self, combination: Sequence[int]) -> Counts:
        """The counts of one policy."""
        return Counts(*map(int, self.evaluate(np.array([combination]))[0]))


def places(space: Space, variables: Sequence[int], points: Points) -> NDArray[np.intp]:
    """By policy: the place of its combination of these variables."""
    at = np.zeros(len(points), np.intp)
    for i in variables:
        at = at * space.sizes[i] + points[:, i]
    return at


class Sum:
    """Terms, as they are added."""

    def __init__(self) -> None:
        self.tables: dict[tuple[int, ...], Integers] = {}
        self.alternatives: dict[frozenset[Condition], Integers] = {}

    def add(self, of: Outcomes[Any], counts: Sequence[Sequence[float]]) -> None:
        """Add what has these counts, by its value."""
        if any(map(any, counts)):
            table = np.array(counts, object)[list(of.which)]
            self.tables[of.variables] = self.tables.get(of.variables, 0) + table

    def add_if_any(self, conditions: Iterable[Outcomes[bool]], counts: Sequence[float]) -> None:
        """Add what is there if any condition holds."""
        possible = [condition for condition in conditions if any(condition.values)]
        if any(not condition.variables for condition in possible):
            self.add(Outcomes((), (0,), (None,)), [counts])
        elif possible and any(counts):
            key = frozenset(Condition(c.variables, tuple([c.values[i] for i in c.which])) for c in possible)
            self.alternatives[key] = self.alternatives.get(key, 0) + np.array(counts, object)

    def include(self, terms: Terms, times: Any = 1) -> None:
        """Add all of these terms so many times, or their columns so many times each."""
        for variables, table in terms.tables:
            self.tables[variables] = self.tables.get(variables, 0) + times * table
        for conditions, counts in terms.alternatives:
            self.alternatives[conditions] = self.alternatives.get(conditions, 0) + times * counts

    def terms(self, space: Space) -> Terms:
        """What was added."""
        tables = tuple(Table(*item) for item in self.tables.items())
        return Terms(space, tables, tuple(Alternative(*item) for item in self.alternatives.items()))


# --- fewer terms ------------------------------------------------------------------------------------------------------

MERGED = 4096  # tables of at most so many combinations are merged: a lookup less, and still in the cache


def widened(sizes: Sequence[int], table: Table, variables: tuple[int, ...]) -> Integers:
    """The counts of a table by combination of more variables, of which it has some, all in order."""
    shape = [sizes[i] if i in table.variables else 1 for i in variables]
    counts = table.counts.reshape(*shape, -1)
    whole = np.broadcast_to(counts, (*(sizes[i] for i in variables), counts.shape[-1]))
    return whole.reshape(-1, counts.shape[-1])


def union_of(sizes: Sequence[int], parts: Iterable[Sequence[int]], most: int = MERGED) -> tuple[int, ...] | None:
    """The variables of several tables, if one of them all is small enough."""
    union = tuple(sorted({i for variables in parts for i in variables}))
    return union if prod(sizes[i] for i in union) <= most else None


def as_table(sizes: Sequence[int], conditions: Iterable[Condition], counts: Integers, union: tuple[int, ...]) -> Table:
    """An alternative as a table."""
    holds = [widened(sizes, Table(of, np.array(so)[:, None]), union) for of, so in conditions]
    return Table(union, np.logical_or.reduce(holds) * counts)


def merged(terms: Terms) -> Terms:
    """The same in fewer terms, to be evaluated in bulk; as int64 if that holds every sum.

    It does if the sum of the largest entries of all terms does.
    """
    sizes, kept = terms.space.sizes, []
    every = list(terms.tables)
    for conditions, counts in terms.alternatives:
        union = union_of(sizes, (condition.variables for condition in conditions))
        if union is None:
            kept.append(Alternative(conditions, counts))
        else:
            every.append(as_table(sizes, conditions, counts, union))
    tables: list[Table] = []
    for table in sorted(every, key=lambda table: (-len(table.variables), table.variables)):
        for i, other in enumerate(tables):
            union = union_of(sizes, (table.variables, other.variables))
            if union is not None:
                tables[i] = Table(union, widened(sizes, table, union) + widened(sizes, other, union))
                break
        else:
            tables.append(table)
    dtype = _dtype([*(table.counts for table in tables), *(counts[None] for _, counts in kept)])
    return Terms(
        terms.space,
        tuple(table._replace(counts=table.counts.astype(dtype)) for table in tables),
        tuple(each._replace(counts=each.counts.astype(dtype)) for each in kept),
    )


def _dtype(counts: Sequence[Integers]) -> Any:
    """What holds all sums of entries: floats if any are, int64 if the sum of the largest fits, else Python's integers.

    A sum fits if that of the largest entries of all terms does.
    """
    if any(each.dtype == np.float64 for each in counts):
        return np.float64
    bounds = np.sum([abs(each).max(axis=0) for each in counts], axis=0) if counts else []
    return np.int64 if all(int(bound) < 2**63 for bound in bounds) else object


def weighed(parts: Sequence[tuple[int, Terms]]) -> Terms:
    """The terms of several steps, each so many times, under the same policy: of a run over all its phases."""
    total = Sum()
    for steps, terms in parts:
        total.include(terms, steps)
    return total.terms(parts[0][1].space)
