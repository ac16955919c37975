"""A sweep over levels and numbers of policies, from tables: each graph is compiled once, and a point is a few lookups.

What a point has is what counting it gives, to the last digit, but no rows. Time on a device, tiles and messages to
other ranks hang on rows, so sweeps with those are counted point by point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, islice
from typing import NamedTuple, TypeVar

import numpy as np

from costsim.cost.compile_total import Totals, compile_totals
from costsim.cost.measure import Measure, in_bulk
from costsim.cost.peak import peak_memory
from costsim.cost.terms import Points
from costsim.errors import InputError
from costsim.policy.numbers import Numbers, names_of
from costsim.policy.policy import Policy
from costsim.policy.schedule import schedule
from costsim.policy.space import Variable
from costsim.run.counted import CountedPhase, CountedPolicy, peak_bytes, summed
from costsim.run.job import Job
from costsim.run.simulate import Result, count_policy, execute
from costsim.run.spread import HERE, Workers, over
from costsim.run.sweep import Point, Sweep

_Part = TypeVar("_Part")
_BLOCK = 256  # points of which totals are made at once


class _Step(NamedTuple):
    """A step in one phase of a policy, under all its numbers."""

    steps: int
    totals: Totals
    peak: Measure | None


def tabled(sweep: Sweep, by: str = "policy") -> bool:
    """Whether the points of a sweep come from tables, where their graphs allow it."""
    return bool(sweep.numbers) and len(sweep.where) > 1 and by in ("policy", "reduction") and not sweep.first.hardware


def _allows(job: Job) -> bool:
    """Whether what is asked of a job hangs on no rows."""
    widths = any(policy.widths for policy in (*job.policies, job.baseline))
    return not (job.convention.tiled or job.graph.mesh or job.graph.frozen_in_flash or widths)


@dataclass(frozen=True, eq=False)
class _Policy:
    """A policy on one graph: compiled if a swept name is its own, else counted."""

    variables: tuple[Variable, ...]
    steps: tuple[_Step, ...]

    def points(self, where: Sequence[Point]) -> Points:
        """The places of the choices of some points."""
        at = [{text: i for i, text in enumerate(of.choices)} for of in self.variables]
        places = [[at[i][point[of.name]] for i, of in enumerate(self.variables)] for point in where]
        return np.array(places).reshape(len(where), len(self.variables))

    def phases(self, where: Sequence[Point]) -> list[list[CountedPhase] | None]:
        """The phases of the policy at some points; None where the law has no price for something."""
        points, columns = self.points(where), []
        for step in self.steps:
            peaks = [None] * len(where) if step.peak is None else step.peak.evaluate(points).tolist()
            totals = zip(step.totals.of(points), peaks, strict=True)
            columns.append([total and CountedPhase(step.steps, (), (), total, peak) for total, peak in totals])
        return [[phase for phase in row if phase] if all(row) else None for row in zip(*columns, strict=True)]


def _compiled(job: Job, policy: Policy, values: Mapping[str, Sequence[str]], peaks: bool) -> _Policy:
    variables = tuple([Variable(name, tuple(values[name])) for name in names_of(policy) if name in values])
    space, of, graph = Numbers(policy, variables), job.convention, job.graph
    steps = []
    for index, number in enumerate(schedule(policy, of.steps)):
        totals = compile_totals(graph, space, of.traffic, of.scope, of.of_gemms, of.law, index)
        peak = in_bulk(peak_memory(graph, space, of.traffic, (index,))) if peaks else None
        steps.append(_Step(number, totals, peak))
    return _Policy(variables, tuple(steps))


def _counted(job: Job, policy: Policy, peaks: bool) -> CountedPolicy:
    """A policy counted, with its peaks; without rows."""
    counted = count_policy(job.graph, policy, job.convention)
    if not peaks:
        return counted
    phases = [replace(phase, peak_bytes=peak_bytes(job, counted, i)) for i, phase in enumerate(counted.phases)]
    return replace(counted, phases=tuple(phases))


class _Shape:
    """The policies of a sweep on one graph: those that it changes compiled, the others counted."""

    def __init__(self, job: Job, values: Mapping[str, Sequence[str]], peaks: bool) -> None:
        self.peaks, self.compiled, self.fixed = peaks, dict[str, _Policy](), dict[str, CountedPolicy]()
        distinct = {policy.name: policy for policy in (job.baseline, *job.policies)}
        changed = {policy.name for policy in job.policies if set(names_of(policy)) & set(values)}
        for name, policy in distinct.items():
            if name in changed:
                self.compiled[name] = _compiled(job, policy, values, peaks)
            else:
                self.fixed[name] = _counted(job, policy, peaks)

    def results(self, jobs: Sequence[Job], where: Sequence[Point]) -> Iterator[Result]:
        """The results at some points with this graph."""
        phases = {name: of.phases(where) for name, of in self.compiled.items()}
        for i, job in enumerate(jobs):
            counted = dict(self.fixed)
            for policy in (job.baseline, *job.policies):
                if policy.name in phases:
                    known = phases[policy.name][i]
                    counted[policy.name] = (
                        summed(policy, known, job.convention.law) if known else _counted(job, policy, self.peaks)
                    )
            yield Result(job, tuple(counted[policy.name] for policy in job.policies), counted[job.baseline.name])


def each(
    sweep: Sweep, by: str, make: Callable[[Result], _Part], peaks: bool, workers: Workers = HERE, after: int = 0
) -> Iterator[_Part]:
    """What a function makes of the result at each point of a sweep, but for so many of the first.

    Results are from tables where that can be, with peak memory if `peaks`; else workers count them. Raises InputError.
    """
    if tabled(sweep, by):
        return map(make, results(sweep, peaks, after))
    return over(sweep, partial(_counted_first, make), workers, after)


def _counted_first(make: Callable[[Result], _Part], job: Job) -> _Part:
    """What a function makes of a job, once that is counted. At the top of a module, for workers look it up."""
    return make(execute(job))


def results(sweep: Sweep, peaks: bool, after: int = 0) -> Iterator[Result]:
    """The results of a sweep that is `tabled`, in the order of its points, but for so many of the first.

    `peaks`: with peak memory. Raises InputError.
    """
    values = {name: list(dict.fromkeys(point[name] for point in sweep.where)) for name in sweep.numbers}
    for _, alike in groupby(sweep.where[after:], sweep.fields):
        shape, points = None, iter(alike)
        while block := list(islice(points, _BLOCK)):
            jobs = [sweep.at(point) for point in block]
            shape = shape or _shape(jobs[0], values, peaks)
            yield from map(execute, jobs) if shape is None else shape.results(jobs, block)


def _shape(job: Job, values: Mapping[str, Sequence[str]], peaks: bool) -> _Shape | None:
    """The policies on the graph of a job; None if they are to be counted point by point, which tells what is wrong."""
    try:
        return _Shape(job, values, peaks) if _allows(job) else None
    except InputError:
        return None
