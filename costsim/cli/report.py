"""`costsim report`: results as one page."""

from typing import Any

import click

from costsim.cli.options import BUFFER, HARDWARE, RATIOS, WORKLOAD, options, path_of
from costsim.cli.output import echo_line


@click.command()
@options(*WORKLOAD, *BUFFER, *RATIOS, *HARDWARE)
@click.option("--out", type=click.Path(), help="Page to write, .html  [default: WORKLOAD.html]")
@click.pass_context
def report(context: click.Context, /, out: str | None, **job: Any) -> None:
    """Write WORKLOAD's results as one page: summary, tables that sort, figures, the source of every figure.

    The page needs nothing from outside, so it can be sent, archived and printed as it is.

    \b
    costsim report iwslt17-dsq
    costsim report gpt2-small --hardware h100-sxm --out report.html
    """
    import shlex

    from costsim.page import page
    from costsim.run import simulate
    from costsim.run.job import Request, prepare

    if out is not None:
        page.check_place(path_of(out))
    prepared = prepare(Request(**job))
    path = path_of(f"{prepared.workload}.html" if out is None else out)
    page.check_place(path)
    command = shlex.join(("costsim", *context.find_root().obj))
    echo_line(page.save(simulate.execute(prepared), path, command))
