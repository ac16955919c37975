"""A figure of a sweep: how many times less than the baseline each policy takes, over the values of one field."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from costsim.errors import InputError
from costsim.plots.reductions import Reduction, reductions
from costsim.plots.style import COLOURS, drawable, marks, starred
from costsim.results.records import Record
from costsim.run.simulate import Result, execute
from costsim.run.sweep import Point, Sweep, convention, value

_MARKERS = "osD^vPX*"


def _places(axes: Axes, values: Sequence[Any]) -> list[float]:
    """Where the values stand on the axis: as numbers, over three doublings on a log scale; else side by side."""
    if any(isinstance(each, str) for each in values):
        axes.set_xticks(range(len(values)), [str(each) for each in values])
        return [float(i) for i in range(len(values))]
    if min(values) > 0 and max(values) >= 8 * min(values):
        axes.set_xscale("log", base=2)
        axes.minorticks_off()
    axes.set_xticks(list(values), [f"{each:g}" for each in values])
    return [float(each) for each in values]


def _lines(
    axes: Axes, reduction: Reduction, result: Result, values: Sequence[Any], rows: Sequence[dict[str, Record]]
) -> None:
    """A line for each policy of the result; `rows` are the records of each point, by policy."""
    places = _places(axes, values)
    for i, counted in enumerate(result.policies):
        heights = [reduction.ratio(records[counted.policy.name]) for records in rows]
        known = [(x, y) for x, y in zip(places, heights, strict=True) if y is not None]
        marker, colour = _MARKERS[i % len(_MARKERS)], COLOURS[i % len(COLOURS)]
        axes.plot(*zip(*known, strict=True) if known else ([], []), marker=marker, color=colour, markersize=4,
                  linestyle="-" if i < len(COLOURS) else "--", label=starred(counted))  # fmt: skip


def _axes(axes: Axes, title: str, field: str) -> None:
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_title(title)
    axes.set_xlabel(field)
    axes.grid(linewidth=0.3)


def _rows(first: Result, sweep: Sweep, part: Record) -> dict[str, Record]:
    """The records of a point by policy, under names that fonts can draw."""
    names = {of.name: drawn.name for of, drawn in zip(sweep.first.hardware, first.job.hardware, strict=True)}
    rows = [{**row, "hardware": {names[n]: on for n, on in row.get("hardware", {}).items()}} for row in part["rows"]]
    return {counted.policy.name: row for counted, row in zip(first.policies, rows, strict=True)}


def field_of(where: Sequence[Point]) -> str:
    """The one field that is swept. Raises InputError if there is none, or another."""
    if len(where[0]) != 1:
        raise InputError(f"plot sweep: takes one --sweep, got {', '.join(where[0]) or 'none'}")
    return next(iter(where[0]))


def sweep(swept: Sweep, parts: Sequence[Record]) -> Figure:
    """Lines over the swept field, a panel a cost, at one scale; parts are those of a document by `reduction`.

    Raises InputError unless one field is swept.
    """
    field, first = field_of(swept.where), drawable(execute(swept.first))
    values = [value(point[field]) for point in swept.where]
    rows = [_rows(first, swept, part) for part in parts]
    panels = reductions(first.job.hardware, "peak memory of a step")
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4 * columns, 3.2 * lines + 0.9), layout="constrained")
    grid: Any = figure.subplots(lines, columns, squeeze=False, sharey=True)
    flat = [axes for line in grid for axes in line]
    for axes, reduction in zip(flat, panels, strict=False):
        _lines(axes, reduction, first, values, rows)
        _axes(axes, reduction.title, field)
    for axes in flat[len(panels) :]:
        axes.set_visible(False)
    for line in grid:
        line[0].set_ylabel(f"times less than {first.baseline.policy.name}")
    handles, labels = flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False, fontsize=8)
    conditions = convention(swept).partition(";")[0]
    figure.suptitle(f"{first.job.workload}: {conditions}{marks(first.policies)}", fontsize=10)
    return figure
