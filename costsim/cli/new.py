"""`costsim new`: a file to start from."""

import click

from costsim import names
from costsim.cli.options import path_of
from costsim.cli.output import echo_line


@click.command()
@click.argument("file", type=click.Choice(names.FILES))
@click.option("--out", type=click.Path(), help="File to write, instead of printing.")
def new(file: str, out: str | None) -> None:
    """Write a file to start from, which runs as it is, with every field explained.

    Fields that are left out stand in comments, with their defaults.

    \b
    costsim new workload --out mine.yaml
    costsim new policy
    """
    from costsim.cli import starting
    from costsim.errors import InputError, one_line
    from costsim.inputs import files

    text = starting.text(file)
    if out is None:
        click.echo(text, nl=False)
    else:
        path = path_of(out)
        if path.is_file():
            raise InputError(
                f"--out {one_line(out, 200)}: is there already, and may hold what you wrote; name another file"
            )
        echo_line(files.write(path, text.encode()))
