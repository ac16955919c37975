"""Figures of results, drawn with Matplotlib (imported here only): the same bytes for the same input."""

import io
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from costsim.errors import InputError, nearest
from costsim.inputs import files
from costsim.plots import (
    breakdown,
    comparison,
    memory,
    roofline,
    schedule,
    sensitivity,
    timeline,
)
from costsim.plots import sweep as sweep_plot
from costsim.plots.fit import fit
from costsim.plots.look import SCREEN, Look, look_of, settings
from costsim.plots.style import drawable
from costsim.results.records import Record
from costsim.run.simulate import Result
from costsim.run.sweep import Sweep

_NO_DATE = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}  # by style of file
_DPI = 300  # of PNG

# By the kinds of names.FIGURES. A sweep is drawn from several results: see plots/sweep.py.
PLOTS: dict[str, Callable[..., Figure]] = {
    "breakdown": breakdown.breakdown,
    "comparison": comparison.comparison,
    "sensitivity": sensitivity.sensitivity,
    "schedule": schedule.schedule,
    "roofline": roofline.roofline,
    "memory": memory.memory,
    "timeline": timeline.timeline,
}


def drawn(make: Callable[..., Figure], look: Look = SCREEN) -> Figure:
    """The figure that `make` makes with the argument `look`, laid out so that all texts fit, unless it is part of one.

    Raises InputError as `make` does, and if it is too narrow.
    """
    with mpl.rc_context(settings(look)):
        figure = make(look=look)
        return figure if look.ax is not None else fit(figure)


def look_apart(options: Mapping[str, Any]) -> tuple[Look, dict[str, Any]]:
    """The look that options ask for, as `look_of` takes them, and the others. Raises InputError."""
    names = ("style", "width", "font_size", "title", "ax")
    look = look_of(**{name: options[name] for name in names if name in options})
    return look, {name: value for name, value in options.items() if name not in names}


def draw(result: Result, kind: str, look: Look = SCREEN, **options: Any) -> Figure:
    """Draw one of PLOTS, which takes the options. Raises InputError for another kind, and as `drawn` does."""
    return drawn(_plot(result, kind, options), look)


def _plot(result: Result, kind: str, options: Mapping[str, Any]) -> Callable[..., Figure]:
    if kind not in PLOTS:
        raise InputError(f"unknown figure {kind!r}{nearest(kind, PLOTS)}")
    return partial(PLOTS[kind], drawable(result), **options)


def save(result: Result, kind: str, path: Path, look: Look = SCREEN, **options: Any) -> Path:
    """Draw one of PLOTS, which takes the options, into a file. Raises InputError as the plot and `write` do."""
    return write(_plot(result, kind, options), path, look)


def save_sweep(
    swept: Sweep, parts: Callable[[], list[Record]], path: Path, relative: bool, look: Look = SCREEN
) -> Path:
    """Draw a sweep, whose parts are worked out only if the file can be, into a file. Raises InputError."""
    return write(lambda look: sweep_plot.sweep(swept, parts(), relative, look), path, look)


def write(make: Callable[..., Figure], path: Path, look: Look = SCREEN) -> Path:
    """Draw a figure, which `make` makes with the argument `look`, into an .svg, .pdf or .png file, whole or not at all.

    Raises InputError for another ending, before anything is drawn, and as `drawn` does.
    """
    style = path.suffix.removeprefix(".").lower()
    if style not in _NO_DATE:
        hint = " (.json is what plot trace writes)" if style == "json" else ""
        raise InputError(f"--out {path}: expected a name that ends in .svg, .pdf or .png{hint}")
    with mpl.rc_context(settings(look)):
        figure = fit(make(look=look))
        figure.set_layout_engine("none")  # it is laid out
        data = io.BytesIO()
        figure.savefig(data, format=style, dpi=_DPI, metadata=_NO_DATE[style])
    return files.write(path, data.getvalue())


def svg(result: Result, kind: str, **options: Any) -> str:
    """Draw one of PLOTS as the text of an SVG file, without minor ticks. Raises InputError as `draw` does."""
    return svg_of(_plot(result, kind, options))


def svg_of(make: Callable[..., Figure]) -> str:
    """The figure that `make` makes with the argument `look`, as the text of an SVG file, without minor ticks."""
    with mpl.rc_context(settings(SCREEN)):
        figure = make(look=SCREEN)
        for axes in figure.axes:
            axes.minorticks_off()  # of logarithmic axes: hundreds, which take longer than all the rest
        fit(figure)
        figure.set_layout_engine("none")
        text = io.StringIO()
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(text, metadata=_NO_DATE["svg"])  # draws once; savefig does twice
    return text.getvalue()
