"""`costsim memory`: what fills the memory at the peak of a step."""

from typing import Any

import click

from costsim import names
from costsim.cli.options import BUFFER, SWEEP, WORKLOAD, byte_count, options, whole_numbers
from costsim.cli.output import echo_line, write


@click.command()
@options(*WORKLOAD, *SWEEP, *BUFFER)
@click.option("--batch", metavar="N,...", help="Sequences of a micro-batch, instead of the workload's.")
@click.option("--accumulation", type=click.IntRange(1), help="Split the batch into so many micro-batches.")
@click.option(
    "--capacity-bytes",
    callback=byte_count(1),
    metavar="N",
    help="What a device has: does it fit, and the largest batch.",
)
@click.option(
    "--fits",
    "fits_bytes",
    callback=byte_count(1),
    metavar="N",
    help="Exit with 1 if a row takes more, such as 256KiB.",
)
@click.option("--hardware", "device", metavar="NAME", help="Device whose DRAM is the capacity.")
@click.option(
    "--reserve-bytes", callback=byte_count(0), default="0", metavar="N", help="Set aside for what is not modelled."
)
@click.option("--stash", is_flag=True, help="List what of the stash is alive at the peak, tensor by tensor.")
@click.option("--activations", is_flag=True, help="List all that the forward keeps for the backward, layer by layer.")
@click.option("--format", "style", type=click.Choice(tuple(names.STYLES)), default="table", show_default=True)
def memory(
    batch: str | None,
    accumulation: int | None,
    capacity_bytes: int | None,
    fits_bytes: int | None,
    device: str | None,
    reserve_bytes: int,
    style: str,
    sweep: tuple[str, ...],
    **job: Any,
) -> None:
    """Show what fills the memory at the peak of WORKLOAD's training step.

    \b
    costsim memory gpt2-small --batch 4,8,16
    costsim memory gpt2-small --policy bf16-mixed --hardware a100-80gb
    costsim memory gpt2-small --set model.checkpointing=full --activations
    costsim memory translation-small --policy fp32 --fits 16MiB
    costsim memory gpt2-small --policy bf16-mixed --sweep model.layers=6,12,24
    """
    from costsim.run import peaks
    from costsim.run import sweep as sweeping
    from costsim.run.job import Request, prepare
    from costsim.tables.kept import LISTS
    from costsim.tables.memory import document, misfits

    lists = [name for name in LISTS if job.pop(name)]  # --stash, --activations
    batches = whole_numbers("--batch", batch)
    capacity_bytes = peaks.capacity(capacity_bytes, device, fits_bytes)
    job["hardware"] = (device,) if device else ()
    places = sweeping.places(sweeping.prepared(sweeping.points(sweep), **job)) if sweep else ()
    must_fit = fits_bytes is not None
    asked = peaks.Asked(batches, accumulation, capacity_bytes, reserve_bytes, places, lists, must_fit)
    prepared = prepare(Request(**job))
    write(document(prepared, asked), style)
    if must_fit and (lines := misfits(prepared, asked)):
        for line in lines:
            echo_line(f"costsim: {line}", err=True)
        click.get_current_context().exit(1)
