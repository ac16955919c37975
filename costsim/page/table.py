"""A table of the HTML report: records under columns, as cells with the exact values that they are sorted by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from costsim.results.records import Record
from costsim.tables.cells import duration, short

_ON_A_LINE = 26  # characters of a cell that are not broken


class Cell(NamedTuple):
    """A cell: the text and, of a number, the value in full (decimal integer or float), "" if that is not known."""

    text: str
    value: str | None = None

    @property
    def whole(self) -> bool:
        """Whether the cell stays on one line."""
        return self.value is not None or len(self.text) <= _ON_A_LINE


class Head(NamedTuple):
    """The head of a column: a name, and the order of sorting: `words`, `integer` (of any size) or `number`."""

    name: str
    sort: str = "words"


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table of the page. The first cell of a row is its header; `name` is unique on the page."""

    name: str
    caption: str
    heads: Sequence[Head]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()


Field = str | Callable[[Record], Any]  # of a record: the name, or a reader


@dataclass(frozen=True, slots=True)
class Column:
    """A column of records: the head, the field, and the printer of a value."""

    head: Head
    field: Field
    show: Callable[[Any], str]

    def cell(self, record: Record) -> Cell:
        """The cell of a record."""
        value = record[self.field] if isinstance(self.field, str) else self.field(record)
        text = self.show(value)
        return Cell(text) if self.head.sort == "words" else Cell(text, "" if value is None else str(value))


def words(name: str, field: Field = "") -> Column:
    """A column of text, of the field of that name unless another is given."""
    return Column(Head(name), field or name, str)


def integer(name: str, field: Field, show: Callable[[Any], str] = short) -> Column:
    """A column of exact integers, which records hold as decimal strings."""
    return Column(Head(name, "integer"), field, show)


def number(name: str, field: Field, show: Callable[[Any], str] = short) -> Column:
    """A column of floats."""
    return Column(Head(name, "number"), field, show)


def table(
    name: str, caption: str, columns: Sequence[Column], records: Iterable[Record], notes: Sequence[str] = ()
) -> PageTable:
    """Records under columns."""
    rows = [[column.cell(record) for column in columns] for record in records]
    return PageTable(name, caption, [column.head for column in columns], rows, notes)


def time(seconds: float | None) -> str:
    """Seconds as tables print a time; from 1000 days on, all digits of the days."""
    return duration(seconds) if seconds is None or seconds < 1000 * 86400 else f"{seconds / 86400:.0f} d"
