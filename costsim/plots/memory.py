"""Peak memory by component, as stacked bars."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from costsim.cost.memory import of_policy
from costsim.devices.profile import Hardware
from costsim.plots.style import OF_COMPONENT, RECALLED, short, starred
from costsim.run.batch import with_batch
from costsim.run.simulate import Result

# --- memory -----------------------------------------------------------------------------------------------------------


_MOST_LABELS = 20  # bars that have room for their totals
_TALLEST = 3  # an axis is at most so many times as high as the highest bar


class Bar(NamedTuple):
    """Peak memory to be drawn: bytes of each component, under a label and one for its neighbours of the same group."""

    group: str
    label: str
    components: Mapping[str, int]


def stacked(axes: Axes, bars: Sequence[Bar], devices: Sequence[Hardware]) -> None:
    """Stacked bars of memory, in GB (10^9 bytes), by group, and lines where devices' DRAM ends."""
    groups = list(dict.fromkeys(bar.group for bar in bars))
    places = [i + 0.6 * groups.index(bar.group) for i, bar in enumerate(bars)]
    bottoms = [0.0] * len(bars)
    for name, colour in OF_COMPONENT.items():
        heights = [bar.components[name] / 1e9 for bar in bars]
        if any(heights):
            label = name.replace("_", " ")
            axes.bar(places, heights, bottom=bottoms, color=colour, edgecolor="white", linewidth=0.3, label=label)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    axes.set_xticks(places, [bar.label for bar in bars])
    axes.tick_params(axis="x", length=0)
    middles = [
        sum(its) / len(its)
        for group in groups
        if (its := [place for place, bar in zip(places, bars, strict=True) if bar.group == group])
    ]
    names: Any = axes.secondary_xaxis(-0.05 if any(bar.label for bar in bars) else 0.0)
    names.set_xticks(middles, [group.replace("+", "\n+") for group in groups])
    names.tick_params(axis="x", length=0, labelsize=8)
    names.spines["bottom"].set_visible(False)
    highest = max(bottoms)
    if len(bars) <= _MOST_LABELS:
        for place, top in zip(places, bottoms, strict=True):
            axes.annotate(short(top), (place, top), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=7)
    drawn = [
        _dram_line(axes, device, style, _TALLEST * highest)
        for device, style in zip(devices, cycle(("--", ":", "-.", "-")), strict=False)
    ]
    axes.set_xlim(-0.8, places[-1] + 0.8)
    axes.set_ylim(0, 1.06 * max([highest, *drawn]))
    axes.set_ylabel("peak memory, GB (10^9 bytes)")
    axes.grid(axis="y", linewidth=0.3)
    axes.set_axisbelow(True)


def _dram_line(axes: Axes, device: Hardware, style: str, most: float) -> float:
    """A line where a device's DRAM ends; one above `most` GB is only said, or the bars could not be read."""
    if device.dram_bytes is None:
        axes.plot([], [], " ", label=f"{device.name}: size not known")
        return 0.0
    size = device.dram_bytes / 1e9
    if size > most:
        axes.plot([], [], " ", label=f"{device.name}: {size:.1f} GB, above")
        return 0.0
    axes.axhline(size, color="black", linestyle=style, linewidth=1, label=f"{device.name}: {size:.1f} GB")
    return size


def memory(result: Result, batches: Sequence[int | None] = (None,)) -> Figure:
    """Peak memory of a step by component, for each policy and batch (sequences of a micro-batch; None: as in the file).

    A line stands where a device's DRAM ends. Raises InputError for a batch that does not fit the workload.
    """
    job, bars = result.job, []
    jobs = [with_batch(job, sequences) for sequences in batches]
    for counted in result.policies:
        for its in jobs:
            parts = of_policy(its.graph, counted.policy, its.convention.traffic)[1].components
            bars.append(Bar(starred(counted), str(its.graph.sizes["batch"]) if len(jobs) > 1 else "", parts))
    width = max(7.0, 2.5 + 0.28 * len(bars), 2.0 + 1.05 * len(result.policies))
    figure = Figure(figsize=(width, 5), layout="constrained")
    axes = figure.subplots()
    stacked(axes, bars, job.hardware)
    figure.legend(loc="outside right center", frameon=False, reverse=True)
    sizes = ", ".join(str(its.graph.sizes["batch"]) for its in jobs)
    recalled = any(counted.policy.recalled for counted in result.policies)
    mark = RECALLED if recalled else ""
    of = f"micro-batches of {sizes} sequence{'s' if sizes != '1' else ''}" + (
        " (the numbers under the bars)" if len(jobs) > 1 else ""
    )
    figure.suptitle(f"{job.workload}: peak memory of a step, traffic {job.convention.traffic}{mark}\n{of}", fontsize=10)
    return figure
