"""What is searched: a space of policies, what each costs over a whole run, and what its bits cost in quality.

All numbers are integers: losses are scaled by the least common denominator of the table that gives them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from math import lcm
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from costsim.cost.compile import compile_step
from costsim.cost.measure import Measure, in_bulk
from costsim.cost.terms import Counts, Terms, merged, weighed
from costsim.cost.totals import Total
from costsim.errors import InputError
from costsim.names import COSTS, Varied
from costsim.policy.groups import groups_of, space_of
from costsim.policy.policy import Policy
from costsim.policy.space import Space
from costsim.run.job import Convention, Job
from costsim.run.simulate import count_policy
from costsim.search.interactions import costs
from costsim.search.measures import Compiled, reduction_of
from costsim.search.phases import Stretch, policy_of, stretches, summed
from costsim.search.sensitivity import Sensitivity

_REDUCED = ("arithmetic_cost", "dram_bits")  # counts of which tables say how many times less there is
Cost = int | float  # counts and bytes are integers


def reductions_of(fields: Iterable[str]) -> dict[str, str]:
    """By name: of which of the fields it is how many times less than the baseline's."""
    return {reduction_of(field): field for field in fields if field in _REDUCED or field not in COSTS}


class Point(NamedTuple):
    """A policy of the space: its choices, and what it costs."""

    chosen: tuple[int, ...]
    costs: tuple[Cost, ...]  # in the order of the problem's fields; infinity where a policy does not run
    loss: Fraction | None


@dataclass(frozen=True, eq=False)
class Problem:
    """A space of policies with their costs."""

    job: Job
    space: Space  # of one stretch of training
    terms: Terms  # of a whole run, over the choices of all stretches
    baseline: tuple[Cost | None, ...]  # its costs, in the order of `fields`; None where it does not run
    losses: tuple[tuple[int, ...], ...] | None  # by variable of all stretches and choice, times `scale`
    scale: int
    measures: Mapping[str, Measure] = field(default_factory=dict)  # besides COSTS
    stretches: Sequence[Stretch] = ()  # of training; none: the whole run is one

    @property
    def fields(self) -> tuple[str, ...]:
        """What policies cost."""
        return (*COSTS, *self.measures)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many choices there are for each group in each stretch, stretch by stretch."""
        return self.terms.space.sizes

    def policy(self, point: Point, called: str) -> Policy:
        """The policy of a point, under that name."""
        return policy_of(self.space, self.stretches, point.chosen, called)

    @property
    def reductions(self) -> dict[str, str]:
        """By name: the cost of which it says how many times less than the baseline's it is."""
        return reductions_of(self.fields)

    @cached_property
    def _merged(self) -> Terms:
        return merged(self.terms)

    @cached_property
    def _in_bulk(self) -> list[Measure]:
        return [in_bulk(measure) for measure in self.measures.values()]

    def points(self, chosen: Sequence[tuple[int, ...]]) -> list[Point]:
        """Policies with their costs."""
        places = np.array(chosen, np.intp)
        counts = costs(self._merged.evaluate(places).astype(object))  # of which two are added
        every = [*counts.T.tolist(), *(measure.evaluate(places).tolist() for measure in self._in_bulk)]
        return [Point(each, of, self.loss(each)) for each, of in zip(chosen, zip(*every, strict=True), strict=True)]

    def loss(self, chosen: Sequence[int]) -> Fraction | None:
        """What a policy loses in quality; None if nobody says."""
        if self.losses is None:
            return None
        return Fraction(sum(of[i] for of, i in zip(self.losses, chosen, strict=True)), self.scale)

    def reduction(self, point: Point, cost: str) -> Fraction | None:
        """How many times less a policy costs than the baseline; None if it costs nothing, or one does not run."""
        at = self.fields.index(cost)
        base, own = self.baseline[at], point.costs[at]
        return Fraction(base) / Fraction(own) if own and base is not None and math.isfinite(own) else None


def _costs_of_total(total: Total) -> tuple[int, ...]:
    return total.priced, total.dram_bits, total.vector.get("quantize", 0)


def prepare(
    job: Job, policy: Policy, fields: Sequence[str], varied: Sequence[Varied], formats: Sequence[str], phases: int = 1
) -> tuple[Space, list[Stretch], Terms]:
    """The space in which groups of tensors take any of some formats, in each of so many stretches; terms over a run.

    Raises InputError for what cannot be searched.
    """
    convention = job.convention
    groups = groups_of(job.graph, policy, fields, varied)
    space = space_of(policy, groups, formats)
    every = stretches(policy, convention.steps, phases)
    compiled = [_compiled(job, space, index) for index in range(len(policy.file.phases))]
    terms = summed([weighed(list(zip(stretch.of_phases, compiled, strict=True))) for stretch in every])
    if any(table.counts[:, Counts._fields.index("unpriced_macs")].any() for table in terms.tables):
        raise InputError(f"law {convention.law} does not price all pairs of these formats; --law product does")
    return space, every, terms


def _compiled(job: Job, space: Space, index: int) -> Terms:
    of: Convention = job.convention
    return compile_step(job.graph, space, of.traffic, of.scope, of.of_gemms, of.law, index, of.buffer_bytes)


def problem(
    job: Job,
    policy: Policy,
    fields: Sequence[str],
    varied: Sequence[Varied],
    formats: Sequence[str],
    sensitivity: Sensitivity | None,
    measures: Mapping[str, bool] = MappingProxyType({}),
    phases: int = 1,
) -> Problem:
    """What is searched, over so many stretches of training.

    `measures`: what else than COSTS counts, and whether it has to be known. Of what a whole run in its formats loses, a
    stretch loses the part that its steps are of all. Raises InputError for what cannot be searched, and for a
    sensitivity table with holes.
    """
    space, every, terms = prepare(job, policy, fields, varied, formats, phases)
    losses, scale = None, 1
    if sensitivity is not None:
        given = sensitivity.of([variable.name for variable in space.variables], formats)
        whole = [[[loss * stretch.steps for loss in of] for of in given] for stretch in every]
        scale = lcm(*(loss.denominator for of in given for loss in of))
        losses = tuple(tuple(int(loss * scale) for loss in of) for stretch in whole for of in stretch)
        scale *= job.convention.steps
    measured = Compiled(job, space, formats, every).named(measures)
    baseline = _costs_of_total(count_policy(job.graph, job.baseline, job.convention).total)
    costs_of = (*baseline, *(each.baseline for each in measured.values()))
    named = {name: each.measure for name, each in measured.items()}
    return Problem(job, space, terms, costs_of, losses, scale, named, every)
