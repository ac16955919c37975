"""`costsim import`: a Hugging Face config as a workload file."""

import click

from costsim.cli.options import path_of


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
    click.echo(made.text if out is None else files.write(path_of(out), made.text.encode()), nl=out is not None)
    for note in made.notes:
        click.echo(f"costsim: {note}", err=True)
