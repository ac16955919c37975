"""Predicted beside measured quantize kernels of the reference, at sizes that no bench has. Run by hand, while idle:

    costsim calibrate --out numpy.yaml
    python tests/benchmarks/quantize_times.py numpy.yaml

Formats that no entry of the profile stands for are left out.
"""

import statistics
from time import perf_counter

import click
import numpy as np

from costsim.devices.measured import measured_cast
from costsim.devices.profile import load_hardware
from costsim.formats.named import parse_format
from costsim.policy.assign import Copy
from costsim.reference.engines import open_engine
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
def main(profile: str) -> None:
    """Print a row for each format and size, and the errors."""
    kernels, engine, errors = dict(load_hardware(profile).kernels), open_engine(), []
    assert not set(SHAPES) & set(QUANTIZED)
    click.echo("| format | elements | predicted / measured, ms | error |\n|---|---|---|---|")
    for name in FORMATS:
        times = measured_cast(Copy(None, parse_format(name), (1,), "stored", False, "", "operand"), kernels)
        if times is None:
            continue
        for shape in SHAPES:
            x = np.random.default_rng(0).standard_normal(shape, np.float32)
            seconds = statistics.median(time_op(engine.quantizer(name, x), engine, perf_counter, BUDGET_S))
            predicted_s = times.seconds(0, (x.size, x.size))
            errors.append(100 * (predicted_s / seconds - 1))
            figures = f"{1e3 * predicted_s:.3f} / {1e3 * seconds:.3f} | {errors[-1]:+.1f} %"
            click.echo(f"| {name} | {x.size} | {figures} |")
    absolute = sorted(map(abs, errors))
    click.echo(f"\nmedian {statistics.median(absolute):.1f} %, worst {absolute[-1]:.1f} %")


if __name__ == "__main__":
    main()
