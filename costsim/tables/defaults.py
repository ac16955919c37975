"""Defaults in force, as a table under a run."""

from typing import Any

from costsim.results.defaults import absent, defaults
from costsim.run.job import Job
from costsim.tables.document import Block, Drawn, Heading, Notes
from costsim.tables.table import Column, Table

CAPTION = "Fields that the workload leaves out, and the defaults in force."


def spelled(value: Any) -> str:
    """A value as a workload has it."""
    if isinstance(value, list):
        return f"[{', '.join(map(spelled, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {spelled(item)}' for key, item in value.items())}}}"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def nothing(names: list[str]) -> list[str]:
    """The line that names options that are absent, if there are any."""
    return [f"not said, and so without: {', '.join(names)}"] if names else []


def blocks(job: Job) -> list[Block]:
    """The table, and under it the options that are absent."""
    listed = defaults(job)
    rows = [[r["field"], spelled(r["value"]), r["says"]] for r in listed if r["value"] is not None]
    columns = [Column("field", "left"), Column("in force", "left"), Column("what it says", "left")]
    return [Heading(CAPTION), Drawn(Table(columns, rows)), Notes(nothing(absent(listed)))]
