"""What all figures share: colours, titles, marks, labels, units with SI prefixes, and lists cut to their largest."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from matplotlib.axes import Axes

from costsim.cost.memory import COMPONENTS
from costsim.policy.policy import Policy
from costsim.run.counted import CountedPolicy
from costsim.run.job import Job
from costsim.run.simulate import Result
from costsim.tables.table import printable

SETTINGS: Any = {  # of Matplotlib
    "svg.hashsalt": "costsim",
    "svg.fonttype": "none",
    "font.size": 9,
    "text.parse_math": False,  # names are names, whatever signs they hold
    "axes.spines.top": False,
    "axes.spines.right": False,
}

# Okabe and Ito's colours, which colour-blind readers tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
GREY = "#BFBFBF"
COMPONENT_COLOURS = dict(zip(COMPONENTS, (COLOURS[i] for i in (0, 5, 1, 4, 2, 3, 7)), strict=True))


def note(job: Job) -> str:
    """The workload and the convention, for titles."""
    return f"{job.workload}: {job.convention.summary()}"


def starred(counted: CountedPolicy) -> str:
    """A policy's name, with a star if its levels are recalled."""
    return counted.policy.name + ("*" if counted.policy.recalled else "")


def recalled_mark(policies: Iterable[Policy]) -> str:
    """What a star means, for the title of a figure of these policies; "" if none has one."""
    return " (* levels recalled, not stated)" if any(policy.recalled for policy in policies) else ""


def marks(shown: Iterable[CountedPolicy]) -> str:
    """What a title adds about the policies of a figure: levels that are recalled, phases whose ends are fitted."""
    policies = [counted.policy for counted in shown]
    fitted = any(phase.until_grade == "fitted" for policy in policies for phase in policy.file.phases)
    return recalled_mark(policies) + ("; where phases end is fitted" if fitted else "")


def _escaped(text: str) -> str:
    return printable(text).replace("\n", "\\n")


def drawable(result: Result) -> Result:
    """The result with names that fonts can draw: control characters and bytes that are not UTF-8 are escaped."""
    job = result.job
    counted = {each.policy.name: each for each in (*result.policies, result.baseline)}
    names = [job.workload, *counted, *(device.name for device in job.hardware)]
    if all(name == _escaped(name) for name in names):
        return result
    renamed = {name: replace(each, policy=replace(each.policy, name=_escaped(name))) for name, each in counted.items()}
    shown = replace(
        job,
        workload=_escaped(job.workload),
        convention=replace(job.convention, baseline=_escaped(job.convention.baseline)),
        policies=tuple(renamed[policy.name].policy for policy in job.policies if policy.name in renamed),
        baseline=renamed[job.baseline.name].policy,
        hardware=tuple(replace(device, name=_escaped(device.name)) for device in job.hardware),
    )
    policies = tuple(renamed[each.policy.name] for each in result.policies)
    return replace(result, job=shown, policies=policies, baseline=renamed[result.baseline.policy.name])


def label(axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **style: Any) -> None:
    """Write small text beside the place `at`, `offset` points (1/72 inch) to the right and up."""
    options: Any = {"fontsize": 7, "va": "center", **style}
    axes.annotate(text, at, xytext=offset, textcoords="offset points", **options)


def grid(axes: Axes, axis: Literal["x", "y", "both"] = "both") -> None:
    """Thin lines at the ticks of an axis, under everything else."""
    axes.grid(axis=axis, linewidth=0.3)
    axes.set_axisbelow(True)


_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y", "R", "Q")


def si(largest: int) -> tuple[int, str]:
    """The power of 1000 that makes the largest of some amounts at least 1 and less than 1000, and its SI prefix."""
    power = min((len(str(largest)) - 1) // 3, len(_PREFIXES) - 1)
    return 1000**power, _PREFIXES[power]


def short(value: float) -> str:
    """Three significant digits, or all before the point: 1.20, 12.3, 123, 1234."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:#.3g}" if value else "0"


def largest(groups: Iterable[str], sizes: Sequence[Mapping[str, int]], most: int) -> list[str]:
    """The names of at most so many groups: those with the largest share in any of `sizes`, in the order of `groups`.

    Of more groups than that, one less is named: the others are one.
    """
    names = list(groups)
    if len(names) <= most:
        return names
    wholes = [sum(amounts.values()) or 1 for amounts in sizes]

    def share(name: str) -> float:
        return max((amounts.get(name, 0) / whole for amounts, whole in zip(sizes, wholes, strict=True)), default=0.0)

    chosen = set(sorted(names, key=lambda name: -share(name))[: most - 1])  # stable: of equal ones, the first
    return [name for name in names if name in chosen]
