"""Figures of results, drawn with Matplotlib (imported here only): the same bytes for the same input."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from costsim import names
from costsim.errors import InputError, nearest
from costsim.inputs import files
from costsim.plots import (
    breakdown,
    comparison,
    front,
    memory,
    reconcile,
    roofline,
    schedule,
    sensitivity,
    survey,
    timeline,
)
from costsim.plots.style import SETTINGS, drawable
from costsim.results.survey import Survey
from costsim.run.simulate import Result
from costsim.search.found import MEASURED, Found, policy_text
from costsim.search.reconcile import Reconciliation
from costsim.search.sensitivity import Sensitivity, csv_text
from costsim.tables import styles
from costsim.tables.document import Document
from costsim.tables.reconcile import document as reconcile_document
from costsim.tables.search import document as search_document
from costsim.tables.survey import document as survey_document
from costsim.tables.table import wrap

_NO_DATE = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}  # by style of file

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


def draw(result: Result, kind: str, **options: Any) -> Figure:
    """Draw one of PLOTS, which takes the options. Raises InputError for another kind, and as the plot does."""
    if kind not in PLOTS:
        raise InputError(f"unknown figure {kind!r}{nearest(kind, PLOTS)}")
    with mpl.rc_context(SETTINGS):
        return PLOTS[kind](drawable(result), **options)


def save(result: Result, kind: str, path: Path, **options: Any) -> Path:
    """Draw one of PLOTS, which takes the options, into a file. Raises InputError as the plot and `write` do."""
    return write(lambda: draw(result, kind, **options), path)


def draw_front(found: Found) -> Figure:
    """Draw what a search found."""
    with mpl.rc_context(SETTINGS):
        return front.front(found)


def save_search(found: Found, table: Sensitivity | None, folder: Path) -> list[Path]:
    """Write what a search found to a folder, and return the files.

    The table in all styles, the policies that it has, the figure of a front, and losses if they were measured. Raises
    InputError if that cannot be.
    """
    paths = styles.save(search_document(found), str(folder))
    for point in found.shown:
        text = policy_text(found, point, folder)
        paths.append(files.write(folder / f"{found.name(point)}.yaml", text.encode()))
    workload = found.problem.job.workload
    if table is not None and found.asked.sensitivity == MEASURED:
        paths.append(files.write(folder / f"{workload}-sensitivity.csv", csv_text(table).encode()))
    if found.gap is None:
        paths.append(write(lambda: front.front(found), folder / f"{workload}-search.svg"))
    return paths


def draw_survey(of: Survey) -> Figure:
    """Draw recipes side by side."""
    with mpl.rc_context(SETTINGS):
        return survey.survey(of)


def draw_reconciliation(of: Reconciliation) -> Figure:
    """Draw where combinations of assumptions come to."""
    with mpl.rc_context(SETTINGS):
        return reconcile.reconcile(of)


def save_survey(of: Survey, out: str) -> list[Path]:
    """Write recipes side by side, as `_save` does. Raises InputError if that cannot be."""
    return _save(survey_document(of), lambda: survey.survey(of), out)


def save_reconciliation(of: Reconciliation, out: str) -> list[Path]:
    """Write a reconciliation, as `_save` does. Raises InputError if that cannot be."""
    return _save(reconcile_document(of), lambda: reconcile.reconcile(of), out)


def _save(document: Document, make: Callable[[], Figure], out: str) -> list[Path]:
    """Write the figure (.svg, .pdf, .png), the table in the style of an ending, or to a folder all of them."""
    if is_figure(out):
        return [write(make, Path(out))]
    paths = styles.save(document, out)
    return paths if styles.style_of(out) else [*paths, write(make, Path(out) / f"{document.stem}.svg")]


def is_figure(out: str) -> bool:
    """Whether a name is that of a figure, by its ending."""
    return out.lower().endswith(names.FIGURE_ENDINGS)


def write(make: Callable[[], Figure], path: Path) -> Path:
    """Draw a figure into an .svg, .pdf or .png file, whole or not at all.

    Raises InputError for another ending, before anything is drawn, and as `make` does.
    """
    style = path.suffix.removeprefix(".").lower()
    if style not in _NO_DATE:
        hint = " (.json is what plot trace writes)" if style == "json" else ""
        raise InputError(f"--out {path}: expected a name that ends in .svg, .pdf or .png{hint}")
    with mpl.rc_context(SETTINGS):
        figure = make()
        data = io.BytesIO()
        figure.savefig(data, format=style, dpi=150, metadata=_NO_DATE[style])
    return files.write(path, data.getvalue())


def svg(result: Result, kind: str, **options: Any) -> str:
    """Draw one of PLOTS as the text of an SVG file, without minor ticks. Raises InputError as `draw` does."""
    with mpl.rc_context(SETTINGS):
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
