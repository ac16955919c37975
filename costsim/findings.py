"""What searches, reconciliations and surveys of recipes find, in Python: tables, policies, figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import pandas as pd

from costsim.arguments import Looks, speaks
from costsim.policy.policy import Policy
from costsim.results.records import Record
from costsim.tables import styles
from costsim.tables.table import flat

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from costsim.results.survey import Survey as Surveyed
    from costsim.search.found import Found
    from costsim.search.reconcile import Reconciliation as Reconciled
    from costsim.search.sensitivity import Sensitivity


def columns(record: Record) -> dict[str, Any]:
    """A record as a row of a table: a device's entries as columns of their own, exact integers as such."""
    texts = ("policy", "recipe", "case", "here", "assumption", "setup", "set", "tensor", "role", "grade", "source")
    return {
        name: int(value) if isinstance(value, str) and value.isdecimal() and name not in texts else value
        for name, value in flat(record).items()
        if not isinstance(value, (dict, list))
    }


@speaks
@dataclass(frozen=True, eq=False)
class Search:
    """What a search found."""

    found: Found
    losses: Sensitivity | None

    @property
    def table(self) -> pd.DataFrame:
        """A row per policy that is shown: loss, costs and reductions, and the format of each group."""
        from costsim.tables.search import courses, record

        rows = [
            {**columns(record(self.found, self.found.name(point), point)), **courses(self.found, point)}
            for point in self.found.shown
        ]
        return pd.DataFrame(rows)

    @property
    def policies(self) -> list[Policy]:
        """The policies of the table, for `Workload.run`."""
        return [self.found.policy(point) for point in self.found.shown]

    def plot(self, **look: Unpack[Looks]) -> Figure:
        """The front, beside the policies that give all groups one format; `look` as `results.plot` has it."""
        from costsim.plots.findings import draw_front
        from costsim.plots.look import look_of

        return draw_front(self.found, look_of(**look))

    def save(self, folder: str | Path) -> list[Path]:
        """Write the policies, the table in all styles and the figure to a folder. Raises InputError."""
        from costsim.plots.findings import save_search

        return save_search(self.found, self.losses, Path(folder))

    def __repr__(self) -> str:
        return self.to_text()

    def to_text(self) -> str:
        """What `costsim search` prints."""
        from costsim.tables.search import document as of_search

        return styles.render(of_search(self.found), "table")


@speaks
@dataclass(frozen=True, eq=False)
class Reconciliation:
    """Which combinations of assumptions give the figures that a paper states."""

    found: Reconciled

    @property
    def table(self) -> pd.DataFrame:
        """A row per hit that is listed: what it departs from, its ratios, its error; no row if there is none."""
        from costsim.tables.reconcile import records

        return pd.DataFrame(records(self.found)).iloc[: len(self.found.listed)]

    @property
    def by_chance(self) -> tuple[float, float]:
        """Hits that chance would give, roughly: if each figure were right as often as by itself; if log-uniform."""
        return self.found.by_rates, self.found.by_ranges

    def plot(self, **look: Unpack[Looks]) -> Figure:
        """Where all combinations come to, and what the hits depart from."""
        from costsim.plots.findings import draw_reconciliation
        from costsim.plots.look import look_of

        return draw_reconciliation(self.found, look_of(**look))

    def save(self, out: str | Path) -> list[Path]:
        """Write the figure or the table to a file, by its ending, or all of them to a folder. Raises InputError."""
        from costsim.plots.findings import save_reconciliation

        return save_reconciliation(self.found, str(out))

    def __repr__(self) -> str:
        return self.to_text()

    def to_text(self) -> str:
        """What `costsim reconcile` prints."""
        from costsim.tables.reconcile import document

        return styles.render(document(self.found), "table")


@speaks
@dataclass(frozen=True, eq=False)
class Survey:
    """Recipes side by side on a workload."""

    found: Surveyed

    @property
    def table(self) -> pd.DataFrame:
        """A row per recipe, the baseline first: costs, reductions, signal to noise, grade and source."""
        from costsim.tables.survey import records

        return pd.DataFrame([columns(record) for record in records(self.found)])

    @property
    def left_out(self) -> dict[str, str]:
        """Recipes that do not fit the workload, and why."""
        return self.found.left_out

    def plot(self, **look: Unpack[Looks]) -> Figure:
        """What recipes save, and what they do to the gradients."""
        from costsim.plots.findings import draw_survey
        from costsim.plots.look import look_of

        return draw_survey(self.found, look_of(**look))

    def save(self, out: str | Path) -> list[Path]:
        """Write the figure or the table to a file, by its ending, or all of them to a folder. Raises InputError."""
        from costsim.plots.findings import save_survey

        return save_survey(self.found, str(out))

    def __repr__(self) -> str:
        return self.to_text()

    def to_text(self) -> str:
        """What `costsim recipes --on WORKLOAD` prints."""
        from costsim.tables.survey import document

        return styles.render(document(self.found), "table")
