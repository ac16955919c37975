"""`costsim split`: all ways to split a step over so many devices."""

from typing import Any

import click

from costsim.cli.options import OUTPUT, WORKLOAD, options
from costsim.cli.output import chosen_style, progress, write


@click.command()
@options(*WORKLOAD)
@click.option("--devices", type=click.IntRange(1, 1_000_000), required=True, help="How many there are.")
@click.option("--hardware", metavar="NAME", help="Their profile, with links: h100-node.  [default: the workload's]")
@click.option("--zero", default="0,1,2,3", show_default=True, metavar="N,...", help="What ranks of data may share.")
@click.option("--rows", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many are shown.")
@options(*OUTPUT)
def split(
    devices: int, hardware: str | None, zero: str, rows: int, style: str | None, out: str | None, **job: Any
) -> None:
    """Find how to split a step of WORKLOAD over many devices.

    All sizes of tensor, pipeline, data and expert that multiply to --devices and that the model allows: how long a step
    takes, how long stages wait, what the fullest device holds. The batch of a step is the workload's in all of them.

    \b
    costsim split llama-small --devices 8 --hardware h100-node
    costsim split mixtral-8x7b --devices 8 --hardware h100-node --zero 1
    """
    from costsim.errors import InputError
    from costsim.run.job import Request, prepare
    from costsim.search.splits import splits, ways, zeros_of
    from costsim.tables.splits import document

    style = chosen_style(style, out)
    prepared, zeros = prepare(Request(**job, hardware=(hardware,) if hardware else ())), zeros_of(zero)
    if len(prepared.hardware) != 1:
        raise InputError("split: expected a device, --hardware NAME (see costsim list hardware)")
    [device] = prepared.hardware
    with progress(len(list(ways(prepared, devices, zeros)))) as bar:
        found = splits(prepared, prepared.policies, device, devices, zeros, lambda: bar.update(1))
    write(document(prepared.workload, found, device, devices, rows), style, out)
