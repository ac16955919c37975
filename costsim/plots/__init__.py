"""Figures of results, drawn with Matplotlib (imported here only): the same bytes for the same input."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from costsim.errors import InputError, nearest
from costsim.inputs import files
from costsim.plots import breakdown, memory, roofline, schedule, sensitivity, timeline
from costsim.plots.style import drawable
from costsim.run.simulate import Result
from costsim.tables.table import wrap

_STYLE: Any = {
    "svg.hashsalt": "costsim",
    "svg.fonttype": "none",
    "font.size": 9,
    "text.parse_math": False,  # names are names, whatever signs they hold
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_NO_DATE = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}


PLOTS: dict[str, Callable[..., Figure]] = {
    "breakdown": breakdown.breakdown,
    "comparison": breakdown.comparison,
    "sensitivity": sensitivity.sensitivity,
    "schedule": schedule.schedule,
    "roofline": roofline.roofline,
    "memory": memory.memory,
    "timeline": timeline.timeline,
}


def draw(result: Result, kind: str, **options: Any) -> Figure:
    """One of PLOTS, which takes the options. Raises InputError for another, or what it cannot be drawn of."""
    if kind not in PLOTS:
        raise InputError(f"unknown figure {kind!r}{nearest(kind, PLOTS)}")
    with mpl.rc_context(_STYLE):
        return PLOTS[kind](drawable(result), **options)


def save(result: Result, kind: str, path: Path, **options: Any) -> Path:
    """Draw one of PLOTS, which takes the options, into a file as `write`. Raises InputError."""
    return write(lambda: PLOTS[kind](result, **options), path)


def write(make: Callable[[], Figure], path: Path) -> Path:
    """Draw a figure into an .svg, .pdf or .png file, whole or not at all.

    Raises InputError for another ending, or what the figure cannot be drawn of.
    """
    style = path.suffix.removeprefix(".").lower()
    if style not in _NO_DATE:
        told = " (.json is what plot trace writes)" if style == "json" else ""
        raise InputError(f"--out {path}: expected a name that ends in .svg, .pdf or .png{told}")
    with mpl.rc_context(_STYLE):
        figure = make()
        data = io.BytesIO()
        figure.savefig(data, format=style, dpi=150, metadata=_NO_DATE[style])
    return files.write(path, data.getvalue())


def svg(result: Result, kind: str, **options: Any) -> str:
    """One of PLOTS as the text of an SVG file, without minor ticks. Raises InputError for what cannot be drawn."""
    with mpl.rc_context(_STYLE):
        figure = draw(result, kind, **options)
        for axes in figure.axes:
            axes.minorticks_off()  # of logarithmic axes: hundreds, which take longer than all the rest
        title = figure.get_suptitle()
        narrow = "\n".join(wrap(line, int(12.5 * figure.get_figwidth())) for line in title.split("\n"))
        if narrow != title:  # wider than the figure, in letters of 10 points
            figure.suptitle(narrow, fontsize=10)
        text = io.StringIO()
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(text, metadata=_NO_DATE["svg"])  # draws once; savefig does twice
    return text.getvalue()
