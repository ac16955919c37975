"""Predicted beside measured steps, as a table for docs/time.md. Run by hand, on a machine that does nothing else:

    costsim calibrate --engine torch --out torch.yaml
    python tests/benchmarks/step_times.py torch.yaml --engine torch  # or torch.compile, numpy

The profile must be made before, so that nothing of these steps is in it.
"""

import statistics
from collections.abc import Sequence

import click

from costsim.devices.profile import Hardware, load_hardware
from costsim.names import RUNNERS
from costsim.reference.engines import Engine, open_engine
from costsim.reference.measure import Timing, measure
from costsim.run.job import Request, prepare

WORKLOADS = ("gpt2-small", "gpt2-medium", "glue-mrpc-dsq", "iwslt17-dsq", "llama-60m", "llama-130m")
MOST_MACS = (10**10, 4 * 10**10)  # of a step: sequences and tokens are halved until it fits
STEPS = 6  # of each workload and size in a pass


def measured(profile: Hardware, engine: Engine, name: str, most_macs: int) -> Timing:
    """A workload's step of that size, several times."""
    return measure(prepare(Request(name)), profile, steps=STEPS, most_macs=most_macs, engine=engine)


def middle(passes: Sequence[Timing]) -> Timing:
    """The pass whose step took a middling time."""
    return sorted(passes, key=lambda timing: timing.total.measured_s)[(len(passes) - 1) // 2]


def between(passes: Sequence[Timing]) -> float:
    """How far apart passes are, in percent of the shortest: what a machine differs by from one minute to another."""
    seconds = [timing.total.measured_s for timing in passes]
    return 100 * (max(seconds) / min(seconds) - 1)


def row(passes: Sequence[Timing]) -> str:
    """A line of the table: seconds, error, what the profile says it may be, and what the machine differs by."""
    timing = middle(passes)
    total = timing.total
    assert total.predicted_s is not None
    parts = [part for part in (timing.gemms, timing.others) if part] or sorted(timing.kinds, key=lambda part: part.kind)
    seconds = (f"{part.predicted_s:.3f} / {part.measured_s:.3f}" for part in (*parts, total))
    tokens = {dim: timing.sizes[dim] for dim in ("batch", "tokens", "source", "target") if dim in timing.sizes}
    sizes = " x ".join(map(str, tokens.values()))
    spread = 100 * timing.spread_s / total.predicted_s
    cells = (timing.workload, sizes, *seconds, f"{total.error_percent:+.1f} %", f"{spread:.0f} %")
    return f"| {' | '.join(cells)} | {timing.noise_percent:.1f} % | {between(passes):.0f} % |"


@click.command()
@click.argument("profile")
@click.option("--engine", type=click.Choice(RUNNERS), required=True)
@click.option("--only", multiple=True, help="Some of the workloads.")
@click.option("--passes", default=3, show_default=True, help="Over all of them, one after another.")
def table(profile: str, engine: str, only: tuple[str, ...], passes: int) -> None:
    """Print the table of errors of a profile, and their median and worst."""
    device, wanted = load_hardware(profile), [(name, macs) for name in only or WORKLOADS for macs in MOST_MACS]
    runner = open_engine("cpu", engine)
    timed = [[measured(device, runner, *each) for each in wanted] for _ in range(passes)]
    parts = "forward and backward, s | update, s" if runner.traffic == "fused" else "GEMMs, s | other ops, s"
    click.echo(f"| workload | batch x tokens | {parts} | step, s | error | spread | A/A | passes |")
    click.echo("|---|---|---|---|---|---|---|---|---|")
    errors = []
    for of_one in zip(*timed, strict=True):
        click.echo(row(of_one))
        errors.append(abs(middle(of_one).total.error_percent or 0.0))
    click.echo(f"\nmedian error {statistics.median(errors):.1f} %, worst {max(errors):.1f} %")


if __name__ == "__main__":
    table()
