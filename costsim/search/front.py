"""The best policies for every price of quality: the lower convex front of loss and one cost, exactly.

For a price, loss and cost are one sum, and variables that have nothing to do with each other are chosen apart. So each
component has a front of its own, by enumeration, and their steps taken in the order of what they save for what they
lose make the front of all (the Minkowski sum of convex fronts). Each point is proved optimal: no policy of the space
has at most its loss and costs less, but for those between two neighbours, above the line through them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from math import prod
from typing import NamedTuple

import numpy as np

from costsim.cost.terms import Alternative
from costsim.errors import InputError
from costsim.names import COSTS
from costsim.search.interactions import Integers, Interactions, components
from costsim.search.problem import Point, Problem

_LARGEST = 300_000  # combinations of a component that are enumerated


class _Vertex(NamedTuple):
    """A corner of the front of a component: what its choices lose and cost."""

    loss: int
    cost: int
    chosen: tuple[int, ...]


def front(problem: Problem, parts: Interactions, cost: str) -> list[Point]:
    """The policies on the lower convex front of loss and a cost, from the least loss on.

    Raises InputError if more variables hang together than can be enumerated.
    """
    if problem.losses is None:
        raise InputError("--sensitivity: say what bits cost in quality; without it there is only --minimise COST")
    at, sizes = COSTS.index(cost), problem.space.sizes
    linked = {of: part[..., at] for of, part in parts.parts.items() if of and part[..., at].any()}
    together = [*linked, *(_variables(each) for each in parts.alternatives if each.counts[at])]
    fronts = []
    for variables in components(len(sizes), together):
        if prod(sizes[i] for i in variables) > _LARGEST:
            names = ", ".join(problem.space.variables[i].name for i in variables[:3])
            raise InputError(
                f"{len(variables)} groups hang together ({names}, ...), too many combinations for a front of {cost}: "
                "ask for fewer groups or formats, or for one optimum with --at-most or --at-least"
            )
        fronts.append((variables, _of_component(problem, variables, linked)))
    return problem.points(_merged(len(sizes), fronts))


def _variables(alternative: Alternative) -> tuple[int, ...]:
    return tuple(sorted({i for condition in alternative.conditions for i in condition.variables}))


def _of_component(
    problem: Problem, variables: tuple[int, ...], linked: dict[tuple[int, ...], Integers]
) -> list[_Vertex]:
    """The front of a component, from the least loss on."""
    sizes = [problem.space.sizes[i] for i in variables]
    cost: Integers = np.zeros(sizes, object)
    loss: Integers = np.zeros(sizes, object)
    for of, part in linked.items():
        if set(of) <= set(variables):
            cost = cost + part.reshape([n if i in of else 1 for i, n in zip(variables, sizes, strict=True)])
    assert problem.losses is not None
    for axis, i in enumerate(variables):
        shape = [n if at == axis else 1 for at, n in enumerate(sizes)]
        loss = loss + np.array(problem.losses[i], object).reshape(shape)
    order = np.lexsort((_sortable(cost), _sortable(loss)))
    return _hull(sizes, loss.ravel(), cost.ravel(), order)


def _sortable(numbers: Integers) -> Integers:
    """Numbers that sort as these do: these as int64, or their ranks."""
    flat = numbers.ravel()
    if all(-(2**63) <= int(end) < 2**63 for end in (flat.min(), flat.max())):
        return flat.astype(np.int64)
    return np.unique(flat, return_inverse=True)[1]


def _hull(sizes: Sequence[int], loss: Integers, cost: Integers, order: Integers) -> list[_Vertex]:
    """The lower convex hull of points in the order of loss, then cost: as far as costs fall."""
    hull: list[_Vertex] = []
    for place in order.tolist():
        if hull and cost[place] >= hull[-1].cost:
            continue
        point = _Vertex(int(loss[place]), int(cost[place]), tuple(map(int, np.unravel_index(place, sizes))))
        while len(hull) > 1 and _above(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _above(a: _Vertex, b: _Vertex, c: _Vertex) -> bool:
    """Whether b lies on or above the line from a to c."""
    return (b.loss - a.loss) * (c.cost - a.cost) <= (c.loss - a.loss) * (b.cost - a.cost)


def _merged(number: int, fronts: Sequence[tuple[tuple[int, ...], list[_Vertex]]]) -> list[tuple[int, ...]]:
    """Choices of all variables along the front of the whole, from those of components."""
    steps = []
    chosen = [0] * number
    for variables, vertices in fronts:
        for i, choice in zip(variables, vertices[0].chosen, strict=True):
            chosen[i] = choice
        for before, after in itertools.pairwise(vertices):
            slope = Fraction(after.cost - before.cost, after.loss - before.loss)
            steps.append((slope, variables, after.chosen))
    points = [tuple(chosen)]
    steps.sort(key=lambda step: step[0])  # what saves most for its loss first; stable, as a component's own order is
    for at, (slope, variables, choices) in enumerate(steps):
        for i, choice in zip(variables, choices, strict=True):
            chosen[i] = choice
        if at + 1 == len(steps) or steps[at + 1][0] != slope:  # of steps that save alike, the corner is behind them all
            points.append(tuple(chosen))
    return points
