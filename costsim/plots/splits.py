"""A figure of the ways to split a step over devices: how long it takes, over what the fullest device holds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from costsim.devices.profile import Hardware
from costsim.plots.comparison import logarithmic
from costsim.plots.look import SCREEN, Look
from costsim.plots.style import COLOURS, grid, label, legend_below, recalled_mark, si
from costsim.plots.sweep import of_units
from costsim.policy.policy import labels_of
from costsim.run.job import Job
from costsim.search.splits import SIZES, Split
from costsim.tables.cells import TIMES
from costsim.tables.table import printable

_MARKERS = "osD^vPX*"
_PAPER = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5}  # behind words over points
_FARTHEST = 3.0  # times the fullest split: a device's memory beyond that leaves no room for the splits


def policy_of(split: Split) -> str:
    """The name of the policy that is split, or of the one whose formats are chosen in each split."""
    return split.chosen.space.policy.name if split.chosen else split.policy


def front(found: Sequence[Split]) -> list[Split]:
    """Those that no other beats in both: with ever more memory, ever faster."""
    kept: list[Split] = []
    for split in sorted(found, key=lambda split: (split.peak_bytes, split.step_s)):
        if not kept or split.step_s < kept[-1].step_s:
            kept.append(split)
    return kept


def words(split: Split) -> str:
    """The sizes in which a split differs from one device: data 8, zero 1."""
    sizes = {name: getattr(split.parallel, name) for name in SIZES}
    return ", ".join(f"{name} {n}" for name, n in sizes.items() if n != (0 if name == "zero" else 1)) or "one device"


def _points(axes: Axes, of_policy: Sequence[Split], i: int, units: tuple[float, float]) -> None:
    """The splits of the i-th policy, full where they fit, and a line through its front."""
    size, second = units
    style = {"color": COLOURS[i % len(COLOURS)], "marker": _MARKERS[i % len(_MARKERS)], "markersize": 4}
    line = front(of_policy)
    for fits, fill in ((True, style["color"]), (False, "white")):
        some = [split for split in of_policy if split.fits == fits]
        x, y = [split.peak_bytes / size for split in some], [split.step_s / second for split in some]
        axes.plot(x, y, linestyle="", markerfacecolor=fill, zorder=3, **style)  # type: ignore[arg-type]
    x, y = [split.peak_bytes / size for split in line], [split.step_s / second for split in line]
    axes.plot(x, y, color=style["color"], linewidth=1, drawstyle="steps-post")


def _named(axes: Axes, found: Sequence[Split], units: tuple[float, float], middle: float) -> None:
    """The fastest that fits in words below it, and the one that takes the least memory above."""
    fastest, least = found[0], front(found)[0]
    for split, up in ((fastest, False), *([(least, True)] if least is not fastest else [])):
        at = split.peak_bytes / units[0], split.step_s / units[1]
        side = {"ha": "right"} if at[0] > middle else {"ha": "left"}
        label(axes, words(split), at, (0, 7 if up else -7), va="bottom" if up else "top", bbox=_PAPER, zorder=5, **side)


def _capacity(axes: Axes, device: Hardware, fullest: int, units: tuple[int, str]) -> list[float]:
    """A line where the device's memory ends, and where that is, unless it is far to the right."""
    size, prefix = units
    if device.dram_bytes is None:
        return []
    text = f"{printable(device.name)}: {device.dram_bytes / size:.1f} {prefix}B"
    if device.dram_bytes > _FARTHEST * fullest:
        axes.plot([], [], " ", label=f"{text}, to the right")
        return []
    axes.axvline(device.dram_bytes / size, color="black", linestyle="--", linewidth=1, label=text)
    return [device.dram_bytes / size]


def splits(job: Job, found: Sequence[Split], devices: int, look: Look = SCREEN) -> Figure:
    """A point for each split of a job over so many devices, found on the one device that it has.

    Hollow ones do not fit into a device's memory, which a dashed line shows. A policy's line joins those that no other
    split of it beats in both time and memory; the fastest and the smallest of all are named.
    """
    [device] = job.hardware
    fullest = max(split.peak_bytes for split in found)
    size, prefix = si(fullest)
    second, unit = of_units(TIMES)(max(split.step_s for split in found))
    figure = look.figure(7.0, 4.4 if look.width is None else 4.0)
    axes: Axes = figure.subplots()
    labels = labels_of(job.policies)
    of_policies = {name: [split for split in found if policy_of(split) == name] for name in labels}
    shown = [name for name, some in of_policies.items() if some]
    for i, name in enumerate(shown):
        _points(axes, of_policies[name], i, (size, second))
    heights = [split.step_s / second for split in found]
    ends = [split.peak_bytes / size for split in found] + _capacity(axes, device, fullest, (size, prefix))
    logarithmic(axes, "x", min(ends) / 1.1, max(ends) * 1.1)
    logarithmic(axes, "y", min(heights) / 1.5, max(heights) * 1.3)
    _named(axes, found, (size, second), math.sqrt(min(ends) * max(ends)))
    axes.set(xlabel=f"peak memory of the fullest device, {prefix}B", ylabel=f"time of a step, {unit}")
    grid(axes)
    policies = [policy for policy in job.policies if policy.name in shown]
    keys = [_key(i, printable(labels[policy.name]) + "*" * policy.recalled) for i, policy in enumerate(policies)]
    if not all(split.fits for split in found):
        keys.append(Line2D([], [], linestyle="", marker="o", color="black", markerfacecolor="white", label="too large"))
    legend_below(figure, [*keys, *axes.get_legend_handles_labels()[0]], look.room(7.0))
    title = f"{printable(job.workload)}: splits of a step over {devices} devices of {printable(device.name)}"
    look.head(figure, f"{title}{recalled_mark(policies)}\nlines: no split of that policy is both faster and smaller")
    return figure


def _key(i: int, text: str) -> Line2D:
    return Line2D([], [], color=COLOURS[i % len(COLOURS)], marker=_MARKERS[i % len(_MARKERS)], markersize=4, label=text)
