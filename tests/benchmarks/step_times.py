"""Predicted beside measured steps, as a table for docs/time.md. Run by hand, on a machine that does nothing else:

    costsim calibrate --engine torch --out torch.yaml
    python tests/benchmarks/step_times.py torch.yaml --engine torch

The profile must be made before, so that nothing of these steps is in it.
"""

import statistics

import click

from costsim.devices.profile import load_hardware
from costsim.reference.engines import open_engine
from costsim.reference.measure import Timing, measure
from costsim.run.job import Request, prepare

WORKLOADS = ("gpt2-small", "gpt2-medium", "glue-mrpc-dsq", "iwslt17-dsq", "llama-60m", "llama-130m")
MOST_MACS = (10**10, 4 * 10**10)  # of a step: sequences and tokens are halved until it fits
STEPS = 8


def row(timing: Timing) -> str:
    """A line of the table: seconds, error, what the profile says it may be, and what the machine differs by."""
    total = timing.total
    assert total.predicted_s is not None
    parts = (f"{part.predicted_s:.3f} / {part.measured_s:.3f}" for part in (timing.gemms, timing.others, total))
    tokens = {dim: timing.sizes[dim] for dim in ("batch", "tokens", "source", "target") if dim in timing.sizes}
    sizes = " x ".join(map(str, tokens.values()))
    spread = 100 * timing.spread_s / total.predicted_s
    cells = (timing.workload, sizes, *parts, f"{total.error_percent:+.1f} %", f"{spread:.0f} %")
    return f"| {' | '.join(cells)} | {timing.noise_percent:.1f} % |"


@click.command()
@click.argument("profile")
@click.option("--engine", type=click.Choice(["numpy", "torch"]), required=True)
@click.option("--only", multiple=True, help="Some of the workloads.")
def table(profile: str, engine: str, only: tuple[str, ...]) -> None:
    """Print the table of errors of a profile, and their median and worst."""
    device, errors = load_hardware(profile), []
    click.echo("| workload | batch x tokens | GEMMs, s | other ops, s | step, s | error | spread | noise |")
    click.echo("|---|---|---|---|---|---|---|---|")
    for name in only or WORKLOADS:
        for most_macs in MOST_MACS:
            runner = open_engine("cpu", engine)
            timing = measure(prepare(Request(name)), device, steps=STEPS, most_macs=most_macs, engine=runner)
            errors.append(abs(timing.total.error_percent or 0.0))
            click.echo(row(timing))
    click.echo(f"\nmedian error {statistics.median(errors):.1f} %, worst {max(errors):.1f} %")


if __name__ == "__main__":
    table()
