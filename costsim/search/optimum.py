"""One best policy under budgets: a mixed-integer program, solved by HiGHS to a proven optimum.

A variable of 0 or 1 says whether a group takes a format. What hangs on several groups has a variable of its own for
each combination, whose sums over all others are those of the groups (the local polytope); an alternative has one that
is at least what any of its conditions is. Costs are scaled to the baseline's. The solver reckons in floats, so its
answer is counted once more in integers, and budgets that it missed by a rounding are tightened.

Sources: Huangfu, Hall, Math. Prog. Comp. 2018 (HiGHS); Wainwright, Jordan, 2008, section 4 (local polytope).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from costsim.cost.terms import Condition
from costsim.errors import InputError
from costsim.names import COSTS
from costsim.search.interactions import Interactions
from costsim.search.problem import Point, Problem

_TRIES = 20  # to tighten budgets
_ROUGHLY = 0.1  # the gap with which the first policy will do
_CLOSE = 100  # times the optimum: as far as what was known may be from it, to be proved to nine digits and more


class Budget(NamedTuple):
    """At most so much of a cost, or of the loss (times the problem's scale)."""

    field: str
    limit: int
    words: str  # as it was asked for


class Optimum(NamedTuple):
    """The best policy, and by how much a better one could be better: 0 if it is proved to be the best."""

    point: Point
    gap: float


@dataclass(slots=True)
class _Program:
    """Rows of a sparse matrix, and bounds, as they are added."""

    entries: list[tuple[int, int, float]] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    columns: int = 0
    rows: int = 0

    def row(self, entries: Sequence[tuple[int, float]], lower: float, upper: float) -> None:
        """Add lower <= sum of entries <= upper."""
        self.entries += [(self.rows, column, value) for column, value in entries]
        self.rows += 1
        self.lower.append(lower)
        self.upper.append(upper)

    def new(self, number: int) -> int:
        """So many more variables; the first of them."""
        first, self.columns = self.columns, self.columns + number
        return first


class _Model:
    """The program of a problem: what is chosen, and each cost as a linear function of it."""

    def __init__(self, problem: Problem, parts: Interactions) -> None:
        self.problem, self.sizes = problem, problem.space.sizes
        self.program = _Program()
        self.first = [self.program.new(size) for size in self.sizes]  # of each variable
        self.integers = self.program.columns
        for i, size in enumerate(self.sizes):
            self.program.row([(self.first[i] + k, 1.0) for k in range(size)], 1, 1)
        self.joint: dict[tuple[int, ...], int] = {}
        self.constant = np.zeros(len(COSTS))
        self.linear: list[dict[int, float]] = [{} for _ in COSTS]
        self.scales = [float(max(cost, 1)) for cost in problem.baseline]
        wide = sorted((of for of in parts.parts if len(of) > 1), key=len, reverse=True)
        for variables in wide:
            if not any(set(variables) <= set(other) for other in self.joint):
                self._add_joint(variables)
        for variables, part in parts.parts.items():
            self._add_part(variables, part)
        for alternative in parts.alternatives:
            self._add_alternative(sorted(alternative.conditions), alternative.counts)

    def _add_joint(self, variables: tuple[int, ...]) -> int:
        """A variable for each combination of several."""
        if variables not in self.joint:
            shape = [self.sizes[i] for i in variables]
            first = self.joint[variables] = self.program.new(int(np.prod(shape)))
            places = first + np.arange(int(np.prod(shape))).reshape(shape)
            for axis, i in enumerate(variables):
                for k in range(self.sizes[i]):
                    of = np.take(places, k, axis=axis).ravel()
                    self.program.row([*((int(c), 1.0) for c in of), (self.first[i] + k, -1.0)], 0, 0)
        return self.joint[variables]

    def _columns(self, variables: tuple[int, ...]) -> list[list[int]]:
        """By combination of some variables: the columns whose sum says whether that is chosen."""
        if len(variables) == 1:
            return [[self.first[variables[0]] + k] for k in range(self.sizes[variables[0]])]
        over = next((other for other in self.joint if set(variables) <= set(other)), None)
        if over is None:
            self._add_joint(variables)
            over = variables
        shape = [self.sizes[i] for i in over]
        places = self.joint[over] + np.arange(int(np.prod(shape))).reshape(shape)
        order = [over.index(i) for i in variables]
        rest = [axis for axis in range(len(over)) if axis not in order]
        lists: list[list[int]] = (
            places.transpose([*order, *rest]).reshape(-1, int(np.prod([shape[a] for a in rest]))).tolist()
        )
        return lists

    def _add(self, column: int, costs: Sequence[int]) -> None:
        for at, cost in enumerate(costs):
            if cost:
                self.linear[at][column] = self.linear[at].get(column, 0.0) + int(cost) / self.scales[at]

    def _add_part(self, variables: tuple[int, ...], part: Any) -> None:
        if not variables:
            self.constant += [int(cost) / scale for cost, scale in zip(part, self.scales, strict=True)]
            return
        for columns, costs in zip(self._columns(variables), part.reshape(-1, len(COSTS)).tolist(), strict=True):
            for column in columns if any(costs) else ():
                self._add(column, costs)

    def _add_alternative(self, conditions: Sequence[Condition], costs: Any) -> None:
        """A variable that is 1 if any condition holds, between each of them and their sum."""
        held = self.program.new(1)
        every: list[tuple[int, float]] = []
        for variables, holds in conditions:
            columns = [c for so, of in zip(holds, self._columns(variables), strict=True) if so for c in of]
            self.program.row([(held, 1.0), *((column, -1.0) for column in columns)], 0, np.inf)
            every += [(column, -1.0) for column in columns]
        self.program.row([(held, 1.0), *every], -np.inf, 0)
        self._add(held, costs.tolist())

    def function(self, field: str) -> tuple[dict[int, float], float, float]:
        """A cost or the loss as a linear function: coefficients, constant, and what it is divided by."""
        if field != "loss":
            at = COSTS.index(field)
            return self.linear[at], float(self.constant[at]), self.scales[at]
        assert self.problem.losses is not None
        scale = float(max(1, *(abs(loss) for of in self.problem.losses for loss in of)))
        of = enumerate(self.problem.losses)
        return {self.first[i] + k: loss / scale for i, losses in of for k, loss in enumerate(losses)}, 0.0, scale

    def solve(
        self, field: str, budgets: Sequence[tuple[str, float]], known: float | None = None
    ) -> tuple[tuple[int, ...], float] | None:
        """The choices with the least of a field, and the gap; None if no policy keeps the budgets.

        `known`: what a policy is known to reach; the optimum is sought only then, before that a policy near it. The
        field is in units of a thousandth of that, as the solver takes what differs by less than 1e-6 for the same.
        """
        optimize, sparse = _scipy("optimize"), _scipy("sparse")
        coefficients, constant, divided_by = self.function(field)
        unit = known / divided_by / 1000 if known else 1.0
        cost, upper = np.zeros(self.program.columns), np.ones(self.program.columns)
        cost[list(coefficients)] = [value / unit for value in coefficients.values()]
        if known and field == "loss":
            self._rule_out(cost, upper, 1000.0 * (1 + 1e-9))
        rows, columns, values = (list(each) for each in zip(*self.program.entries, strict=True))
        matrix = sparse.csr_array((values, (rows, columns)), shape=(self.program.rows, self.program.columns))
        constraints = [optimize.LinearConstraint(matrix, self.program.lower, self.program.upper)]
        for name, limit in budgets:
            of, constant, divided_by = self.function(name)
            row = np.zeros(self.program.columns)
            row[list(of)] = list(of.values())
            constraints.append(optimize.LinearConstraint(row[None, :], -np.inf, limit / divided_by - constant))
        result = optimize.milp(
            cost,
            integrality=(np.arange(self.program.columns) < self.integers).astype(int),
            bounds=optimize.Bounds(0, upper),
            constraints=constraints,
            options={"mip_rel_gap": 0.0 if known else _ROUGHLY},
        )
        if result.x is None:
            return None
        ends = zip(self.first, self.sizes, strict=True)
        chosen = tuple(int(np.argmax(result.x[first : first + size])) for first, size in ends)
        return chosen, float(result.mip_gap or 0.0)

    def _rule_out(self, cost: Any, upper: Any, most: float) -> None:
        """Bar choices that alone, with the least of all others, lose more than is known to be needed."""
        least = [cost[first : first + size].min() for first, size in zip(self.first, self.sizes, strict=True)]
        for first, size, own in zip(self.first, self.sizes, least, strict=True):
            barred = cost[first : first + size] - own + sum(least) > most
            upper[first : first + size][barred] = 0
            cost[first : first + size][barred] = 0


def _scipy(module: str) -> Any:
    try:
        return import_module(f"scipy.{module}")
    except ModuleNotFoundError:
        raise InputError("a best policy under budgets takes SciPy: pip install 'costsim[search]'") from None


def spent(problem: Problem, point: Point, field: str) -> int:
    """What a policy takes of a cost, or of the loss times the problem's scale."""
    if field != "loss":
        return point.costs[COSTS.index(field)]
    return int((point.loss or 0) * problem.scale)


def optimum(problem: Problem, parts: Interactions, field: str, budgets: Sequence[Budget]) -> Optimum:
    """The policy with the least of a cost, or of the loss, that keeps all budgets.

    Raises InputError for budgets that no policy keeps, with the least that can be reached, and if SciPy is missing.
    """
    model = _Model(problem, parts)
    limits = [float(budget.limit) for budget in budgets]
    known = None
    for _ in range(_TRIES):
        under = [(budget.field, limit) for budget, limit in zip(budgets, limits, strict=True)]
        solved = model.solve(field, under, known)
        if solved is None:
            raise _infeasible(problem, model, budgets)
        [point] = problem.points([solved[0]])
        over = [spent(problem, point, budget.field) - budget.limit for budget in budgets]
        reached = spent(problem, point, field)
        if max(over, default=0) > 0:
            limits = [limit - 2 * max(0, more) for limit, more in zip(limits, over, strict=True)]
        elif reached <= 0 or (known is not None and known <= _CLOSE * reached):
            return Optimum(point, solved[1])
        else:
            known = float(reached)
    raise _infeasible(problem, model, budgets)


def _infeasible(problem: Problem, model: _Model, budgets: Sequence[Budget]) -> InputError:
    """Which budget is too tight: by itself, or under those before it; and what it can reach."""
    kept: list[tuple[str, float]] = []
    for budget in budgets:
        for others, under in (([], ""), (kept, " under the budgets before it")):
            best = _least(problem, model, budget.field, others)
            if best is not None and spent(problem, best, budget.field) > budget.limit:
                reach = _reach(problem, best, budget)
                return InputError(f"{budget.words}: no policy of these groups and formats does{under}; {reach}")
        kept.append((budget.field, float(budget.limit)))
    return InputError("no policy keeps all budgets")


def _least(problem: Problem, model: _Model, field: str, budgets: Sequence[tuple[str, float]]) -> Point | None:
    """The policy with the least of a field under budgets, up to rounding; None if no policy keeps them."""
    near = model.solve(field, budgets)
    if near is None:
        return None
    [point] = problem.points([near[0]])
    best = model.solve(field, budgets, float(spent(problem, point, field)))
    return problem.points([best[0]])[0] if best else point


def _reach(problem: Problem, best: Point, budget: Budget) -> str:
    """The best that a policy can do for a budget."""
    if budget.field == "loss":
        return f"the least loss is {float(best.loss or 0):g}"
    reached = f"the least {budget.field} is {spent(problem, best, budget.field)}"
    ratio = problem.reduction(best, budget.field)
    return reached if ratio is None else f"{reached}, {float(ratio):.4g} times less than the baseline's"
