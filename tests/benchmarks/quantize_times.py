"""Predicted beside measured quantize kernels of the reference, at sizes that no bench has. Run by hand, while idle:

    costsim calibrate --out numpy.yaml
    python tests/benchmarks/quantize_times.py numpy.yaml

Formats that no entry of the profile stands for are left out.
"""

import math
import statistics
from time import perf_counter

import click
import numpy as np

from costsim.devices.measured import measured_cast
from costsim.devices.profile import load_hardware
from costsim.formats.named import parse_format
from costsim.policy.assign import Copy
from costsim.reference.engines import Engine, open_engine
from costsim.reference.kernel_bench import QUANTIZED, time_op

FORMATS = (
    "bf16",
    "tf32",
    "fp8-e4m3",
    "fp8-e5m2",
    "fp8-e4m3-tensor",
    "int8",
    "int4",
    "bfp4",
    "bfp16",
    "mxfp4",
    "ternary",
)
SHAPES = ((48, 500), (300, 900), (1000, 1500), (3000, 1200))  # rows and columns
BUDGET_S = 0.5  # of each


@click.command()
@click.argument("profile")
@click.option("--passes", type=click.IntRange(1), default=3, help="Times that all are measured, one after the other.")
def main(profile: str, passes: int) -> None:
    """Print a row for each format and size, and the errors against the median of the passes."""
    kernels, engine = dict(load_hardware(profile).kernels), open_engine()
    assert not set(SHAPES) & set(QUANTIZED)
    predicted = {}
    for name in FORMATS:
        times = measured_cast(Copy(None, parse_format(name), (1,), "stored", False, "", "operand"), kernels)
        if times is not None:
            predicted |= {(name, shape): times.seconds(0, (math.prod(shape),) * 2) for shape in SHAPES}
    taken = [{key: measured(engine, *key) for key in predicted} for _ in range(passes)]
    click.echo("| format | elements | predicted / measured, ms | error | between passes |\n|---|---|---|---|---|")
    errors = []
    for (name, shape), predicted_s in predicted.items():
        seconds = sorted(one[name, shape] for one in taken)
        measured_s = statistics.median(seconds)
        errors.append(100 * (predicted_s / measured_s - 1))
        figures = f"{1e3 * predicted_s:.3f} / {1e3 * measured_s:.3f} | {errors[-1]:+.1f} %"
        click.echo(f"| {name} | {math.prod(shape)} | {figures} | {100 * (seconds[-1] / seconds[0] - 1):.0f} % |")
    absolute = sorted(map(abs, errors))
    click.echo(f"\nmedian {statistics.median(absolute):.1f} %, worst {absolute[-1]:.1f} %")


def measured(engine: Engine, name: str, shape: tuple[int, int]) -> float:
    """Seconds of a quantize kernel over a matrix."""
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    return statistics.median(time_op(engine.quantizer(name, x), engine, perf_counter, BUDGET_S))


if __name__ == "__main__":
    main()
