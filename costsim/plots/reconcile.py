"""A figure of a reconciliation: where all combinations come to, and what those that hit depart from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from costsim.plots.comparison import logarithmic
from costsim.plots.look import SCREEN, Look, pt
from costsim.plots.style import COLOURS, GREY, grid, legend_style
from costsim.policy.policy import labels_of
from costsim.results.records import FIGURES
from costsim.search.density import STEPS
from costsim.search.reconcile import Departure, Hit, Reconciliation
from costsim.tables.table import clip, printable

_LABEL = 58  # characters of an assumption with its case
_COLOURS = {"stated": COLOURS[1], "inferred": COLOURS[0], "fitted": COLOURS[3], "ours": COLOURS[4]}
_RECALLED = COLOURS[5]


def _axis(axes: Axes, along: str, of: Reconciliation, i: int) -> None:
    """A logarithmic axis of a figure's ratios, as wide as all combinations and what is stated."""
    figure, (low, high) = of.figures[i], of.ranges[i]
    within = float(of.within)
    low, high = min(low, figure.stated * (1 - within)) / 1.15, max(high, figure.stated * (1 + within)) * 1.15
    logarithmic(axes, along, low, high)
    labels = labels_of((*of.job.published_policies, of.job.baseline))
    policy, baseline = (printable(labels.get(name, name)) for name in (figure.policy, of.job.baseline.name))
    axes.set(**{f"{along}label": f"{FIGURES[figure.quantity]} of {policy}, times less than {baseline}"})


def _cloud(axes: Axes, of: Reconciliation, inches: float) -> Any:
    """Both figures of all combinations, the stated ones with the tolerance around them, those shipped, and hits."""
    for i, along in enumerate("xy"):
        _axis(axes, along, of, i)
    x, y, counts = zip(*of.density.cells(), strict=True)
    cells = axes.scatter(x, y, c=counts, s=9, marker="s", linewidths=0, cmap="Greys", norm=_from_light(counts))
    within, (a, b) = float(of.within), [figure.stated for figure in of.figures]
    corner, sides = (a * (1 - within), b * (1 - within)), (2 * within * a, 2 * within * b)
    axes.add_patch(Rectangle(corner, *sides, fill=False, edgecolor=COLOURS[1], linewidth=1.2, zorder=3))
    axes.plot(a, b, "*", color=COLOURS[1], markersize=11, label=f"stated, with {100 * within:g} % around it", zorder=4)
    axes.plot(*of.shipped, "o", color=COLOURS[0], markersize=6, label="as shipped", zorder=4)
    _chosen(axes, of)
    _legend(axes, inches)
    return cells


def _legend(axes: Axes, inches: float) -> None:
    """Above the panel, where no combination is."""
    handles = axes.get_legend_handles_labels()[0]
    axes.legend(loc="lower left", bbox_to_anchor=(-0.05, 1), handles=handles, **legend_style(handles, inches, 3))
    grid(axes)


def _chosen(axes: Axes, of: Reconciliation) -> None:
    hits, label = (of.listed, "hits") if of.listed else ([of.nearest] if of.nearest else [], "nearest")
    if hits:
        points = zip(*(hit.ratios for hit in hits), strict=True)
        axes.plot(*points, "o", color="none", markeredgecolor=COLOURS[2], markersize=8, label=label, zorder=5)


def _from_light(counts: Sequence[int]) -> LogNorm:
    """Few are light, but not white."""
    return LogNorm(vmin=0.25, vmax=max(*counts, 10))


def _histogram(axes: Axes, of: Reconciliation, i: int, inches: float) -> None:
    """One figure of all combinations."""
    _axis(axes, "x", of, i)
    x, _, counts = zip(*of.density.cells(i), strict=True)
    step = 2 ** (0.5 / STEPS)
    axes.bar(x, counts, width=[value * (step - 1 / step) for value in x], color=GREY)
    axes.axvline(of.shipped[i], color=COLOURS[0], linewidth=1.2, label="as shipped")
    stated, within = of.figures[i].stated, float(of.within)
    axes.axvspan(stated * (1 - within), stated * (1 + within), color=COLOURS[1], alpha=0.3, linewidth=0)
    axes.axvline(stated, color=COLOURS[1], linewidth=1.2, label=f"stated, with {100 * within:g} % around it")
    axes.set(yscale="log", ylabel="combinations", ylim=(0.5, None))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    _legend(axes, inches)


def _name(departure: Departure) -> str:
    return clip(printable(f"{departure.assumption}: {departure.case}"), _LABEL)


def _departures(axes: Axes, hits: Sequence[Hit], title: str) -> list[str]:
    """A line for each departure, a column for each hit, a mark where the hit has it; the grades that occur."""
    lines = list(dict.fromkeys(departure for hit in hits for departure in hit.departures))
    for column, hit in enumerate(hits, 1):
        for departure in hit.departures:
            axes.plot(column, lines.index(departure), "s", color=_colour(departure.grade), markersize=7)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_yticks(range(len(lines)), [_name(departure) for departure in lines], fontsize=pt(8))
    axes.set_xlim(0.4, len(hits) + 0.6)
    axes.set_xticks(range(1, len(hits) + 1))
    axes.tick_params(length=0)
    axes.set_title(title, fontsize=pt(9))
    grid(axes)
    return list(dict.fromkeys(departure.grade for departure in lines))


def _colour(grade: str) -> str:
    return _COLOURS.get(grade, _RECALLED)


def _verdict(of: Reconciliation) -> str:
    within = f"within {float(100 * of.within):g} %"
    return f"{of.hits or 'none'} of {of.tried} combinations {'gives' if of.hits < 2 else 'give'} all figures {within}"


def reconcile(of: Reconciliation, look: Look = SCREEN) -> Figure:
    """Where all combinations lie, and a matrix of what the hits depart from, or the nearest if there are none.

    Two figures are the axes of one panel; of any other number, each has a panel.
    """
    hits = list(of.listed) or ([of.nearest] if of.nearest else [])
    clouds = 1 if of.density.paired else len(of.figures)
    lines = len({departure for hit in hits for departure in hit.departures})
    natural, matrix = 5.2 * clouds + 5.8, 0.9 + 0.24 * lines
    if look.columns(clouds + 1, natural, 3.4) == clouds + 1:
        inches = 0.42 * look.room(natural)
        figure = look.figure(natural, max(4.2, 0.5 + matrix))
        widths = [4.2] * clouds + [0.25 * len(hits) + 0.6]
        panels: Any = figure.subplots(1, clouds + 1, squeeze=False, gridspec_kw={"width_ratios": widths})[0]
    else:
        inches = look.room(natural) - 0.3
        heights = [3.2] * clouds + [1.3 * matrix]
        figure = look.figure(natural, sum(heights) + 0.7)
        panels = figure.subplots(clouds + 1, 1, squeeze=False, gridspec_kw={"height_ratios": heights}).ravel()
    if of.tried and of.density.paired:
        bar = figure.colorbar(_cloud(panels[0], of, inches), ax=panels[0], label="combinations", format="{x:g}")
        bar.ax.minorticks_off()
    elif of.tried:
        for i, axes in enumerate(panels[:-1]):
            _histogram(axes, of, i, inches)
    title = "hits, by number" if of.listed else "nearest"
    grades = _departures(panels[-1], hits, title)
    keys = [Line2D([], [], color=_colour(grade), marker="s", linestyle="", label=grade) for grade in grades]
    if keys:
        title = "instead of what is"
        style = legend_style(keys, look.room(natural), len(keys))
        figure.legend(handles=keys, loc="outside lower right", title=title, **style)
    look.head(figure, f"{printable(of.job.workload)}: {_verdict(of)}")
    return figure
