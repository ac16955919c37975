"""A search: what is asked, what is found, and the policy files of what is found."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from costsim.errors import InputError, nearest, one_line, refuse
from costsim.formats.named import parse_format
from costsim.inputs import files
from costsim.names import COSTS, VARIED, Varied
from costsim.policy.groups import FIELDS
from costsim.policy.load import find_policy, load_policies
from costsim.policy.policy import Policy
from costsim.run.job import Job
from costsim.search.front import front
from costsim.search.interactions import interactions
from costsim.search.optimum import Budget, optimum
from costsim.search.problem import REDUCTIONS, Point, Problem, problem
from costsim.search.sensitivity import Sensitivity, read_sensitivity

LOSS = "loss"
MEASURED = "reference"


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a search, as texts."""

    policy: str | None  # that is changed; none: the baseline
    groups: str  # fields of rules that tell groups apart
    varied: Sequence[str]
    formats: str
    sensitivity: str | None = None  # where the losses come from: a CSV file, or MEASURED
    against: str = COSTS[0]  # the cost of a front
    minimise: str | None = None
    at_most: Sequence[str] = ()  # FIELD=NUMBER
    at_least: Sequence[str] = ()
    points: int = 12  # of a front that are shown


@dataclass(frozen=True, eq=False)
class Found:
    """The policies that a search finds: those of a front, from the least loss on, or the one that is best."""

    problem: Problem
    asked: Asked
    field: str  # the cost of the front, or what is least
    points: tuple[Point, ...]
    gap: float | None  # of an optimum: by how much, at most, a better policy could be better; None: a front

    @property
    def shown(self) -> list[Point]:
        """The points that a table has: of many, evenly spread over the front, with both ends."""
        most, number = self.asked.points, len(self.points)
        if number <= most:
            return list(self.points)
        places = sorted({round(i * (number - 1) / max(1, most - 1)) for i in range(most)})
        return [self.points[place] for place in places]

    @property
    def uniform(self) -> list[tuple[str, Point]]:
        """The policies that give all groups one format, to compare with."""
        formats = self.problem.space.variables[0].choices
        every = [(i,) * len(self.problem.space.variables) for i in range(len(formats))]
        return list(zip(formats, self.problem.points(every), strict=True))

    def name(self, point: Point) -> str:
        """The name of a point's policy."""
        return f"{self.problem.job.workload}-{self.shown.index(point) + 1:02}"

    def formats(self, point: Point) -> dict[str, str]:
        """The format of each group."""
        chosen = zip(self.problem.space.variables, point.chosen, strict=True)
        return {variable.name: variable.choices[choice] for variable, choice in chosen}

    def usage(self, point: Point) -> list[tuple[str, int]]:
        """How many groups have each format, in the order of the formats."""
        number = Counter(self.formats(point).values())
        return [(format, number[format]) for format in self.problem.space.variables[0].choices if number[format]]


def base_of(job: Job, asked: Asked) -> Policy:
    """The policy whose formats are chosen anew. Raises InputError if there is none of that name."""
    return job.baseline if asked.policy is None else load_policies(find_policy(asked.policy))


def runs_to_measure(job: Job, asked: Asked) -> int:
    """How often `losses_of` calls `tick`."""
    if asked.sensitivity != MEASURED:
        return 0
    from costsim.reference.noise import runs  # which few searches need

    return runs(job, base_of(job, asked), *names_of(asked))


def losses_of(job: Job, asked: Asked, tick: Callable[[], None] = lambda: None) -> Sensitivity | None:
    """What bits cost in quality: as a file says, or as it is measured, a run a group and format; None if nobody says.

    Raises InputError for a file that cannot be read or is wrong, and for what cannot be measured.
    """
    if asked.sensitivity is None:
        return None
    if asked.sensitivity != MEASURED:
        return read_sensitivity(Path(asked.sensitivity))
    from costsim.reference.noise import gradient_noise

    return Sensitivity(MEASURED, gradient_noise(job, base_of(job, asked), *names_of(asked), tick=tick), {})


def search(job: Job, asked: Asked, table: Sensitivity | None) -> Found:
    """Search. `table`: what bits cost in quality, if somebody says.

    Raises InputError for what cannot be searched, and for budgets that no policy keeps.
    """
    groups, varied, formats = names_of(asked)
    budgets = [
        *(_split("--at-most", text) for text in asked.at_most),
        *(_split("--at-least", text) for text in asked.at_least),
    ]
    if table is None and (not asked.minimise or LOSS in (asked.minimise, *(name for name, _, _ in budgets))):
        raise InputError("--sensitivity: say what bits cost in quality; without it there is only --minimise COST")
    posed = problem(job, base_of(job, asked), groups, varied, formats, table)
    parts = interactions(posed.terms)
    if asked.minimise is None and not budgets:
        return Found(posed, asked, asked.against, tuple(front(posed, parts, asked.against)), None)
    field = asked.minimise or LOSS
    best = optimum(posed, parts, field, [_budget(posed, *budget) for budget in budgets])
    return Found(posed, asked, field, (best.point,), best.gap)


def names_of(asked: Asked) -> tuple[list[str], list[Varied], list[str]]:
    """The fields, what is varied and the formats, checked. Raises InputError for all that are none."""
    groups, formats = (
        [part.strip() for part in text.split(",") if part.strip()] for text in (asked.groups, asked.formats)
    )
    errors = [
        InputError(f"--group: unknown field {one_line(name)!r}{nearest(name, FIELDS)}")
        for name in groups
        if name not in FIELDS
    ]
    errors += [
        InputError(f"--formats: {one_line(name)!r} is named twice") for name, n in Counter(formats).items() if n > 1
    ]
    if not formats:
        errors.append(InputError("--formats: expected names of formats, such as bfp4,bfp8,fp16"))
    for name in formats:
        try:
            parse_format(name)
        except InputError as error:
            errors.append(InputError(f"--formats: {error}"))
    refuse(errors)
    return groups, [varied for varied in VARIED if varied in asked.varied], formats


def _split(option: str, text: str) -> tuple[str, Fraction, str]:
    """The field, number and words of FIELD=NUMBER. Raises InputError, with the nearest field."""
    name, equals, number = (part.strip() for part in text.partition("="))
    words = f"{option} {one_line(text)}"
    fields = (LOSS, *COSTS) if option == "--at-most" else tuple(REDUCTIONS)
    if name not in fields:
        raise InputError(f"{words}: unknown field {one_line(name)!r}{nearest(name, fields, most=20)}")
    try:
        value = Fraction(number) if equals and len(number) <= 40 and "/" not in number else None
    except ValueError:
        value = None
    if value is None or value < 0 or (value == 0 and name in REDUCTIONS):
        raise InputError(f"{words}: expected a number, such as {name}={'2.5' if name in REDUCTIONS else '1e15'}")
    return name, value, words


def _budget(posed: Problem, name: str, number: Fraction, words: str) -> Budget:
    """A budget in whole units: at least so many times less is at most such a part of the baseline's."""
    if name == LOSS:
        return Budget(LOSS, int(number * posed.scale), words)
    if name in REDUCTIONS:
        cost = REDUCTIONS[name]
        return Budget(cost, int(posed.baseline[COSTS.index(cost)] / number), words)
    return Budget(name, int(number), words)


# --- files of policies ------------------------------------------------------------------------------------------------


def policy_text(found: Found, point: Point, folder: Path) -> str:
    """A point as a policy file in a folder, which `run` takes: what it composes, and a rule for each group."""
    posed = found.problem
    base, space = posed.space.policy, posed.space
    formats = found.formats(point)
    first = min(space.of_rule)  # those of groups, and then those that leave copies where they are
    rules = []
    for number, rule in enumerate(base.file.rules[first:], first):
        fields = _plain(rule.data())
        variable = space.of_rule.get(number)
        rules.append(fields if variable is None else {**fields, "format": formats[space.variables[variable].name]})
    fields = {
        "description": f"found by costsim search for {posed.job.workload}: {_words(found, point)}",
        "compose": _base_names(base, folder),
        "rules": rules,
    }
    text: str = yaml.safe_dump(fields, sort_keys=False, width=120, allow_unicode=True, default_flow_style=None)
    return text


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as YAML has them: lists for tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def _words(found: Found, point: Point) -> str:
    posed = found.problem
    ratios = [
        f"{float(ratio):.4g}x {name.partition('_')[0]}"
        for name, cost in REDUCTIONS.items()
        if (ratio := posed.reduction(point, cost)) is not None
    ]
    loss = "" if point.loss is None else f"loss {float(point.loss):.6g}, "
    return f"{loss}{', '.join(ratios)} against {posed.job.convention.baseline}"


def _base_names(policy: Policy, folder: Path) -> list[str]:
    """How a policy file in a folder names a policy, or those that it is composed of: shipped ones by their names."""
    whole = Path(policy.document.path)
    paths = [whole] if whole.exists() else [Path(part) for part in policy.document.path.split("+")]
    shipped = {path.resolve() for path in files.list_shipped("policies").values()}
    return [path.stem if path.resolve() in shipped else os.path.relpath(path, folder) for path in paths]
