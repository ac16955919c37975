"""A figure of a search: how many times less than the baseline policies cost, over what they lose in quality."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from costsim.plots.look import SCREEN, Look, pt
from costsim.plots.style import COLOURS, GREY, legend_below
from costsim.search.found import Found
from costsim.tables.table import printable

_TITLES = {"arithmetic_reduction": "arithmetic", "dram_reduction": "DRAM traffic"}


def _title(reduction: str) -> str:
    device, _, name = reduction.rpartition(".")
    title = _TITLES.get(name, name.partition("_")[0].replace("memory", "peak memory"))
    return f"{title} on {device}" if device else title


def _panel(axes: Axes, found: Found, field: str) -> None:
    """The front, the policies that a table has, and those that give all groups one format."""
    cost = found.problem.reductions[field]
    line = [(float(p.loss or 0), float(ratio)) for p in found.points if (ratio := found.problem.reduction(p, cost))]
    shown = [(float(p.loss or 0), float(ratio)) for p in found.shown if (ratio := found.problem.reduction(p, cost))]
    axes.plot(*zip(*line, strict=True), color=COLOURS[0], linewidth=1, label=f"front of loss and {found.field}")
    axes.plot(*zip(*shown, strict=True), "o", color=COLOURS[0], markersize=4, label="policies that are written")
    for i, (format, point) in enumerate(found.uniform):
        ratio = found.problem.reduction(point, cost)
        if ratio is not None:
            label = "all groups in one format" if not i else ""
            axes.plot([float(point.loss or 0)], [float(ratio)], "x", color=COLOURS[1], markersize=6, label=label)
            axes.annotate(printable(format), (float(point.loss or 0), float(ratio)), xytext=(4, -9),
                          textcoords="offset points", fontsize=pt(7))  # fmt: skip
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    losses = [float(p.loss or 0) for p in (*found.points, *(p for _, p in found.uniform))]
    if min(losses) > 0 and max(losses) > 20 * min(losses):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=5))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    axes.set_xlabel("loss (sum over groups)")
    axes.set_title(printable(_title(field)) + ("" if cost == found.field else ", of the same policies"))
    axes.grid(linewidth=0.3, color=GREY)


def front(found: Found, look: Look = SCREEN) -> Figure:
    """A panel for arithmetic, one for DRAM traffic, and one for each measure that the baseline has."""
    posed = found.problem
    known = [name for name, cost in posed.reductions.items() if posed.baseline[posed.fields.index(cost)] is not None]
    number = len(known)
    natural = 4.5 * min(number, 3)
    columns = look.columns(min(number, 3), natural, 2.2)
    rows = -(-number // columns)
    figure = look.figure(natural, (3.5 if look.width is None else 2.4) * rows + 0.7)
    panels: Any = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[number:]:
        axes.set_axis_off()
    for axes, field in zip(panels, known, strict=False):
        _panel(axes, found, field)
    convention = found.problem.job.convention
    for axes in panels[:number:columns]:
        axes.set_ylabel(f"times less than {printable(found.problem.job.baseline.label)}")
    legend_below(figure, panels[0].get_legend_handles_labels()[0], look.room(natural), 3)
    groups = len(found.groups)
    look.head(figure, f"{printable(found.problem.job.workload)}: {groups} groups; {convention.summary()}")
    return figure
