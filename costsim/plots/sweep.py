"""A figure of a sweep: what each policy takes, or how many times less than the baseline, over the values of a field."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from costsim.cost.laws import LAWS
from costsim.devices.profile import Hardware
from costsim.errors import InputError
from costsim.plots.look import SCREEN, Look, pt
from costsim.plots.reductions import reductions
from costsim.plots.style import COLOURS, drawable, label, legend_below, marks, scaled, short, starred
from costsim.results.records import Record
from costsim.run.counted import CountedPolicy
from costsim.run.job import Job
from costsim.run.simulate import Result, execute
from costsim.run.sweep import Point, Sweep, convention, value
from costsim.tables.cells import ENERGIES, TIMES, Units

_MARKERS = "osD^vPX*"
_LOGARITHMIC = 20  # a vertical axis whose ends are in this ratio or more
_SAME_PLACE = 1.15  # ratio of capacities whose names share a line

Rows = Mapping[str, Record]  # the records of a point, by policy
Amount = Callable[[Record], float | None]  # in a policy's record


class Panel(NamedTuple):
    """A quantity, where a policy's record has it, and the unit for a largest amount; memory has lines of capacity."""

    title: str
    amount: Amount
    unit: Callable[[float], tuple[float, str]] | None = None  # None: ratios
    capacities: Sequence[Hardware] = ()


def _field(name: str, device: str = "") -> Amount:
    def amount(record: Record) -> float | None:
        found = (record["hardware"][device] if device else record)[name]
        return None if found is None else float(found)

    return amount


def _si(unit: str) -> Callable[[float], tuple[float, str]]:
    return lambda largest: scaled(unit, int(largest))


def of_units(units: Units) -> Callable[[float], tuple[float, str]]:
    """The size and the name of the unit, of some, for a largest amount."""

    def of(largest: float) -> tuple[float, str]:
        _, size, name = next((row for row in units if largest >= row[0]), units[-1])
        return size, name

    return of


def amounts(job: Job) -> list[Panel]:
    """Arithmetic and DRAM traffic of the run, peak memory of a step, time and energy of the run on each device."""
    panels = [
        Panel("arithmetic", _field("arithmetic_cost"), _si(LAWS[job.convention.law].unit)),
        Panel("DRAM traffic", _field("dram_bits"), _si("bit")),
        Panel("peak memory of a step", _field("peak_memory_bytes"), _si("B"), job.hardware),
    ]
    for device in job.hardware:
        panels.append(Panel(f"time on {device.name}", _field("time_s", device.name), of_units(TIMES)))
        panels.append(Panel(f"energy on {device.name}", _field("energy_j", device.name), of_units(ENERGIES)))
    return panels


def ratios(job: Job) -> list[Panel]:
    """How many times less than the baseline, of the same quantities."""
    return [Panel(each.title, each.ratio) for each in reductions(job.hardware, "peak memory of a step")]


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


def _line(i: int) -> dict[str, Any]:
    """How the line of the i-th policy looks."""
    style = "-" if i < len(COLOURS) else "--"
    return {
        "marker": _MARKERS[(i + i // len(COLOURS)) % len(_MARKERS)],  # a colour's second line has another marker
        "color": COLOURS[i % len(COLOURS)],
        "markersize": 4,
        "linestyle": style,
    }


def _lines(
    axes: Axes, panel: Panel, policies: Sequence[CountedPolicy], values: Sequence[Any], rows: Sequence[Rows]
) -> None:
    """A line for each policy, from the records of each point; none may be known."""
    heights = [[panel.amount(records[counted.policy.name]) for records in rows] for counted in policies]
    known = [height for line in heights for height in line if height is not None]
    divisor, unit = panel.unit(max(known, default=1.0)) if panel.unit else (1.0, "")
    places, drawn = _places(axes, values), list[float]()
    for i, (counted, line) in enumerate(zip(policies, heights, strict=True)):
        points = [(x, y / divisor) for x, y in zip(places, line, strict=True) if y is not None]
        axes.plot(*zip(*points, strict=True) if points else ([], []), label=starred(counted), **_line(i))
        drawn += [y for _, y in points]
    if not known:
        axes.annotate("not known", (0.5, 0.5), xycoords="axes fraction", ha="center", fontsize=pt(8))
    if panel.unit:
        axes.set_ylabel(unit)
        drawn += _capacities(axes, panel.capacities, divisor)
        _amount_axis(axes, drawn)


def _capacities(axes: Axes, devices: Sequence[Hardware], divisor: float) -> list[float]:
    """Lines where devices' DRAM ends, named; those close together with one name above the highest."""
    known = sorted((device.dram_bytes / divisor, device.name) for device in devices if device.dram_bytes is not None)
    groups: list[list[tuple[float, str]]] = []
    for height, name in known:
        if groups and height <= _SAME_PLACE * groups[-1][-1][0]:
            groups[-1].append((height, name))
        else:
            groups.append([(height, name)])
    for group in groups:
        for height in dict.fromkeys(height for height, _ in group):
            axes.axhline(height, color="black", linestyle="--", linewidth=1)
        text = ", ".join(f"{name}: {short(height)}" for height, name in group)
        label(axes, text, (0.02, group[-1][0]), (0, 2), xycoords=axes.get_yaxis_transform(), va="bottom")
    return [height for height, _ in known]


def _amount_axis(axes: Axes, heights: Sequence[float]) -> None:
    """From 0 on, or logarithmic where the largest would hide the others."""
    positive = [height for height in heights if height > 0]
    if positive and max(positive) > _LOGARITHMIC * min(positive):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        axes.set_ylim(min(positive) / 1.5, 2 * max(positive))
    else:
        axes.set_ylim(0, 1.15 * max(positive, default=1.0))


def _ratio_axis(axes: Axes) -> None:
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")


def _rows(first: Result, sweep: Sweep, part: Record) -> Rows:
    """The records of a point by policy, under names that fonts can draw."""
    names = {of.name: drawn.name for of, drawn in zip(sweep.first.hardware, first.job.hardware, strict=True)}
    rows = [{**row, "hardware": {names[n]: on for n, on in row.get("hardware", {}).items()}} for row in part["rows"]]
    return {counted.policy.name: row for counted, row in zip(first.policies, rows, strict=True)}


def check(where: Sequence[Point]) -> None:
    """Raise InputError if nothing is swept."""
    if not where[0]:
        raise InputError("plot sweep: expected a field, --sweep FIELD=VALUE,VALUE,..., such as batch=1,4,16")


def _others(where: Sequence[Point]) -> dict[str, list[int]]:
    """The points by the values of all fields but the first, in words; one field: all points, under ""."""
    groups: dict[str, list[int]] = {}
    for i, point in enumerate(where):
        words = ", ".join(f"{name} {text}" for name, text in list(point.items())[1:])
        groups.setdefault(words, []).append(i)
    return groups


def sweep(swept: Sweep, parts: Sequence[Record], relative: bool = False, look: Look = SCREEN) -> Figure:
    """Lines over the first swept field, a panel for each cost and for each combination of the other fields' values.

    Parts are those of a document by `policy` for exports, which have amounts; `relative`: of one by `reduction`.
    Raises InputError if no field is swept.
    """
    check(swept.where)
    field, first = next(iter(swept.where[0])), drawable(execute(swept.first))
    groups = _others(swept.where)
    rows = [_rows(first, swept, part) for part in parts]
    of = ratios(first.job) if relative else amounts(first.job)
    cells = [(panel, words) for panel in of for words in groups]
    most = len(groups) if len(groups) > 1 else min(3, len(cells))
    columns = look.columns(most, 4.0 * most, 1.6)
    lines = -(-len(cells) // columns)
    figure = look.figure(4.0 * most, (3.2 if look.width is None else 2.0) * lines + 0.9)
    flat: Any = figure.subplots(lines, columns, squeeze=False, sharey=relative).ravel()
    for axes, (panel, words) in zip(flat, cells, strict=False):
        at = groups[words]
        values = [value(swept.where[i][field]) for i in at]
        _lines(axes, panel, first.policies, values, [rows[i] for i in at])
        axes.set_title(f"{panel.title}\n{words}" if words else panel.title, fontsize=pt(9))
        axes.set_xlabel(field)
        axes.grid(linewidth=0.3)
        if relative:
            _ratio_axis(axes)
    for axes in flat[len(cells) :]:
        axes.set_visible(False)
    if relative:
        for axes in flat[::columns]:
            axes.set_ylabel(f"times less than {first.baseline.policy.label}")
    _legend_and_title(figure, flat[0], swept, first, look, relative)
    return figure


def _legend_and_title(figure: Figure, axes: Axes, swept: Sweep, first: Result, look: Look, relative: bool) -> None:
    legend_below(figure, axes.get_legend_handles_labels()[0], figure.get_figwidth() / look.scale, 4)
    conditions = convention(swept).partition(";")[0]
    amounts_of = "" if relative else "; amounts of the run"
    look.head(figure, f"{first.job.workload}: {conditions}{amounts_of}{marks(first.policies)}")
