"""Points of a front that cannot be enumerated, one optimum at a time.

Between two corners, the policy that is best at the price of the line through them is another corner, or there is none.
The widest gaps are halved first (Aneja, Nair, Management Science 1979). Where training has several stretches, corners
are policies that never change, and what lies between them is sought under budgets that are evenly spaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from costsim.errors import InputError
from costsim.search.front import Vertex, add
from costsim.search.interactions import Interactions
from costsim.search.optimum import Budget, Model, Objective, least
from costsim.search.problem import Point, Problem

_LITTLE = 1e-6  # weight of what only decides between equals
_BELOW = 1e-6  # how far below a line, relative, a corner is one


class _Corner(NamedTuple):
    """A policy, with its loss and cost, in units of the program."""

    loss: float
    cost: float
    point: Point


def corners(problem: Problem, parts: Interactions, cost: str, most: int) -> tuple[list[Point], bool]:
    """At most so many corners of the lower convex front of loss and a cost, from the least loss on; whether all.

    Raises InputError if no policy runs, and if SciPy is missing.
    """
    model = Model(problem, parts, [cost])
    ends = [_best(model, cost, {"loss": 1.0, cost: _LITTLE}), _best(model, cost, {"loss": _LITTLE, cost: 1.0})]
    found = {corner.point.chosen: corner for corner in ends}
    gaps = [(ends[0], ends[1])]
    while gaps and len(found) < most:
        gaps.sort(key=_area)
        a, b = gaps.pop()
        width, height = b.loss - a.loss, a.cost - b.cost
        if width <= 0 or height <= 0:
            continue
        weights = {"loss": height, cost: width}
        between = _best(model, cost, weights)
        line = height * a.loss + width * a.cost
        if height * between.loss + width * between.cost < line * (1 - _BELOW) and between.point.chosen not in found:
            found[between.point.chosen] = between
            gaps += [(a, between), (between, b)]
    return _hull(problem, cost, [corner.point for corner in found.values()]), not gaps


def spaced(problem: Problem, parts: Interactions, cost: str, number: int) -> tuple[list[Point], float]:
    """At most so many policies, each with the least loss at its budget of a cost, evenly spaced in logarithm.

    And by how much a better one could be better, at most. Raises InputError if no policy runs, and if SciPy is missing.
    """
    model, at = Model(problem, parts, [cost]), problem.fields.index(cost)
    first, last = (_best(model, cost, of).point for of in ({"loss": 1.0, cost: _LITTLE}, {"loss": _LITTLE, cost: 1.0}))
    most, least_of_all = float(first.costs[at]), float(last.costs[at])
    exact = isinstance(first.costs[at], int)
    found, gap = {first.chosen: first}, 0.0
    for i in range(1, number - 1):
        limit = most * (least_of_all / most) ** (i / (number - 1))
        best = least(model, {"loss": 1.0}, [Budget(cost, int(limit) if exact else limit, "")])
        if best is not None:
            found[best.point.chosen], gap = best.point, max(gap, best.gap)
    found[last.chosen] = last
    return sorted(found.values(), key=lambda point: point.loss or 0), gap


def _hull(problem: Problem, cost: str, points: Sequence[Point]) -> list[Point]:
    """Those of the points that are corners, from the least loss on."""
    at, hull = problem.fields.index(cost), list[Vertex]()
    for point in sorted(points, key=lambda point: (point.loss or 0, point.costs[at])):
        own = Fraction(point.costs[at])
        if not hull or own < hull[-1].cost:
            add(hull, Vertex(int((point.loss or 0) * problem.scale), own, point.chosen))
    return problem.points([vertex.chosen for vertex in hull])


def _area(gap: tuple[_Corner, _Corner]) -> float:
    a, b = gap
    return (b.loss - a.loss) * (a.cost - b.cost)


def _best(model: Model, cost: str, objective: Objective) -> _Corner:
    best = least(model, objective)
    if best is None:
        raise InputError("no policy of these groups and formats runs on the device")
    return _Corner(model.value(best.point, {"loss": 1.0}), model.value(best.point, {cost: 1.0}), best.point)
