"""Documents in every output style: on a screen, as one file, as a folder of all styles.

A style is a row of WRITERS, by its name in `names.STYLES`, which has the ending of its files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from costsim import names
from costsim.errors import InputError, one_line
from costsim.inputs import files
from costsim.tables.document import Block, Document, Drawn, Heading, Notes, Preformatted, Source
from costsim.tables.table import FILE, Screen, csv_text, markdown, markdown_text, printable, terminal, wrap

_UNBOUNDED = 10**6  # columns of a file that shows names in full


def _lines(block: Block | Preformatted, screen: Screen) -> list[str]:
    """A block as a screen shows it."""
    match block:
        case Drawn(table, drawing, whole):
            unfolded = replace(screen, width=_UNBOUNDED) if whole and screen.whole_names else screen
            return terminal(table, unfolded, drawing)
        case Notes(lines, indent):
            return screen.notes(lines, indent)
        case Source(text):
            return screen.notes([text])
        case Heading(text, bold):
            lines = wrap(printable(text), screen.width).split("\n")
            return screen.paint(lines, bold=True) if bold else lines
        case Preformatted(lines):
            return [printable(line) for line in lines]


def _text(document: Document, screen: Screen) -> str:
    """For a terminal, or a text file of 80 columns."""
    groups = ("\n".join(line for block in group for line in _lines(block, screen)) for group in document.screen())
    return "\n\n".join(groups) + "\n"


def _json(document: Document, _: Screen) -> str:
    """One object; exact integers as decimal strings. Texts are as they are in files."""
    import json  # other styles do without

    return json.dumps(document.data(), indent=2, allow_nan=False) + "\n"


def _csv(document: Document, _: Screen) -> str:
    """A header and the records, full precision; what does not fit a cell is left to JSON."""
    return csv_text(document.records())


def _markdown_part(block: Block) -> str:
    match block:
        case Drawn(table):
            return markdown(table)
        case Notes(lines):
            return "\n".join(f"- {markdown_text(line)}" for line in lines)
        case Source(text):
            return markdown_text(text)
        case Heading(text):
            return f"{markdown_text(text)}:"


def _markdown(document: Document, _: Screen) -> str:
    """GitHub's pipe tables and the notes; whatever names hold renders as itself."""
    return "\n\n".join(map(_markdown_part, document.page())) + "\n"


def _latex(document: Document, _: Screen) -> str:
    """Tables for a paper, ready to \\input; comments for readers of the file."""
    from costsim.tables import latex  # pandas

    return latex.document(document.paper(), [line for block in document.comments() for line in _lines(block, FILE)])


WRITERS: Mapping[str, Callable[[Document, Screen], str]] = {
    "table": _text,
    "json": _json,
    "csv": _csv,
    "markdown": _markdown,
    "latex": _latex,
}
_STYLES = {ending: style for style, ending in {**names.STYLES, **names.WORKBOOK}.items()}


def render(document: Document, style: str, screen: Screen = FILE) -> str:
    """A document in one of WRITERS; a table fits the screen."""
    return WRITERS[style](document, screen)


def style_of(out: str) -> str | None:
    """The style of the one file that `out` names by its ending; None for a folder, which takes all styles."""
    return None if os.path.isdir(out) else _STYLES.get(out.rpartition(".")[2])


def save(document: Document, out: str) -> list[Path]:
    """Write one file in the style of its ending, or every style to a folder. Raises InputError if that cannot be."""
    style = style_of(out)
    if style is not None:
        return [files.write(Path(out), _encoded(document, style, out))]
    contents = {f"{document.stem}.{ending}": _encoded(document, style, out) for style, ending in names.STYLES.items()}
    return _write_all(contents, Path(out))


def _encoded(document: Document, style: str, out: str) -> bytes:
    """A document as the bytes of a file. Raises InputError without the library that a style takes."""
    if style in names.WORKBOOK:
        from costsim.tables.workbook import check_installed, workbook  # few write any

        check_installed(out)
        return workbook(document)
    return render(document, style).encode(errors="backslashreplace")


def _write_all(contents: Mapping[str, bytes], folder: Path) -> list[Path]:
    """Write files of those names to `folder`; made if missing, each file replaced whole or not at all.

    Raises InputError, before anything is written, if the folder cannot be, or has a folder of such a name.
    """
    files.check_folder(folder)
    for name in contents:
        if (folder / name).is_dir():
            raise InputError(f"--out {one_line(folder, 200)}: {one_line(name)} is a folder there")
    return [files.write(folder / name, content) for name, content in contents.items()]
