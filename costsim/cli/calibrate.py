"""`costsim calibrate`: measure this machine as a hardware profile."""

import click

from costsim import names
from costsim.cli.options import DEVICE, engine_option, options, path_of
from costsim.cli.output import echo_line, progress


@click.command()
@click.option("--out", type=click.Path(), help="File to write, instead of printing.")
@options(*DEVICE, *engine_option(names.ENGINES))
@click.option("--seconds", type=click.FloatRange(0, 3600), default=120, show_default=True, help="Under 30, no kernels.")
def calibrate(out: str | None, device: str | None, engine: str | None, seconds: float) -> None:
    """Measure this machine and write it as a hardware profile: rates, bandwidth, launches, and how long kernels take,
    kind by kind, each with its spread.

    Let nothing else run meanwhile. The engine should be the one whose time is to be predicted.

    \b
    costsim calibrate --out my-machine.yaml
    costsim calibrate --device cpu --engine numpy --seconds 2
    costsim run gpt2-small --policy fp32 --hardware my-machine.yaml
    """
    from costsim.inputs import files
    from costsim.reference import calibrate as calibration
    from costsim.reference import engines, kernel_bench

    if out is not None:
        files.check_place(path_of(out))
    bench = engines.open_bench(device or "cpu", engine)
    kernels = None
    if seconds >= calibration.KERNELS_S:
        runner = engines.open_engine(device or "cpu", engine)
        kernels = calibration.Kernels(runner, kernel_bench.graphs(kernel_bench.shipped()), runner.quantizes)
    with progress(calibration.work_to_do(bench, kernels=kernels)) as bar:
        text = calibration.calibrate(bench, seconds, tick=lambda: bar.update(1), kernels=kernels)
    if out is None:
        click.echo(text, nl=False)
    else:
        echo_line(files.write(path_of(out), text.encode()))
