"""`costsim plot`: draw results, or write a step as a trace."""

from typing import Any

import click

from costsim import names
from costsim.cli.options import (
    BUFFER,
    FIGURE,
    HARDWARE,
    RATIOS,
    SPREAD,
    SWEEP,
    WORKLOAD,
    apart,
    options,
    path_of,
    whole_numbers,
)
from costsim.cli.output import echo_line
from costsim.cli.sweeping import check_options


@click.command()
@options(*WORKLOAD, *SWEEP, *SPREAD, *BUFFER, *RATIOS, *HARDWARE)
@click.argument("kind", metavar="KIND", type=click.Choice(names.PLOTS))
@click.option("--by", type=click.Choice(names.BREAKDOWNS), help="Groups of breakdown.  [default: phase]")
@click.option("--relative", is_flag=True, help="Of sweep: times less than the baseline, not amounts.")
@click.option("--batch", metavar="N,...", help="Sequences of a micro-batch, for memory.")
@click.option("--phase", type=click.IntRange(1), help="Phase of the policies, for trace.  [default: 1]")
@click.option(
    "--out", type=click.Path(), help="File to write: .svg, .pdf, .png, of trace .json  [default: WORKLOAD-KIND.svg]"
)
@options(*FIGURE)
def plot(
    kind: str, out: str | None, sweep: tuple[str, ...], executor: str | None, resume: str | None, **given: Any
) -> None:
    """Draw WORKLOAD's results, or write a step as a trace.

    breakdown: what makes up arithmetic, DRAM traffic and memory. comparison: how many times less than the baseline.
    sensitivity: where each assumption takes the ratios. schedule: bits over training, and what is spent by then.
    roofline, memory: on devices. timeline: live memory over a step. sweep: arithmetic, traffic, memory, time and energy
    over the values of a field, a panel for each value of other fields.
    trace: a step's kernels, for Perfetto.

    \b
    costsim plot iwslt17-dsq breakdown --by role
    costsim plot iwslt17-dsq comparison --hardware a100-80gb
    costsim plot iwslt17-dsq.yaml sensitivity
    costsim plot iwslt17-dsq.yaml schedule --out schedule.png
    costsim plot iwslt17-dsq.yaml roofline --hardware h100-sxm
    costsim plot gpt2-small memory --batch 4,8,16 --hardware a100-80gb
    costsim plot gpt2-small timeline --policy bf16-mixed
    costsim plot glue-mrpc-dsq sweep --sweep batch=1,4,16,64
    costsim plot glue-mrpc-dsq sweep --sweep batch=1,8 --sweep batch.tokens=64,128
    costsim plot iwslt17-dsq breakdown --width 84mm --no-title --out fig.pdf
    costsim plot gpt2-small trace --policy bf16-mixed --hardware t4 --out t.json
    """
    by, batch, phase, relative = (given.pop(name) or None for name in ("by", "batch", "phase", "relative"))
    look, job = apart(given, None, figure=kind != "trace")
    of_kind: dict[str, Any] = {} if by is None else {"by": by}
    of_kind |= {} if batch is None else {"batches": whole_numbers("--batch", batch)}
    of_kind |= {} if phase is None else {"phase": phase}
    _check_kind(kind, by=by, batch=batch, phase=phase, relative=relative, sweep=sweep or None)
    check_options(sweep, executor, resume)
    if kind == "sweep":
        echo_line(_save_sweep(sweep, out, (executor, resume), bool(relative), look, **job))
    else:
        echo_line(_save(kind, out, of_kind if kind == "trace" else {**of_kind, "look": look}, **job))


def _save(kind: str, out: str | None, options: dict[str, Any], /, **job: Any) -> Any:
    """Draw a run, or write its trace."""
    from costsim.run import simulate
    from costsim.run.job import Request, prepare

    prepared = prepare(Request(**job))
    path = path_of(f"{prepared.workload}-{kind}.{'json' if kind == 'trace' else 'svg'}" if out is None else out)
    result = simulate.execute(prepared)
    if kind == "trace":
        from costsim.results import trace

        return trace.save(result, path, **options)
    from costsim import plots

    return plots.save(result, kind, path, **options)


def _save_sweep(
    sweep: tuple[str, ...],
    out: str | None,
    spread: tuple[str | None, str | None],
    relative: bool,
    look: Any,
    /,
    **job: Any,
) -> Any:
    """Draw a sweep; `spread` are --executor and --resume. What cannot be drawn is refused at once."""
    from costsim import plots
    from costsim.cli.sweeping import parts
    from costsim.run import sweep as sweeping

    where = sweeping.points(sweep)
    plots.sweep_plot.check(where)
    prepared = sweeping.prepared(where, **job)
    path = path_of(f"{prepared.first.workload}-sweep.svg" if out is None else out)
    what = ("reduction", "table") if relative else ("policy", "csv")
    return plots.save_sweep(prepared, lambda: parts(prepared, *what, *spread), path, relative, look)


_OPTIONS = {  # of one kind of plot each, with a hint for errors
    "by": ("breakdown", ""),
    "batch": ("memory", "; --set batch.sequences=N sets one"),
    "phase": ("trace", ""),
    "sweep": ("sweep", ""),
    "relative": ("sweep", ""),
}


def _check_kind(kind: str, **given: object) -> None:
    """Raise InputError for an option that is of another kind of plot."""
    from costsim.errors import InputError

    for name, value in given.items():
        owner, instead = _OPTIONS[name]
        if value is not None and kind != owner:
            raise InputError(f"--{name}: is of plot {owner}, not of plot {kind}{instead}")
