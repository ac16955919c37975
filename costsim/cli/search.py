"""`costsim search`: the best bits for groups of tensors."""

from typing import Any

import click

from costsim import names
from costsim.cli.options import BUFFER, FIGURE, RATIOS, apart, chosen, options, path_of
from costsim.cli.output import echo_line, progress, write


@click.command()
@click.argument("workload")
@click.option("--policy", metavar="NAME", help="Policy whose formats are chosen anew.  [default: the baseline]")
@options(
    *chosen(
        ("operand",),
        "What takes formats: what GEMMs multiply, what is kept for the backward, tensors, messages; repeatable.",
        "What tells groups apart: role, layer, gemm, operand, phase, collective.",
    )
)
@click.option("--formats", required=True, metavar="NAME,...", help="Formats to choose from.")
@click.option(
    "--sensitivity",
    type=click.Path(),
    metavar="CSV",
    help="What bits cost in quality: group,format,loss; or `reference` or `loss`, proxies run in NumPy.",
)
@click.option(
    "--against",
    metavar="FIELD",
    default="arithmetic_cost",
    show_default=True,
    help=f"Cost of the front of loss and cost: {', '.join(names.OBJECTIVES)}.",
)
@click.option("--minimise", metavar="FIELD", help="One policy, with the least of a cost or of loss.  [default: loss]")
@click.option("--at-most", multiple=True, metavar="FIELD=N", help="Budget of loss or of a cost; repeatable.")
@click.option(
    "--at-least",
    multiple=True,
    metavar="FIELD=N",
    help="Budget of arithmetic_, dram_, memory_, time_ or energy_reduction.",
)
@click.option("--hardware", multiple=True, metavar="NAME", help="Device for time_s and energy_j; repeatable.")
@click.option("--points", type=click.IntRange(2, 99), default=12, show_default=True, help="Policies of a front shown.")
@click.option(
    "--phases",
    type=click.IntRange(1, names.MOST_STRETCHES),
    default=1,
    show_default=True,
    help="Equal parts of training, where formats may rise.",
)
@click.option("--traffic", type=click.Choice(names.TRAFFIC_MODELS), help="DRAM traffic model.")
@click.option("--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="Override a field of the workload.")
@options(*BUFFER, *RATIOS)
@click.option("--format", "style", type=click.Choice(tuple(names.STYLES)), default="table", show_default=True)
@click.option("--out", type=click.Path(), help="Folder for the policies, the table in all styles and the figure.")
@options(*FIGURE)
def search(style: str, out: str | None, **given: Any) -> None:
    """Find the best bits for groups of WORKLOAD's tensors.

    Without budgets: the front of loss and --against, the policies that no other beats. With --at-most or --at-least:
    the one policy with the least loss that keeps them, or with the least of --minimise. Each is a policy file in --out
    that `costsim run` takes.

    \b
    costsim search iwslt17-dsq --formats bfp4,bfp8 --sensitivity reference
    costsim search iwslt17-dsq --formats bfp4,bfp8 --sensitivity reference --out d
    costsim search iwslt17-dsq --formats bfp4,bfp8 --minimise dram_bits
    costsim search gpt2-small --formats bf16,int8 --minimise time_s --hardware t4
    """
    from costsim.errors import InputError
    from costsim.inputs import files
    from costsim.run.job import Request, prepare
    from costsim.search.found import Asked, losses_of, runs_to_measure
    from costsim.search.found import search as find
    from costsim.tables import styles
    from costsim.tables.search import document

    if out is not None:
        files.check_folder(path_of(out))
        if styles.style_of(out):
            raise InputError(f"--out {out}: a search writes several files, so expected a folder")
    look, given = apart(given, out)
    job = {
        name: given.pop(name)
        for name in ("workload", "baseline", "law", "scope", "traffic", "assignments", "buffer_bytes")
    }
    prepared, asked = prepare(Request(**job, hardware=given["hardware"])), Asked(**given)
    with progress(runs_to_measure(prepared, asked)) as bar:
        table = losses_of(prepared, asked, lambda: bar.update(1))
    found = find(prepared, asked, table)
    write(document(found), style)
    if out is not None:
        from costsim.plots.findings import save_search

        for path in save_search(found, table, path_of(out), look):
            echo_line(path)
