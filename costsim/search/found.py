"""A search: what is asked, what is found, and the policy files of what is found."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import yaml

from costsim.errors import InputError, nearest, one_line, refuse
from costsim.formats.named import parse_format
from costsim.inputs import files
from costsim.inputs.sorts import editor_lines
from costsim.names import COSTS, PEAK, VARIED, Varied
from costsim.policy.groups import FIELDS
from costsim.policy.load import find_policy, load_policies
from costsim.policy.policy import Policy
from costsim.policy.space import Space
from costsim.run.job import Job
from costsim.search.corners import corners, spaced
from costsim.search.front import front
from costsim.search.interactions import Interactions, interactions
from costsim.search.measures import device_fields
from costsim.search.optimum import Budget, optimum
from costsim.search.phases import choices
from costsim.search.problem import Point, Problem, problem, reductions_of
from costsim.search.sensitivity import Sensitivity, read_sensitivity

LOSS = "loss"
MEASURED = {  # proxies that are measured, by their names for --sensitivity
    "reference": "noise over signal that a format leaves in the gradients of all weights",
    "loss": "how far a step of gradient descent in a format leads to another loss than in fp32",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a search, as texts."""

    policy: str | None  # that is changed; none: the baseline
    groups: str  # fields of rules that tell groups apart
    varied: Sequence[str]
    formats: str
    sensitivity: str | None = None  # where the losses come from: a CSV file, or one of MEASURED
    against: str = COSTS[0]  # the cost of a front
    minimise: str | None = None
    at_most: Sequence[str] = ()  # FIELD=NUMBER
    at_least: Sequence[str] = ()
    points: int = 12  # of a front that are shown
    hardware: Sequence[str] = ()  # devices on which time and energy are shown, whatever is asked for
    phases: int = 1  # stretches of training, between which groups may go on to the next format


# One policy; all corners of a front, or some of them; the optima of evenly spaced budgets.
Kind = Literal["optimum", "front", "corners", "budgets"]


@dataclass(frozen=True, eq=False)
class Found:
    """The policies that a search finds: those of a front, from the least loss on, or the one that is best."""

    problem: Problem
    asked: Asked
    field: str  # the cost of the front, or what is least
    points: tuple[Point, ...]
    kind: Kind
    gap: float | None = None  # of optima: by how much, at most, a better policy could be better

    @property
    def shown(self) -> list[Point]:
        """The points that a table has: of many, evenly spread over the front, with both ends."""
        most, number = self.asked.points, len(self.points)
        if number <= most:
            return list(self.points)
        places = sorted({round(i * (number - 1) / max(1, most - 1)) for i in range(most)})
        return [self.points[place] for place in places]

    @property
    def single(self) -> bool:
        """Whether it is one policy, and no front."""
        return self.kind == "optimum"

    @property
    def groups(self) -> list[str]:
        """The names of groups."""
        return [variable.name for variable in self.problem.space.variables]

    @property
    def uniform(self) -> list[tuple[str, Point]]:
        """The policies that give all groups one format, to compare with."""
        formats = self.problem.space.variables[0].choices
        every = [(i,) * len(self.problem.sizes) for i in range(len(formats))]
        return list(zip(formats, self.problem.points(every), strict=True))

    def name(self, point: Point) -> str:
        """The name of a point's policy."""
        return f"{self.problem.job.workload}-{self.shown.index(point) + 1:02}"

    def policy(self, point: Point) -> Policy:
        """A point's policy, which `run` takes."""
        return self.problem.policy(point, self.name(point))

    def formats(self, point: Point) -> list[tuple[int, dict[str, str]]]:
        """The steps from which on formats are others than before, 0 first; and then the format of each group."""
        number, start = len(self.groups), 0
        made: list[tuple[int, dict[str, str]]] = []
        for stretch, chosen in zip(self.problem.stretches, choices(point.chosen, number), strict=True):
            of = zip(self.problem.space.variables, chosen, strict=True)
            formats = {variable.name: variable.choices[choice] for variable, choice in of}
            if not made or formats != made[-1][1]:
                made.append((start, formats))
            start += stretch.steps
        return made

    def usage(self, point: Point) -> list[tuple[int, list[tuple[str, int]]]]:
        """From which step on how many groups have each format, in the order of the formats."""
        named, made = self.problem.space.variables[0].choices, []
        for start, formats in self.formats(point):
            number = Counter(formats.values())
            made.append((start, [(format, number[format]) for format in named if number[format]]))
        return made


def base_of(job: Job, asked: Asked) -> Policy:
    """The policy whose formats are chosen anew. Raises InputError if there is none of that name."""
    return job.baseline if asked.policy is None else load_policies(find_policy(asked.policy))


def runs_to_measure(job: Job, asked: Asked) -> int:
    """How often `losses_of` calls `tick`."""
    if asked.sensitivity not in MEASURED:
        return 0
    from costsim.reference.noise import runs  # which few searches need

    return runs(job, base_of(job, asked), *names_of(asked))


def losses_of(job: Job, asked: Asked, tick: Callable[[], None] = lambda: None) -> Sensitivity | None:
    """What bits cost in quality: as a file says, or as it is measured, a run a group and format; None if nobody says.

    Raises InputError for a file that cannot be read or is wrong, and for what cannot be measured.
    """
    if asked.sensitivity is None:
        return None
    if asked.sensitivity not in MEASURED:
        return read_sensitivity(Path(asked.sensitivity))
    from costsim.reference.noise import gradient_noise

    losses = gradient_noise(job, base_of(job, asked), *names_of(asked), tick=tick, proxy=asked.sensitivity)
    return Sensitivity(asked.sensitivity, losses, {})


def search(job: Job, asked: Asked, table: Sensitivity | None) -> Found:
    """Search. `table`: what bits cost in quality, if somebody says.

    Raises InputError for what cannot be searched, and for budgets that no policy keeps.
    """
    groups, varied, formats = names_of(asked)
    words = _Words(job)
    budgets = [
        *(words.split("--at-most", text) for text in asked.at_most),
        *(words.split("--at-least", text) for text in asked.at_least),
    ]
    for option, name in (("--minimise", asked.minimise), ("--against", asked.against)):
        words.check(option, name)
    if table is None and (not asked.minimise or LOSS in (asked.minimise, *(name for name, _, _ in budgets))):
        raise InputError("--sensitivity: say what bits cost in quality; without it there is only --minimise COST")
    single = asked.minimise is not None or bool(budgets)
    named = [asked.minimise, *(words.field(name) for name, _, _ in budgets)] if single else [asked.against]
    measured = [name for name in named if name and name not in (LOSS, *COSTS)]
    shown = device_fields(job) if asked.hardware else ()
    measures = {name: name in measured for name in (*measured, *shown)}
    posed = problem(job, base_of(job, asked), groups, varied, formats, table, measures, asked.phases)
    parts = interactions(posed.terms)
    if not single:
        return _front(posed, asked, parts)
    field = asked.minimise or LOSS
    best = optimum(posed, parts, field, [_budget(posed, *budget) for budget in budgets])
    return Found(posed, asked, field, (best.point,), "optimum", best.gap)


def _front(posed: Problem, asked: Asked, parts: Interactions) -> Found:
    """All of a front if its components can be enumerated, else as many of its points as are shown."""
    if asked.phases > 1:
        points, gap = spaced(posed, parts, asked.against, asked.points)
        return Found(posed, asked, asked.against, tuple(points), "budgets", gap)
    found = front(posed, parts, asked.against)
    if found is not None:
        return Found(posed, asked, asked.against, tuple(found), "front")
    some, whole = corners(posed, parts, asked.against, asked.points)
    return Found(posed, asked, asked.against, tuple(some), "front" if whole else "corners")


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


class _Words:
    """The fields that can be named of a job, and what is said of them."""

    def __init__(self, job: Job) -> None:
        self.fields = (*COSTS, PEAK, *device_fields(job))
        self.reductions = reductions_of(self.fields)
        self.hint = "" if job.hardware else " (time_s and energy_j are of a device: say --hardware NAME)"

    def field(self, name: str) -> str:
        """The field of a budget."""
        return self.reductions.get(name, name)

    def check(self, option: str, name: str | None) -> None:
        """Raises InputError for a cost that is none, with the nearest field."""
        known = self.fields if option == "--against" else (LOSS, *self.fields)
        if name is not None and name not in known:
            raise InputError(f"{option}: unknown field {one_line(name)!r}{self._near(name, known)}")

    def _near(self, name: str, known: Sequence[str]) -> str:
        of_device = name.rpartition(".")[2].partition("_")[0] in ("time", "energy")
        return self.hint if of_device and self.hint else nearest(name, known, most=20)

    def split(self, option: str, text: str) -> tuple[str, Fraction, str]:
        """The field, number and words of FIELD=NUMBER. Raises InputError, with the nearest field."""
        name, equals, number = (part.strip() for part in text.partition("="))
        words, ratio = f"{option} {one_line(text)}", option == "--at-least"
        fields = tuple(self.reductions) if ratio else (LOSS, *self.fields)
        if name not in fields:
            raise InputError(f"{words}: unknown field {one_line(name)!r}{self._near(name, fields)}")
        try:
            value = Fraction(number) if equals and len(number) <= 40 and "/" not in number else None
        except ValueError:
            value = None
        if value is None or value < 0 or (value == 0 and ratio):
            raise InputError(f"{words}: expected a number, such as {name}={'2.5' if ratio else '1e15'}")
        return name, value, words


def _budget(posed: Problem, name: str, number: Fraction, words: str) -> Budget:
    """A budget, of counts in whole units: at least so many times less is at most such a part of the baseline's.

    Raises InputError for a part of what does not run.
    """
    if name == LOSS:
        return Budget(LOSS, int(number * posed.scale), words)
    if name not in posed.reductions:
        return Budget(name, _limit(name, number), words)
    cost = posed.reductions[name]
    base = posed.baseline[posed.fields.index(cost)]
    if base is None:
        raise InputError(f"{words}: the baseline {posed.job.convention.baseline} does not run on the device")
    return Budget(cost, _limit(cost, Fraction(base) / number), words)


def _limit(cost: str, number: Fraction) -> int | float:
    return int(number) if cost in (*COSTS, PEAK) else float(number)


# --- files of policies ------------------------------------------------------------------------------------------------


def policy_text(found: Found, point: Point, folder: Path) -> str:
    """A point as a policy file in a folder, which `run` takes: what it composes, and a rule for each group."""
    space, workload = found.problem.space, found.problem.job.workload
    description = f"found by costsim search for {workload}: {_words(found, point)}"
    return text_of(space, found.policy(point), description, folder)


def text_of(space: Space, policy: Policy, description: str, folder: Path) -> str:
    """A policy of a space as a file in a folder."""
    first = min(space.of_rule)  # those of groups, and then those that leave copies where they are
    fields = {
        "description": description,
        "compose": _base_names(space.policy, folder),
        "rules": [_plain(rule.as_data()) for rule in policy.file.rules[first:]],
    }
    text: str = yaml.safe_dump(fields, sort_keys=False, width=120, allow_unicode=True, default_flow_style=None)
    return editor_lines("policy") + text


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as YAML has them: lists for tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def _words(found: Found, point: Point) -> str:
    posed = found.problem
    ratios = [
        f"{float(ratio):.4g}x {name.partition('_')[0]}"
        for name, cost in posed.reductions.items()
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
