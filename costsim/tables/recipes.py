"""What the sources of recipes state beside what we count, as a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from costsim.results.records import Record
from costsim.run.job import Job
from costsim.tables.cells import signed
from costsim.tables.document import Block, Document, Drawn, Heading, Notes, Source
from costsim.tables.table import Column, Table, composed, wrap

_WIDE = 34  # columns of a quantity on a screen


def _value(record: Record, key: str) -> str:
    value = record[key]
    if value is None:
        return "n/a"
    text = f"{value:.4g}" if key == "stated" else f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    return text + ("x" if record["unit"] == "x" else "")


def _of(record: Record) -> str:
    """What a figure is of, with its unit, the workload and what it is relative to."""
    unit = f", {record['unit']}" if record["unit"] not in ("", "x") else ""
    where = f", {record['workload']}" if record["workload"] else ""
    where += f" with {' '.join(record['set'])}" if record["set"] else ""
    return f"{record['of']}{f' than {name}' if (name := record['baseline']) else ''}{unit}{where}"


def _cells(record: Record) -> list[str]:
    return [_value(record, "stated"), _value(record, "ours"), signed(record["difference"]) or "0", record["grade"]]


_NUMBERS = [Column("stated"), Column("ours"), Column("%"), Column("grade", "left")]


def _table(records: Sequence[Record]) -> Table:
    """The figures of one recipe."""
    rows = [[_of(record), *_cells(record)] for record in records]
    shown = [[wrap(row[0], _WIDE, "  "), *row[1:]] for row in rows]
    return Table([Column("of", "left"), *_NUMBERS], rows, shown)


def blocks(records: Sequence[Record]) -> list[list[Block]]:
    """The figures of each recipe: a table, their sources, and why ours differ."""
    by_recipe: dict[str, list[Record]] = {}
    for record in records:
        by_recipe.setdefault(record["recipe"], []).append(record)
    groups: list[list[Block]] = []
    for recipe, figures in by_recipe.items():
        sources = dict.fromkeys(record["source"] for record in figures)
        notes = dict.fromkeys(record["note"] for record in figures if record["note"])
        groups.append(
            [
                Heading(f"{recipe}: what its source states, and what is counted here"),
                Drawn(_table(figures)),
                Source(f"source: {'; '.join(sources)}"),
                Notes(list(notes)),
            ]
        )
    return groups


def of_recipes(job: Job, command: Literal["run", "memory"]) -> list[Record]:
    """The figures of a job's policies that a command shows under its table."""
    if not any(policy.file.published for policy in job.policies):
        return []
    from costsim.results.recipes import of_job  # most tables do without

    return of_job(job, command)


def beside(records: Sequence[Record]) -> list[Block]:
    """The figures of recipes under another table; nothing if there are none."""
    if not records:
        return []
    rows = [[record["recipe"], _of(record), *_cells(record)] for record in records]
    shown = [[composed(row[0]), wrap(row[1], _WIDE, "  "), *row[2:]] for row in rows]
    table = Table([Column("recipe", "left"), Column("of", "left"), *_NUMBERS], rows, shown, merged=1)
    names = " ".join(dict.fromkeys(record["recipe"] for record in records))
    return [
        Heading("what the sources of these recipes state"),
        Drawn(table),
        Notes([f"costsim recipes {names}: the sources, and why ours differ"]),
    ]


def _page(records: Sequence[Record]) -> list[Block]:
    """All figures in one table, and below it why ours differ."""
    columns = [Column("recipe", "left"), Column("of", "left"), *_NUMBERS, Column("source", "left")]
    rows = [[record["recipe"], _of(record), *_cells(record), record["source"]] for record in records]
    differ = [f"{record['recipe']}, {_of(record)}: {record['note']}" for record in records if record["note"]]
    return [Drawn(Table(columns, rows)), Notes(differ)]


def _paper(records: Sequence[Record]) -> list[Table]:
    columns = [Column("recipe", "left"), Column("of", "left"), *_NUMBERS]
    rows = [[record["recipe"], _of(record), *_cells(record)] for record in records]
    caption = "What the sources of recipes state that they cost, and what is counted here."
    return [Table(columns, rows, merged=1, label="tab:costsim-recipes", caption=caption)]


def _data(records: Sequence[Record]) -> Mapping[str, Any]:
    return {"rows": list(records)}


def document(records: Sequence[Record]) -> Document:
    """Figures of recipes, as `results.recipes.figure_records` has them."""
    return Document(
        stem="recipes",
        screen=lambda: blocks(records),
        page=lambda: _page(records),
        paper=lambda: _paper(records),
        data=lambda: _data(records),
        records=lambda: [{**record, "set": " ".join(record["set"])} for record in records],
    )
