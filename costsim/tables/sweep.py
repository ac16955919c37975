"""A sweep as a document: the rows of each point below each other, the swept fields as columns.

It is made of parts, one a point: plain data, which other processes can make and a file can keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from costsim.policy.policy import labels_of
from costsim.results.records import Record, convention, full_records, records
from costsim.run.simulate import Result
from costsim.run.spread import HERE, Workers
from costsim.run.sweep import Point, Sweep, value
from costsim.run.sweep import convention as convention_line
from costsim.run.tables import each
from costsim.tables import warnings
from costsim.tables.document import Block, Document, Drawn, Notes
from costsim.tables.run import drawn, remarks, stem
from costsim.tables.table import Column, Rows, Table

DATA = ("json", "csv", "excel")  # styles that have more of a point than tables do


def part(by: str, data: bool, phases: bool, result: Result) -> Record:
    """What a document needs of a point: rows, remarks, and for `data` what exports have beside, its peak memory too.

    `phases`: remarks list the levels of phases, which are not the same at all points if levels are swept.
    """
    rows = (full_records if data else records)(result, by)
    part: Record = {"rows": rows, "lines": remarks(result, by, phases)}
    if data:
        part |= {"convention": convention(result), "warnings": warnings.of_run(result, "reduction")}
    return part


def is_data(style: str | None) -> bool:
    """Whether a style has more of a point than tables do; None, all styles, has."""
    return style is None or style in DATA


def maker(sweep: Sweep, by: str, style: str | None) -> Callable[[Result], Record]:
    """The function that makes a part of a result, for a style; None: for all styles."""
    return partial(part, by, is_data(style), not sweep.levels)


def parts(sweep: Sweep, by: str, style: str | None, workers: Workers = HERE, after: int = 0) -> Iterator[Record]:
    """The parts of a sweep but for so many of the first. Raises InputError."""
    return each(sweep, by, maker(sweep, by, style), is_data(style) or by == "reduction", workers, after)


@dataclass(frozen=True, slots=True)
class Swept:
    """A sweep, what rows are, and its parts."""

    sweep: Sweep
    by: str
    parts: Sequence[Record]

    @property
    def fields(self) -> str:
        """The names of what is swept."""
        return ", ".join(self.sweep.where[0])

    def of_all(self, name: str) -> list[str]:
        """The texts that parts have under a name, each once."""
        return list(dict.fromkeys(text for part in self.parts for text in part[name]))


def rows(swept: Swept) -> list[Record]:
    """The rows of an export, each with its point's fields after the columns of names."""
    names = ["policy"] if swept.by in ("policy", "reduction") else ["policy", swept.by]
    return [
        {**{name: row[name] for name in names}, **values(point), **row}
        for point, part in zip(swept.sweep.where, swept.parts, strict=True)
        for row in part["rows"]
    ]


def values(point: Point) -> Record:
    """A point's fields as exports have them."""
    return {name: value(text) for name, text in point.items()}


def shared(records: Sequence[Mapping[str, Any]]) -> Record:
    """The entries that all records have; the others differ from point to point, and are in its rows."""
    first, *others = records
    return {name: entry for name, entry in first.items() if all(other.get(name) == entry for other in others)}


def _table(swept: Swept, paper: bool = False) -> Table:
    """The tables of all points as one."""
    tables = [drawn(swept.sweep.first, swept.by, part["rows"], paper) for part in swept.parts]
    return join(tables, swept.sweep.where)


def _lines(swept: Swept) -> list[str]:
    """Each remark of the points once."""
    more = bool(swept.sweep.first.hardware) and swept.by != "reduction"
    levels = ["a swept level has its value in all phases of a policy"] * swept.sweep.levels
    return levels + swept.of_all("lines") + ["times and energies of a sweep: --by reduction, or --format csv"] * more


def _blocks(swept: Swept, paper: bool = False) -> list[Block]:
    notes = [f"swept: {swept.fields}", convention_line(swept.sweep), *_lines(swept)]
    return [Drawn(_table(swept, paper)), Notes(notes)]


def _screen(swept: Swept) -> list[list[Block]]:
    return [[block] for block in _blocks(swept)]


def _paper(swept: Swept) -> list[Table]:
    workload, by = swept.sweep.first.workload, swept.by
    title = "Reductions" if by == "reduction" else "Arithmetic and DRAM traffic"
    over = "" if by in ("policy", "reduction") else f" by {by}"
    label = f"tab:costsim-{workload}-{by}-sweep"
    caption = f"{title}{over} of {workload} over {swept.fields}."
    return [
        replace(
            _table(swept, paper=True).labelled(labels_of((*swept.sweep.first.policies, swept.sweep.first.baseline))),
            label=label,
            caption=caption,
            notes=[convention_line(swept.sweep), *_lines(swept)],
        )
    ]


def _data(swept: Swept) -> Mapping[str, Any]:
    job = swept.sweep.first
    return {
        "workload": job.workload,
        "baseline": job.convention.baseline,
        "convention": shared([part["convention"] for part in swept.parts]),
        "swept": list(swept.sweep.where[0]),
        "warnings": swept.of_all("warnings"),
        "rows": rows(swept),
        "published": [],  # those are of the workload as it is
    }


def document(sweep: Sweep, by: str, parts: Sequence[Record]) -> Document:
    """A sweep; rows are one of `names.BY`. Its parts are what `maker` makes of its points."""
    swept = Swept(sweep, by, parts)
    return Document(
        stem=f"{stem(sweep.first, by)}-sweep",
        screen=partial(_screen, swept),
        page=partial(_blocks, swept, paper=True),
        paper=partial(_paper, swept),
        data=partial(_data, swept),
        records=partial(rows, swept),
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
