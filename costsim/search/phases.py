"""Phases in a search: training in stretches, and groups of tensors that go on to a later format where one begins.

A policy of the space is then a choice for each group in each stretch. What is counted of a run is a sum over stretches,
so terms of one stretch are those of all, on variables of its own. Peak memory is that of the stretch that has most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from costsim.cost.measure import Measure, total_of
from costsim.cost.terms import Alternative, Condition, Integers, Sum, Table, Terms
from costsim.errors import InputError
from costsim.inputs.spans import moment
from costsim.policy.check import check
from costsim.policy.phases import cut, end_of
from costsim.policy.policy import Policy
from costsim.policy.schedule import schedule
from costsim.policy.space import Space

_FOREVER = float("inf")


class Stretch(NamedTuple):
    """A part of training in which formats stay as they are."""

    start: str  # a step or a share of the run, as rules spell it
    steps: int
    of_phases: tuple[int, ...]  # its steps in each phase of the policy
    phases: tuple[int, ...]  # those that it has a part of, be it too short for a step


def stretches(policy: Policy, steps: int, number: int) -> list[Stretch]:
    """A run of so many steps in so many stretches, as equal as can be. Phases that end by shares are cut by shares.

    Raises InputError if there are more stretches than steps, and for phases of which nobody knows beforehand when they
    end.
    """
    lengths = schedule(policy, steps)
    if number == 1:
        return [Stretch("0", steps, tuple(lengths), tuple(range(len(lengths))))]
    if number > steps:
        raise InputError(f"--phases {number}: expected at most {steps}, the steps of the run")
    ends = [end_of(phase) for phase in policy.file.phases[:-1]]
    if None in ends:
        raise InputError(f"--phases {number}: {policy.name} has a phase that ends where a loss stops falling")
    shares = any(end is not None and end.share is not None for end in ends)
    starts = [f"{100 * i / number:.6g}%" if shares else str(steps * i // number) for i in range(number)]
    own = [0, *(end.at for end in ends if end), _FOREVER]
    given = [*(moment(start).at for start in starts), _FOREVER]
    at = [*(_step(start, steps) for start in starts), steps]
    of = list(pairwise(accumulate(lengths, initial=0)))
    made = []
    for start, (since, end), (first, last) in zip(starts, pairwise(at), pairwise(given), strict=True):
        overlaps = tuple(max(0, min(end, b) - max(since, a)) for a, b in of)
        phases = tuple(i for i, (a, b) in enumerate(pairwise(own)) if max(a, first) < min(b, last))
        made.append(Stretch(start, end - since, overlaps, phases))
    return made


def _step(start: str, steps: int) -> int:
    """The step at which a phase that is cut there begins, as `schedule` has it."""
    share, step = moment(start)
    return step if share is None else int(Fraction(str(float(share))) * steps)


# --- terms of all stretches -------------------------------------------------------------------------------------------


def repeated(space: Space, number: int) -> Space:
    """The choices of a space, once for each of so many stretches, stretch by stretch."""
    return Space(space.policy, space.variables * number)


def _condition(condition: Condition, by: int) -> Condition:
    return condition._replace(variables=tuple(i + by for i in condition.variables))


def _moved(terms: Terms, by: int, space: Space) -> Terms:
    """Terms on variables that are so many places further on, of a space that has them."""
    tables = (Table(tuple(i + by for i in variables), counts) for variables, counts in terms.tables)
    alternatives = (
        Alternative(frozenset(_condition(condition, by) for condition in conditions), counts)
        for conditions, counts in terms.alternatives
    )
    return Terms(space, tuple(tables), tuple(alternatives))


def summed(parts: Sequence[Terms]) -> Terms:
    """What is counted of a run, from what is counted of each of its stretches."""
    of = parts[0].space
    space, total = repeated(of, len(parts)), Sum()
    for i, terms in enumerate(parts):
        total.include(_moved(terms, i * len(of.variables), space))
    return total.terms(space)


def _moved_measure(measure: Measure, by: int, space: Space) -> Measure:
    """A measure on variables that are so many places further on."""
    return Measure(
        space,
        _moved(measure.sum, by, space),
        tuple(_moved(terms, by, space) for terms in measure.maxima),
        frozenset(_condition(condition, by) for condition in measure.barred),
        tuple((_moved_measure(under, by, space), _moved(floor, by, space)) for under, floor in measure.floored),
    )


def summed_measure(parts: Sequence[Measure]) -> Measure:
    """The measure of a run, from that of each of its stretches, such as time."""
    of = parts[0].space
    space = repeated(of, len(parts))
    return total_of([_moved_measure(part, i * len(of.variables), space) for i, part in enumerate(parts)])


def largest_measure(parts: Sequence[Measure]) -> Measure:
    """The largest of the measures of the stretches, each of which is one maximum: peak memory."""
    if len(parts) == 1:
        return parts[0]
    maxima = [terms for part in parts for terms in part.maxima]
    widths = [terms.tables[0].counts.shape[-1] for terms in maxima]
    since, wide = 0, []
    for terms, width in zip(maxima, widths, strict=True):
        wide.append(_placed(terms, since, sum(widths) - since - width))
        since += width
    whole = summed(wide)
    return Measure(whole.space, Terms(whole.space, (), ()), (whole,))


def _placed(terms: Terms, before: int, behind: int) -> Terms:
    """Terms with so many more columns before and behind theirs, in which there is nothing."""

    def padded(counts: Integers) -> Integers:
        return np.pad(counts, [(0, 0)] * (counts.ndim - 1) + [(before, behind)])

    tables = tuple(table._replace(counts=padded(table.counts)) for table in terms.tables)
    return Terms(terms.space, tables, tuple(each._replace(counts=padded(each.counts)) for each in terms.alternatives))


# --- the policy of a point --------------------------------------------------------------------------------------------


def choices(chosen: Sequence[int], groups: int) -> list[tuple[int, ...]]:
    """By stretch: the choices of groups."""
    return [tuple(chosen[first : first + groups]) for first in range(0, len(chosen), groups)]


def policy_of(space: Space, stretches: Sequence[Stretch], chosen: Sequence[int], called: str) -> Policy:
    """The policy of some choices: a rule for the format in which a group starts, and one from each change on.

    Raises InputError if formats do not fit.
    """
    first, *later = choices(chosen, len(space.variables))
    policy = space.point(dict(enumerate(first)), called)
    if not later:
        return policy
    rules, places = [], []
    for number, (rule, place) in enumerate(zip(policy.file.rules, policy.rule_places, strict=True)):
        every = [rule]
        if number in space.of_rule:
            i = space.of_rule[number]
            for stretch, before, now in zip(stretches[1:], (first, *later), later, strict=False):
                if before[i] != now[i]:
                    every.append(rule.changed(format=space.variables[i].choices[now[i]], from_=stretch.start))
        rules += every
        places += [place] * len(every)
    policy = replace(policy, file=policy.file.changed(rules=tuple(rules)), rule_places=tuple(places))
    policy = replace(policy, file=cut(policy.file, policy.error))
    check(policy.file, policy.error)
    return policy
