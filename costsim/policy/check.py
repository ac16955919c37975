"""What no schema sees of a policy: numbers that no format has, levels and phases that do not go together."""

import re
from collections.abc import Iterator, Set
from contextlib import suppress
from functools import partial

from costsim.errors import InputError, UnreadError, apart, near, refuse
from costsim.inputs import schema_policy
from costsim.inputs.document import Where
from costsim.inputs.schema_policy import LEVEL
from costsim.policy.levels import Fault, fill, mentioned, unknown_level
from costsim.policy.phases import bounds, start_of


def check(file: schema_policy.Policy, fault: Fault) -> None:
    """Raise InputError for all that does not fit and that no schema sees; `fault` knows the places in files."""
    refuse(faults(file, fault))


def faults(file: schema_policy.Policy, fault: Fault) -> Iterator[InputError]:
    """All that does not fit and that no schema sees, of a policy that may have been read in part."""
    yield from apart(*(partial(faults_of, file, fault) for faults_of in (_names, _phases, _steps, _formats)))


def check_formats(file: schema_policy.Policy, fault: Fault) -> None:
    """Raise InputError for formats that the numbers of a phase make and that there are not."""
    refuse(_formats(file, fault))


def _names(file: schema_policy.Policy, fault: Fault) -> Iterator[InputError]:
    """Names that are given twice."""
    assumptions = [assumption.name for assumption in file.assumptions if "name" in vars(assumption)]
    if len(set(assumptions)) < len(assumptions):
        yield fault(("assumptions",), "an assumption is named twice")
    if len(set(file.levels)) < len(file.levels):
        yield fault(("levels",), "a level is named twice")
    for name in file.levels:
        if name in file.numbers:
            yield fault(("numbers", name), "is the name of a level too")


def check_whole(file: schema_policy.Policy, elsewhere: Set[str], fault: Fault) -> None:
    """Raise InputError for all that a policy says in vain or lacks, though it is not a part of another's."""
    refuse(faults_of_whole(file, elsewhere, fault))


def faults_of_whole(file: schema_policy.Policy, elsewhere: Set[str], fault: Fault) -> Iterator[InputError]:
    """Levels and numbers that no format mentions, which tables would show as if they did something, and a missing log.

    `elsewhere` are those that the policies that it composes mention.
    """
    yield from apart(partial(_unused, file, elsewhere, fault), partial(_without_log, file, fault))


def _unused(file: schema_policy.Policy, elsewhere: Set[str], fault: Fault) -> Iterator[InputError]:
    used, names = mentioned(file) | elsewhere, {*file.levels, *file.numbers}
    misspelt = {name for unknown in used - names for name in near(unknown, names)}
    levels: list[tuple[Where, str, str]] = [(("levels", i), "level", name) for i, name in enumerate(file.levels)]
    numbers = [(("numbers", name), "number", name) for name in file.numbers]
    for at, kind, name in (*levels, *numbers):
        if name not in used | misspelt:
            yield fault(at, f"no format has the {kind} {name}; write <{name}> into one, or leave it out")


def _without_log(file: schema_policy.Policy, fault: Fault) -> Iterator[InputError]:
    if file.loss_log is None and any(phase.until_plateau for phase in file.phases):
        yield fault((), "until_plateau needs a loss_log (a CSV file with the header step,loss)")


def _phases(file: schema_policy.Policy, fault: Fault) -> Iterator[InputError]:
    yield from apart(*(partial(of, file, fault, i) for i in range(len(file.phases)) for of in (_end, _levels)))


def _end(file: schema_policy.Policy, fault: Fault, i: int) -> Iterator[InputError]:
    """A phase that does not end, or ends though it is the last, or has nothing to say."""
    phase, at = file.phases[i], ("phases", i)
    ends = sum(end is not None for end in (phase.until_fraction, phase.until_step, phase.until_plateau))
    if i + 1 < len(file.phases) and ends != 1:
        yield fault(at, "expected one of until_fraction, until_step and until_plateau (only the last phase has no end)")
    if i + 1 == len(file.phases) and ends:
        yield fault(at, "the last phase has no end; leave until_fraction, until_step and until_plateau out")


def _levels(file: schema_policy.Policy, fault: Fault, i: int) -> Iterator[InputError]:
    """Levels that are too many or too few, or phases of a policy that has none."""
    if not file.levels:
        if i == 0 and "phases" in file.given:
            yield fault(("phases", i), "changes nothing, for the policy has no levels; leave phases out")
    elif len(file.phases[i].levels) != len(file.levels):
        yield fault(("phases", i, "levels"), f"expected {len(file.levels)} numbers for {list(file.levels)}")


def _whole(file: schema_policy.Policy) -> list[int]:
    """The phases that give each level a number."""
    whole = []
    for i, phase in enumerate(file.phases):
        with suppress(UnreadError):
            whole += [i] if len(phase.levels) == len(file.levels) else []
    return whole


def _steps(file: schema_policy.Policy, fault: Fault) -> Iterator[InputError]:
    """Levels that are the same in a phase as before, or that fall though none may."""
    whole = set(_whole(file))
    cuts = {at for rule in file.rules for at in bounds(rule).values()}  # where other rules hold from then on
    for i in sorted(whole):
        if i - 1 not in whole:
            continue
        at, before, now = ("phases", i, "levels"), file.phases[i - 1].levels, file.phases[i].levels
        if file.levels and now == before and start_of(file, i) not in cuts:
            yield fault(at, "changes nothing: these are the levels of the phase before")
        for level, high, low in zip(file.levels, before, now, strict=True) if file.monotone else ():
            if low < high:
                yield fault(at, f"level {level} falls from {high} to {low}, but the policy is monotone")


def _formats(file: schema_policy.Policy, fault: Fault) -> Iterator[InputError]:
    """Formats of levels that there are not, and those that a phase's numbers make and that there are not."""
    sections: list[tuple[Where, schema_policy.Policy | schema_policy.Rule]] = [((), file)]
    sections += [(("rules", j), rule) for j, rule in enumerate(file.rules)]
    known, places = {*file.levels, *file.numbers}, []
    for at, section in sections:
        for field in ("format", "accumulator"):
            template = vars(section).get(field) or ""
            names = re.findall(LEVEL, template)
            yield from (fault((*at, field), unknown_level(name, known)) for name in names if name not in known)
            if names and known.issuperset(names):
                places.append(((*at, field), template))
    for i in _whole(file):
        for at, template in places:
            try:
                fill(file, fault, at, template, i)
            except InputError as error:
                yield error
