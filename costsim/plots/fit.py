"""Texts of a figure made to fit: wrapped, turned or thinned out until all are inside and none lies on another."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter

from costsim.errors import InputError
from costsim.plots.style import NAMES
from costsim.tables.table import wrap

_ROUNDS = 4  # what wraps takes room from what is beside it, and so on
_TALLER = 4  # times that a figure is made taller, where legends and titles leave nothing for the rest
_EDGE = 4.0  # pixels that stay free at a figure's edges
_APART = 2.0  # pixels between neighbours on an axis
_LEAST = 6  # characters of a line


def fit(figure: Figure) -> Figure:
    """Lay a figure out, with all texts inside it and beside each other; the same figure.

    Raises InputError if it is too narrow for its letters.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="constrained_layout not applied")
        warnings.filterwarnings("ignore", message="Glyph")  # of names: viewers have fonts of their own
        for _ in range(_TALLER):
            try:
                for _ in range(_ROUNDS):
                    _lay_out(figure)
                    if not any([change for axes in _all_axes(figure) for change in _axes(axes)] + [*_whole(figure)]):
                        break
            except UserWarning:  # nothing is left for some panel
                figure.set_figheight(1.25 * figure.get_figheight())
            else:
                return figure
    size = f"{25.4 * figure.get_figwidth():.0f}mm"
    raise InputError(f"--width: {size} is too narrow for this figure; make it wider, or letters smaller")


def _lay_out(figure: Figure) -> None:
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)


def _all_axes(figure: Figure) -> Iterator[Axes]:
    for axes in figure.axes:
        if axes.axison:
            yield axes
            yield from axes.child_axes  # type: ignore[misc]


def _whole(figure: Figure) -> Iterator[bool]:
    """The figure's own title, label and legends."""
    width = figure.bbox.width - 2 * _EDGE
    for text in (figure._suptitle, figure._supxlabel):  # type: ignore[attr-defined]
        if text is not None:
            yield _wrapped(text, width)
    for legend in figure.legends:
        beside = len({_side(each) for each in figure.legends if _side(each)[0] == _side(legend)[0]}) > 1
        yield _legend(legend, width / 2 - _EDGE if beside else width)


def _side(legend: Legend) -> tuple[str, Any]:
    """Where a legend is: above or below, and left, right or in the middle."""
    return str(legend._outside_loc), legend._loc  # type: ignore[attr-defined]


def _axes(axes: Axes) -> Iterator[bool]:
    """What belongs to one pair of axes."""
    box, figure = axes.get_window_extent(), axes.get_figure().bbox  # type: ignore[union-attr]
    for title in (axes.title, axes._right_title):  # type: ignore[attr-defined]
        yield _wrapped(title, box.width)
    yield _wrapped(axes._left_title, figure.width - box.x0 - _EDGE)  # type: ignore[attr-defined]
    yield _wrapped(axes.xaxis.label, box.width)
    yield _wrapped(axes.yaxis.label, box.height)
    yield _ticks(axes.xaxis)
    for name in _names(axes.yaxis):
        yield _wrapped(name, NAMES * figure.width)
    for text in axes.texts:
        yield _wrapped(text, max(box.width, figure.width - box.x0) - _EDGE)
    legend = axes.get_legend()
    if legend is not None:
        yield _legend(legend, figure.width - max(box.x0, 0) - _EDGE)


def _wrapped(text: Text, room: float) -> bool:
    """Wrap a text that is longer than so many pixels, along its lines; whether it had to be."""
    words = text.get_text()
    if not words or not text.get_visible() or (length := _length(text)) <= room:
        return False
    longest = max(map(len, words.split("\n")))
    most = max(_LEAST, min(int(longest * room / length), longest - 1))
    while True:
        text.set_text("\n".join(wrap(line, most) for line in words.split("\n")))
        if most == _LEAST or _length(text) <= room:
            return text.get_text() != words
        most -= 1


def _length(text: Text) -> float:
    """Pixels of the longest line."""
    box = text.get_window_extent()
    return float(box.height if text.get_rotation() == 90 else box.width)


def _legend(legend: Legend, room: float) -> bool:
    """Wrap texts of a legend that has one column and is wider than so many pixels."""
    if legend.get_window_extent().width <= room:
        return False
    beside = 5 * float(legend.get_texts()[0].get_fontsize()) if legend.get_texts() else 0.0  # a handle and spaces
    return any([_wrapped(text, room - beside) for text in legend.get_texts()] + [_wrapped(legend.get_title(), room)])


def _names(axis: Axis) -> list[Text]:
    """The labels of ticks that are names, not numbers."""
    if not isinstance(axis.get_major_formatter(), FixedFormatter):
        return []
    return [label for label in axis.get_ticklabels() if label.get_visible()]


def _ticks(axis: Axis) -> bool:
    """Turn the names of a horizontal axis that lie on each other, or leave out every other number."""
    low, high = sorted(axis.get_view_interval())
    ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    shown = [tick for tick in ticks if tick.label1.get_visible() and tick.label1.get_text()]
    if len(shown) < 2 or not _touch([tick.label1 for tick in shown]):
        return False
    if all(_is_number(tick.label1.get_text()) for tick in shown):
        fixed = isinstance(axis.get_major_formatter(), FixedFormatter)
        middle = next((i for i, tick in enumerate(shown) if tick.get_loc() == 1), 0)  # of an axis of ratios
        kept = shown[middle % 2 :: 2]
        axis.set_ticks(
            [tick.get_loc() for tick in kept], labels=[tick.label1.get_text() for tick in kept] if fixed else None
        )
        return True
    if shown[0].label1.get_rotation() == 90:
        return False
    names = [tick.label1.get_text().replace("\n", "") for tick in shown]
    axis.set_ticks([tick.get_loc() for tick in shown], labels=names)
    axis.set_tick_params(rotation=90)
    return True


def _touch(labels: Sequence[Text]) -> bool:
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: float(box.x0))
    return any(left.x1 + _APART > right.x0 for left, right in pairwise(boxes))


def _is_number(text: str) -> bool:
    try:
        float(text.replace("\u2212", "-"))
    except ValueError:
        return False
    return True
