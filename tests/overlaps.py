"""What is wrong with the texts of a figure, by Matplotlib's own extents: outside the canvas, or on each other."""

from itertools import combinations

from matplotlib.text import Text

EDGE = 0.5  # pixels that a text may stick out: extents are of whole letters, with their empty edges
TOUCH = 1.5  # pixels that boxes may share, for the same reason


def texts(figure):
    """Every text that is drawn, with its box."""
    figure.draw_without_rendering()
    found = []
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and _is_drawn(text, figure):
            found.append((text.get_text(), text.get_window_extent()))
    return found


def _is_drawn(text, figure):
    """Whether a text is one of the figure's: axes that are off have texts too, and ticks out of view."""
    for axes in figure.axes:
        for each in (axes, *axes.child_axes):
            if text in each.findobj(Text):
                if not (each.axison and each.get_visible() and axes.axison and axes.get_visible()):
                    return text in each.texts
                return all(
                    text not in (tick.label1, tick.label2) or _in_view(axis, tick)
                    for axis in (each.xaxis, each.yaxis)
                    for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
                )
    return True


def _in_view(axis, tick):
    low, high = sorted(axis.get_view_interval())
    return low - 1e-9 * abs(low) <= tick.get_loc() <= high + 1e-9 * abs(high)


def faults(figure):
    """The texts that stick out of the figure, and those that lie on each other."""
    whole, drawn = figure.bbox, texts(figure)
    found = [
        f"outside: {text!r}"
        for text, box in drawn
        if min(box.x0, box.y0) < -EDGE or box.x1 > whole.x1 + EDGE or box.y1 > whole.y1 + EDGE
    ]
    for (text, a), (other, b) in combinations(drawn, 2):
        across, along = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        if across > TOUCH and along > TOUCH:
            found.append(f"on each other: {text!r} and {other!r}")
    return found
