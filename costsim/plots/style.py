"""What all figures share: colours, titles, marks, labels, units with SI prefixes, and lists cut to their largest."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from costsim.cost.memory import COMPONENTS
from costsim.plots.look import pt
from costsim.policy.policy import Policy, labels_of
from costsim.run.counted import CountedPolicy
from costsim.run.job import Job
from costsim.run.simulate import Result
from costsim.tables.table import printable

# Okabe and Ito's colours, which colour-blind readers tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
GREY = "#BFBFBF"
COMPONENT_COLOURS = dict(zip(COMPONENTS, (COLOURS[i] for i in (0, 5, 1, 4, 2, 3, 7)), strict=True))


def note(job: Job) -> str:
    """The workload and the convention, for titles."""
    return f"{job.workload}: {job.convention.summary()}"


def starred(counted: CountedPolicy) -> str:
    """A policy's label, with a star if its levels are recalled."""
    return _starred(counted, counted.policy.label)


def _starred(counted: CountedPolicy, words: str) -> str:
    return words + ("*" if counted.policy.recalled else "")


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


def _renamed(policy: Policy, label: str) -> Policy:
    return replace(policy, name=_escaped(policy.name), file=policy.file.changed(label=_escaped(label)))


def drawable(result: Result) -> Result:
    """The result with names that fonts can draw: control characters and bytes that are not UTF-8 are escaped.

    Policies of the same label have their names for labels.
    """
    job = result.job
    counted = {each.policy.name: each for each in (*result.policies, result.baseline)}
    labels = labels_of(each.policy for each in counted.values())
    names = [job.workload, *counted, *(device.name for device in job.hardware), *labels.values()]
    same = all(each.policy.label == labels[name] for name, each in counted.items())
    if same and all(name == _escaped(name) for name in names):
        return result
    renamed = {name: replace(each, policy=_renamed(each.policy, labels[name])) for name, each in counted.items()}
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


def label(axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **style: Any) -> Annotation:
    """Write small text beside the place `at`, `offset` points (1/72 inch) to the right and up."""
    options: Any = {"fontsize": pt(7), "va": "center", **style}
    return axes.annotate(text, at, xytext=offset, textcoords="offset points", **options)


def room(marks: Iterable[tuple[float, float, float]]) -> tuple[float, float]:
    """The ends of an axis that has some values and, left and right of each, texts that take such parts of the axis."""
    known = [(at, min(left, 0.45), min(right, 0.45)) for at, left, right in marks]
    low, high = min(at for at, *_ in known), max(at for at, *_ in known)
    for _ in range(60):  # each time nearer to the ends at which the texts just fit
        whole = high - low
        low, high = (
            min(at - left * whole for at, left, _ in known),
            max(at + right * whole for at, _, right in known),
        )
    return low, high


def letters(text: str, points: float = 7) -> float:
    """The inches that a line of text takes, about, in a figure of letters of 9 points."""
    return 0.6 * len(text) * points / 72


def legend_below(figure: Figure, handles: Sequence[Any], inches: float, most: int = 9, title: str = "") -> None:
    """The figure's legend, in as many columns as so many inches have room for, in letters of 9 points."""
    figure.legend(handles=handles, loc="outside lower center", title=title, **legend_style(handles, inches, most))


def legend_style(handles: Sequence[Any], inches: float, most: int) -> dict[str, Any]:
    """How legends look, in as many columns as fit, at most so many."""
    widths = [letters(str(handle.get_label()), 8) + _HANDLE for handle in handles]
    columns = min(most, len(widths))
    while columns > 1 and _width(widths, columns) > inches:
        columns -= 1
    sizes = {"fontsize": pt(8), "title_fontsize": pt(8), "handlelength": 1.6, "columnspacing": 1.2}
    return {"frameon": False, "ncols": max(1, columns), **sizes}


def _width(widths: Sequence[float], columns: int) -> float:
    """The inches of a legend: Matplotlib fills column by column, the first ones one fuller."""
    each, more = divmod(len(widths), columns)
    ends = list(accumulate(each + (i < more) for i in range(columns)))
    return sum(max(widths[start:end]) for start, end in zip([0, *ends], ends, strict=False))


_HANDLE = 0.42  # inches of a legend's handle and the spaces beside it


NAMES = 0.38  # of a figure's width, which names on a vertical axis take at most


def names_width(names: Iterable[str], inches: float) -> float:
    """The inches that names on a vertical axis take, with their ticks, in a figure so many inches wide."""
    return min(max((letters(name, 9) for name in names), default=0.0), NAMES * inches) + 0.2


def names_beside(counted: Sequence[CountedPolicy], inches: float) -> list[str]:
    """Policies on a vertical axis of a figure so many inches wide: labels, or names where labels have no room."""
    labels = [starred(each) for each in counted]
    if all(letters(label, 9) <= NAMES * inches for label in labels):
        return labels
    return [_starred(each, each.policy.name) for each in counted]


def grid(axes: Axes, axis: Literal["x", "y", "both"] = "both") -> None:
    """Thin lines at the ticks of an axis, under everything else."""
    axes.grid(axis=axis, linewidth=0.3)
    axes.set_axisbelow(True)


_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y", "R", "Q")


def si(largest: int) -> tuple[int, str]:
    """The power of 1000 that makes the largest of some amounts at least 1 and less than 1000, and its SI prefix."""
    power = min((len(str(largest)) - 1) // 3, len(_PREFIXES) - 1)
    return 1000**power, _PREFIXES[power]


_POWERS = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")


def power(exponent: int) -> str:
    """An exponent, raised."""
    return str(exponent).translate(_POWERS)


def scaled(unit: str, largest: int) -> tuple[int, str]:
    """What to divide amounts by, and the unit in words: of bit and byte with its prefix, of others 10^18 bit^2."""
    divisor, prefix = si(largest)
    if unit in ("bit", "byte", "B"):
        return divisor, f"{prefix}{unit}"
    words = re.sub(r"\^(\d+)", lambda match: power(int(match[1])), unit)
    return divisor, f"10{power(len(str(divisor)) - 1)} {words}" if divisor > 1 else words


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
