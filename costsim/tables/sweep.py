"""A sweep as a document: the rows of each point below each other, the swept fields as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from costsim.results.records import Record, convention, full_records
from costsim.run.simulate import Result
from costsim.run.sweep import Point, Swept, value
from costsim.run.sweep import convention as convention_line
from costsim.tables import warnings
from costsim.tables.document import Block, Document, Drawn, Notes
from costsim.tables.run import remarks, stem, table_of
from costsim.tables.table import Column, Rows, Table


def records(swept: Swept, by: str) -> list[Record]:
    """The rows of an export, each with its point's fields after the columns of names."""
    return [row for point, result in swept for row in _rows(point, result, by)]


def _rows(point: Point, result: Result, by: str) -> list[Record]:
    names = ["policy"] if by in ("policy", "reduction") else ["policy", by]
    return [{**{name: row[name] for name in names}, **values(point), **row} for row in full_records(result, by)]


def values(point: Point) -> Record:
    """A point's fields as exports have them."""
    return {name: value(text) for name, text in point.items()}


def shared(records: Sequence[Mapping[str, Any]]) -> Record:
    """The entries that all records have; the others differ from point to point, and are in its rows."""
    first, *others = records
    return {name: entry for name, entry in first.items() if all(other.get(name) == entry for other in others)}


def _fields(swept: Swept) -> str:
    return ", ".join(swept[0][0])


def _drawn(swept: Swept, by: str, paper: bool = False) -> tuple[Table, list[str]]:
    """The tables of all points as one, and each remark of the points once; goes through the points once."""
    tables, where, lines = list[Table](), list[Point](), dict[str, None]()
    for point, result in swept:
        tables.append(table_of(result, by, paper))
        where.append(point)
        lines |= dict.fromkeys(remarks(result, by))
    if swept[0][1].job.hardware and by != "reduction":
        lines["times and energies of a sweep: --by reduction, or --format csv"] = None
    return join(tables, where), list(lines)


def _blocks(swept: Swept, by: str, paper: bool = False) -> list[Block]:
    table, lines = _drawn(swept, by, paper)
    return [Drawn(table), Notes([f"swept: {_fields(swept)}", convention_line(swept), *lines])]


def _screen(swept: Swept, by: str) -> list[list[Block]]:
    return [[block] for block in _blocks(swept, by)]


def _paper(swept: Swept, by: str) -> list[Table]:
    workload = swept[0][1].job.workload
    title = "Reductions" if by == "reduction" else "Arithmetic and DRAM traffic"
    over = "" if by in ("policy", "reduction") else f" by {by}"
    table, lines = _drawn(swept, by, paper=True)
    label = f"tab:costsim-{workload}-{by}-sweep"
    caption = f"{title}{over} of {workload} over {_fields(swept)} ({convention_line(swept)})."
    return [replace(table, label=label, caption=caption, notes=lines)]


def _data(swept: Swept, by: str) -> Mapping[str, Any]:
    rows, conventions, lines = list[Record](), list[Record](), dict[str, None]()
    for point, result in swept:
        rows += _rows(point, result, by)
        conventions.append(convention(result))
        lines |= dict.fromkeys(warnings.of_run(result, "reduction"))
    job = swept[0][1].job
    return {
        "workload": job.workload,
        "baseline": job.convention.baseline,
        "convention": shared(conventions),
        "swept": list(swept[0][0]),
        "warnings": list(lines),
        "rows": rows,
        "published": [],  # those are of the workload as it is
    }


def document(swept: Swept, by: str = "policy") -> Document:
    """A sweep; rows are one of `names.BY`."""
    return Document(
        stem=f"{stem(swept[0][1], by)}-sweep",
        screen=partial(_screen, swept, by),
        page=partial(_blocks, swept, by, paper=True),
        paper=partial(_paper, swept, by),
        data=partial(_data, swept, by),
        records=partial(records, swept, by),
    )


def without(table: Table, name: str) -> Table:
    """The table without a column, if it has it."""
    left = [i for i, column in enumerate(table.columns) if column.name != name]
    gone = len(table.columns) - len(left)

    def cut(rows: Rows) -> list[list[str]]:
        return [[row[i] for i in left] for row in rows]

    return replace(
        table,
        columns=[table.columns[i] for i in left],
        rows=cut(table.rows),
        shown=None if table.shown is None else cut(table.shown),
        merged=max(0, table.merged - gone),
    )


def columns(point: Point) -> list[Column]:
    """A column for each field of a point."""
    return [Column(name.replace(".", ".\n"), full=name) for name in point]


def join(tables: Sequence[Table], where: Sequence[Point]) -> Table:
    """Tables of the same columns as one, with the fields of each one's point in columns after those of names.

    The setup, which no field changes, is left out.
    """
    tables = [without(table, "setup") for table in tables]
    first = tables[0]
    names = next((i for i, column in enumerate(first.columns) if column.align != "left"), len(first.columns))
    fields = columns(where[0])

    def with_point(rows: Rows, point: Point) -> list[list[str]]:
        return [[*row[:names], *point.values(), *row[names:]] for row in rows]

    pairs = list(zip(tables, where, strict=True))
    return replace(
        first,
        columns=[*first.columns[:names], *fields, *first.columns[names:]],
        rows=[row for table, point in pairs for row in with_point(table.rows, point)],
        shown=[row for table, point in pairs for row in with_point(table.shown or table.rows, point)],
        merged=first.merged + len(fields) if first.merged else 0,
    )
