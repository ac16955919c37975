"""A figure of a survey: what recipes save, and what they do to the gradients, a recipe a line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from costsim.plots.comparison import logarithmic
from costsim.plots.look import SCREEN, Look, pt
from costsim.plots.reductions import reductions
from costsim.plots.style import COLOURS, grid, label, legend_below, letters, names_width, note, room
from costsim.results.records import Record
from costsim.results.survey import Survey
from costsim.tables.survey import snr
from costsim.tables.table import printable

_GRADES = {  # marker, colour, whether it is filled: how well a source backs the formats
    "stated": ("o", COLOURS[0], True),
    "inferred": ("o", COLOURS[0], False),
    "ours": ("s", COLOURS[4], True),
    "fitted": ("s", COLOURS[4], False),
    "recalled": ("D", COLOURS[1], False),
}


class _Panel(NamedTuple):
    """One quantity of all recipes; None where it is not known."""

    title: str
    values: Sequence[float | None]
    of_gradients: bool = False  # signal to noise in decibel; else a ratio, on a logarithmic axis


def _panels(of: Survey) -> list[_Panel]:
    panels = [
        _Panel(printable(each.title), [each.ratio(record) for record in of.records])
        for each in reductions(of.job.hardware, "peak memory")
    ]
    if of.with_noise:
        values = [record["gradient_snr_db"] for record in of.records]
        panels.append(_Panel("gradients, signal to noise", values, of_gradients=True))
    return panels


def _mark(axes: Axes, at: tuple[float, int], start: float, grade: str) -> None:
    """A line from where nothing is saved, with the marker of a grade at its end."""
    marker, colour, filled = _GRADES[grade]
    axes.plot([start, at[0]], [at[1]] * 2, color=colour, linewidth=1.2)
    axes.plot(*at, marker, color=colour, markersize=5, markerfacecolor=colour if filled else "white", zorder=3)


def _draw(axes: Axes, panel: _Panel, records: Sequence[Record]) -> None:
    start = 0.0 if panel.of_gradients else 1.0
    for y, (record, value) in enumerate(zip(records, panel.values, strict=True)):
        if value is None:
            label(axes, "n/a", (start, y), (4, 0), color="0.35")
            continue
        _mark(axes, (value, y), start, record["grade"])
        text = snr(value) if panel.of_gradients else f"{value:.2f}"
        label(axes, text, (max(value, start), y), (5, 0))  # to the right, so that panels can be narrow
    axes.axvline(start, color="black", linewidth=0.8)
    axes.set_title(panel.title, fontsize=pt(9))
    axes.tick_params(axis="y", length=0)
    grid(axes, "x")


def _room(values: Sequence[float], start: float, text: float) -> tuple[float, float]:
    """The ends of an axis that has room for all values, for the start and for numbers, of that part, behind them."""
    low, high = min([*values, start]), max([*values, start])
    return room([(low, 0.1 * text, 0.0), (high if high > low else low + 1, 0.0, text)])


def _scale(row: Sequence[Axes], panels: Sequence[_Panel], text: float) -> None:
    """One logarithmic axis for all ratios, another in decibel; a number takes that part of one."""
    known = [[value for value in panel.values if value is not None] for panel in panels]
    logs = [math.log(value) for panel, values in zip(panels, known, strict=True) for value in values
            if not panel.of_gradients]  # fmt: skip
    low, high = (math.exp(end) for end in _room(logs, 0.0, text))
    for axes, panel, values in zip(row, panels, known, strict=False):
        if panel.of_gradients:
            axes.set_xlim(_room(values, 0.0, text))
            continue
        logarithmic(axes, "x", low, high)


def survey(of: Survey, look: Look = SCREEN) -> Figure:
    """Arithmetic, DRAM traffic, peak memory, time and energy on devices, and signal to noise: a panel each.

    Recipes are lines, from the least noise on. Markers tell apart how well sources back their formats.
    """
    panels, records = _panels(of), of.records
    natural = 1.9 + 1.65 * len(panels)  # six fit the page of a report
    labels = [printable(record["recipe"]) for record in records]
    taken = names_width(labels, look.room(natural))
    columns = look.columns(len(panels), natural, 0.8, taken)  # six side by side on a page
    rows = -(-len(panels) // columns)
    figure = look.figure(natural, 0.7 + rows * (0.8 + 0.16 * len(records)))
    row: Any = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    row[0].set_ylim(len(records) - 0.4, -0.6)
    row[0].set_yticks(range(len(records)), labels)
    _scale(row, panels, letters("-000.00") / ((look.room(natural) - taken) / columns - 0.15))
    for axes in row[len(panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(row, panels, strict=False):
        _draw(axes, panel, records)
        unit = "dB" if panel.of_gradients else f"times less than {printable(of.baseline)}"
        axes.set_xlabel(unit, fontsize=pt(8))
    grades = [grade for grade in _GRADES if grade in {record["grade"] for record in records}]
    legend_below(figure, [_key(grade) for grade in grades], look.room(natural))
    look.head(figure, printable(note(of.job)))
    return figure


def _key(grade: str) -> Line2D:
    marker, colour, filled = _GRADES[grade]
    words = f"formats {grade}" + ("" if grade == "ours" else " by the source" if grade == "stated" else "")
    return Line2D([], [], color=colour, marker=marker, markerfacecolor=colour if filled else "white", label=words)
