"""`costsim run`: count a workload under its policies."""

import os
from collections.abc import Callable
from typing import Any

import click

from costsim import names
from costsim.cli.options import BUFFER, HARDWARE, RATIOS, SWEEP, WORKLOAD, options, path_of


@click.command()
@options(*WORKLOAD, *SWEEP, *BUFFER, *RATIOS, *HARDWARE)
@click.option("--by", type=click.Choice(names.BY), default="policy", show_default=True, help="What a row is.")
@click.option(
    "--format",
    "style",
    type=click.Choice(tuple(names.STYLES)),
    help="Output format.  [default: table, or the ending of --out]",
)
@click.option("--out", type=click.Path(), help="File to write (.tex .md .csv .json .txt), or folder for all of them.")
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
    costsim run iwslt17-dsq --assert 'dsq.dram_reduction > 2'
    costsim run iwslt17-dsq --assert '"stash-bfp".macs == dsq.macs'
    costsim run iwslt17-dsq --by reduction --hardware h100-sxm --format latex
    costsim run iwslt17-dsq --hardware jetson-orin-nano --hardware h100-sxm
    costsim run iwslt17-dsq --scope step --traffic tiled --buffer-bytes 131072
    costsim run glue-mrpc-dsq --sweep batch=8,16 --sweep model.layers=6,12
    """
    from costsim.run import simulate
    from costsim.run.job import prepare
    from costsim.tables import run as run_tables
    from costsim.tables import table

    style = _style(style, out)
    if out is not None and not _is_file(out):
        run_tables.check_folder(path_of(out))
    if sweep:
        _run_sweep(sweep, by, style, out, expected, **job)
        return
    prepared = prepare(**job)
    failed = _failed(prepared, expected)
    result = simulate.execute(prepared)
    failures = failed(result)
    if out is None:
        click.echo(run_tables.render(result, by, style, table.screen()), nl=False)
    else:
        _write(out, lambda: run_tables.render(result, by, style), lambda: run_tables.texts(result, by))
    for failure in failures:
        click.echo(f"costsim: {failure}", err=True)
    context.exit(1 if failures else 0)


def _run_sweep(
    sweep: tuple[str, ...], by: str, style: str, out: str | None, expected: tuple[str, ...], **job: Any
) -> None:
    """`run --sweep`."""
    from costsim.errors import InputError
    from costsim.run import sweep as sweeping
    from costsim.tables import sweep as sweep_tables
    from costsim.tables import table

    if expected:
        raise InputError("--assert: is of one run; leave out --sweep")
    found = sweeping.run(sweeping.points(sweep), **job)
    if out is None:
        click.echo(sweep_tables.render(found, by, style, table.screen()), nl=False)
    else:
        _write(out, lambda: sweep_tables.render(found, by, style), lambda: sweep_tables.texts(found, by))


_STYLE_OF = {ending: style for style, ending in names.STYLES.items()}


def _is_file(out: str) -> bool:
    """Whether --out names one file, by its ending, and not the folder for all formats."""
    return out.rpartition(".")[2] in _STYLE_OF and not os.path.isdir(out)


def _style(style: str | None, out: str | None) -> str:
    """The format that is asked for, by --format or by the ending of --out. Raises InputError if they differ."""
    from costsim.errors import InputError

    ending = _STYLE_OF[out.rpartition(".")[2]] if out is not None and _is_file(out) else None
    if style and ending and style != ending:
        raise InputError(f"--out {out}: that is for {ending}, and --format says {style}")
    return style or ending or "table"


def _write(out: str, render: Callable[[], str], texts: Callable[[], dict[str, str]]) -> None:
    """Write one file, or every format to a folder, and print what was written."""
    from costsim.inputs import files
    from costsim.tables import run as run_tables

    if _is_file(out):
        click.echo(files.write(path_of(out), render().encode(errors="backslashreplace")))
        return
    for path in run_tables.write_all(texts(), path_of(out)):
        click.echo(path)


def _failed(job: Any, expected: tuple[str, ...]) -> Callable[[Any], list[str]]:
    """What tells which assertions do not hold of a result; their names are checked before anything is counted."""
    if not expected:
        return lambda _: []
    from costsim.results import assertions

    expressions = assertions.read(expected, job)
    return lambda result: assertions.failures(expressions, result)
