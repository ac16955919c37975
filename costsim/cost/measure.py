"""What is no sum of terms alone: a sum, and maxima of sums. The time of kernels is of that kind, and peak memory.

A maximum is terms with several columns, of which the largest counts: what a kernel computes and what it moves, or what
lies in memory at each moment. What hides behind something that is itself a measure is a floor under it: messages behind
the rest of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costsim.cost.terms import MERGED, Condition, Points, Sum, Table, Terms, as_table, merged, places, union_of, widened
from costsim.policy.space import Space


@dataclass(frozen=True, eq=False)
class Measure:
    """A sum and maxima of sums, for any policy of a space. Of integers, or of floats."""

    space: Space
    sum: Terms  # one column
    maxima: tuple[Terms, ...] = ()
    barred: frozenset[Condition] = frozenset()  # for which policies it is not defined
    floored: tuple[tuple[Measure, Terms], ...] = ()  # a measure, or a floor of one column if that is more

    def evaluate(self, points: Points) -> NDArray[Any]:
        """By policy; infinity where it is not defined."""
        total = self.sum.evaluate(points)[:, 0]
        for terms in self.maxima:
            total = total + terms.evaluate(points).max(axis=1)
        for measure, floor in self.floored:
            total = total + np.maximum(measure.evaluate(points), floor.evaluate(points)[:, 0])
        for variables, holds in self.barred:
            total = np.where(np.array(holds).take(places(self.space, variables, points)), np.inf, total)
        return total

    def one(self, combination: Sequence[int]) -> Any:
        """Of one policy."""
        return self.evaluate(np.array([combination])).tolist()[0]

    def __rmul__(self, times: float) -> Measure:
        """So many times the same."""
        floored = tuple((times * measure, scaled(floor, times)) for measure, floor in self.floored)
        maxima = tuple(scaled(terms, times) for terms in self.maxima)
        return Measure(self.space, scaled(self.sum, times), maxima, self.barred, floored)


def scaled(terms: Terms, times: Any) -> Terms:
    """Terms so many times, or their columns so many times each."""
    total = Sum()
    total.include(terms, times)
    return total.terms(terms.space)


def variables_of(terms: Terms) -> list[tuple[int, ...]]:
    """The variables of each term."""
    conditions = (condition for each in terms.alternatives for condition in each.conditions)
    return [table.variables for table in terms.tables] + [condition.variables for condition in conditions]


def as_one_table(terms: Terms, union: tuple[int, ...]) -> Table:
    """Terms as one table over all their variables."""
    sizes = terms.space.sizes
    tables = [*terms.tables, *(as_table(sizes, *alternative, union) for alternative in terms.alternatives)]
    return Table(union, np.sum([widened(sizes, table, union) for table in tables], axis=0))


def with_tables(measure: Measure, most: int = MERGED) -> Measure:
    """The same with maxima over few variables as tables: of at most so many combinations."""
    total, kept, floored = Sum(), [], []
    total.include(measure.sum)
    for under, floor in measure.floored:
        simple = with_tables(under, most)
        parts = [*variables_of(simple.sum), *variables_of(floor)]
        union = None if simple.maxima or simple.floored else union_of(measure.space.sizes, parts, most)
        if union is None:
            floored.append((simple, floor))
        else:
            either = [as_one_table(terms, union).counts for terms in (simple.sum, floor)]
            total.include(Terms(measure.space, (Table(union, np.maximum(*either)),), ()))
    for terms in measure.maxima:
        union = union_of(measure.space.sizes, variables_of(terms), most)
        if union is None:
            kept.append(terms)
        else:
            largest = as_one_table(terms, union).counts.max(axis=-1, keepdims=True)
            total.include(Terms(measure.space, (Table(union, largest),), ()))
    return Measure(measure.space, total.terms(measure.space), tuple(kept), measure.barred, tuple(floored))


def in_bulk(measure: Measure) -> Measure:
    """The same in fewer terms, to be evaluated for many policies."""
    tabled = with_tables(measure)
    floored = tuple((in_bulk(under), merged(floor)) for under, floor in tabled.floored)
    return Measure(measure.space, merged(tabled.sum), tuple(map(merged, tabled.maxima)), measure.barred, floored)


def of_run(parts: Sequence[tuple[int, Measure]]) -> Measure:
    """The measures of several steps, each so many times, under the same policy."""
    return total_of([steps * measure for steps, measure in parts])


def total_of(parts: Sequence[Measure]) -> Measure:
    """The sum of measures of one space."""
    total, space = Sum(), parts[0].space
    for measure in parts:
        total.include(measure.sum)
    return Measure(
        space,
        total.terms(space),
        tuple(terms for measure in parts for terms in measure.maxima),
        frozenset().union(*(measure.barred for measure in parts)),
        tuple(each for measure in parts for each in measure.floored),
    )
