"""Kernels under the roofs of devices: intensities and rates from results/roof.py, drawn as discs.

Of a device whose kernels were measured, discs are what was measured, and circles what a roofline predicts of the same.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from costsim.devices.profile import Hardware, Rate
from costsim.errors import InputError
from costsim.plots.look import SCREEN, Look, pt
from costsim.plots.style import (
    COLOURS,
    GREY,
    grid,
    label,
    legend_below,
    legend_style,
    letters,
    note,
    recalled_mark,
    short,
    si,
    starred,
)
from costsim.results.roof import MOST_POLICIES, Point, Roof, roof
from costsim.run.counted import CountedPolicy
from costsim.run.simulate import Result

_DARK_GREY = "#7F7F7F"
KINDS = dict(
    zip(
        ("forward", "dgrad", "wgrad", "update", "other", "recompute"),
        (*COLOURS[:4], _DARK_GREY, COLOURS[5]),
        strict=True,
    )
)
_COLUMNS = (1, 2, 3, 2, 3, 3, 4, 4)  # of the panels of a device, by the number of policies less one
_PANEL_INCHES = 1.9  # at least, of its height below its title
_LEAST = 2.3  # of its width
_CLOSE = 8  # ceilings whose ratio is less share a place for their names
_LEAST_SHARE = 1e-4  # of the time: smaller points are not drawn
_LEAST_MOVING = 0.0005  # of the time: a tenth of a percent, rounded


def _rate_label(rate: Rate, pairs: set[str]) -> str:
    """A rate's name, and the pairs that are upcast to it; among `pairs`, "" stands for those that are not upcast."""
    upcast = sorted(pairs - {""})
    if not upcast:
        return rate.name
    others = upcast[0].partition(" + ")[0] if len(upcast) == 1 else f"{len(upcast)} pairs"
    return f"{rate.name} (and for {others})" if "" in pairs else f"{others} as {rate.name}"


def _area(share: float) -> float:
    """Square points of a marker: in proportion to the share of time, but never too small to see."""
    return max(5.0, 500 * share)


def _by_height(view: Roof) -> dict[int, list[str]]:
    """The names of the rates that a run uses, by operations a second."""
    names: dict[int, list[str]] = {}
    for rate, pairs in view.rates.items():
        names.setdefault(2 * rate.mac_per_s, []).append(_rate_label(rate, pairs))
    return names


def _ceilings(axes: Axes, device: Hardware, view: Roof, right: float, width: int) -> None:
    """The bandwidth's slope, a ceiling for each rate from its ridge point on, and the rate of elements."""
    bandwidth = device.dram_bytes_per_s
    if bandwidth is None:
        return
    names = _by_height(view)
    heights = sorted({*names, device.vector_op_per_s or 0} - {0})
    ridge = max(heights) / bandwidth
    axes.plot([ridge * 1e-9, ridge], [max(heights) * 1e-9, max(heights)], color="black", linewidth=1)
    for height in heights:
        style, colour = ("-", "black") if height in names else (":", _DARK_GREY)
        axes.plot([height / bandwidth, right], [height, height], style, color=colour, linewidth=1)
        axes.plot(height / bandwidth, height, "D", markersize=4, color=colour, markerfacecolor="white", zorder=5)
    for top, lines in _ceiling_names(names, width).items():
        _right_above(axes, "\n".join(lines), (right, top), 8, "black")  # above the discs on the ceiling
    if device.vector_op_per_s:
        text = f"elements: {_rate(device.vector_op_per_s)}"
        _right_above(axes, text, (right, device.vector_op_per_s), 1, _DARK_GREY)


def _rate(op_per_s: int) -> str:
    divisor, prefix = si(op_per_s)
    return f"{short(op_per_s / divisor)} {prefix}op/s"


def _ceiling_names(names: Mapping[int, Sequence[str]], width: int) -> dict[int, list[str]]:
    """The names of ceilings with their heights, the highest first, above the top one of those close together.

    In lines of so many characters.
    """
    lines: dict[int, list[str]] = {}
    top = below = 0
    for height in sorted(names, reverse=True):
        top = height if not top or height * _CLOSE < below else top
        texts = (f"{name}: {_rate(height)}" for name in sorted(names[height]))
        lines.setdefault(top, []).extend(line for text in texts for line in textwrap.wrap(text, width))
        below = height
    return lines


def _right_above(axes: Axes, text: str, at: tuple[float, float], points: float, colour: str) -> None:
    label(axes, text, at, (-2, points), ha="right", va="bottom", fontsize=pt(6.5), zorder=6, color=colour)


def _predicted(view: Roof) -> list[Point]:
    """Where a roofline alone would have the kernels of a device that was measured."""
    return [point._replace(op_per_s=point.by_roofline) for point in view.points if point.by_roofline]


def _dots(axes: Axes, points: Sequence[Point], filled: bool = True) -> None:
    """A disc a place; where kernels of several kinds lie on each other, each has a ring or the disc inside.

    Or circles, if they are not filled. Points share a place where both logarithms agree to a 25th of a decade; its disc
    is at their mean, weighed by time.
    """
    places: dict[tuple[int, int], list[Point]] = {}
    for point in points:
        if point.share >= _LEAST_SHARE:
            place = round(25 * math.log10(point.op_per_byte)), round(25 * math.log10(point.op_per_s))
            places.setdefault(place, []).append(point)
    shares = {place: sum(point.share for point in members) for place, members in places.items()}
    for place in sorted(places, key=lambda place: (-shares[place], place)):  # small ones on top
        members, left = places[place], shares[place]
        x = sum(point.op_per_byte * point.share for point in members) / left
        y = sum(point.op_per_s * point.share for point in members) / left
        for kind, colour in KINDS.items():
            share = sum(point.share for point in members if point.kind == kind)
            if share:
                axes.scatter(x, y, s=_area(left), zorder=4, **_marker(colour, filled))
            left -= share


def _marker(colour: str, filled: bool) -> dict[str, Any]:
    """How scatter draws a disc, or a circle."""
    disc = {"color": colour, "edgecolor": "white", "linewidth": 0.3}
    return disc if filled else {"facecolor": "none", "edgecolor": colour, "linewidth": 0.9}


def _panel(axes: Axes, view: Roof, device: Hardware, right: float, width: int) -> None:
    """A device's roof with the kernels under it, or the reason for an empty panel; ceilings end at `right` op/byte.

    A line of text has so many characters.
    """
    if view.lacks:
        axes.annotate(view.lacks, (0.5, 0.5), xycoords="axes fraction", ha="center", va="center", fontsize=pt(8))
        return
    _ceilings(axes, device, view, right, width)
    _dots(axes, _predicted(view), filled=False)
    _dots(axes, [point for point in view.points if point.by_roofline is None or point.measured])
    if view.moving >= _LEAST_MOVING:
        text = f"{100 * view.moving:.1f} % of the time computes nothing"
        axes.annotate(text, (0.98, 0.02), xycoords="axes fraction", ha="right", fontsize=pt(6.5), color="#595959")
    grid(axes)


Ends = tuple[float, float]


def _limits(roofs: Mapping[Any, Roof], devices: Sequence[Hardware], width: int) -> tuple[Ends, Ends]:
    """The same axes for all panels: every point that is drawn, every ridge and ceiling."""
    every = [point for view in roofs.values() for point in (*view.points, *_predicted(view))]
    points = [point for point in every if point.share >= _LEAST_SHARE]
    x, y = [point.op_per_byte for point in points], [point.op_per_s for point in points]
    bandwidths = {device.name: device.dram_bytes_per_s for device in devices}
    for (name, _), view in roofs.items():
        heights, bandwidth = [2.0 * rate.mac_per_s for rate in view.rates], bandwidths[name]
        y += heights
        x += [height / bandwidth for height in heights if bandwidth]
    if not x:
        return (0.1, 1000.0), (1e9, 1e15)
    names = [_ceiling_names(_by_height(view), width) for view in roofs.values() if view.rates]
    inches = (10 + 8.6 * max((len(lines) for tops in names for lines in tops.values()), default=1)) / 72
    low, high = min(y) / 3, max(y) * 1.1
    room = (high / low) ** (inches / (_PANEL_INCHES - inches))  # for the names above the highest ceiling
    return (min(x) / 2, max(x) * 4), (low, high * room)


def _legend(figure: Figure, points: Sequence[Point], head: str, inches: float) -> None:
    """The colours of the kinds that are drawn, over the sizes of discs and the signs; all under some text."""

    def dot(colour: str, area: float, name: str) -> Line2D:
        return Line2D([], [], linestyle="", marker="o", color=colour, markersize=math.sqrt(area), label=name)

    drawn = {point.kind for point in points}
    kinds = [dot(colour, 40, name) for name, colour in KINDS.items() if name in drawn]
    sizes = [dot(GREY, _area(share), f"{100 * share:g} % of the time") for share in (0.01, 0.1, 0.3)]
    sizes.append(Line2D([], [], color="black", marker="D", markerfacecolor="white", markersize=4, label="ridge point"))
    sizes.append(Line2D([], [], linestyle="", label="rings: several at one place"))
    if any(point.by_roofline for point in points):
        circle: dict[str, Any] = {"markerfacecolor": "none", "markersize": math.sqrt(40), "color": _DARK_GREY}
        sizes.append(Line2D([], [], linestyle="", marker="o", label="by a roofline; discs: measured", **circle))
    blank = Line2D([], [], linestyle="", label="")
    pairs = list(zip_longest(kinds, sizes, fillvalue=blank))  # legends fill column by column
    handles = [handle for pair in pairs for handle in pair]
    if legend_style(handles, inches, len(pairs))["ncols"] < len(pairs):
        handles = [*kinds, *sizes]
    legend_below(figure, handles, inches, len(pairs), head)


def _power(value: float, _: int | None) -> str:
    """A tick of a decade; Matplotlib's own labels are formulas, which names forbid."""
    return f"1e{round(math.log10(value))}" if not 0.005 < value < 5000 else f"{value:g}"


def roofline(result: Result, look: Look = SCREEN) -> Figure:
    """Kernels under the roofs of devices: the first MOST_POLICIES policies side by side at the same scale.

    Ceilings and slope are peaks, before efficiencies; op/byte and op/s count 2 operations a MAC and those on elements.
    A policy that has no time on a device has no panel, unless none has one; what it lacks is said below.
    Raises InputError if the job has no hardware. Source: Williams et al., Roofline, CACM 2009.
    """
    devices, shown = result.job.hardware, result.policies[:MOST_POLICIES]
    if not devices:
        raise InputError("plot roofline: expected a device, --hardware NAME (see costsim list hardware)")
    roofs = {
        (device.name, counted.policy.name): roof(result, counted, device) for device in devices for counted in shown
    }
    timed = {at: view for at, view in roofs.items() if not view.lacks} or roofs
    panels = [[each for each in shown if (device.name, each.policy.name) in timed] for device in devices]
    most = _COLUMNS[max(map(len, panels)) - 1]
    natural = max(4.0 * most + 0.6, 8.6)
    columns = look.columns(most, natural, _LEAST)
    width = int((look.room(natural) / columns - 0.7) / letters("x", 6.5))
    rows = [-(-len(row) // columns) for row in panels]
    figure = look.figure(natural, (3.1 if columns > 1 else 2.3) * sum(rows) + 1.2)
    table: Any = figure.subplots(sum(rows), columns, squeeze=False, sharex=True, sharey=True)
    horizontal, vertical = _limits(timed, devices, width)
    table[0][0].set(xscale="log", yscale="log", xlim=horizontal, ylim=vertical)
    table[0][0].xaxis.set_major_formatter(_power)
    table[0][0].yaxis.set_major_formatter(_power)
    for i, device in enumerate(devices):
        cells = [axes for row in table[sum(rows[:i]) : sum(rows[: i + 1])] for axes in row]
        for axes, counted in zip(cells, panels[i], strict=False):
            view = timed[device.name, counted.policy.name]
            axes.set_title(_panel_title(counted, view, device.name if len(devices) > 1 else ""), fontsize=pt(9))
            _panel(axes, view, device, horizontal[1], width)
        _blank(cells[len(panels[i]) :], cells[len(panels[i]) - columns :])
    _label(table)
    words = {counted.policy.name: starred(counted) for counted in shown}
    lacking = {
        (device, words[name]): view.lacks for (device, name), view in roofs.items() if (device, name) not in timed
    }
    left_out = _left_out(lacking, int(15 * look.room(natural)))
    _legend(figure, [point for view in timed.values() for point in view.points], left_out, look.room(natural))
    look.head(figure, _title(result, shown))
    return figure


def _label(table: Any) -> None:
    """What the axes are, below and left of all panels."""
    for axes in table[-1]:
        axes.set_xlabel("arithmetic intensity, op/byte")
    for row in table:
        row[0].set_ylabel("performance, op/s")


def _blank(cells: Sequence[Axes], above: Sequence[Axes]) -> None:
    """Cells without a panel: nothing is drawn, and the axis of the panel above is labelled instead."""
    for axes, over in zip(cells, above, strict=False):
        axes.set_axis_off()
        over.tick_params(labelbottom=True)
        over.set_xlabel("arithmetic intensity, op/byte")


def _left_out(lacking: Mapping[tuple[str, str], str], width: int) -> str:
    """Which policies have no panel, by device, and what they lack; "" if none is left out."""
    words: dict[str, list[str]] = {}
    for (device, policy), lacks in lacking.items():
        reason, *pairs = lacks.split("\n")
        words.setdefault(device, []).append(f"{policy} ({' '.join([reason.rstrip(':'), ', '.join(pairs)]).strip()})")
    lines = [f"no time on {device}: {', '.join(each)}" for device, each in words.items()]
    return "\n".join(part for line in lines for part in textwrap.wrap(line, width, subsequent_indent="   "))


def _panel_title(counted: CountedPolicy, view: Roof, device: str) -> str:
    place = f" on {device}" if device else ""
    return f"{starred(counted)}{place}" + (f": bound by {view.bound}" if not view.lacks else "")


def _title(result: Result, shown: Sequence[CountedPolicy]) -> str:
    job = result.job
    overlap = "" if job.overlap else ", without overlap"
    mark = recalled_mark(counted.policy for counted in shown)
    left_out = [starred(counted) for counted in result.policies[len(shown) :]]
    more = f"\nnot shown: {', '.join(left_out)}; --policy chooses" if left_out else ""
    return f"{note(job)}, on {', '.join(device.name for device in job.hardware)}{overlap}{mark}{more}"
