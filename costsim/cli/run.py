"""`costsim run`: count a workload under its policies."""

from collections.abc import Callable
from typing import Any

import click

from costsim import names
from costsim.cli.options import BUFFER, HARDWARE, OUTPUT, RATIOS, SPREAD, SWEEP, WORKLOAD, options
from costsim.cli.output import chosen_style, echo_line, write
from costsim.cli.sweeping import check_options


@click.command()
@options(*WORKLOAD, *SWEEP, *SPREAD, *BUFFER, *RATIOS, *HARDWARE)
@click.option("--by", type=click.Choice(names.BY), default="policy", show_default=True, help="What a row is.")
@options(*OUTPUT)
@click.option("--verbose", is_flag=True, help="List the defaults in force of fields that the workload leaves out.")
@click.option(
    "--assert", "expected", multiple=True, metavar="EXPR", help="Exit with 1 unless dsq.dram_reduction > 2; repeatable."
)
@click.pass_context
def run(
    context: click.Context,
    /,
    by: str,
    style: str | None,
    out: str | None,
    expected: tuple[str, ...],
    sweep: tuple[str, ...],
    executor: str | None,
    resume: str | None,
    **job: Any,
) -> None:
    """Count WORKLOAD under its policies: a path, or a shipped name.

    --assert takes comparisons of POLICY.FIELD and POLICY.DEVICE.FIELD as JSON names them, with and, or, not, + - * /;
    names with hyphens are quoted.

    \b
    costsim run iwslt17-dsq.yaml
    costsim run iwslt17-dsq --policy dsq --by layer --format csv
    costsim run iwslt17-dsq --set model.encoder_layers=12 --scope step
    costsim run iwslt17-dsq --by assumption
    costsim run iwslt17-dsq --verbose
    costsim run iwslt17-dsq --assert 'dsq.dram_reduction > 2'
    costsim run iwslt17-dsq --assert '"stash-bfp".macs == dsq.macs'
    costsim run iwslt17-dsq --by reduction --hardware h100-sxm --format latex
    costsim run iwslt17-dsq --hardware jetson-orin-nano --hardware h100-sxm
    costsim run iwslt17-dsq --scope step --traffic tiled --buffer-bytes 131072
    costsim run glue-mrpc-dsq --sweep batch=8,16 --sweep model.layers=6,12
    costsim run iwslt17-dsq --policy dsq --sweep levels.q0=2,4,8
    """
    written = chosen_style(style, out), out
    check_options(sweep, executor, resume, expected)
    verbose = job.pop("verbose")
    if sweep and verbose:
        raise click.UsageError("--verbose is of one run, and --sweep makes several; leave one out")
    if sweep:
        _run_sweep(sweep, by, written, (executor, resume), **job)
    elif failures := _run_once((by, verbose), written, expected, **job):
        for failure in failures:
            echo_line(f"costsim: {failure}", err=True)
        context.exit(1)


def _run_once(
    shown: tuple[str, bool], written: tuple[str, str | None], expected: tuple[str, ...], /, **job: Any
) -> list[str]:
    """`run` without a sweep; `shown` are --by and --verbose. The assertions that fail."""
    from costsim.run import simulate
    from costsim.run.job import Request, prepare
    from costsim.tables.run import document

    prepared = prepare(Request(**job))
    failed = _failed(prepared, expected)
    result = simulate.execute(prepared)
    failures = failed(result)
    write(document(result, *shown), *written)
    return failures


def _run_sweep(
    sweep: tuple[str, ...],
    by: str,
    written: tuple[str, str | None],
    spread: tuple[str | None, str | None],
    /,
    **job: Any,
) -> None:
    """`run --sweep`; `written` are its style and --out, `spread` are --executor and --resume."""
    from costsim.cli.sweeping import parts
    from costsim.run import sweep as sweeping
    from costsim.tables.styles import style_of
    from costsim.tables.sweep import document

    style, out = written
    prepared = sweeping.prepared(sweeping.points(sweep), **job)
    one = style if out is None else style_of(out)
    write(document(prepared, by, parts(prepared, by, one, *spread)), style, out)


def _failed(job: Any, expected: tuple[str, ...]) -> Callable[[Any], list[str]]:
    """The assertions that a result fails, as a function; names are checked at once, before anything is counted."""
    if not expected:
        return lambda _: []
    from costsim.results import assertions

    expressions = assertions.read(expected, job)
    return lambda result: assertions.failures(expressions, result)
