"""What is searched: a space of policies, what each costs over a whole run, and what its bits cost in quality.

All numbers are integers: losses are scaled by the least common denominator of the table that gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import lcm
from typing import NamedTuple

import numpy as np

from costsim.cost.compile import compile_step
from costsim.cost.terms import Counts, Terms, merged, weighed
from costsim.cost.totals import Total
from costsim.errors import InputError
from costsim.graph.fusion import MODELS
from costsim.names import COSTS, Varied
from costsim.policy.groups import groups_of, space_of
from costsim.policy.policy import Policy
from costsim.policy.schedule import schedule
from costsim.policy.space import Space
from costsim.run.job import Convention, Job
from costsim.run.simulate import count_policy
from costsim.search.interactions import costs
from costsim.search.sensitivity import Sensitivity

REDUCTIONS = {"arithmetic_reduction": "arithmetic_cost", "dram_reduction": "dram_bits"}


class Point(NamedTuple):
    """A policy of the space: its choices, and what it costs."""

    chosen: tuple[int, ...]
    costs: tuple[int, ...]  # in the order of COSTS
    loss: Fraction | None


@dataclass(frozen=True, eq=False)
class Problem:
    """A space of policies with their costs."""

    job: Job
    space: Space
    terms: Terms  # of a whole run
    baseline: tuple[int, ...]  # its costs, in the order of COSTS
    losses: tuple[tuple[int, ...], ...] | None  # by variable and choice, times `scale`
    scale: int

    @cached_property
    def _merged(self) -> Terms:
        return merged(self.terms)

    def points(self, chosen: Sequence[tuple[int, ...]]) -> list[Point]:
        """Policies with their costs."""
        counts = self._merged.evaluate(np.array(chosen, np.intp)).astype(object)  # of which two are added
        return [
            Point(each, tuple(of), self.loss(each)) for each, of in zip(chosen, costs(counts).tolist(), strict=True)
        ]

    def loss(self, chosen: Sequence[int]) -> Fraction | None:
        """What a policy loses in quality; None if nobody says."""
        if self.losses is None:
            return None
        return Fraction(sum(of[i] for of, i in zip(self.losses, chosen, strict=True)), self.scale)

    def reduction(self, point: Point, cost: str) -> Fraction | None:
        """How many times less a policy costs than the baseline; None if it costs nothing."""
        at = COSTS.index(cost)
        return Fraction(self.baseline[at], point.costs[at]) if point.costs[at] else None


def _costs_of_total(total: Total) -> tuple[int, ...]:
    return total.priced, total.dram_bits, total.vector.get("quantize", 0)


def prepare(
    job: Job, policy: Policy, fields: Sequence[str], varied: Sequence[Varied], formats: Sequence[str]
) -> tuple[Space, Terms, tuple[int, ...]]:
    """The space in which groups of tensors take any of some formats, its terms over a run, the costs of the baseline.

    Raises InputError for what cannot be searched.
    """
    convention = job.convention
    if MODELS[convention.traffic].tiled:
        raise InputError("traffic tiled: a search counts traffic without a buffer; say --traffic unfused or fused")
    groups = groups_of(job.graph, policy, fields, varied)
    space = space_of(policy, groups, formats)
    phases = list(schedule(policy, convention.steps))
    terms = weighed([(steps, _compiled(job, space, index)) for index, steps in enumerate(phases)])
    if any(table.counts[:, Counts._fields.index("unpriced_macs")].any() for table in terms.tables):
        raise InputError(f"law {convention.law} does not price all pairs of these formats; --law product does")
    return space, terms, _costs_of_total(count_policy(job.graph, job.baseline, convention).total)


def _compiled(job: Job, space: Space, index: int) -> Terms:
    of: Convention = job.convention
    return compile_step(job.graph, space, of.traffic, of.scope, of.of_gemms, of.law, index)


def problem(
    job: Job,
    policy: Policy,
    fields: Sequence[str],
    varied: Sequence[Varied],
    formats: Sequence[str],
    sensitivity: Sensitivity | None,
) -> Problem:
    """What is searched. Raises InputError for what cannot be, and for a sensitivity table with holes."""
    space, terms, baseline = prepare(job, policy, fields, varied, formats)
    if sensitivity is None:
        return Problem(job, space, terms, baseline, None, 1)
    losses = sensitivity.of([variable.name for variable in space.variables], formats)
    scale = lcm(*(loss.denominator for of in losses for loss in of))
    return Problem(job, space, terms, baseline, tuple(tuple(int(loss * scale) for loss in of) for of in losses), scale)
