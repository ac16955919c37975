"""`costsim list`, `show` and `schema`: what costsim knows and ships."""

from collections.abc import Callable

import click

from costsim import names
from costsim.cli.options import path_of
from costsim.cli.output import echo_line


def _catalogue(name: str) -> dict[str, str]:
    from costsim.cli import catalogue

    entries: Callable[[], dict[str, str]] = catalogue.aten if name == "aten" else catalogue.CATALOGUES[name]
    return entries()


@click.command("list")
@click.argument("catalogue", type=click.Choice(names.CATALOGUES))
@click.option("--aten", is_flag=True, help="With ops: those of PyTorch that trace knows, and what becomes of them.")
def list_(catalogue: str, aten: bool) -> None:
    """List what costsim knows, a line each, the name first.

    \b
    costsim list policies
    costsim list ops --aten
    """
    if aten and catalogue != "ops":
        raise click.UsageError(f"--aten goes with ops, not with {catalogue}")
    entries = _catalogue("aten" if aten else catalogue)
    width = max((len(name) for name in entries), default=0)
    for name, text in entries.items():
        click.echo(f"{name:{width}}  {text}".rstrip())
    if not entries:
        click.echo(f"costsim: nothing of {catalogue} is shipped yet", err=True)


@click.command()
@click.argument("name")
def show(name: str) -> None:
    """Print a shipped workload, policy or hardware profile with its sources, a format, an op kind, or a traffic model.

    \b
    costsim show dsq
    costsim show tiled
    costsim show bfp4
    """
    from costsim.cli import catalogue

    click.echo(catalogue.describe(name), nl=False)


@click.command()
@click.argument("file", type=click.Choice(names.FILES))
@click.option("--out", type=click.Path(), help="File to write, instead of printing.")
def schema(file: str, out: str | None) -> None:
    """Print the JSON schema of a file, for editors and checks.

    \b
    costsim schema policy
    costsim schema policy --out policy.schema.json
    """
    from costsim.cli import catalogue
    from costsim.inputs import files

    text = catalogue.json_schema(file)
    if out is None:
        click.echo(text, nl=False)
    else:
        echo_line(files.write(path_of(out), text.encode()))
