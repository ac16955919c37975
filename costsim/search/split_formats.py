"""The formats with which a split is fastest: one policy for all stages of a pipeline, each compiled by itself.

What is least is the time that all stages together are busy in a step, in the memory that a device has. How long stages
wait follows from the schedule, which is played out for the policy that is found.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import isfinite, lcm
from pathlib import Path
from typing import NamedTuple

from costsim.cost.kernels import compile_kernels
from costsim.cost.measure import total_of
from costsim.cost.peak import peak_memory
from costsim.cost.terms import Terms
from costsim.devices.compiled import Timed
from costsim.devices.profile import Hardware
from costsim.errors import InputError, nearest, one_line, refuse
from costsim.graph.fusion import MODELS
from costsim.names import COSTS, PEAK, VARIED, Varied
from costsim.policy.groups import Group, groups_of, space_of
from costsim.policy.policy import Policy
from costsim.policy.space import Space
from costsim.run.job import Job
from costsim.run.stages import stage_jobs
from costsim.search.found import LOSS, text_of
from costsim.search.interactions import interactions
from costsim.search.optimum import Budget, Model, infeasible, least
from costsim.search.problem import Problem
from costsim.search.sensitivity import Sensitivity

_TIME = "time_s"


class Wanted(NamedTuple):
    """What is chosen in each split: which groups take which formats, what that loses, and the budgets."""

    groups: Sequence[str]  # fields of rules that tell groups apart
    varied: Sequence[Varied]
    formats: Sequence[str]
    losses: Sensitivity | None = None
    most_loss: Fraction | None = None
    most_bytes: int | None = None  # of a device's memory; none: all that it has


class Chosen(NamedTuple):
    """The formats that are chosen of a space of policies."""

    space: Space
    choices: tuple[int, ...]
    loss: Fraction | None

    @property
    def formats(self) -> dict[str, str]:
        """By group."""
        of = zip(self.space.variables, self.choices, strict=True)
        return {variable.name: variable.choices[choice] for variable, choice in of}

    def policy(self, called: str) -> Policy:
        """The policy, under a name."""
        return self.space.point(dict(enumerate(self.choices)), called)


def _space(jobs: Sequence[Job], policy: Policy, wanted: Wanted) -> Space:
    """The space of policies in which the groups of all stages take formats."""
    found = {group for job in jobs for group in groups_of(job.graph, policy, wanted.groups, wanted.varied)}

    def order(group: Group) -> tuple[int, int, str]:
        return VARIED.index(group.varied), len(group.fields), group.name

    return space_of(policy, sorted(found, key=order), wanted.formats)


def _losses(space: Space, wanted: Wanted) -> tuple[tuple[tuple[int, ...], ...] | None, int]:
    """By variable and choice, and what they are multiplied by. Raises InputError for what no split tells apart."""
    if wanted.losses is None:
        return None, 1
    names = {variable.name for variable in space.variables}
    here = {key: loss for key, loss in wanted.losses.losses.items() if key[0] in names}
    table = Sensitivity(wanted.losses.path, here, wanted.losses.lines)
    given = table.of([variable.name for variable in space.variables], wanted.formats)
    scale = lcm(*(loss.denominator for of in given for loss in of))
    return tuple(tuple(int(loss * scale) for loss in of) for of in given), scale


def _problem(job: Job, policy: Policy, device: Hardware, wanted: Wanted) -> Problem:
    """What is chosen: the time of all stages, and the peak of each that differs from those before.

    Raises InputError for what the device's profile lacks, and for choices that do not fit.
    """
    convention, index = job.convention, len(policy.file.phases) - 1
    if MODELS[convention.traffic].tiled:
        raise InputError("traffic tiled: a search counts traffic without a buffer; say --traffic unfused or fused")
    jobs = stage_jobs(job)
    distinct = list({id(each): each for each in jobs}.values())
    space, links = _space(distinct, policy, wanted), job.file.parallel.overlap
    times, peaks = [], {}
    for number, own in enumerate(distinct):
        kernels = compile_kernels(own.graph, space, convention.traffic, convention.scope, convention.of_gemms, index)
        alike = sum(each is own for each in jobs)
        times.append(alike * Timed(kernels, device, job.overlap, links).time())
        peaks[f"{PEAK}.{number}"] = peak_memory(own.graph, space, convention.traffic, [index])
    measures = {_TIME: total_of(times), **peaks}
    first = [measure.one((0,) * len(space.variables)) for measure in measures.values()]  # units of the program
    units = (*(1 for _ in COSTS), *(unit if unit and isfinite(unit) else 1 for unit in first))
    return Problem(job, space, Terms(space, (), ()), units, *_losses(space, wanted), measures)


def fastest(job: Job, policy: Policy, device: Hardware, wanted: Wanted) -> Chosen | None:
    """The formats with which the stages of a split take the least time; under budgets of memory if any keep them.

    None if no choice runs on the device. Raises InputError for a loss that no choice keeps, and if SciPy is missing.
    """
    posed = _problem(job, policy, device, wanted)
    model = Model(posed, interactions(posed.terms), list(posed.measures))
    room = device.dram_bytes if wanted.most_bytes is None else wanted.most_bytes
    memory = [Budget(name, room, PEAK) for name in posed.measures if name != _TIME and room is not None]
    loss = [] if wanted.most_loss is None else [Budget(LOSS, int(wanted.most_loss * posed.scale), "--at-most loss")]
    for budgets in ([*loss, *memory], loss):
        best = least(model, {_TIME: 1.0}, budgets)
        if best is not None:
            return Chosen(posed.space, best.point.chosen, best.point.loss)
    if loss and least(model, {LOSS: 1.0}, loss) is None:
        raise infeasible(model, LOSS, loss)
    return None


def policy_files(workload: str, named: Mapping[str, Chosen], folder: Path) -> dict[str, bytes]:
    """What is chosen, as files in a folder by their names: policies that `run` takes."""
    words = f"found by costsim split for {workload}"
    return {
        f"{name}.yaml": text_of(chosen.space, chosen.policy(name), words, folder).encode()
        for name, chosen in named.items()
    }


def budgets_of(texts: Sequence[str]) -> Mapping[str, Fraction]:
    """The budgets FIELD=NUMBER of a split, by field. Raises InputError for others than loss and memory."""
    errors, found = [], {}
    for text in texts:
        name, _, number = (part.strip() for part in text.partition("="))
        words = f"--at-most {one_line(text)}"
        if name not in (LOSS, PEAK):
            errors.append(InputError(f"{words}: unknown field {one_line(name)!r}{nearest(name, (LOSS, PEAK))}"))
            continue
        try:
            found[name] = Fraction(number) if len(number) <= 40 and "/" not in number else Fraction(-1)
        except ValueError:
            found[name] = Fraction(-1)
        if found[name] < 0:
            errors.append(InputError(f"{words}: expected a number, such as {name}=1e10"))
    refuse(errors)
    return found
