"""Documents, before a style is chosen: blocks of tables and notes, and the data behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from costsim.tables.table import Drawing, Table, simple


class Drawn(NamedTuple):
    """A table. `whole`: a file or a pipe gets the names in full, however wide that is."""

    table: Table
    drawing: Drawing = simple
    whole: bool = False


class Notes(NamedTuple):
    """Lines under a table; a screen indents what it wraps."""

    lines: Sequence[str]
    indent: str = "  "


class Heading(NamedTuple):
    """A line above a table."""

    text: str
    bold: bool = False


class Source(NamedTuple):
    """Who states what a table shows."""

    text: str


class Preformatted(NamedTuple):
    """Lines that are printed as they are."""

    lines: Sequence[str]


Block = Drawn | Notes | Heading | Source


@dataclass(frozen=True, slots=True)
class Document:
    """The views that styles are written from; each is made when a style asks for it.

    `screen`: groups of blocks, for a terminal; a blank line parts two groups. `page`: the same in full, with all
    devices in one table. `paper`: tables with captions and labels, and `comments` beside them. `data`: one JSON object.
    `records`: the rows of a CSV file. A document of text alone has `screen` and `data`.
    """

    stem: str  # the name of its files without an ending
    screen: Callable[[], Iterable[Sequence[Block | Preformatted]]]
    data: Callable[[], Mapping[str, Any]]
    page: Callable[[], Iterable[Block]] = tuple
    paper: Callable[[], Sequence[Table]] = tuple
    comments: Callable[[], Iterable[Block]] = tuple
    records: Callable[[], Sequence[Mapping[str, Any]]] = tuple
