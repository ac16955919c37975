r"""Tables as LaTeX for papers: pandas lays them out with booktabs, numbers line up on the decimal mark (dcolumn).

What comes out is plain ASCII that compiles with pdfLaTeX as it is, whatever names hold: what has a meaning to TeX is
escaped, letters with accents are spelled out, and a character beyond those is named, as [U+4E2D].
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from costsim.tables.cells import ENERGIES, TIMES
from costsim.tables.table import LEAST, Column, Table, printable, shrink, widest

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

LINES = 42  # of a table that floats, and its notes; longer ones break across pages
EM = 0.5  # a character's mean width

_SPECIAL = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
    "'": "'{}",  # no ligature of two
    "-": "-{}",  # nor of these
    "?": "?{}",
    "!": "!{}",
    ",": ",{}",
    "\u00d7": r"$\times$",
    "\u00b5": r"$\mu$",
    "\u03bc": r"$\mu$",
    "\u2013": "--",
    "\u2014": "---",
    "\u2018": "`",
    "\u2019": "'",
    "\u201c": "``",
    "\u201d": "''",
    "\u00a0": "~",
    "\u00df": r"\ss{}",
    "\u00e6": r"\ae{}",
    "\u00c6": r"\AE{}",
    "\u0153": r"\oe{}",
    "\u0152": r"\OE{}",
    "\u00f8": r"\o{}",
    "\u00d8": r"\O{}",
    "\u0142": r"\l{}",
    "\u0141": r"\L{}",
    "\u0131": r"\i{}",
    "\u2026": r"\dots{}",
    "\u00b1": r"$\pm$",
}
_ACCENTS = dict(
    zip("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327", "`'^~=u.\"rHvc", strict=True)
)
_BREAKS = re.compile(r"(?<=[._+/,>-])(?=\w)")  # where a line may break inside a word
_NUMBER = re.compile(r"([+-]?\d+)(?:\.(\d+))?(?:e([+-]?\d+))?")
# Units of quantities in cells, in SI.
UNITS: dict[str, float] = {**{unit: size for _, size, unit in (*TIMES, *ENERGIES)}, "pair": 1, "pairs": 1}
_QUANTITY = re.compile(rf"([\d.e+-]+) ({'|'.join(UNITS)})")


class Layout(NamedTuple):
    """How a column is set: its specification, whether its cells are numbers, and its width in characters."""

    specification: str
    is_number: bool
    width: int


class Size(NamedTuple):
    """A size of type: the points of a character of mean width, and those between two columns."""

    settings: str
    character: float
    gap: float

    def room(self, width: float, columns: int) -> int:
        """The characters of so many columns in a table so many points wide."""
        return int((width - self.gap * columns) / self.character)


SIZES = (
    Size(r"\small\setlength{\tabcolsep}{4pt}", 4.79, 8),
    Size(r"\footnotesize\setlength{\tabcolsep}{3pt}", 4.37, 6),
    Size(r"\scriptsize\setlength{\tabcolsep}{2pt}", 3.85, 4),
)
COLUMN = 239.0  # points of 84 mm, a column of two
LINE = 345.0  # of a line of an article in one column; in two, `table*` has more
PLACES = (*((COLUMN, size) for size in SIZES), *((LINE, size) for size in SIZES[:2]))  # the best first


def ascii_only(text: str) -> str:
    """Text with characters beyond ASCII as code points."""
    return "".join(c if c.isascii() else f"[U+{ord(c):04X}]" for c in text)


def escape(text: str) -> str:
    """Text that compiles, in plain ASCII, and prints as itself (or, beyond Latin letters, as code points)."""
    parts: list[str] = []
    for c in unicodedata.normalize("NFD", printable(" ".join(text.split()))):
        accent = _ACCENTS.get(c)
        if accent and parts and len(parts[-1]) == 1 and parts[-1].isalpha():
            parts[-1] = f"\\{accent}{{{parts[-1]}}}"
        else:
            parts.append(_SPECIAL.get(c, ascii_only(c)))
    return _without_needless_braces("".join(parts)).replace(r" \textgreater{}", r"~\textgreater{}")


def _without_needless_braces(text: str) -> str:
    """Text without the braces that part ligatures (--, '', ?`, ,,) where nothing would join."""
    return re.sub(r"(?<!\\)([-'?!,])\{\}(?![-'`,])", r"\1", text)


def cell(text: str, breakable: bool = False) -> str:
    r"""A cell of words. `[` or `*` at its start would be read as an option of the line break before it.

    `breakable`: lines may break inside names, after `.`, `_`, `+`, `/` and `>`.
    """
    parts = [escape(part) for part in (_BREAKS.split(text) if breakable else [text])]
    joined = r"\allowbreak{}".join(parts)
    return f"{{{joined[0]}}}{joined[1:]}" if joined[:1] in ("[", "*") else joined


def number(text: str) -> str | None:
    r"""A number for a column in math mode, 3.6e19 as 3.6\times10^{19}; None for other text."""
    match = _NUMBER.fullmatch(text)
    if not match:
        return None
    whole, decimals, exponent = match.groups()
    if exponent:  # what has no decimal mark would stick out to the left of it
        return f"{whole}.{decimals or 0}\\times10^{{{int(exponent)}}}"
    return whole + (f".{decimals}" if decimals else "")


def header(column: Column) -> str:
    r"""A header, its lines stacked and centred over numbers; powers and x are set as such."""
    lines = [_formula(line) for line in column.header.split("\n") if line.strip()]
    text = lines[0] if len(lines) == 1 else "\\begin{tabular}[b]{@{}c@{}}" + r"\\".join(lines) + r"\end{tabular}"
    return text if column.align == "left" else f"\\multicolumn{{1}}{{c}}{{{text}}}"


def _formula(line: str) -> str:
    parts = re.split(r"(\^\d+|\bx\b)", line.strip())
    return "".join(
        r"$\times$" if part == "x" else f"${part[0]}{{{part[1:]}}}$" if part[:1] == "^" else escape(part)
        for part in parts
    )


def _digits(cells: Sequence[str]) -> tuple[int, int]:
    """Digits that numbers need before and after the decimal mark; powers of ten count as the width they take."""
    before, after = 1, 0
    for match in filter(None, map(_NUMBER.fullmatch, cells)):
        whole, decimals, exponent = match.groups()
        before = max(before, len(whole))
        after = max(after, len(decimals or "0") + 4 + len(str(int(exponent))) if exponent else len(decimals or ""))
    return before, after


def _width(text: str) -> int:
    return widest(text.split("\n"))


def _longest_word(cells: Sequence[str]) -> int:
    """The length of the longest part that no line break may part (`cell`)."""
    return widest(part for text in cells for word in text.split() for part in _BREAKS.split(word))


def layout(table: Table) -> tuple[float, Size, list[Layout]]:
    """The points that a table has, the size of type, and how the columns are set.

    The first of PLACES in which the table fits; if there is none, words wrap in the last, first in the widest columns.
    """
    cells = list(zip(*table.rows, strict=True)) or [()] * len(table.columns)
    digits = [_digits(column) for column in cells]
    natural = [_natural_width(*column) for column in zip(table.columns, cells, digits, strict=True)]
    least = [
        max(_longest_word([column.header, *texts]), LEAST) if column.align == "left" else width
        for column, texts, width in zip(table.columns, cells, natural, strict=True)
    ]
    beyond = _sticking_out(table, natural)
    rooms = [(width, size, size.room(width, len(natural)) - beyond) for width, size in PLACES]
    width, size, room = next((place for place in rooms if sum(natural) <= place[-1]), rooms[-1])
    widths = shrink(natural, least, room) or [min(pair) for pair in zip(natural, least, strict=True)]
    return width, size, [_set(*column) for column in zip(table.columns, digits, natural, widths, strict=True)]


def _natural_width(column: Column, cells: Sequence[str], digits: tuple[int, int]) -> int:
    """The characters that a column takes if nothing wraps."""
    held = max(map(_width, cells), default=0) if column.align == "left" else max(sum(digits) + 1, 3)
    return max(_width(column.header), held)


def _set(column: Column, digits: tuple[int, int], natural: int, width: int) -> Layout:
    """How a column is set that has so many characters of width."""
    if column.align != "left":
        return Layout(f"D{{.}}{{.}}{{{digits[0]}.{digits[1]}}}", True, width)
    if width < natural:
        return Layout(f">{{\\raggedright\\arraybackslash}}p{{{width * EM + 0.3:.1f}em}}", False, width)
    return Layout("l", False, width)


def _sticking_out(table: Table, widths: Sequence[int]) -> int:
    """How much wider the names over columns are than the columns."""
    return sum(max(0, len(name) - sum(widths[i] + 1 for i in columns)) for name, columns in _overs(table) if name)


def _overs(table: Table) -> list[tuple[str, list[int]]]:
    """Neighbouring columns with the same name over them."""
    columns = groupby(range(len(table.columns)), key=lambda i: table.columns[i].over)
    return [(name, list(members)) for name, members in columns]


def _header_above(table: Table) -> str:
    """The row of names over columns with a rule under each; nothing if there are none."""
    if not any(column.over for column in table.columns):
        return ""
    overs = _overs(table)
    cells = [f"\\multicolumn{{{len(columns)}}}{{c}}{{{escape(name)}}}" for name, columns in overs]
    rules = [f"\\cmidrule(lr){{{columns[0] + 1}-{columns[-1] + 1}}}" for name, columns in overs if name]
    return f"{' & '.join(cells)} \\\\\n{' '.join(rules)}\n"


def in_one_unit(table: Table) -> Table:
    """The table with each column of quantities (15.4 h, 12 min) in one unit, that of the largest, in the header."""
    columns, cells = list(table.columns), [list(row) for row in table.rows]
    for i, column in enumerate(columns):
        matches = [_QUANTITY.fullmatch(row[i]) for row in cells]
        known = [(float(match[1]), match[2]) for match in matches if match]
        if not known:
            continue
        _, unit = max(known, key=lambda quantity: quantity[0] * UNITS[quantity[1]])
        for row, match in zip(cells, matches, strict=True):
            row[i] = f"{float(match[1]) * UNITS[match[2]] / UNITS[unit]:.3g}" if match else row[i]
        columns[i] = column._replace(header=f"{column.header}\n{unit}")
    return replace(table, columns=columns, rows=cells)


def _filled(text: str, layout: Layout) -> str:
    if layout.is_number:
        return (number(text) or f"\\multicolumn{{1}}{{c}}{{{cell(text)}}}") if text else ""
    if layout.specification == "l":
        lines = [cell(line) for line in text.split("\n")]
        stacked = "\\begin{tabular}[t]{@{}l@{}}" + r"\\".join(lines) + r"\end{tabular}"
        return lines[0] if len(lines) == 1 else stacked
    return r"\newline ".join(cell(line, breakable=True) for line in text.split("\n"))


def _lines(table: Table, layouts: Sequence[Layout]) -> int:
    """How many lines the table and its notes take, about."""
    rows = sum(
        max(
            -(-len(line) // layout.width)
            for text, layout in zip(row, layouts, strict=True)
            for line in (text or " ").split("\n")
        )
        for row in table.rows
    )
    return rows + sum(1 + len(note) // 90 for note in table.notes)


def _styler(rows: list[list[str]], headers: list[str]) -> Styler:
    import pandas  # slow to import, as what it draws with

    style = pandas.DataFrame(rows, columns=range(len(headers)), dtype=object).style.hide(axis="index")
    return style.format_index(lambda at: headers[int(str(at))], axis=1)


def environment(table: Table) -> str:
    """One `table` with booktabs rules, caption, label and notes.

    `table*`, which two columns share, if 84 mm are too narrow for it; `longtable` if it would not fit a page.
    """
    table = in_one_unit(table)
    width, size, columns = layout(table)
    rows = [
        [_filled(text, column) for text, column in zip(row, columns, strict=True)]
        for row in table.without_repetitions(table.rows)
    ]
    style = _styler(rows, [header(column) for column in table.columns])
    caption, label = escape(table.caption), re.sub(r"[^A-Za-z0-9:.-]+", "-", table.label)
    specification = "".join(column.specification for column in columns)
    notes = " ".join(f"{cell(note, breakable=True)}." for note in table.notes)
    below = [rf"{{\footnotesize\raggedright {notes}\par}}"] * bool(table.notes)
    if _lines(table, columns) > LINES:
        text = style.to_latex(
            environment="longtable", caption=caption, label=label, hrules=True, column_format=specification
        )
        text = text.replace("\\toprule\n", f"\\toprule\n{_header_above(table)}").rstrip()
        return "\n".join([f"{{{size.settings}", text, "}", *below]) + "\n"
    name = "table" if width == COLUMN else "table*"
    text = style.to_latex(
        caption=caption,
        label=label,
        hrules=True,
        column_format=specification,
        position="tbp",
        position_float="centering",
        environment=name,
    )
    text = text.replace("\\centering\n", f"\\centering\n{size.settings}\n", 1)
    text = text.replace("\\toprule\n", f"\\toprule\n{_header_above(table)}").rstrip()
    end = rf"\end{{{name}}}"
    boxed = [r"\par\smallskip", r"\begin{minipage}{\linewidth}", *below, r"\end{minipage}"] if below else []
    return "\n".join([text.removesuffix(end).rstrip(), *boxed, end]) + "\n"


def document(tables: Sequence[Table], comments: Sequence[str] = ()) -> str:
    r"""Tables to \input into a document; the first lines name the packages that its preamble needs, all that it needs.

    `comments` are lines for readers of the file.
    """
    bodies = [environment(table) for table in tables]
    packages = ["booktabs", "dcolumn", *(["longtable"] if any("{longtable}" in body for body in bodies) else [])]
    above = [f"\\usepackage{{{name}}}" for name in packages] + [ascii_only(printable(line)) for line in comments]
    return "".join(f"% {line}".rstrip() + "\n" for line in above) + "".join(f"\n{body}" for body in bodies)
