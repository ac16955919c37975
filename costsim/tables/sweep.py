"""A sweep as one table, in every format: the rows of each point below each other, the swept fields as columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from costsim.results.records import Record, convention, full_records
from costsim.run.simulate import Result
from costsim.run.sweep import Point, value
from costsim.run.sweep import convention as sweep_convention
from costsim.tables.run import FORMATS, remarks, table_of
from costsim.tables.table import Column, Screen, Table, csv_text, markdown, markdown_text, terminal

Found = Sequence[tuple[Point, Result]]

_PLAIN = Screen()


def records(found: Found, by: str) -> list[Record]:
    """The rows of an export, each with its point's fields after the columns of names."""
    names = ["policy"] if by in ("policy", "reduction") else ["policy", by]
    rows = []
    for point, result in found:
        fields = {name: value(text) for name, text in point.items()}
        rows += [{**{name: row[name] for name in names}, **fields, **row} for row in full_records(result, by)]
    return rows


def _joined(found: Found, by: str, paper: bool = False) -> Table:
    return join([table_of(result, by, paper) for _, result in found], [point for point, _ in found])


def _notes(found: Found, by: str) -> list[str]:
    """What stands under the table: what all points share, then each remark once."""
    first = found[0][1]
    swept = ", ".join(found[0][0])
    lines = [f"swept: {swept}", sweep_convention(found)]
    lines += dict.fromkeys(line for _, result in found for line in remarks(result, by))
    if first.job.hardware and by != "reduction":
        lines.append("times and energies of a sweep: --by reduction, or --format csv")
    return lines


def to_table(found: Found, by: str, screen: Screen = _PLAIN) -> str:
    """For a terminal."""
    return "\n".join([*terminal(_joined(found, by), screen), "", *screen.notes(_notes(found, by))]) + "\n"


def to_markdown(found: Found, by: str) -> str:
    """GitHub's pipe table and the notes."""
    notes = "".join(f"- {markdown_text(line)}\n" for line in _notes(found, by))
    return f"{markdown(_joined(found, by, paper=True))}\n\n{notes}"


def to_latex(found: Found, by: str) -> str:
    """A table for a paper."""
    from costsim.tables.latex import document  # pandas

    workload, swept = found[0][1].job.workload, ", ".join(found[0][0])
    over = "" if by == "policy" else f" by {by}"
    what = "Reductions" if by == "reduction" else f"Arithmetic and DRAM traffic{over}"
    caption = f"{what} of {workload} over {swept} ({sweep_convention(found)})."
    label, notes = f"tab:costsim-{workload}-{by}-sweep", _notes(found, by)[2:]
    return document([replace(_joined(found, by, True), label=label, caption=caption, notes=notes)])


def to_json(found: Found, by: str) -> str:
    """One object as of a run; what differs from point to point is not in its convention."""
    conventions: list[Mapping[str, Any]] = [convention(result) for _, result in found]
    same = {key: its for key, its in conventions[0].items() if all(other.get(key) == its for other in conventions)}
    first = found[0][1].job
    data = {
        "workload": first.workload,
        "baseline": first.convention.baseline,
        "convention": same,
        "swept": list(found[0][0]),
        "rows": records(found, by),
        "published": [],  # those are of the workload as it is
    }
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


def to_csv(found: Found, by: str) -> str:
    """A header and the records, full precision."""
    return csv_text(records(found, by))


_MAKE = {"table": to_table, "json": to_json, "csv": to_csv, "markdown": to_markdown, "latex": to_latex}


def render(found: Found, by: str, style: str, screen: Screen = _PLAIN) -> str:
    """A sweep in one of the formats; a table fits the screen."""
    return to_table(found, by, screen) if style == "table" else _MAKE[style](found, by)


def texts(found: Found, by: str) -> dict[str, str]:
    """Every format, by the name of its file: WORKLOAD[-by-X]-sweep.ext."""
    stem = found[0][1].job.workload + ("" if by == "policy" else f"-by-{by}") + "-sweep"
    return {f"{stem}.{FORMATS[style][0]}": make(found, by) for style, make in _MAKE.items()}


def without(table: Table, name: str) -> Table:
    """The table without a column, if it has it."""
    left = [i for i, column in enumerate(table.columns) if column.name != name]
    gone = len(table.columns) - len(left)

    def cut(rows: Sequence[Sequence[str]]) -> list[list[str]]:
        return [[row[i] for i in left] for row in rows]

    return replace(
        table,
        columns=[table.columns[i] for i in left],
        rows=cut(table.rows),
        shown=None if table.shown is None else cut(table.shown),
        merged=max(0, table.merged - gone),
    )


def join(tables: Sequence[Table], where: Sequence[Point]) -> Table:
    """Tables of the same columns as one, with the fields of each one's point in columns after those of names.

    The setup, which no field changes, is left out.
    """
    tables = [without(table, "setup") for table in tables]
    first = tables[0]
    names = next((i for i, column in enumerate(first.columns) if column.align != "left"), len(first.columns))
    fields = [Column(name.replace(".", ".\n"), full=name) for name in where[0]]

    def with_point(rows: Sequence[Sequence[str]], point: Point) -> list[list[str]]:
        return [[*row[:names], *point.values(), *row[names:]] for row in rows]

    pairs = list(zip(tables, where, strict=True))
    rows = [row for table, point in pairs for row in with_point(table.rows, point)]
    shown = [row for table, point in pairs for row in with_point(table.shown or table.rows, point)]
    merged = first.merged + len(fields) if first.merged else 0
    columns = [*first.columns[:names], *fields, *first.columns[names:]]
    return replace(first, columns=columns, rows=rows, shown=shown, merged=merged)
