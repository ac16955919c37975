"""`costsim search`: the best bits for groups of tensors."""

from typing import Any

import click

from costsim import names
from costsim.cli.options import RATIOS, options, path_of
from costsim.cli.output import echo_line, progress, write


@click.command()
@click.argument("workload")
@click.option("--policy", metavar="NAME", help="Policy whose formats are chosen anew.  [default: the baseline]")
@click.option(
    "--vary",
    "varied",
    multiple=True,
    type=click.Choice(names.VARIED),
    default=("operand",),
    show_default=True,
    help="What takes formats: what GEMMs multiply, what is kept for the backward, tensors; repeatable.",
)
@click.option(
    "--group",
    "groups",
    default="role,gemm,operand",
    show_default=True,
    metavar="FIELD,...",
    help="What tells groups apart: role, layer, gemm, operand, phase.",
)
@click.option("--formats", required=True, metavar="NAME,...", help="Formats to choose from.")
@click.option(
    "--sensitivity",
    type=click.Path(),
    metavar="CSV",
    help="What bits cost in quality: group,format,loss; or `reference`, which measures a proxy in NumPy.",
)
@click.option(
    "--against",
    type=click.Choice(names.COSTS),
    default="arithmetic_cost",
    show_default=True,
    help="Cost of the front of loss and cost.",
)
@click.option(
    "--minimise", type=click.Choice(("loss", *names.COSTS)), help="One policy, with the least of this.  [default: loss]"
)
@click.option("--at-most", multiple=True, metavar="FIELD=N", help="Budget of loss or of a cost; repeatable.")
@click.option("--at-least", multiple=True, metavar="FIELD=N", help="Budget of dram_reduction, arithmetic_reduction.")
@click.option("--points", type=click.IntRange(2, 99), default=12, show_default=True, help="Policies of a front shown.")
@click.option("--traffic", type=click.Choice(("unfused", "fused")), help="DRAM traffic model.")
@click.option("--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="Override a field of the workload.")
@options(*RATIOS)
@click.option("--format", "style", type=click.Choice(tuple(names.STYLES)), default="table", show_default=True)
@click.option("--out", type=click.Path(), help="Folder for the policies, the table in all styles and the figure.")
def search(style: str, out: str | None, **given: Any) -> None:
    """Find the best bits for groups of WORKLOAD's tensors.

    Without budgets: the front of loss and --against, the policies that no other beats. With --at-most or --at-least:
    the one policy with the least loss that keeps them, or with the least of --minimise. Each is a policy file in --out
    that `costsim run` takes.

    \b
    costsim search iwslt17-dsq --formats bfp4,bfp8,bfp16 --sensitivity s.csv
    costsim search iwslt17-dsq --policy dsq --formats bfp4,bfp8 --sensitivity s.csv --at-least dram_reduction=2
    costsim search iwslt17-dsq --policy dsq --vary operand --vary stash --group role,layer,gemm,operand
      --formats bfp4,bfp8,bfp16 --sensitivity s.csv --at-most loss=0.1 --minimise dram_bits --out found
    """
    from costsim.run.job import Request, prepare
    from costsim.search.found import Asked
    from costsim.search.found import search as find
    from costsim.tables import styles
    from costsim.tables.search import document

    if out is not None:
        styles.check_folder(path_of(out))
    job = {name: given.pop(name) for name in ("workload", "baseline", "law", "scope", "traffic", "assignments")}
    prepared, asked = prepare(Request(**job)), Asked(**given)
    table = _table(prepared, asked)
    found = find(prepared, asked, table)
    write(document(found), style)
    if out is not None:
        for path in _save(found, table, path_of(out)):
            echo_line(path)


def _table(job: Any, asked: Any) -> Any:
    """What bits cost in quality: as a file says, or as it is measured, which takes a run a group and format."""
    from pathlib import Path

    from costsim.search.found import MEASURED, base_of, names_of
    from costsim.search.sensitivity import Sensitivity, read_sensitivity

    if asked.sensitivity is None:
        return None
    if asked.sensitivity != MEASURED:
        return read_sensitivity(Path(asked.sensitivity))
    from costsim.reference.noise import gradient_noise, runs

    given = (job, base_of(job, asked), *names_of(asked))
    with progress(runs(*given)) as bar:
        return Sensitivity(MEASURED, gradient_noise(*given, tick=lambda: bar.update(1)), {})


def _save(found: Any, table: Any, folder: Any) -> list[Any]:
    """Write the table in all styles, the policies that it has, the figure of a front, and losses that were measured."""
    from costsim.inputs import files
    from costsim.plots import save_front
    from costsim.search.found import MEASURED, policy_text
    from costsim.search.sensitivity import csv_text
    from costsim.tables import styles
    from costsim.tables.search import document

    paths = styles.save(document(found), str(folder))
    for point in found.shown:
        text = policy_text(found, point, folder)
        paths.append(files.write(folder / f"{found.name(point)}.yaml", text.encode()))
    workload = found.problem.job.workload
    if table is not None and found.asked.sensitivity == MEASURED:
        paths.append(files.write(folder / f"{workload}-sensitivity.csv", csv_text(table).encode()))
    return paths if found.gap is not None else [*paths, save_front(found, folder / f"{workload}-search.svg")]
