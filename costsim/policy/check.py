"""What no schema sees of a policy: numbers that no format has, levels and phases that do not go together."""

from collections.abc import Iterator, Set

from costsim.errors import InputError, refuse
from costsim.inputs import schema_policy
from costsim.inputs.document import Where
from costsim.policy.levels import Fault, fill


def check(file: schema_policy.Policy, fault: Fault) -> None:
    """Raise InputError for all that does not fit and that no schema sees; `fault` knows the places in files."""
    refuse(_faults(file, fault))


def _faults(file: schema_policy.Policy, fault: Fault) -> Iterator[InputError]:
    if len(set(file.levels)) < len(file.levels):
        yield fault(("levels",), "a level is named twice")
    for name in file.levels:
        if name in file.numbers:
            yield fault(("numbers", name), "is the name of a level too")
    whole = []  # phases that give each level a number
    for i, phase in enumerate(file.phases):
        yield from _phase_faults(file, fault, i)
        if len(phase.levels) == len(file.levels):
            whole.append(i)
        else:
            yield fault(("phases", i, "levels"), f"expected {len(file.levels)} numbers for {list(file.levels)}")
    for i in whole:
        if i - 1 in whole:
            yield from _step_faults(file, fault, i)
    templates: list[tuple[Where, str | None]] = [(("accumulator",), file.accumulator)]
    for j, rule in enumerate(file.rules):
        templates += [(("rules", j, "format"), rule.format), (("rules", j, "accumulator"), rule.accumulator)]
    for i in whole:
        for at, template in templates:
            try:
                fill(file, fault, at, template or "fp32", i)
            except InputError as error:
                yield error


def check_used(file: schema_policy.Policy, mentioned: Set[str], fault: Fault) -> None:
    """Raise InputError for levels and numbers that no format mentions: tables would show them as if they did something.

    `mentioned` are those that the policy's formats mention, and those of the policies that it composes.
    """
    levels = [(("levels", i), "level", name) for i, name in enumerate(file.levels)]
    numbers = [(("numbers", name), "number", name) for name in file.numbers]
    refuse(
        fault(at, f"no format has the {kind} {name}; write <{name}> into one, or leave it out")
        for at, kind, name in (*levels, *numbers)
        if name not in mentioned
    )


def _phase_faults(file: schema_policy.Policy, fault: Fault, i: int) -> Iterator[InputError]:
    """A phase that does not end, or ends though it is the last, or has nothing to say."""
    phase, at = file.phases[i], ("phases", i)
    ends = sum(end is not None for end in (phase.until_fraction, phase.until_step, phase.until_plateau))
    if i + 1 < len(file.phases) and ends != 1:
        yield fault(at, "expected one of until_fraction, until_step and until_plateau (only the last phase has no end)")
    if i + 1 == len(file.phases) and ends:
        yield fault(at, "the last phase has no end; leave until_fraction, until_step and until_plateau out")
    if i == 0 and not file.levels and "phases" in file.model_fields_set:
        yield fault(at, "changes nothing, for the policy has no levels; leave phases out")


def _step_faults(file: schema_policy.Policy, fault: Fault, i: int) -> Iterator[InputError]:
    """Levels that are the same in phase i as before, or that fall though none may."""
    at, before, now = ("phases", i, "levels"), file.phases[i - 1].levels, file.phases[i].levels
    if file.levels and now == before:
        yield fault(at, "changes nothing: these are the levels of the phase before")
    for level, high, low in zip(file.levels, before, now, strict=True) if file.monotone else ():
        if low < high:
            yield fault(at, f"level {level} falls from {high} to {low}, but the policy is monotone")
