"""What no schema sees of a policy: fields that do not go together, phases without an end, formats that are none."""

from collections.abc import Set
from functools import partial

from costsim.errors import InputError, together
from costsim.formats.named import parse_format
from costsim.inputs import schema_policy
from costsim.inputs.document import Where
from costsim.policy.levels import Fault, fill


def check(file: schema_policy.Policy, fault: Fault) -> None:
    """Raise `fault`, with the place in the file, for what does not fit and no schema sees; of all rules at once."""
    if len(set(file.levels)) < len(file.levels):
        raise fault(("levels",), "a level is named twice")
    for i in range(len(file.phases)):
        _check_phase(file, fault, i)
        _check_accumulator(file, fault, ("accumulator",), file.accumulator, i)
    for name in file.levels:
        if name in file.numbers:
            raise fault(("numbers", name), "is the name of a level too")
    rules = [partial(_check_rule, file, fault, j, rule) for j, rule in enumerate(file.rules)]
    together([*rules, *(partial(_check_monotone, file, fault, i) for i in range(1, len(file.phases)))])


def check_used(file: schema_policy.Policy, mentioned: Set[str], fault: Fault) -> None:
    """Raise `fault` for a level or a number that no format mentions: tables would show it as if it did something.

    `mentioned` are those that the policy's formats mention, and those of the policies that it composes.
    """
    for i, name in enumerate(file.levels):
        if name not in mentioned:
            raise fault(("levels", i), f"no format has the level {name}; write <{name}> into one, or leave it out")
    for name in file.numbers:
        if name not in mentioned:
            raise fault(("numbers", name), f"no format has the number {name}; write <{name}> into one, or leave it out")


def _check_accumulator(file: schema_policy.Policy, fault: Fault, at: Where, template: str | None, i: int) -> None:
    """Raise `fault` for an accumulator that is no format, or one that holds no sums, in phase i."""
    if template is not None and (format := fill(file, fault, at, template, i)).values != "float":
        raise fault(at, f"{format.name} holds no sums of products")


def _check_phase(file: schema_policy.Policy, fault: Fault, i: int) -> None:
    """Raise `fault` for a phase whose levels or whose end do not fit."""
    phase, at = file.phases[i], ("phases", i)
    if len(phase.levels) != len(file.levels):
        raise fault((*at, "levels"), f"expected {len(file.levels)} numbers for {list(file.levels)}")
    ends = sum(end is not None for end in (phase.until_fraction, phase.until_step, phase.until_plateau))
    if i + 1 < len(file.phases) and ends != 1:
        raise fault(at, "expected one of until_fraction, until_step and until_plateau (only the last phase has no end)")
    if i + 1 == len(file.phases) and ends:
        raise fault(at, "the last phase has no end; leave until_fraction, until_step and until_plateau out")
    if not file.levels and "phases" in file.model_fields_set:
        raise fault(at, "changes nothing, for the policy has no levels; leave phases out")
    if i and phase.levels == file.phases[i - 1].levels:
        raise fault((*at, "levels"), "changes nothing: these are the levels of the phase before")


def _check_monotone(file: schema_policy.Policy, fault: Fault, i: int) -> None:
    """Raise `fault` for a level that falls from phase i - 1 to phase i, if none may."""
    phase, at = file.phases[i], ("phases", i)
    if file.monotone:
        for level, before, now in zip(file.levels, file.phases[i - 1].levels, phase.levels, strict=True):
            if now < before:
                raise fault((*at, "levels"), f"level {level} falls from {before} to {now}, but the policy is monotone")


_FIELDS_OF_COPIES = {"placement": "a placement", "scale_time": "a scale_time", "operand": "an operand"}


def _check_rule(file: schema_policy.Policy, fault: Fault, j: int, rule: schema_policy.Rule) -> None:
    """Raise `fault` for a rule whose fields do not go together."""
    for i in range(len(file.phases)):
        _check_accumulator(file, fault, ("rules", j, "accumulator"), rule.accumulator, i)
        if rule.format is not None:
            format = fill(file, fault, ("rules", j, "format"), rule.format, i)
            if format.values != rule.values:
                message = f"{format.name} holds {format.values} values, the rule is for {rule.values}"
                raise fault(("rules", j, "format"), message)
    if (rule.format, rule.placement, rule.scale_time, rule.container, rule.accumulator) == (None,) * 5:
        raise fault(("rules", j), "expected a format (or a placement, scale_time, container or accumulator to change)")
    if rule.accumulator is not None and rule.copy_ is not None:
        raise fault(("rules", j, "accumulator"), "only what a GEMM writes has one, no copy; leave copy out")
    for name, words in _FIELDS_OF_COPIES.items():
        if getattr(rule, name) is not None and rule.copy_ is None:
            raise fault(("rules", j, name), f"only a copy has {words}; say copy: operand or copy: stash")
    if rule.container not in (None, "none"):
        try:
            parse_format(rule.container)
        except InputError as wrong:
            raise fault(("rules", j, "container"), str(wrong)) from None
