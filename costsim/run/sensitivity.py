"""How far each assumption moves the two ratios: one moved at a time, the others as shipped.

Every file lists its own assumptions: a policy those about formats, copies and phases, a workload those about sizes. The
convention (scope, traffic model, law) is an assumption of every run.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

from costsim.cost.laws import LAWS
from costsim.cost.totals import Total
from costsim.errors import InputError
from costsim.graph.fusion import COMPARED
from costsim.inputs.document import Where
from costsim.inputs.schema_workload import WorkloadCase
from costsim.names import SCOPES
from costsim.policy.assign import selectors_of_all
from costsim.policy.classes import Selectors
from costsim.policy.policy import Policy, with_case, with_rules
from costsim.run.job import Job, with_fields
from costsim.run.simulate import count_policy

AS_SHIPPED = "as shipped"
_OTHER_LAWS = tuple(name for name, law in LAWS.items() if not law.of_its_own)
CONVENTION = {"scope": SCOPES, "traffic": COMPARED, "law": _OTHER_LAWS}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Both ratios of a policy to the baseline under one case of one assumption; None where a law is not defined."""

    policy: str
    assumption: str
    here: str  # what the files assume
    grade: str
    case: str  # what is assumed instead
    arithmetic_reduction: Fraction | None
    dram_reduction: Fraction | None


class _Case(NamedTuple):
    """One case of an assumption: its name, what files assume, the grade of that, and what is assumed instead."""

    assumption: str
    here: str
    grade: str
    case: str


def _with_case(job: Job, case: WorkloadCase, at: Where) -> Job:
    """The job with other fields and more rules for all policies. Raises InputError, at the case, if they do not fit."""
    try:
        changed = with_fields(job, case.set, own=True)
    except InputError as error:
        raise job.document.error(at, str(error)) from None
    if not case.rules:
        return changed
    distinct = {id(policy): policy for policy in (job.baseline, *job.policies)}
    with_them = {key: with_rules(policy, case.rules, job.document, at) for key, policy in distinct.items()}
    policies = tuple(with_them[id(policy)] for policy in job.policies)
    return replace(changed, policies=policies, baseline=with_them[id(job.baseline)])


def _jobs(job: Job) -> Iterator[tuple[_Case, Job]]:
    """The job under each other convention, and under each case of the workload's assumptions."""
    for field, values in CONVENTION.items():
        here = getattr(job.convention, field)
        for value in values:
            if value != here:
                other: dict[str, Any] = {field: value}
                yield _Case(field, here, "ours", value), replace(job, convention=replace(job.convention, **other))
    for a, assumption in enumerate(job.file.assumptions):
        for i, case in enumerate(assumption.cases):
            changed = _with_case(job, case, ("assumptions", a, "cases", i))
            yield _Case(assumption.name, assumption.here, assumption.grade, case.name), changed


def _policies(policy: Policy) -> Iterator[tuple[_Case, Policy]]:
    """The policy under each case of its assumptions."""
    for assumption in policy.assumptions:
        entry = assumption.entry
        for i, case in enumerate(entry.cases):
            yield _Case(entry.name, entry.here, entry.grade, case.name), with_case(policy, assumption, i)


def subjects(job: Job) -> list[Policy]:
    """The policies whose assumptions are moved: those with published figures, else all but the baseline."""
    return job.published_policies or [policy for policy in job.policies if policy.name != job.baseline.name]


def _told(job: Job, jobs: Sequence[tuple[_Case, Job]], cases: Iterable[tuple[_Case, Policy]]) -> Selectors | None:
    """What tells ops and tensors apart under any of these policies and conventions, so that all have their classes."""
    every = [job, *(other for _, other in jobs)]
    policies = {id(policy): policy for each in every for policy in (each.baseline, *subjects(each))}
    left_out = {glob for each in every for glob in each.convention.gemms_left_out}
    return selectors_of_all([*policies.values(), *(policy for _, policy in cases)], left_out)


@lru_cache(maxsize=1)  # a report asks once for each of its formats
def outcomes(job: Job) -> list[Outcome]:
    """Each assumption of each subject moved, one case at a time; the first of a policy is everything as shipped.

    Raises InputError for a case that does not fit.
    """
    if not subjects(job):
        raise InputError(f"no policy but the baseline {job.baseline.name}: name one whose assumptions are to be moved")
    jobs = [(_Case(AS_SHIPPED, "", "", ""), job), *_jobs(job)]
    cases = {policy.name: list(_policies(policy)) for policy in subjects(job)}
    told = _told(job, jobs, chain.from_iterable(cases.values()))

    def total(there: Job, policy: Policy) -> Total:
        return count_policy(there.graph, policy, there.convention, told).total

    def outcome(case: _Case, there: Job, policy: Policy, baseline: Total) -> Outcome:
        return Outcome(policy.name, *case, *total(there, policy).reductions(baseline))

    of_jobs: dict[str, list[Outcome]] = {name: [] for name in cases}
    of_policies: dict[str, list[Outcome]] = {}
    for case, there in jobs:
        baseline = total(there, there.baseline)
        for policy in subjects(there):
            of_jobs[policy.name].append(outcome(case, there, policy, baseline))
            if there is job:
                own = cases[policy.name]
                of_policies[policy.name] = [outcome(of, job, changed, baseline) for of, changed in own]
    return [each for name, (first, *others) in of_jobs.items() for each in (first, *of_policies[name], *others)]
