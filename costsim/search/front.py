"""The best policies for every price of quality: the lower convex front of loss and one cost, exactly.

For a price, loss and cost are one sum, and variables that have nothing to do with each other are chosen apart. So each
component has a front of its own, by enumeration, and their steps taken in the order of what they save for what they
lose make the front of all (the Minkowski sum of convex fronts). Each point is proved optimal: no policy of the space
has at most its loss and costs less, but for those between two neighbours, above the line through them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from math import prod
from typing import Any, NamedTuple

import numpy as np

from costsim.cost.measure import with_tables
from costsim.cost.terms import Condition, as_table, union_of
from costsim.errors import InputError
from costsim.names import COSTS
from costsim.search.interactions import Integers, Interactions, components, interactions
from costsim.search.problem import Point, Problem

_LARGEST = 300_000  # combinations of a component that are enumerated


class Vertex(NamedTuple):
    """A corner of the front of a component: what its choices lose and cost."""

    loss: int
    cost: int | Fraction  # of floats exactly what they are
    chosen: tuple[int, ...]


class _Together(NamedTuple):
    """A cost as a sum over few variables each, and for which of their choices there is none."""

    parts: dict[tuple[int, ...], Integers]
    barred: tuple[Condition, ...]


def front(problem: Problem, parts: Interactions, cost: str) -> list[Point] | None:
    """The policies on the lower convex front of loss and a cost, from the least loss on.

    None if more variables hang together than can be enumerated. Raises InputError if nobody says what is lost, and if
    no policy runs.
    """
    if problem.losses is None:
        raise InputError("--sensitivity: say what bits cost in quality; without it there is only --minimise COST")
    apart = _apart(problem, parts, cost)
    if apart is None:
        return None
    sizes = problem.space.sizes
    together = [*apart.parts, *(condition.variables for condition in apart.barred)]
    every = components(len(sizes), together)
    if any(prod(sizes[i] for i in variables) > _LARGEST for variables in every):
        return None
    return problem.points(_merged(len(sizes), [(of, _of_component(problem, of, apart)) for of in every]))


def _apart(problem: Problem, parts: Interactions, cost: str) -> _Together | None:
    """The cost in its parts; None if one of them is over too many combinations."""
    barred: tuple[Condition, ...] = ()
    if cost in problem.measures:
        measure = with_tables(problem.measures[cost], _LARGEST)
        if measure.maxima or measure.floored:
            return None
        barred = tuple(sorted(measure.barred))
        parts, at = interactions(measure.sum, lambda counts: counts), 0
    else:
        at = COSTS.index(cost)
    sizes = problem.space.sizes
    linked = {of: part[..., at] for of, part in parts.parts.items() if of and part[..., at].any()}
    for conditions, counts in parts.alternatives:
        union = union_of(sizes, (condition.variables for condition in conditions), _LARGEST)
        if counts[at] and union is None:
            return None
        if counts[at] and union is not None:
            table = as_table(sizes, conditions, counts, union).counts[:, at].reshape([sizes[i] for i in union])
            linked[union] = linked[union] + table if union in linked else table
    return _Together(linked, barred)


def _of_component(problem: Problem, variables: tuple[int, ...], apart: _Together) -> list[Vertex]:
    """The front of a component, from the least loss on. Raises InputError if none of its policies runs."""
    sizes = [problem.space.sizes[i] for i in variables]

    def spread(of: Sequence[int], values: Any) -> Integers:
        return np.reshape(values, [n if i in of else 1 for i, n in zip(variables, sizes, strict=True)])

    exact = all(part.dtype == object for part in apart.parts.values())
    cost: Integers = np.zeros(sizes, object if exact else np.float64)
    loss: Integers = np.zeros(sizes, object)
    for of, part in apart.parts.items():
        if set(of) <= set(variables):
            cost = cost + spread(of, part)
    assert problem.losses is not None
    for i in variables:
        loss = loss + spread([i], np.array(problem.losses[i], object))
    runs = np.ones(sizes, bool)
    for of, holds in apart.barred:
        if set(of) <= set(variables):
            runs &= ~spread(of, np.array(holds))
    if not runs.any():
        raise InputError("no policy of these groups and formats runs on the device")
    order = np.lexsort((_sortable(cost), _sortable(loss)))
    return _hull(sizes, loss.ravel(), cost.ravel(), order[runs.ravel()[order]])


def _sortable(numbers: Integers) -> Integers:
    """Numbers that sort as these do: these as int64, or their ranks."""
    flat = numbers.ravel()
    if flat.dtype == np.float64:
        return flat
    if all(-(2**63) <= int(end) < 2**63 for end in (flat.min(), flat.max())):
        return flat.astype(np.int64)
    return np.unique(flat, return_inverse=True)[1]


def _hull(sizes: Sequence[int], loss: Integers, cost: Integers, order: Integers) -> list[Vertex]:
    """The lower convex hull of points in the order of loss, then cost: as far as costs fall."""
    hull: list[Vertex] = []
    exactly: Callable[[Any], int | Fraction] = Fraction if cost.dtype == np.float64 else int
    for place in order.tolist():
        if hull and cost[place] >= hull[-1].cost:
            continue
        chosen = tuple(map(int, np.unravel_index(place, sizes)))
        add(hull, Vertex(int(loss[place]), exactly(cost[place]), chosen))
    return hull


def add(hull: list[Vertex], point: Vertex) -> None:
    """Put a point with more loss and less cost behind a hull, which loses what then lies above it."""
    while len(hull) > 1 and _above(hull[-2], hull[-1], point):
        hull.pop()
    hull.append(point)


def _above(a: Vertex, b: Vertex, c: Vertex) -> bool:
    """Whether b lies on or above the line from a to c."""
    return (b.loss - a.loss) * (c.cost - a.cost) <= (c.loss - a.loss) * (b.cost - a.cost)


def _merged(number: int, fronts: Sequence[tuple[tuple[int, ...], list[Vertex]]]) -> list[tuple[int, ...]]:
    """Choices of all variables along the front of the whole, from those of components."""
    steps = []
    chosen = [0] * number
    for variables, vertices in fronts:
        for i, choice in zip(variables, vertices[0].chosen, strict=True):
            chosen[i] = choice
        for before, after in itertools.pairwise(vertices):
            slope = Fraction(after.cost - before.cost) / (after.loss - before.loss)
            steps.append((slope, variables, after.chosen))
    points = [tuple(chosen)]
    steps.sort(key=lambda step: step[0])  # what saves most for its loss first; stable, as a component's own order is
    for at, (slope, variables, choices) in enumerate(steps):
        for i, choice in zip(variables, choices, strict=True):
            chosen[i] = choice
        if at + 1 == len(steps) or steps[at + 1][0] != slope:  # of steps that save alike, the corner is behind them all
            points.append(tuple(chosen))
    return points
