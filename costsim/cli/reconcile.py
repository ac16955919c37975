"""`costsim reconcile`: which assumptions would explain the figures of a paper."""

from typing import Any

import click

from costsim.cli.options import FIGURE, OUTPUT, WORKLOAD, apart, options
from costsim.cli.output import echo_line, progress, style_beside_figure, write


def _tolerance(ctx: click.Context, param: click.Parameter, text: str) -> Any:
    """A part of one from a text in percent, or a number: 1%, 0.01."""
    import re
    from fractions import Fraction

    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?(%?)", text.strip())
    part = Fraction(match[1]) / (100 if match[2] else 1) if match else None
    if part is None or not 0 < part < 1:
        message = f"expected a tolerance above 0 and below 100 %, such as 1% or 0.01, got {text!r}"
        raise click.BadParameter(message, ctx=ctx, param=param)
    return part


@click.command()
@options(*WORKLOAD)
@click.option("--within", default="1%", show_default=True, callback=_tolerance, help="How near counts as a hit.")
@click.option(
    "--assumption", "named", multiple=True, metavar="NAME", help="Vary this, and no other than those; repeatable."
)
@click.option("--top", type=click.IntRange(1, 1000), default=10, show_default=True, help="Hits listed.")
@options(*OUTPUT, *FIGURE)
def reconcile(within: Any, named: tuple[str, ...], top: int, style: str | None, out: str | None, **given: Any) -> None:
    """Find which assumptions of WORKLOAD give its published figures.

    All combinations are tried, of the workload's assumptions, of those of policies with published figures, and of
    scope, traffic and law: which give all figures at once? Without --assumption, cases that alone move no figure by
    0.5 % stay as shipped. --out takes .svg, .pdf and .png, too: where all combinations come to.

    \b
    costsim reconcile iwslt17-dsq --within 20% --assumption law --top 20
    costsim reconcile iwslt17-dsq --assumption law --assumption "shared exponent"
    costsim reconcile iwslt17-dsq --assumption law --out combinations.svg
    """
    from costsim.run.job import Request, prepare
    from costsim.search.reconcile import reconcile as combine
    from costsim.tables.reconcile import document

    style = style_beside_figure(style, out)
    asked, job = apart(given, out)
    prepared = prepare(Request(**job))
    with progress(100) as bar:
        found = combine(prepared, within, named, top, bar.update)
    if out is None:
        write(document(found), style)
        return
    from costsim.plots.findings import save_reconciliation

    for path in save_reconciliation(found, out, asked):
        echo_line(path)
