"""Rules that hold from one moment of a run to another: phases are cut there, so that in each all rules hold or none."""

from __future__ import annotations

from bisect import bisect_right
from fractions import Fraction

from costsim.inputs import schema_policy
from costsim.inputs.spans import Moment, moment
from costsim.policy.levels import Fault

START = Moment(Fraction(0))


def bounds(rule: schema_policy.Rule) -> dict[str, Moment]:
    """The moments between which a rule holds, by field; none if it always does."""
    if rule.from_ is None and rule.until is None:  # as most do, and each is asked often
        return {}
    texts = {"from": rule.from_, "until": rule.until}
    return {name: moment(text) for name, text in texts.items() if text is not None}


def end_of(phase: schema_policy.Phase) -> Moment | None:
    """When a phase ends; None at the end of the run, or at a plateau."""
    if phase.until_fraction is not None:
        return Moment(Fraction(str(phase.until_fraction)))
    return None if phase.until_step is None else Moment(None, phase.until_step)


def start_of(file: schema_policy.Policy, index: int) -> Moment | None:
    """When a phase of a policy starts; None after a plateau."""
    return end_of(file.phases[index - 1]) if index else START


def asleep(file: schema_policy.Policy, index: int) -> frozenset[int]:
    """The numbers of the rules that do not hold in a phase."""
    start = start_of(file, index)
    now = start.at if start else 0
    sleeping = set()
    for i, rule in enumerate(file.rules):
        between = bounds(rule)
        before = "from" in between and now < between["from"].at
        if before or ("until" in between and now >= between["until"].at):
            sleeping.add(i)
    return frozenset(sleeping)


def cut(file: schema_policy.Policy, fault: Fault) -> schema_policy.Policy:
    """The policy with its phases cut at the moments of its rules. Raises `fault` where these have no order."""
    ends = [end_of(phase) for phase in file.phases[:-1]]
    cuts: set[Moment] = set()
    for i, rule in enumerate(file.rules):
        for field, at in bounds(rule).items():
            shares = {(other.share is None) if other else None for other in [*ends, *cuts]}
            if not shares <= {at.share is None}:
                message = (
                    f"{at}: shares, steps and plateaus have no order before a run; use one sort in rules and phases"
                )
                raise fault(("rules", i, field), message)
            cuts.add(at)
    new = sorted((at for at in cuts - set(ends) if 0 < at.at != 1 or at.share is None), key=lambda at: at.at)
    if not new or len(ends) != len([end for end in ends if end]):
        return file
    known = [end.at for end in ends if end]
    phases = []
    for at in sorted({*(end for end in ends if end), *new}, key=lambda at: at.at):
        of = file.phases[bisect_right(known, at.at) - (at.at in known)]
        share = None if at.share is None else float(at.share)
        grade = of.until_grade if at.at in known else file.grade
        until = {"until_fraction": share, "until_step": None if at.share is not None else at.step, "until_grade": grade}
        phases.append(of.changed(**until))
    return type(file).part({**vars(file), "phases": (*phases, file.phases[-1])}, file.given)
