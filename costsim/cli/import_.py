"""`costsim import`: a Hugging Face config as a workload file."""

import click

from costsim.cli.options import path_of
from costsim.cli.output import echo_line


@click.command("import")
@click.argument("config")
@click.option("--out", type=click.Path(), help="File to write, instead of printing.")
def import_(config: str, out: str | None) -> None:
    """Turn CONFIG, a Hugging Face config.json, into a workload file.

    What the config does not say (batch, optimizer, policies) is our choice, and marked in a comment.

    \b
    costsim import config.json
    costsim import config.json --out model.yaml
    """
    from costsim.huggingface import importer
    from costsim.inputs import files

    made = importer.workload_of(config)
    if out is None:
        click.echo(made.text, nl=False)
    else:
        echo_line(files.write(path_of(out), made.text.encode()))
    for note in made.notes:
        echo_line(f"costsim: {note}", err=True)
