"""`costsim trace`: a PyTorch module as a file that costsim runs."""

import click

from costsim.cli.options import path_of
from costsim.cli.output import echo_line


@click.command()
@click.argument("spec")
@click.option("--out", type=click.Path(), help="MODEL.json, or MODEL.yaml: with a workload that names it.")
@click.option("--static", is_flag=True, help="Fix all sizes; by default batch and tokens stay open.")
def trace(spec: str, out: str | None, static: bool) -> None:
    """Trace SPEC, a PyTorch module, forward and backward, into a file.

    SPEC is module:function, a function that gives (module, example inputs), or hf:config.json. The file needs no
    PyTorch to be counted. Without --out it is printed.

    \b
    costsim trace my_model:make --out my_model.yaml
    costsim trace hf:config.json --out model.yaml
    """
    from costsim.trace import files

    made = files.trace_files(spec, None if out is None else path_of(out), not static)
    if out is None:
        click.echo(made[None].decode(), nl=False)
        return
    for path in files.write_all(made):
        echo_line(path)
