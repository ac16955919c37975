"""One best policy under budgets: a mixed-integer program, solved by HiGHS to a proven optimum.

A variable of 0 or 1 says whether a group takes a format. What hangs on several groups has a variable of its own for
each combination, whose sums over all others are those of the groups (the local polytope); an alternative has one that
is at least what any of its conditions is; the largest of several sums (what a kernel takes, peak memory) one that is at
least each of them. In later stretches of training no sum over the first formats is more than before: groups rise. Costs
are scaled to the baseline's. The solver reckons in floats, so its answer is counted once more as `run` counts, and
budgets that it missed by a rounding are tightened.

Sources: Huangfu, Hall, Math. Prog. Comp. 2018 (HiGHS); Wainwright, Jordan, 2008, section 4 (local polytope).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from costsim.cost.measure import Measure, with_tables
from costsim.cost.terms import Condition, Terms
from costsim.errors import InputError
from costsim.names import COSTS
from costsim.search.interactions import Interactions, interactions
from costsim.search.problem import Cost, Point, Problem

_TRIES = 20  # to tighten budgets
_ROUGHLY = 0.1  # the gap with which the first policy will do
_JOINT = 64  # combinations over which a maximum, or what is there if any condition holds, is a table
_ROUNDED = 1e-6  # how far a maximum may be from what it is of, to the solver
_CLOSE = 100  # times the optimum: as far as what was known may be from it, to be proved to nine digits and more


class Budget(NamedTuple):
    """At most so much of a cost, or of the loss (times the problem's scale)."""

    field: str
    limit: Cost
    words: str  # as it was asked for


Objective = Mapping[str, float]  # weights of costs and of the loss, each in units of its scale


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


@dataclass(slots=True)
class _Linear:
    """A linear function of the program's variables, in units of `scale`."""

    scale: float
    coefficients: dict[int, float] = field(default_factory=dict)
    constant: float = 0.0

    def add(self, column: int, value: float) -> None:
        """Add so much for each of a variable."""
        self.coefficients[column] = self.coefficients.get(column, 0.0) + value / self.scale


class Model:
    """The program of a problem: what is chosen, and each cost as a linear function of it; of measures, those named."""

    def __init__(self, problem: Problem, parts: Interactions, named: Sequence[str] = ()) -> None:
        self.problem, self.sizes = problem, problem.sizes
        self.program = _Program()
        self.first = [self.program.new(size) for size in self.sizes]  # of each variable
        self.integers = self.program.columns
        for i, size in enumerate(self.sizes):
            self.program.row([(self.first[i] + k, 1.0) for k in range(size)], 1, 1)
        self._rise(len(problem.space.variables))
        self.joint: dict[tuple[int, ...], int] = {}
        self.held: dict[frozenset[Condition], int] = {}
        self.largest: list[int] = []  # the variables that are maxima
        bases = (float(base or 1) for base in problem.baseline)
        self.functions = {name: _Linear(base) for name, base in zip(problem.fields, bases, strict=True)}
        self._add(parts, [self.functions[name] for name in COSTS])
        for name in dict.fromkeys(named):
            if name in problem.measures:
                self._add_measure(problem.measures[name], self.functions[name])
        if problem.losses is not None:
            self._add_losses(problem.losses)

    def _rise(self, groups: int) -> None:
        """From one stretch of training to the next, no group goes back to a format that is named before its own."""
        for later in range(groups, len(self.sizes)):
            for most in range(1, self.sizes[later]):
                before = [(self.first[later - groups] + k, 1.0) for k in range(most)]
                self.program.row([*before, *((self.first[later] + k, -1.0) for k in range(most))], 0, np.inf)

    def _add(self, parts: Interactions, functions: Sequence[_Linear]) -> None:
        """Add parts to functions, one for each of their costs."""
        wide = sorted((of for of in parts.parts if len(of) > 1), key=len, reverse=True)
        for variables in wide:
            if not any(set(variables) <= set(other) for other in self.joint):
                self._add_joint(variables)
        for variables, part in parts.parts.items():
            self._add_part(variables, part, functions)
        for alternative in parts.alternatives:
            held = self._held(alternative.conditions)
            for function, cost in zip(functions, alternative.counts.tolist(), strict=True):
                if cost:
                    function.add(held, cost)

    def _add_measure(self, measure: Measure, function: _Linear) -> None:
        """Add a sum, and variables that are at least each of the sums of a maximum."""
        simple = with_tables(measure, _JOINT)
        self._add(interactions(simple.sum, _as_they_are, _JOINT), [function])
        for terms in simple.maxima:
            scale = _largest(terms) or 1.0
            columns = [_Linear(scale) for _ in range(terms.tables[0].counts.shape[-1])]
            self._add(interactions(terms, _as_they_are, _JOINT), columns)
            function.add(self._top(columns), scale)
        for under, floor in simple.floored:
            self._add_floored(under, floor, function)
        for variables, holds in sorted(measure.barred):
            columns_of = zip(holds, self._columns(variables), strict=True)
            self.program.row([(column, 1.0) for so, of in columns_of if so for column in of], 0, 0)

    def _add_floored(self, measure: Measure, floor: Terms, function: _Linear) -> None:
        """Add a variable that is at least a measure, and at least its floor."""
        scale = (_most(measure) + _largest(floor)) or 1.0
        either = [_Linear(scale), _Linear(scale)]
        self._add_measure(measure, either[0])
        self._add(interactions(floor, _as_they_are, _JOINT), [either[1]])
        function.add(self._top(either), scale)

    def _top(self, of: Sequence[_Linear]) -> int:
        """A variable, in their unit, that is at least each of some functions."""
        top = self.program.new(1)
        self.largest.append(top)
        for each in of:
            entries = [(column, -value) for column, value in each.coefficients.items()]
            self.program.row([(top, 1.0), *entries], each.constant, np.inf)
        return top

    def _add_losses(self, losses: Sequence[Sequence[int]]) -> None:
        function = self.functions["loss"] = _Linear(float(max(1, *(abs(loss) for of in losses for loss in of))))
        for i, of in enumerate(losses):
            for k, loss in enumerate(of):
                function.add(self.first[i] + k, loss)

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

    def _add_part(self, variables: tuple[int, ...], part: Any, functions: Sequence[_Linear]) -> None:
        if not variables:
            for function, cost in zip(functions, part.tolist(), strict=True):
                function.constant += cost / function.scale
            return
        for columns, costs in zip(self._columns(variables), part.reshape(-1, len(functions)).tolist(), strict=True):
            for function, cost in zip(functions, costs, strict=True):
                for column in columns if cost else ():
                    function.add(column, cost)

    def _held(self, conditions: frozenset[Condition]) -> int:
        """A variable that is 1 if any condition holds, between each of them and their sum."""
        if conditions in self.held:
            return self.held[conditions]
        held = self.held[conditions] = self.program.new(1)
        every: list[tuple[int, float]] = []
        for variables, holds in sorted(conditions):
            columns = [c for so, of in zip(holds, self._columns(variables), strict=True) if so for c in of]
            self.program.row([(held, 1.0), *((column, -1.0) for column in columns)], 0, np.inf)
            every += [(column, -1.0) for column in columns]
        self.program.row([(held, 1.0), *every], -np.inf, 0)
        return held

    def value(self, point: Point, objective: Objective) -> float:
        """What a policy has of an objective."""
        of = ((self.functions[name], weight, spent(self.problem, point, name)) for name, weight in objective.items())
        return sum(weight * taken / function.scale for function, weight, taken in of)

    def solve(
        self, objective: Objective, budgets: Sequence[tuple[str, float]], known: float | None = None
    ) -> tuple[tuple[int, ...], float] | None:
        """The choices with the least of an objective, and the gap; None if no policy keeps the budgets.

        `known`: what a policy is known to reach; the optimum is sought only then, before that a policy near it. The
        objective is in units of a thousandth of that, as the solver takes what differs by less than 1e-6 for the same.
        """
        optimize, sparse = _scipy("optimize"), _scipy("sparse")
        unit = known / 1000 if known else 1.0
        cost, upper = np.zeros(self.program.columns), np.ones(self.program.columns)
        for name, weight in objective.items():
            for column, value in self.functions[name].coefficients.items():
                cost[column] += weight * value / unit
        upper[self.largest] = np.inf
        if known and list(objective) == ["loss"]:
            self._rule_out(cost, upper, 1000.0 * (1 + 1e-9))
        rows, columns, values = (list(each) for each in zip(*self.program.entries, strict=True))
        matrix = sparse.csr_array((values, (rows, columns)), shape=(self.program.rows, self.program.columns))
        constraints = [optimize.LinearConstraint(matrix, self.program.lower, self.program.upper)]
        for name, limit in budgets:
            function, row = self.functions[name], np.zeros(self.program.columns)
            row[list(function.coefficients)] = list(function.coefficients.values())
            most = limit / function.scale - function.constant
            constraints.append(optimize.LinearConstraint(row[None, :], -np.inf, most))
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


def spent(problem: Problem, point: Point, field: str) -> Cost:
    """What a policy takes of a cost, or of the loss times the problem's scale."""
    if field != "loss":
        return point.costs[problem.fields.index(field)]
    return int((point.loss or 0) * problem.scale)


def optimum(problem: Problem, parts: Interactions, field: str, budgets: Sequence[Budget]) -> Optimum:
    """The policy with the least of a cost, or of the loss, that keeps all budgets.

    Raises InputError for budgets that no policy keeps, with the least that can be reached, and if SciPy is missing.
    """
    model = Model(problem, parts, [field, *(budget.field for budget in budgets)])
    best = least(model, {field: 1.0}, budgets)
    if best is None:
        raise infeasible(model, field, budgets)
    return best


def least(model: Model, objective: Objective, budgets: Sequence[Budget] = ()) -> Optimum | None:
    """The policy with the least of an objective that keeps all budgets; None if none does."""
    problem, known = model.problem, None
    limits = [float(budget.limit) for budget in budgets]
    for _ in range(_TRIES):
        under = [(budget.field, limit) for budget, limit in zip(budgets, limits, strict=True)]
        solved = model.solve(objective, under, known)
        if solved is None:
            return None
        [point] = problem.points([solved[0]])
        over = [spent(problem, point, budget.field) - budget.limit for budget in budgets]
        reached = model.value(point, objective)
        if max(over, default=0) > 0:
            limits = [limit - 2 * max(0, more) for limit, more in zip(limits, over, strict=True)]
        elif reached <= 0 or (known is not None and known <= _CLOSE * reached):
            return Optimum(point, max(solved[1], _ROUNDED if model.largest else 0.0))
        else:
            known = reached
    return None


def infeasible(model: Model, field: str, budgets: Sequence[Budget]) -> InputError:
    """Which budget is too tight: by itself, or under those before it; and what it can reach."""
    problem, none, kept = model.problem, list[Budget](), list[Budget]()
    for budget in budgets:
        for others, under in ((none, ""), (kept, " under the budgets before it")):
            best = least(model, {budget.field: 1.0}, others)
            if best is not None and spent(problem, best.point, budget.field) > budget.limit:
                reach = _reach(problem, best.point, budget)
                return InputError(f"{budget.words}: no policy of these groups and formats does{under}; {reach}")
        kept.append(budget)
    named = (field, *(budget.field for budget in budgets))
    if any(measure.barred for name, measure in problem.measures.items() if name in named):
        return InputError("no policy of these groups and formats runs on the device and keeps all budgets")
    return InputError("no policy keeps all budgets")


def _reach(problem: Problem, best: Point, budget: Budget) -> str:
    """The best that a policy can do for a budget."""
    if budget.field == "loss":
        return f"the least loss is {float(best.loss or 0):g}"
    taken = spent(problem, best, budget.field)
    reached = f"the least {budget.field} is {f'{taken:.6g}' if isinstance(taken, float) else taken}"
    ratio = problem.reduction(best, budget.field)
    return reached if ratio is None else f"{reached}, {float(ratio):.4g} times less than the baseline's"


def _as_they_are(counts: Any) -> Any:
    return counts


def _largest(terms: Terms) -> float:
    """What no policy has more of, in any column."""
    every = [abs(table.counts).max(axis=0) for table in terms.tables]
    every += [abs(each.counts) for each in terms.alternatives]
    return float(np.max(np.sum(every, axis=0))) if every else 0.0


def _most(measure: Measure) -> float:
    """What no policy has more of."""
    return sum(map(_largest, (measure.sum, *measure.maxima)))
