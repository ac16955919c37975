"""Predicted beside measured products of matrices in formats other than fp32. Run by hand, while idle:

    costsim calibrate --engine torch --out torch.yaml
    python tests/benchmarks/product_times.py torch.yaml

Predicted as `run` does it: fp32's seconds a MAC by the ratio of the rates, its seconds a bit of traffic by the bits.
"""

import statistics
from time import perf_counter

import click
import torch

from costsim.devices.measured import ANY_PRODUCT
from costsim.devices.profile import load_hardware, pair_on
from costsim.devices.roofline import Rates
from costsim.formats.named import parse_format
from costsim.reference.engines import open_engine
from costsim.reference.kernel_bench import time_op

FORMATS = {"fp32": ("fp32", "fp32"), "bf16": ("bf16", "fp32"), "int8": ("int32", "int32")}  # written, and summed
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
SHAPES = ((32, 768, 768), (128, 768, 3072), (512, 512, 2048), (1024, 1024, 1024))  # m, k and n
BUDGET_S = 1.0  # of each


def predicted_s(rates: Rates, name: str, m: int, k: int, n: int) -> float:
    """Seconds of a product by a profile whose kernels were measured."""
    written, summed = map(parse_format, FORMATS[name])
    format, elements, macs = parse_format(name), (m * k, k * n, m * n), m * k * n
    pace = rates.kernels[ANY_PRODUCT].pace(elements, 32 * sum(elements))
    chosen = pair_on(rates.hardware, format, format, summed)
    assert chosen is not None
    bits = format.element_bits * (m * k + k * n) + written.element_bits * m * n
    return pace.launch_s + macs * rates.mac_s(chosen[0], macs, 1, pace) + bits * pace.bit_s


def measured_s(name: str, m: int, k: int, n: int) -> float:
    """Seconds of the same in PyTorch."""
    x, y = (torch.randint(-9, 9, shape).to(DTYPES[name]) for shape in ((m, k), (k, n)))
    product = torch._int_mm if name == "int8" else torch.matmul
    return statistics.median(time_op(lambda: product(x, y), open_engine("cpu", "torch"), perf_counter, BUDGET_S))


@click.command()
@click.argument("profile")
def main(profile: str) -> None:
    """Print a row for each format and shape."""
    rates = Rates(load_hardware(profile))
    click.echo("| format | m x k x n | predicted / measured, ms | error |\n|---|---|---|---|")
    for name in FORMATS:
        for shape in SHAPES:
            ours, theirs = predicted_s(rates, name, *shape), measured_s(name, *shape)
            figures = f"{1e3 * ours:.3f} / {1e3 * theirs:.3f} | {100 * (ours / theirs - 1):+.0f} %"
            click.echo(f"| {name} | {' x '.join(map(str, shape))} | {figures} |")


if __name__ == "__main__":
    main()
