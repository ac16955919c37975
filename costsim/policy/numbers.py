"""A policy with other levels and numbers: one such policy, and all combinations of some as a space.

`levels.NAME` and `numbers.NAME` are named as a policy file has them. A level that is set has that value in all phases;
when phases end, and all else, stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from costsim.errors import InputError, nearest, one_line
from costsim.policy.check import check_formats
from costsim.policy.policy import Policy
from costsim.policy.space import Space

SECTIONS = ("levels", "numbers")


def is_number(name: str) -> bool:
    """Whether a name is that of a policy's level or number."""
    section, dot, _ = name.partition(".")
    return bool(dot) and section in SECTIONS


def names_of(policy: Policy) -> tuple[str, ...]:
    """The levels and numbers that a policy has, each after the section that it stands in."""
    return tuple(f"{section}.{name}" for section in SECTIONS for name in getattr(policy.file, section))


def check_names(names: Iterable[str], policies: Iterable[Policy]) -> None:
    """Raise InputError for a name that no policy has."""
    known = list(dict.fromkeys(name for policy in policies for name in names_of(policy)))
    for name in names:
        if name not in known:
            said = f"; they have {', '.join(known)}" if known else ""
            hint = nearest(name, known) or said
            raise InputError(f"--sweep {one_line(name)}: no policy of the run has it{hint}")


def whole(name: str, text: str) -> int:
    """The value of a level or number. Raises InputError."""
    low, high = (1, 64) if name.startswith("levels.") else (0, 65536)  # as the schema of policies has them
    if not text.isascii() or not text.isdigit() or len(text) > 5 or not low <= int(text) <= high:
        raise InputError(f"--sweep {name}={one_line(text)}: expected whole numbers from {low} to {high}")
    return int(text)


def with_numbers(policy: Policy, values: Mapping[str, int]) -> Policy:
    """The policy with these values, by name, of those levels and numbers that it has; unchecked."""
    file, own = policy.file, {name: values[name] for name in names_of(policy) if name in values}
    if not own:
        return policy
    numbers = {name: own.get(f"numbers.{name}", value) for name, value in file.numbers.items()}
    phases = []
    for phase in file.phases:
        pairs = zip(file.levels, phase.levels, strict=True)
        levels = tuple([own.get(f"levels.{name}", level) for name, level in pairs])
        recalled = {} if any(f"levels.{name}" not in own for name in file.levels) else {"grade": "ours"}
        phases.append(phase.changed(levels=levels, **recalled))
    grade = "ours" if file.grade in ("stated", "inferred") else file.grade  # no source has the change
    return replace(policy, file=file.changed(numbers=numbers, phases=tuple(phases), grade=grade))


def checked(policy: Policy, texts: Mapping[str, str]) -> Policy:
    """As `with_numbers`, of texts. Raises InputError, which names them, for formats that there are not."""
    changed = with_numbers(policy, {name: whole(name, text) for name, text in texts.items()})
    try:
        check_formats(changed.file, changed.error)
    except InputError as error:
        values = ", ".join(f"{name}={text}" for name, text in texts.items())
        raise InputError(f"--sweep {values}: policy {policy.name}: {error.faults[0].text}") from None
    return changed


class Numbers(Space):
    """All policies that one becomes as levels and numbers of it take values: variables are named as `names_of` does."""

    def __post_init__(self) -> None:
        """Its names are known."""

    @property
    def of_number(self) -> Mapping[str, int]:
        """By name of a level or number: its variable."""
        return {variable.name.partition(".")[2]: i for i, variable in enumerate(self.variables)}

    def unchecked(self, chosen: Mapping[int, int]) -> Policy:
        """The policy with these choices, by variable; the others as the policy has them."""
        variables = {i: self.variables[i] for i in chosen}
        return with_numbers(self.policy, {of.name: int(of.choices[chosen[i]]) for i, of in variables.items()})
