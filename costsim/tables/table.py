"""Tables on a terminal of any width, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, NamedTuple

WIDTH = 80  # columns of a table that goes to a file or a pipe
NARROW = 60  # with fewer columns, a row is printed as a block
LEAST = 8  # columns that a wrapped column of words keeps

Rows = Sequence[Sequence[str]]


class Column(NamedTuple):
    """A column. A terminal shows `header`, which may have several lines; `full` is for where that is not clear.

    Papers print `over` above neighbours that have it in common.
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

    The first `merged` cells of a row are left out where all of them repeat what stands above.
    `label`, `caption` and `notes` are for papers; a label has letters, digits, `.` and `-`.
    """

    columns: Sequence[Column]
    rows: Rows
    shown: Rows | None = None
    merged: int = 0
    label: str = ""
    caption: str = ""
    notes: Sequence[str] = ()

    @property
    def headers(self) -> list[str]:
        """The headers as a terminal shows them."""
        return [column.header for column in self.columns]

    @property
    def header_height(self) -> int:
        """The lines that headers take."""
        return max(len(header.split("\n")) for header in self.headers)

    def labelled(self, labels: Mapping[str, str]) -> Table:
        """The table with the policies of its first column, if it has them there, by other names."""
        if self.columns[0].header != "policy":
            return self
        return replace(self, rows=[[labels.get(row[0], row[0]), *row[1:]] for row in self.rows])

    def without_repetitions(self, rows: Rows) -> list[list[str]]:
        """Rows with the first `merged` cells empty where they repeat what stands above."""
        first = self.merged
        above: list[Sequence[str]] = [[""] * first, *(row[:first] for row in rows[:-1])]
        return [
            [*([""] * first if list(row[:first]) == list(over) else row[:first]), *row[first:]]
            for row, over in zip(rows, above, strict=False)  # a table without rows has nothing above either
        ]


@dataclass(frozen=True, slots=True)
class Screen:
    """Where a table is shown; by default a file or a pipe, which gets plain text of 80 columns."""

    width: int = WIDTH
    colour: bool = False
    whole_names: bool = False  # of ops and tensors, which other commands take, however wide: in a file or a pipe

    def paint(self, lines: Iterable[str], **style: bool) -> list[str]:
        """Lines in a style of click's, where there is colour."""
        if not self.colour:
            return list(lines)
        import click  # a library call does without

        return [click.style(line, **style) if line else line for line in lines]

    def notes(self, lines: Iterable[str], indent: str = "  ") -> list[str]:
        """Notes, wrapped to the width and dimmed, without control characters."""
        wrapped = (wrap(printable(line), self.width, indent) for line in lines)
        return self.paint([part for line in wrapped for part in line.split("\n")], dim=True)


FILE = Screen(whole_names=True)


def screen() -> Screen:
    """The screen of standard output: as wide as its terminal, in colour unless NO_COLOR is set (no-color.org)."""
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


POLICY = 13  # columns of a policy's name beside many others
BESIDE_GROUPS = 11  # and beside names of groups


def of_policies(columns: Sequence[Column], rows: Rows, merged: int = 1) -> Table:
    """A table whose rows begin with a policy, whose name a terminal cuts."""
    return Table(columns, rows, [[clip(name, POLICY), *rest] for name, *rest in rows], merged)


def composed(name: str, width: int = POLICY) -> str:
    """A policy's name in so many columns: of a+b each part on a line, if it is too long."""
    parts = name.replace("+", "\n+").split("\n") if len(name) > width else [name]
    return "\n".join(clip(part, width) for part in parts)


class _Wrapper(textwrap.TextWrapper):
    """Breaks a word that is longer than a line behind a `_`, where it has one."""

    def _split(self, text: str) -> list[str]:
        chunks = super()._split(text)
        return [
            part for chunk in chunks for part in (re.split("(?<=_)", chunk) if len(chunk) > self.width else [chunk])
        ]


def wrap(text: str, width: int, indent: str = "") -> str:
    """Text in lines of so many characters, all but the first indented."""
    return _Wrapper(width, subsequent_indent=indent).fill(text)


def widest(lines: Iterable[str]) -> int:
    """The length of the longest line."""
    return max(map(len, lines), default=0)


def shrink(widths: Sequence[int], least: Sequence[int], room: int) -> list[int] | None:
    """Widths that add up to at most `room`: the widest that is above its `least` gives way, by one each time.

    None if `least` takes more than the room.
    """
    narrowed = list(widths)
    while sum(narrowed) > room:
        wide = [i for i in range(len(narrowed)) if narrowed[i] > least[i]]
        if not wide:
            return None
        narrowed[max(wide, key=lambda i: (narrowed[i], -i))] -= 1
    return narrowed


Drawing = Callable[[Table, Rows], list[str]]  # how a screen shows a table that fits: simple, dense or plain


OVER = 2  # columns that a column is wider than its header, at least


def _lines(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> Iterator[list[str]]:
    """The lines of a row, of cells as wide as their columns."""
    for parts in zip_longest(*(cell.split("\n") for cell in cells), fillvalue=""):
        yield [
            part.ljust(width) if column.align == "left" else part.rjust(width)
            for part, column, width in zip(parts, columns, widths, strict=True)
        ]


def _grid(table: Table, headers: Sequence[str], rows: Rows) -> tuple[list[list[str]], list[list[str]], list[int]]:
    """The lines of headers and of rows, of cells as wide as their columns; and these widths."""
    stripped = [[cell.strip() for cell in row] for row in rows]
    over = [widest(header.split("\n")) + OVER for header in headers] or [0] * len(table.columns)
    columns = zip(*stripped, strict=True) if stripped else [()] * len(over)
    widths = [
        max(least, widest(line for cell in cells for line in cell.split("\n")))
        for least, cells in zip(over, columns, strict=True)
    ]
    head = list(_lines(headers, table.columns, widths)) if headers else []
    return head, [line for row in stripped for line in _lines(row, table.columns, widths)], widths


def _apart(lines: Iterable[Sequence[str]]) -> list[str]:
    """Lines of cells, two blanks apart."""
    return ["  ".join(cells).rstrip() for cells in lines]


def simple(table: Table, rows: Rows) -> list[str]:
    """Headers over dashes, a line for each column."""
    head, body, widths = _grid(table, table.headers, rows)
    return _apart([*head, ["-" * width for width in widths], *body])


def dense(table: Table, rows: Rows) -> list[str]:
    """Headers as a row, which widen no column; then a line of dashes."""
    lines = _apart(_grid(table, (), [table.headers, *rows])[1])
    height = table.header_height
    return [*lines[:height], "-" * widest(lines), *lines[height:]]


def plain(table: Table, rows: Rows) -> list[str]:
    """Headers over rows and nothing between them, indented."""
    head, body, _ = _grid(table, table.headers, rows)
    return [f"  {line}".rstrip() for line in _apart([*head, *body])]


def _shrunk(table: Table, rows: Rows, width: int) -> list[str] | None:
    """The table with its columns of words wrapped until it fits, inside words only if it must; None if it does not."""
    columns = list(zip(table.headers, *rows, strict=True))
    natural = [widest(line for cell in cells for line in cell.split("\n")) for cells in columns]
    whole = [widest(word for cell in cells for word in cell.split()) for cells in columns]
    room = width - 2 * (len(natural) - 1)
    for longest in (whole, [LEAST] * len(whole)):
        least = [
            min(max(LEAST, word), most) if column.align == "left" else most
            for column, word, most in zip(table.columns, longest, natural, strict=True)
        ]
        widths = shrink(natural, least, room)
        if widths is not None:
            headers = [c._replace(header=_fold(c.header, most)) for c, most in zip(table.columns, widths, strict=True)]
            folded = [[_fold(cell, most) for cell, most in zip(row, widths, strict=True)] for row in rows]
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


def terminal(table: Table, screen: Screen, draw: Drawing = simple) -> list[str]:
    """The lines of a table that fits the screen, as `draw` draws it if that fits.

    A screen of more than 80 columns shows cells in full if they fit; one of fewer wraps words, and below 60, or where
    that does not help, every row becomes a block.
    """
    rows = [[printable(cell) for cell in row] for row in table.rows]
    shown = rows if table.shown is None else [[printable(cell) for cell in row] for row in table.shown]
    heads = [column._replace(header=printable(column.header), full=printable(column.full)) for column in table.columns]
    table = replace(table, columns=heads, rows=rows)
    shown = table.without_repetitions(shown)
    lines = draw(table, table.without_repetitions(rows)) if screen.width > WIDTH else None
    if lines is None or widest(lines) > screen.width:
        lines = draw(table, shown)
    if widest(lines) > screen.width:
        fitting = _shrunk(table, shown, screen.width) if screen.width >= NARROW else None
        if fitting is None:
            marked = _blocks(table, screen.width)
            return [line for first, text in marked for line in (screen.paint([text], bold=True) if first else [text])]
        lines = fitting
    return _painted(lines, table, screen)


def _painted(lines: list[str], table: Table, screen: Screen) -> list[str]:
    """Headers in bold, the line of dashes under them dimmed."""
    head = table.header_height
    body = next((i for i, line in enumerate(lines, 1) if line and set(line) <= {"-", " "}), None)
    head, body = (head, head) if body is None else (body - 1, body)
    return [*screen.paint(lines[:head], bold=True), *screen.paint(lines[head:body], dim=True), *lines[body:]]


_MARKED = re.compile(r"[\\`*<>|~$&#]|(?<![^\W_])_|_(?![^\W_])|(?<=\])\(")


def markdown_text(text: str) -> str:
    """Text that renders as itself in GitHub's Markdown, in a cell too: what has a meaning there is escaped.

    Not `_` inside a word and `[`, which have none by themselves.
    """
    return _MARKED.sub(r"\\\g<0>", printable(" ".join(text.split())))


def markdown(table: Table) -> str:
    """GitHub's pipe table."""
    rows = [[markdown_text(cell) for cell in row] for row in table.without_repetitions(table.rows)]
    head, body, widths = _grid(table, [markdown_text(column.name) for column in table.columns], rows)
    lines = [[f" {cell} " for cell in line] for line in (*head, *body)]
    ruled = [("-" * (width + 1), column.align) for width, column in zip(widths, table.columns, strict=True)]
    rule = [f":{dashes}" if align == "left" else f"{dashes}:" for dashes, align in ruled]
    return "\n".join(f"|{'|'.join(cells)}|" for cells in (*lines[: len(head)], rule, *lines[len(head) :]))


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the entries of each device as columns of their own: h100-sxm.time_s."""
    devices: Mapping[str, Mapping[str, Any]] = row.get("hardware", {})
    plain = {key: value for key, value in row.items() if key != "hardware"}
    return plain | {f"{name}.{key}": value for name, record in devices.items() for key, value in record.items()}


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
