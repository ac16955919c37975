"""Figures of what searches, reconciliations, surveys and splits find, and the files that have their tables beside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from costsim import names
from costsim.inputs import files
from costsim.plots import drawn, front, reconcile, splits, survey, write
from costsim.plots.look import SCREEN, Look
from costsim.results.survey import Survey
from costsim.run.job import Job
from costsim.search.found import MEASURED, Found, policy_text
from costsim.search.reconcile import Reconciliation
from costsim.search.sensitivity import Sensitivity, csv_text
from costsim.search.splits import Split
from costsim.tables import styles
from costsim.tables.document import Document
from costsim.tables.reconcile import document as reconcile_document
from costsim.tables.search import document as search_document
from costsim.tables.survey import document as survey_document


def draw_front(found: Found, look: Look = SCREEN) -> Figure:
    """Draw what a search found."""
    return drawn(partial(front.front, found), look)


def save_search(found: Found, table: Sensitivity | None, folder: Path, look: Look = SCREEN) -> list[Path]:
    """Write what a search found to a folder, and return the files.

    The table in all styles, the policies that it has, the figure of a front, and losses if they were measured. Raises
    InputError if that cannot be.
    """
    paths = styles.save(search_document(found), str(folder))
    for point in found.shown:
        text = policy_text(found, point, folder)
        paths.append(files.write(folder / f"{found.name(point)}.yaml", text.encode()))
    workload = found.problem.job.workload
    if table is not None and found.asked.sensitivity in MEASURED:
        paths.append(files.write(folder / f"{workload}-sensitivity.csv", csv_text(table).encode()))
    if not found.single:
        paths.append(write(partial(front.front, found), folder / f"{workload}-search.svg", look))
    return paths


def draw_survey(of: Survey, look: Look = SCREEN) -> Figure:
    """Draw recipes side by side."""
    return drawn(partial(survey.survey, of), look)


def draw_reconciliation(of: Reconciliation, look: Look = SCREEN) -> Figure:
    """Draw where combinations of assumptions come to."""
    return drawn(partial(reconcile.reconcile, of), look)


def save_survey(of: Survey, out: str, look: Look = SCREEN) -> list[Path]:
    """Write recipes side by side, as `save` does. Raises InputError if that cannot be."""
    return save(survey_document(of), partial(survey.survey, of), out, look)


def save_reconciliation(of: Reconciliation, out: str, look: Look = SCREEN) -> list[Path]:
    """Write a reconciliation, as `save` does. Raises InputError if that cannot be."""
    return save(reconcile_document(of), partial(reconcile.reconcile, of), out, look)


def save_splits(
    job: Job, found: Sequence[Split], devices: int, document: Document, out: str, look: Look = SCREEN
) -> list[Path]:
    """Write the splits of a job over so many devices, of which `document` is the table, as `save` does.

    Raises InputError if that cannot be.
    """
    return save(document, partial(splits.splits, job, found, devices), out, look)


def save(document: Document, make: Callable[..., Figure], out: str, look: Look) -> list[Path]:
    """Write the figure (.svg, .pdf, .png), the table in the style of an ending, or to a folder all of them."""
    if out.lower().endswith(names.FIGURE_ENDINGS):
        return [write(make, Path(out), look)]
    paths = styles.save(document, out)
    return paths if styles.style_of(out) else [*paths, write(make, Path(out) / f"{document.stem}.svg", look)]
