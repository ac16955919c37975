"""`costsim validate`: the counts, or the times, beside what is measured."""

from functools import partial
from typing import Any

import click

from costsim import names
from costsim.cli.options import DEVICE, HARDWARE, WORKLOAD, engine_option, options
from costsim.cli.output import progress, write


@click.command()
@options(*WORKLOAD, *HARDWARE)
@click.option("--measure", is_flag=True, help="Time a float32 step of a smaller copy beside what a roofline predicts.")
@options(*DEVICE, *engine_option(names.RUNNERS))
@click.option("--energy", is_flag=True, help="With --measure: its energy too, by RAPL (Linux), on cuda NVML.")
@click.option("--steps", type=click.IntRange(1, 10_000), default=1, show_default=True, help="Train so many, too.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of weights, data and dropout.")
@click.option("--format", "style", type=click.Choice(names.TEXT_STYLES), default="table", show_default=True)
@click.pass_context
def validate(
    context: click.Context,
    /,
    measure: bool,
    device: str | None,
    engine: str | None,
    energy: bool,
    steps: int,
    seed: int,
    style: str,
    **job: Any,
) -> None:
    """Run WORKLOAD, shrunk, in NumPy with real quantizers, and compare every op with its counts.

    Exits with 1 if a count is not what was measured, or a gradient is wrong. --measure compares times instead, on the
    device of --hardware, or on this machine, which is then measured first; --engine torch runs the step in PyTorch,
    torch.compile what Inductor makes of it.

    \b
    costsim validate iwslt17-dsq.yaml
    costsim validate glue-mrpc-dsq --policy dsq --steps 3
    costsim validate gpt2-small --measure --engine numpy --hardware t4
    """
    from costsim.reference import validate as validation
    from costsim.run.job import Request, prepare
    from costsim.tables.validation import document

    if measure:
        _validate_time(device or "cpu", engine, energy, steps, seed, style, **job)
        return
    _refuse("only --measure compares times", hardware=job["hardware"], device=device, engine=engine, energy=energy)
    _untiled(job["traffic"])
    prepared = prepare(Request(**job))
    _untiled(prepared.convention.traffic)
    with progress(validation.work_to_do(prepared, steps)) as bar:
        checked = validation.validate(prepared, steps, seed, lambda: bar.update(1))
    write(document(checked), style)
    context.exit(0 if checked.passed else 1)


def _refuse(reason: str, **options: object) -> None:
    """Raise InputError for the first of some options that is given."""
    from costsim.errors import InputError

    for name, value in options.items():
        if value:
            raise InputError(f"--{name}: {reason}")


def _untiled(traffic: names.Traffic | None) -> None:
    """Raise InputError for a traffic model that the reference does not run: tiled for a buffer, or kernels in steps."""
    from costsim.errors import InputError
    from costsim.graph.fusion import MODELS

    if traffic is not None and MODELS[traffic].tiled:
        raise InputError(f"--traffic {traffic}: the reference has no buffer to tile for; fused has the same kernels")
    if traffic is not None and MODELS[traffic].by_steps:
        raise InputError(f"--traffic {traffic}: the reference runs an op in one kernel, not in PyTorch's; say unfused")


def _validate_time(
    device: str, engine: str | None, energy: bool, steps: int, seed: int, style: str, **job: Any
) -> None:
    """`validate --measure`."""
    from costsim.errors import InputError
    from costsim.reference import calibrate, engines, kernel_bench, meters
    from costsim.reference import measure as timing
    from costsim.run.job import Request, prepare
    from costsim.tables.validation import time_document

    plain = "--measure times plain float32, op by op"
    _refuse(plain, policy=job["policies"], bits=job["bits"], traffic=job["traffic"])
    if steps > 1 or len(job["hardware"]) > 1:
        raise InputError("--measure: takes one --hardware, and no --steps")
    prepared = prepare(Request(**job))
    meter = meters.open_meter(device) if energy else None
    runner = engines.open_engine(device, engine)
    bench = kernels = None
    if not job["hardware"]:
        bench = engines.open_bench(device, engine, ("fp32",))
        kernels = calibrate.Kernels(runner, kernel_bench.graphs([prepared]))
    ticks = 1 + timing.STEPS + (calibrate.work_to_do(bench, kernels=kernels) if bench else 0)
    with progress(ticks) as bar:
        tick = partial(bar.update, 1)
        hardware = calibrate.device_here(tick, bench, kernels=kernels) if bench else prepared.hardware[0]
        measured = timing.measure(prepared, hardware, seed, engine=runner, tick=tick, meter=meter)
    write(time_document(measured), style)
