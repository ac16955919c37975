"""Where documents go: printed, or written to --out; and how far a long command is. Imports nothing heavy."""

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from costsim import names
from costsim.cli.options import path_of

if TYPE_CHECKING:
    from costsim.tables.document import Document


_LONGEST_LINE = 10_000  # characters; a path has at most 4,096


def chosen_style(style: str | None, out: str | None) -> str:
    """The style that --format or the ending of --out names, else a table.

    Raises InputError, before anything is counted, if the two differ or --out is a folder that cannot be written to.
    """
    from costsim.errors import InputError
    from costsim.inputs import files
    from costsim.tables import styles

    ending = styles.style_of(out) if out is not None else None
    if style and ending and style != ending:
        raise InputError(f"--out {out}: that is for {ending}, and --format says {style}")
    if out is not None and ending in names.WORKBOOK:
        from costsim.tables.workbook import check_installed

        check_installed(out)
    if out is not None and ending is None:
        files.check_folder(path_of(out))
    return style or ending or "table"


def style_beside_figure(style: str | None, out: str | None) -> str:
    """As `chosen_style`, of a command whose --out may be a figure, and then nothing else."""
    from costsim.errors import InputError

    if out is None or not out.lower().endswith(names.FIGURE_ENDINGS):
        return chosen_style(style, out)
    path_of(out)
    if style is not None:
        raise InputError(f"--out {out}: that is a figure, and --format says {style}")
    return "table"


def write(document: "Document", style: str, out: str | None = None) -> None:
    """Print a document in a style; with --out write it, in that style or in all, and print the names of the files."""
    from costsim.tables import styles, table

    if out is None:
        text = styles.render(document, style, table.screen())
        waiting.end()
        click.echo(text, nl=False)
        return
    for path in styles.save(document, out):
        echo_line(path)


def echo_line(text: object, err: bool = False) -> None:
    """Print a line with a name from outside in it, of a file or a policy: control characters are escaped."""
    from costsim.errors import one_line

    waiting.end()
    click.echo(one_line(text, _LONGEST_LINE), err=err)


_SECONDS = 2  # after which a bar is shown


class Waiting:
    """On a terminal, a line on stderr after two seconds in which nothing was written, until something is."""

    def __init__(self) -> None:
        self.timer: Any = None
        self.shown = False

    def begin(self) -> None:
        """Count from now on."""
        if sys.stderr.isatty():
            from threading import Timer

            self.timer = Timer(_SECONDS, self.show)
            self.timer.daemon = True
            self.timer.start()

    def show(self) -> None:
        """Say that there is work."""
        self.shown = True
        click.echo("costsim: working ...", err=True, nl=False)

    def end(self) -> None:
        """Leave nothing on the line."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer.join()
            self.timer = None
        if self.shown:
            click.echo("\r\x1b[K", err=True, nl=False)
        self.shown = False


waiting = Waiting()  # of the command that runs


class Progress:
    """A bar on stderr over so many ticks, if that is a terminal and it takes longer than two seconds."""

    def __init__(self, length: int) -> None:
        self.length, self.done, self.start = length, 0, time.monotonic()
        self.bar: Any = None
        self.wanted = sys.stderr.isatty()
        waiting.end()

    def update(self, ticks: int) -> None:
        """So many more ticks."""
        self.done += ticks
        if self.bar is not None:
            self.bar.update(ticks)
        elif self.wanted and time.monotonic() - self.start > _SECONDS:
            self.bar = click.progressbar(length=self.length, file=sys.stderr)
            self.bar.__enter__()
            self.bar.update(self.done)

    def close(self) -> None:
        """Leave the line of the bar."""
        if self.bar is not None:
            self.bar.render_finish()
        self.bar, self.wanted = None, False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def progress(length: int) -> Progress:
    """How far a long command is, over so many ticks; a context manager whose value has `update`."""
    return Progress(length)
