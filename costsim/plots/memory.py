"""Peak memory by component, as stacked bars."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from costsim.cost.memory import of_policy
from costsim.devices.profile import Hardware
from costsim.plots.look import SCREEN, Look
from costsim.plots.style import COMPONENT_COLOURS, grid, label, legend_below, letters, recalled_mark, short, starred
from costsim.run.batch import with_batch
from costsim.run.simulate import Result

_MOST_LABELS = 20  # bars that have room for their totals
_TALLEST = 3  # an axis is at most so many times as high as the highest bar
_GROUP_GAP = 0.6  # between groups of bars, in bars


class Bar(NamedTuple):
    """Peak memory to be drawn: bytes of each component, under the bar's label and the label of its group."""

    group: str
    label: str
    components: Mapping[str, int]


def stacked(axes: Axes, bars: Sequence[Bar], devices: Sequence[Hardware], width: float) -> None:
    """Stacked bars of memory, in GB (10^9 bytes), by group, and lines where devices' DRAM ends; so many inches wide."""
    groups = list(dict.fromkeys(bar.group for bar in bars))
    places = [i + _GROUP_GAP * groups.index(bar.group) for i, bar in enumerate(bars)]
    tops = [0.0] * len(bars)
    for name, colour in COMPONENT_COLOURS.items():
        heights = [bar.components[name] / 1e9 for bar in bars]
        if any(heights):
            component = name.replace("_", " ")
            axes.bar(places, heights, bottom=tops, color=colour, edgecolor="white", linewidth=0.3, label=component)
        tops = [top + height for top, height in zip(tops, heights, strict=True)]
    _name_bars(axes, bars, places)
    if len(bars) <= _MOST_LABELS and (letters("10.00") + 0.05) * len(bars) < width:
        for place, top in zip(places, tops, strict=True):
            label(axes, short(top), (place, top), (0, 2), ha="center", va="baseline")
    highest = max(tops)
    drawn = [
        _dram_line(axes, device, style, _TALLEST * highest)
        for device, style in zip(devices, cycle(("--", ":", "-.", "-")), strict=False)
    ]
    axes.set_xlim(-0.8, places[-1] + 0.8)
    axes.set_ylim(0, 1.06 * max([highest, *drawn]))
    axes.set_ylabel("peak memory, GB (10\u2079 bytes)")
    grid(axes, "y")


def _name_bars(axes: Axes, bars: Sequence[Bar], places: Sequence[float]) -> None:
    """The labels of bars, and under them those of groups."""
    axes.set_xticks(places, [bar.label for bar in bars])
    axes.tick_params(axis="x", length=0)
    members: dict[str, list[float]] = {}
    for bar, place in zip(bars, places, strict=True):
        members.setdefault(bar.group, []).append(place)
    names: Any = axes.secondary_xaxis(-0.05 if any(bar.label for bar in bars) else 0.0)
    middles = [sum(group) / len(group) for group in members.values()]
    names.set_xticks(middles, [name.replace("+", "\n+") for name in members])
    names.tick_params(axis="x", length=0, labelsize=8)
    names.spines["bottom"].set_visible(False)


def _dram_line(axes: Axes, device: Hardware, style: str, most: float) -> float:
    """Draw a line where a device's DRAM ends and return its height in GB.

    Only the legend names a DRAM above `most` GB, which would leave no room for the bars, or of unknown size: 0 GB.
    """
    if device.dram_bytes is None:
        axes.plot([], [], " ", label=f"{device.name}: size not known")
        return 0.0
    size = device.dram_bytes / 1e9
    if size > most:
        axes.plot([], [], " ", label=f"{device.name}: {size:.1f} GB, above")
        return 0.0
    axes.axhline(size, color="black", linestyle=style, linewidth=1, label=f"{device.name}: {size:.1f} GB")
    return size


_WIDE = 5.0  # inches from which the legend is beside the bars


def bars_and_legend(
    look: Look, width: float, height: float, bars: Sequence[Bar], devices: Sequence[Hardware]
) -> Figure:
    """A figure, in inches as `Look.figure`, of bars as `stacked` draws them, with a legend beside or below them."""
    beside = look.room(width) >= _WIDE
    figure = look.figure(width, height if beside else 4.6)
    stacked(figure.subplots(), bars, devices, look.room(width) - (2.5 if beside else 0.8))
    if beside:
        figure.legend(loc="outside right center", frameon=False, reverse=True)
    else:
        legend_below(figure, figure.axes[0].get_legend_handles_labels()[0], look.room(width))
    return figure


def memory(result: Result, batches: Sequence[int | None] = (None,), look: Look = SCREEN) -> Figure:
    """Peak memory of a step by component, for each policy and batch (sequences of a micro-batch; None: as in the file).

    A line stands where a device's DRAM ends. Raises InputError for a batch that does not fit the workload.
    """
    job, bars = result.job, []
    jobs = [with_batch(job, sequences) for sequences in batches]
    sizes = [str(sized.graph.sizes["batch"]) for sized in jobs]
    several = len(jobs) > 1
    for counted in result.policies:
        for sized, size in zip(jobs, sizes, strict=True):
            components = of_policy(sized.graph, counted.policy, sized.convention.traffic)[1].components
            bars.append(Bar(starred(counted), size if several else "", components))
    natural = max(7.0, 2.5 + 0.28 * len(bars), 2.0 + 1.05 * len(result.policies))
    figure = bars_and_legend(look, natural, 5, bars, job.hardware)
    mark = recalled_mark(counted.policy for counted in result.policies)
    plural, under = "" if sizes == ["1"] else "s", " (the numbers under the bars)" if several else ""
    look.head(
        figure,
        f"{job.workload}: peak memory of a step, traffic {job.convention.traffic}{mark}\n"
        f"micro-batches of {', '.join(sizes)} sequence{plural}{under}",
    )
    return figure
