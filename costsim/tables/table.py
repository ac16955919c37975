"""Tables, whatever they are of: as a terminal of any width shows them, as Markdown, as CSV. tabulate draws them."""

from __future__ import annotations

import csv
import io
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tabulate import tabulate

WIDTH = 80  # columns of a table that goes to a file or a pipe
NARROW = 60  # with fewer columns, a row is printed as a block
LEAST = 8  # columns that a wrapped column of words keeps


class Column(NamedTuple):
    """A column: its header as a terminal shows it (lines apart by newlines), and in full where that is not clear.

    `over` is what papers print above it and its neighbours of the same.
    """

    header: str
    align: str = "right"  # words: left
    full: str = ""
    over: str = ""

    @property
    def name(self) -> str:
        """The header in one line."""
        return self.full or " ".join(self.header.split())


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text. `shown` are those that a terminal of 80 columns shows, cut and wrapped; `rows` are in full.

    The first `merged` cells of a row are left out where all of them only say again what stands above.
    `label`, `caption` and `notes` are for papers; a label has letters, digits, `.` and `-`.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    shown: Sequence[Sequence[str]] | None = None
    merged: int = 0
    label: str = ""
    caption: str = ""
    notes: Sequence[str] = ()

    def without_repetitions(self, rows: Sequence[Sequence[str]]) -> list[list[str]]:
        """Rows with the first `merged` cells empty where they only say again what stands above."""
        first = self.merged
        above: list[Sequence[str]] = [[""] * first, *(row[:first] for row in rows[:-1])]
        return [
            [*([""] * first if list(row[:first]) == list(over) else row[:first]), *row[first:]]
            for row, over in zip(rows, above, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Screen:
    """Where a table is shown. As it is made: a file or a pipe, which gets plain text of 80 columns."""

    width: int = WIDTH
    colour: bool = False
    whole_names: bool = False  # of ops and tensors, which other commands take, however wide: in a file or a pipe

    def paint(self, lines: Iterable[str], **style: bool) -> list[str]:
        """Lines in a style of click's, where there is colour."""
        if not self.colour:
            return list(lines)
        import click  # a library call does without

        return [click.style(line, **style) if line else line for line in lines]

    def notes(self, lines: Iterable[str]) -> list[str]:
        """Notes, wrapped to the width and dimmed."""
        return self.paint([part for line in lines for part in wrap(line, self.width, "  ").split("\n")], dim=True)


FILE = Screen(whole_names=True)


def screen() -> Screen:
    """That of standard output: as wide as its terminal, in colour unless NO_COLOR is set (no-color.org)."""
    if not sys.stdout.isatty():
        return FILE
    import shutil  # slow to import

    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return Screen(max(20, shutil.get_terminal_size((WIDTH, 24)).columns), not plain)


def printable(text: str) -> str:
    """Text from a file's name or contents with control characters escaped, so that none reaches a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def clip(text: str, width: int) -> str:
    """Text cut in the middle to so many characters."""
    return text if len(text) <= width else f"{text[: width // 2 - 1]}..{text[len(text) - (width - width // 2 - 1) :]}"


def composed(name: str, width: int) -> str:
    """A policy's name in so many columns: of a+b each part on a line, if it is too long."""
    parts = name.replace("+", "\n+").split("\n") if len(name) > width else [name]
    return "\n".join(clip(part, width) for part in parts)


def wrap(text: str, width: int, indent: str = "") -> str:
    """Text in lines of so many characters, all but the first indented."""
    return "\n".join(textwrap.wrap(text, width, subsequent_indent=indent))


def widest(lines: Iterable[str]) -> int:
    """The length of the longest line."""
    return max(map(len, lines), default=0)


def shrink(widths: Sequence[int], least: Sequence[int], room: int) -> list[int] | None:
    """Widths that add up to at most `room`: the widest that is not the `least` it may be gives way, by one each time.

    None if all would have to be narrower than that.
    """
    found = list(widths)
    while sum(found) > room:
        wide = [i for i in range(len(found)) if found[i] > least[i]]
        if not wide:
            return None
        found[max(wide, key=lambda i: (found[i], -i))] -= 1
    return found


def simple(table: Table, rows: Sequence[Sequence[str]]) -> list[str]:
    """Headers over dashes, a line for each column."""
    headers, align = [column.header for column in table.columns], [column.align for column in table.columns]
    return tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True, colalign=align).splitlines()


def dense(table: Table, rows: Sequence[Sequence[str]]) -> list[str]:
    """Headers as a row, since tabulate would widen each column by two for them; then a line of dashes."""
    headers, align = [column.header for column in table.columns], [column.align for column in table.columns]
    cells = [headers, *rows]
    lines = [
        line.rstrip() for line in tabulate(cells, tablefmt="plain", disable_numparse=True, colalign=align).splitlines()
    ]
    over = max(len(header.split("\n")) for header in headers)
    return [*lines[:over], "-" * widest(lines), *lines[over:]]


def plain(table: Table, rows: Sequence[Sequence[str]]) -> list[str]:
    """Headers over rows and nothing between them, indented."""
    headers, align = [column.header for column in table.columns], [column.align for column in table.columns]
    text = tabulate(rows, headers=headers, tablefmt="plain", disable_numparse=True, colalign=align)
    return [f"  {line}".rstrip() for line in text.splitlines()]


def _shrunk(table: Table, rows: Sequence[Sequence[str]], width: int) -> list[str] | None:
    """The table with its columns of words wrapped until it fits, inside words only if it must; None if it does not."""
    cells = list(zip(*([column.header for column in table.columns], *rows), strict=True))
    natural = [widest(line for cell in its for line in cell.split("\n")) for its in cells]
    whole = [widest(word for cell in its for word in cell.split()) for its in cells]
    room = width - 2 * (len(natural) - 1)
    for longest in (whole, [LEAST] * len(whole)):
        least = [
            min(max(LEAST, word), most) if column.align == "left" else most
            for column, word, most in zip(table.columns, longest, natural, strict=True)
        ]
        found = shrink(natural, least, room)
        if found is not None:
            headers = [c._replace(header=_fold(c.header, most)) for c, most in zip(table.columns, found, strict=True)]
            folded = [[_fold(cell, most) for cell, most in zip(row, found, strict=True)] for row in rows]
            return dense(replace(table, columns=headers), folded)
    return None


def _fold(cell: str, width: int) -> str:
    """A cell's lines in so many columns; those that fit as they are, for a header may begin with an empty one."""
    return "\n".join(line if len(line) <= width else wrap(line, width) for line in cell.split("\n"))


def _blocks(table: Table, width: int) -> list[tuple[bool, str]]:
    """Each row as lines `name: value`, and whether a line begins a row. A column without a name belongs to the last."""
    lines: list[tuple[bool, str]] = []
    for row in table.rows:
        fields: list[str] = []
        for column, cell in zip(table.columns, row, strict=True):
            value = " ".join(cell.split())
            if column.name:
                fields.append(f"{column.name}: {value or '-'}")
            elif value:
                fields[-1] += f" {value}"
        for i, text in enumerate(fields):
            parts = textwrap.wrap(text, width, initial_indent="" if i == 0 else "  ", subsequent_indent="    ")
            lines += [(i == 0, part) for part in parts]
        lines.append((False, ""))
    return lines[:-1]


def terminal(table: Table, screen: Screen, draw: Any = simple) -> list[str]:
    """The lines of a table that fits the screen, as `draw` draws it if it can.

    A screen of more than 80 columns shows cells in full if they fit; one of fewer wraps words, and below 60, or where
    that does not help, every row becomes a block.
    """
    rows = [[printable(cell) for cell in row] for row in table.rows]
    shown = rows if table.shown is None else [[printable(cell) for cell in row] for row in table.shown]
    table = replace(table, rows=rows)
    shown = table.without_repetitions(shown)
    found = draw(table, table.without_repetitions(rows)) if screen.width > WIDTH else None
    if found is None or widest(found) > screen.width:
        found = draw(table, shown)
    if widest(found) > screen.width:
        fitting = _shrunk(table, shown, screen.width) if screen.width >= NARROW else None
        if fitting is None:
            marked = _blocks(table, screen.width)
            return [line for first, text in marked for line in (screen.paint([text], bold=True) if first else [text])]
        found = fitting
    return _painted(found, table, screen)


def _painted(lines: list[str], table: Table, screen: Screen) -> list[str]:
    over = max(len(column.header.split("\n")) for column in table.columns)
    body = next((i for i, line in enumerate(lines, 1) if line and set(line) <= {"-", " "}), None)
    over, body = (over, over) if body is None else (body - 1, body)
    return [*screen.paint(lines[:over], bold=True), *screen.paint(lines[over:body], dim=True), *lines[body:]]


_MARKED = re.compile(r"[\\`*<>|~$&#]|(?<![^\W_])_|_(?![^\W_])|(?<=\])\(")


def markdown_text(text: str) -> str:
    """Text that renders as itself in GitHub's Markdown, in a cell too: what has a meaning there is escaped.

    Not `_` inside a word and `[`, which have none by themselves.
    """
    return _MARKED.sub(r"\\\g<0>", printable(" ".join(text.split())))


def markdown(table: Table) -> str:
    """GitHub's pipe table."""
    headers, align = [column.name for column in table.columns], [column.align for column in table.columns]
    rows = [[markdown_text(cell) for cell in row] for row in table.without_repetitions(table.rows)]
    return tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True, colalign=align)


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A record with what it says of each device as columns of its own: h100-sxm.time_s."""
    devices: Mapping[str, Mapping[str, Any]] = row.get("hardware", {})
    own = {f"{name}.{key}": value for name, its in devices.items() for key, value in its.items()}
    return {**{key: value for key, value in row.items() if key != "hardware"}, **own}


def csv_cell(value: Any) -> Any:
    """A value for a CSV file: text that a spreadsheet would take as a formula gets an apostrophe before it.

    Policies and devices are named after files, and assumptions say what their authors like, so a name may be
    `=cmd|...`. Control characters are escaped, numbers are left as they are; JSON has all texts as they are. Source:
    OWASP, CSV injection.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    formula = text.startswith(("=", "+", "-", "@", "\n")) and not re.fullmatch(r"[+-]?\d+(\.\d+)?", text)
    return f"'{text}" if formula else text


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Records as CSV, with a header; what does not fit a cell is left out. Formulas are defused (`csv_cell`)."""
    records = [flat(row) for row in rows]
    columns = [name for name, value in records[0].items() if not isinstance(value, (dict, list))]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([csv_cell(name) for name in columns])
    writer.writerows([csv_cell(row.get(name)) for name in columns] for row in records)
    return text.getvalue()
