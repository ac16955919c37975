"""A figure of a sweep: how many times less than the baseline each policy takes, over the values of one field."""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from costsim.errors import InputError
from costsim.plots.style import COLOURS, marks, starred
from costsim.results.records import Record, records
from costsim.run.simulate import Result
from costsim.run.sweep import Point, convention, value

_MARKERS = "osD^vPX*"


def _panels(result: Result) -> list[tuple[str, Callable[[Record], float | None]]]:
    """What the panels show, and how to find it in a row of `--by reduction`."""

    def of_device(name: str, key: str) -> Callable[[Record], float | None]:
        return lambda record: record["hardware"][name][key]

    found: list[tuple[str, Callable[[Record], float | None]]] = [
        ("arithmetic", lambda record: record["arithmetic_reduction"]),
        ("DRAM traffic", lambda record: record["dram_reduction"]),
        ("peak memory of a step", lambda record: record["memory_reduction"]),
    ]
    for device in result.job.hardware:
        found.append((f"time on {device.name}", of_device(device.name, "time_reduction")))
        found.append((f"energy on {device.name}", of_device(device.name, "energy_reduction")))
    return found


def _places(axes: Axes, values: Sequence[Any]) -> list[float]:
    """Where the values stand on the axis: as numbers, over three doublings on a log scale; else side by side."""
    if any(isinstance(its, str) for its in values):
        axes.set_xticks(range(len(values)), [str(its) for its in values])
        return [float(i) for i in range(len(values))]
    if min(values) > 0 and max(values) >= 8 * min(values):
        axes.set_xscale("log", base=2)
        axes.minorticks_off()
    axes.set_xticks(list(values), [f"{its:g}" for its in values])
    return [float(its) for its in values]


def sweep(found: Sequence[tuple[Point, Result]]) -> Figure:
    """Lines over the swept field, a panel a cost, at one scale. Raises InputError unless one field is swept."""
    fields = list(found[0][0])
    if len(fields) != 1:
        raise InputError(f"plot sweep: takes one --sweep, got {', '.join(fields) or 'none'}")
    values = [value(point[fields[0]]) for point, _ in found]
    rows = [{record["policy"]: record for record in records(result, "reduction")} for _, result in found]
    first = found[0][1]
    panels = _panels(first)
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4 * columns, 3.2 * lines + 0.9), layout="constrained")
    axes_of: Any = figure.subplots(lines, columns, squeeze=False, sharey=True)
    flat = [axes for line in axes_of for axes in line]
    for axes, (title, pick) in zip(flat, panels, strict=False):
        places = _places(axes, values)
        for i, counted in enumerate(first.policies):
            heights = [pick(its[counted.policy.name]) for its in rows]
            shown = [(x, y) for x, y in zip(places, heights, strict=True) if y is not None]
            marker, colour = _MARKERS[i % len(_MARKERS)], COLOURS[i % len(COLOURS)]
            axes.plot(*zip(*shown, strict=True) if shown else ([], []), marker=marker, color=colour, markersize=4,
                      linestyle="-" if i < len(COLOURS) else "--", label=starred(counted))  # fmt: skip
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_title(title)
        axes.set_xlabel(fields[0])
        axes.grid(linewidth=0.3)
    for axes in flat[len(panels) :]:
        axes.set_visible(False)
    for line in axes_of:
        line[0].set_ylabel(f"times less than {first.baseline.policy.name}")
    handles, labels = flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False, fontsize=8)
    figure.suptitle(f"{first.job.workload}: {convention(found).partition(';')[0]}{marks(first.policies)}", fontsize=10)
    return figure
