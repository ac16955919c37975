"""Reductions: how many times less than the baseline each policy takes, on one scale for all quantities."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from costsim.plots.look import SCREEN, Look, pt
from costsim.plots.reductions import Reduction, reductions
from costsim.plots.style import COLOURS, grid, label, letters, marks, names_width, note, room, starred
from costsim.results.records import reduction_records
from costsim.run.counted import CountedPolicy
from costsim.run.simulate import Result


class Panel(NamedTuple):
    """One quantity: how many times less than the baseline each policy takes, or why that is not known."""

    title: str
    ratios: list[float | str]
    stated: dict[str, float]  # by policy


_SPENT = {"time_reduction": "time_s", "energy_reduction": "energy_j"}


def _reason(result: Result, counted: CountedPolicy, reduction: Reduction) -> str:
    """Why a policy has no ratio."""
    if not reduction.device:
        return "not defined"
    spent, base = (result.spent[each.policy.name, reduction.device] for each in (counted, result.baseline))
    if spent.unsupported:
        return "unsupported"
    if base.unsupported:
        return "baseline unsupported"
    field = _SPENT[reduction.field]
    return "not known" if None in (getattr(spent, field), getattr(base, field)) else "nothing"


def panels(result: Result) -> list[Panel]:
    """The panels of a comparison: arithmetic, DRAM traffic, peak memory, and time and energy on every device."""
    job, records = result.job, reduction_records(result)
    figures = job.file.published if job.of_the_file else ()
    return [
        Panel(
            reduction.title,
            [
                reduction.ratio(record) or _reason(result, counted, reduction)
                for record, counted in zip(records, result.policies, strict=True)
            ],
            {figure.policy: figure.stated for figure in figures if figure.quantity == reduction.field},
        )
        for reduction in reductions(job.hardware, "peak memory")
    ]


_STEPS = (  # of an axis whose ends are in a ratio below this
    (4.0, (1, 1.5, 2, 2.5, 3, 4, 5, 7)),
    (30.0, (1, 2, 5)),
    (3000.0, (1, 3)),
    (float("inf"), (1,)),
)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers of a logarithmic axis, the fewer the longer it is."""
    steps = next(steps for most, steps in _STEPS if high / low < most)
    return [m * 10.0**k for k in range(-6, 7) for m in steps if low <= m * 10.0**k <= high]


def logarithmic(axes: Axes, along: str, low: float, high: float) -> None:
    """Have an axis, x or y, be logarithmic between two values, with round numbers as they are."""
    axes.set(**{f"{along}scale": "log", f"{along}lim": (low, high), f"{along}ticks": ticks(low, high)})
    getattr(axes, f"{along}axis").set_major_formatter("{x:g}")
    axes.minorticks_off()


def _bar(axes: Axes, y: int, ratio: float, stated: float | None, width: float) -> None:
    """A bar from 1 to the ratio, an open circle at the stated one, and both as numbers."""
    right = ratio >= 1
    axes.barh(y, ratio - 1, left=1, height=0.62, color=COLOURS[0 if right else 1])
    if stated is not None:
        axes.plot(stated, y, "o", markersize=7, markerfacecolor="none", markeredgecolor="black", zorder=5)
    end = max(ratio, stated or 1.0, 1.0) if right else min(ratio, 1.0)
    label(axes, _text(ratio, stated, width), (end, y), (6 if right else -4, 0), ha="left" if right else "right")


def _draw(axes: Axes, panel: Panel, names: Sequence[str], width: float) -> None:
    for y, (name, ratio) in enumerate(zip(names, panel.ratios, strict=True)):
        if isinstance(ratio, str):
            label(axes, ratio, (1, y), (3, 0), color="0.35")
        else:
            _bar(axes, y, ratio, panel.stated.get(name), width)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_title(panel.title, fontsize=pt(9))
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelbottom=True)
    grid(axes, "x")


def _text(ratio: float | str, stated: float | None, width: float) -> str:
    """What stands beside a bar in a panel of so many inches: in narrow ones, what is stated has a circle only."""
    if isinstance(ratio, str):
        return ratio
    return f"{ratio:.2f}" + (f" ({stated:g})" if stated is not None and width > _WIDE else "")


_WIDE = 1.6  # inches of a panel


def _scale(axes: Axes, shown: Sequence[Panel], names: Sequence[str], width: float) -> None:
    """A logarithmic axis, so many inches wide, that has room for all bars, for 1 and for the numbers beside them."""
    marks = [(math.log(1 / 1.06), 0.0, 0.0), (math.log(1.1), 0.0, 0.0)]
    for panel in shown:
        for name, ratio in zip(names, panel.ratios, strict=True):
            stated = panel.stated.get(name)
            part = (letters(_text(ratio, stated, width)) + 0.15) / width
            ends = [1.0 if isinstance(ratio, str) else ratio, 1.0 if stated is None else stated, 1.0]
            right = isinstance(ratio, str) or ratio >= 1
            marks.append((math.log(max(ends) if right else min(ends)), 0.0 if right else part, part if right else 0.0))
            marks.append((math.log(max(ends)), 0.0, 0.1 / width))
    low, high = (math.exp(end) for end in room(marks))
    logarithmic(axes, "x", low, high)


_LEAST = 1.9  # inches of a panel


def comparison(result: Result, look: Look = SCREEN) -> Figure:
    """How many times less than the baseline every policy takes, on one logarithmic scale for all panels.

    Arithmetic and DRAM traffic of the run, peak memory of a step, and time and energy of the run on each device; open
    circles are figures that a paper states.
    """
    shown, job = panels(result), result.job
    names = [counted.policy.name for counted in result.policies]
    most = min((5, 4, 3), key=lambda number: -len(shown) % number)
    natural = 2.0 + 2.6 * most
    labels = [starred(counted) for counted in result.policies]
    taken = names_width(labels, look.room(natural))
    columns = look.columns(most, natural, _LEAST, taken)
    rows = -(-len(shown) // columns)
    figure = look.figure(natural, rows * (0.7 + (0.26 if look.width is None else 0.19) * len(names)) + 0.9)
    table: Any = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    flat = [axes for row in table for axes in row]
    width = (look.room(natural) - taken) / columns - 0.15
    _scale(flat[0], shown, names, width)
    flat[0].set_ylim(len(names) - 0.4, -0.6)
    flat[0].set_yticks(range(len(names)), labels)
    for axes, panel in zip(flat, shown, strict=False):
        _draw(axes, panel, names, width)
    for axes in flat[len(shown) :]:
        axes.set_axis_off()
    figure.supxlabel(f"times less than {result.baseline.policy.label}", fontsize=pt(9))
    stated = any(name in panel.stated for panel in shown for name in names)
    circles = f"; circles{', in brackets' * (width > _WIDE)}: stated by the paper" if stated else ""
    overlap = "" if job.overlap or not job.hardware else ", without overlap"
    look.head(figure, f"{note(job)}{overlap}{marks(result.policies)}{circles}")
    return figure
