"""A document as an Excel workbook: what is printed, the exact data behind it, and the notes, a sheet each.

A spreadsheet's numbers are doubles of which it shows 15 digits, so integers that have more are text in the sheet
`data`, where they stay exact; tables hold them as rounded as they are printed. Text is text, whatever it begins with.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from costsim.errors import InputError
from costsim.tables.document import Document, Drawn, Heading, Notes, Source
from costsim.tables.table import Table, flat, printable

_DIGITS = 15  # that a spreadsheet keeps
_LONGEST = 32_767  # characters of a cell
_WIDEST = 60  # characters of a column as it is first shown
_OPENED = (1980, 1, 1, 0, 0, 0)  # the time of all parts, so that the same input has the same bytes
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def check_installed(out: str) -> None:
    """Raise InputError, before anything is counted, without the library that writes workbooks."""
    if find_spec("openpyxl") is None:
        raise InputError(f"--out {out}: a workbook takes openpyxl: pip install 'costsim[excel]'")


def workbook(document: Document) -> bytes:
    """The bytes of a workbook: sheets `table` (`table 2`, ...), `data` and `notes`."""
    book = import_module("openpyxl").Workbook()
    book.remove(book.active)
    blocks = list(document.page())
    tables = [block.table for block in blocks if isinstance(block, Drawn)]
    for number, table in enumerate(tables, 1):
        _fill(book.create_sheet("table" if number == 1 else f"table {number}"), *_table(table))
    _fill(book.create_sheet("data"), *_data(document.records()))
    lines = [line for block in blocks for line in _words(block)]
    _fill(book.create_sheet("notes"), ["notes"], [[line] for line in lines])
    made = io.BytesIO()
    book.save(made)
    return _timeless(made.getvalue())


def _words(block: object) -> Sequence[str]:
    match block:
        case Notes(lines):
            return lines
        case Source(text) | Heading(text):
            return [text]
    return []


def _table(table: Table) -> tuple[list[str], list[list[Any]]]:
    """A table's headers and rows; cells of columns of numbers are numbers where they are some."""
    numbers = [column.align == "right" for column in table.columns]
    rows = [
        [_rounded(cell) if number else cell for cell, number in zip(row, numbers, strict=True)] for row in table.rows
    ]
    return [column.name for column in table.columns], rows


def _rounded(cell: str) -> Any:
    return float(cell) if _NUMBER.fullmatch(cell) else cell


def _data(records: Iterable[Any]) -> tuple[list[str], list[list[Any]]]:
    """Records as CSV has them: what does not fit a cell is left out."""
    rows = [flat(record) for record in records]
    names = [name for name, value in rows[0].items() if not isinstance(value, (dict, list))] if rows else []
    return names, [[_exact(row.get(name)) for name in names] for row in rows]


def _exact(value: Any) -> Any:
    """A value of a record: integers, which records hold as text, are numbers if a spreadsheet keeps their digits."""
    whole = isinstance(value, str) and re.fullmatch(r"-?\d+", value) and len(value.lstrip("-")) <= _DIGITS
    return int(value) if whole else value


def _fill(sheet: Any, headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write headers, which stay in sight, and rows; columns are as wide as what they hold."""
    bold = import_module("openpyxl.styles").Font(bold=True)
    letter = import_module("openpyxl.utils").get_column_letter
    for line, row in enumerate([headers, *rows], 1):
        for column, value in enumerate(row, 1):
            cell = sheet.cell(line, column)
            if isinstance(value, str):
                cell.value = printable(value)[:_LONGEST]
                cell.data_type = "s"  # whatever it begins with: no formula and no error
            else:
                cell.value = value
            if line == 1:
                cell.font = bold
    for column, cells in enumerate(zip(headers, *rows, strict=True), 1):
        sheet.column_dimensions[letter(column)].width = 2 + min(_WIDEST, max(len(str(cell)) for cell in cells))
    sheet.freeze_panes = "A2"


def _timeless(data: bytes) -> bytes:
    """A workbook without the times of its making."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            part = old.read(name)
            if name == "docProps/core.xml":
                part = re.sub(rb"<dcterms:(created|modified)[^>]*>[^<]*</dcterms:\1>", b"", part)
            new.writestr(zipfile.ZipInfo(name, _OPENED), part, zipfile.ZIP_DEFLATED)
    return made.getvalue()
