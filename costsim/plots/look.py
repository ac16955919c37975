"""How a figure is to look: its width, the size of its letters, whether it has a title; and whether that can be."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from costsim.errors import InputError, nearest, one_line

POINTS = 9.0  # of letters, where nothing else is asked
_MM = {"mm": 1.0, "cm": 10.0, "in": 25.4, "pt": 25.4 / 72.27}  # a unit in mm; points are TeX's, as in \\columnwidth
LEAST_MM, MOST_MM = 50.0, 2000.0
LEAST_POINTS, MOST_POINTS = 4.0, 72.0


class Look(NamedTuple):
    """How a figure is to look; of no width, it is as wide as it likes."""

    width: float | None = None  # inches
    points: float = POINTS  # size of letters; small ones follow
    title: bool = True
    ax: Axes | None = None  # of somebody's figure, in whose place it is drawn

    @property
    def scale(self) -> float:
        """How much larger letters are than those that figures are laid out for."""
        return self.points / POINTS

    def room(self, natural: float) -> float:
        """The figure's width, in inches of letters of 9 points; `natural` if none is asked for."""
        return natural if self.width is None else self.width / self.scale

    def columns(self, most: int, natural: float, panel: float, beside: float = 0.0) -> int:
        """How many panels stand beside each other, at most `most`; each is at least so many inches wide.

        `beside`: inches that what stands left of all panels takes.
        """
        return max(1, min(most, int((self.room(natural) - beside) / panel)))

    def figure(self, width: float, height: float) -> Figure:
        """An empty figure; inches are those of letters of 9 points, and the width is that asked for, if one is.

        In the place of an axis it is a part of that axis's figure, which has all that a figure draws with.
        """
        if self.ax is not None:
            return _in_place_of(self.ax)
        size = (width * self.scale if self.width is None else self.width, height * self.scale)
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)  # which measures texts
        return figure

    def head(self, figure: Figure, text: str) -> None:
        """The figure's title, unless it is to have none."""
        if self.title:
            figure.suptitle(text, fontsize=pt(10))


def _place_of(ax: Axes) -> SubplotSpec:
    """Where an axis is in its figure. Raises InputError for one that is none of `subplots`."""
    place = ax.get_subplotspec()
    if place is None:
        raise InputError("ax: expected one of figure.subplots(), whose place can be divided into panels")
    return place


def _in_place_of(ax: Axes) -> Figure:
    """A part of an axis's figure, in its place; the axis stays for a title, without ticks and frame."""
    ax.set_axis_off()
    figure: Any = ax.figure
    figure.set_layout_engine("constrained")  # legends stand beside panels
    part: Figure = figure.add_subfigure(_place_of(ax))
    return part


SCREEN = Look()
STYLES: dict[str, Look] = {
    "paper": Look(width=84 / 25.4, points=8.0, title=False),  # a column of two; the caption is its title
    "slide": Look(width=254 / 25.4, points=16.0),  # PowerPoint's 4:3 page
}
_FIXED: dict[str, Any] = {  # of Matplotlib
    "svg.hashsalt": "costsim",
    "svg.fonttype": "none",
    "text.parse_math": False,  # names are names, whatever signs they hold
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titley": 1.0,  # where Matplotlib would find it to belong, for no axis is above; finding it takes time
}


def settings(look: Look) -> Any:
    """Matplotlib's settings for a look."""
    return {**_FIXED, "font.size": look.points}


def pt(points: float) -> float:
    """A size in a figure of letters of 9 points, in one of those that are drawn now."""
    return float(points * mpl.rcParams["font.size"] / POINTS)


def inches(width: str) -> float:
    """A length such as 84mm, 8.4cm, 3.3in or 240pt in inches. Raises InputError."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?) ?(mm|cm|in|pt)", width)
    length = float(match[1]) * _MM[match[2]] if match else 0.0
    if not LEAST_MM <= length <= MOST_MM:
        expected = f"expected a length from {LEAST_MM:g}mm to {MOST_MM / 1000:g}m with its unit"
        raise InputError(f"--width: {expected}, such as 84mm, 17.4cm, 3.3in or 240pt, got {one_line(width)!r}")
    return length / 25.4


def look_of(
    style: str | None = None,
    width: str | None = None,
    font_size: float | None = None,
    title: bool | None = None,
    ax: Axes | None = None,
) -> Look:
    """The look of one of STYLES, by default of a screen, with what is said beside it. Raises InputError.

    `ax`: draw in its place, as wide as that is; without a title unless one is asked for.
    """
    if style is not None and style not in STYLES:
        expected = f"expected one of {', '.join(STYLES)}, got {one_line(style)!r}"
        raise InputError(f"--style: {expected}{nearest(style, STYLES)}")
    look = SCREEN if style is None else STYLES[style]
    if width is not None:
        look = look._replace(width=inches(width))
    if font_size is not None:
        if not LEAST_POINTS <= font_size <= MOST_POINTS:
            expected = f"expected points from {LEAST_POINTS:g} to {MOST_POINTS:g}"
            raise InputError(f"--font-size: {expected}, got {font_size:g}")
        look = look._replace(points=float(font_size))
    if ax is not None:
        if width is not None:
            raise InputError("--width: a figure in the place of an ax is as wide as that; leave it out")
        figure: Any = ax.figure
        place = _place_of(ax).get_position(figure)
        look = look._replace(ax=ax, width=float(place.width * figure.get_figwidth()), title=False)
    return look if title is None else look._replace(title=title)
