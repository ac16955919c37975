"""The command line: parse, one library call, write. Imports nothing heavy before a command runs."""

import gc
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import click

# The width is fixed because click would import shutil, a twentieth of the time of --help, to ask the terminal.
_SETTINGS = {"help_option_names": ["-h", "--help"], "terminal_width": 80}

Command = Callable[..., Any]

BY = ("policy", "phase", "kind", "layer", "role", "tensor", "op", "pair", "assumption")
FORMATS = ("table", "json", "csv", "markdown", "latex")


class _Group(click.Group):
    """Turns an InputError into one line on stderr and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        from costsim.errors import InputError

        try:
            return super().invoke(ctx)
        except InputError as error:
            click.echo(f"costsim: {error}", err=True)
            ctx.exit(2)


def _version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        click.echo(f"costsim {import_module('costsim').__version__}")
        ctx.exit()


@click.group(cls=_Group, context_settings=_SETTINGS)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
@click.pass_context
def main(context: click.Context) -> None:
    """Exact arithmetic and DRAM traffic of training quantized Transformers.

    \b
    costsim run iwslt17-dsq.yaml
    """
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # looking for plugins takes as long as starting Python
    gc.disable()  # a short process that makes few cycles: looking for them is a fifth of its time
    context.call_on_close(_stop_collecting)


def _stop_collecting() -> None:
    gc.freeze()  # nor at exit
    gc.enable()


_WORKLOAD = (
    click.argument("workload"),
    click.option("--policy", "policies", multiple=True, help="Policy to run instead of the workload's; repeatable."),
    click.option("--traffic", type=click.Choice(("unfused", "fused")), help="DRAM traffic model."),
    click.option(
        "--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="Override a field of the workload."
    ),
    click.option("--bits", metavar="CSV", help="Widths per layer or tensor: layer,bits (or tensor,bits)."),
)
_HARDWARE = (
    click.option("--hardware", multiple=True, metavar="NAME", help="Device for time and energy; repeatable."),
    click.option(
        "--overlap/--no-overlap", default=True, help="Arithmetic and DRAM traffic at the same time.", show_default=True
    ),
)
_RATIOS = (
    click.option("--baseline", help="Policy that ratios compare with."),
    click.option("--law", type=click.Choice(("product", "bops", "msfp", "energy")), help="What a MAC costs."),
    click.option("--scope", type=click.Choice(("gemm", "layer", "step")), help="Which ops count."),
)


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Options that several commands share; they take them as `**job`."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@main.command()
@_options(*_WORKLOAD, *_RATIOS, *_HARDWARE)
@click.option("--by", type=click.Choice(BY), default="policy", show_default=True, help="What a row is.")
@click.option(
    "--format", "style", type=click.Choice(FORMATS), default="table", show_default=True, help="Output format."
)
@click.option("--out", type=click.Path(), help="Folder to write every format to, instead of printing.")
def run(by: str, style: str, out: str | None, **job: Any) -> None:
    """Count WORKLOAD under its policies: a path, or a shipped name.

    \b
    costsim run iwslt17-dsq.yaml
    costsim run iwslt17-dsq --policy dsq --by layer --format csv
    costsim run iwslt17-dsq --set model.encoder_layers=12 --scope step
    costsim run iwslt17-dsq --by assumption
    costsim run iwslt17-dsq --hardware jetson-orin-nano --hardware h100-sxm
    """
    from costsim import report, simulate

    result = simulate.run(**job)
    if out is None:
        click.echo(report.render(result, by, style), nl=False)
        return
    for path in report.write_all(result, by, _path(out)):
        click.echo(path)


def _path(out: str) -> Any:
    from pathlib import Path

    from costsim.errors import InputError

    if not out:
        raise InputError("--out: expected a name")
    return Path(out)


@main.command()
@_options(*_WORKLOAD, *_RATIOS, *_HARDWARE)
@click.argument("kind", type=click.Choice(("sensitivity", "schedule", "roofline", "memory")))
@click.option("--batch", metavar="N,...", help="Sequences of a micro-batch, for memory.")
@click.option("--out", type=click.Path(), help="File to write (.svg, .pdf, .png)  [default: WORKLOAD-KIND.svg]")
def plot(kind: str, batch: str | None, out: str | None, **job: Any) -> None:
    """Draw WORKLOAD's results: where each assumption takes the ratios, the schedule, rooflines, or peak memory.

    \b
    costsim plot iwslt17-dsq.yaml sensitivity
    costsim plot iwslt17-dsq.yaml schedule --out schedule.png
    costsim plot iwslt17-dsq.yaml roofline --hardware h100-sxm
    costsim plot gpt2-small memory --batch 4,8,16 --hardware a100-80gb
    """
    from costsim import plots, simulate
    from costsim.errors import InputError

    if batch is not None and kind != "memory":
        raise InputError(f"--batch: is of plot memory, not of plot {kind}; --set batch.sequences=N sets one")
    options = {"batches": _whole_numbers("--batch", batch)} if kind == "memory" else {}
    result = simulate.run(**job)
    path = _path(f"{result.job.workload}-{kind}.svg" if out is None else out)
    click.echo(plots.save(result, kind, path, **options))


@main.command()
@_options(*_WORKLOAD, *_HARDWARE)
@click.option("--measure", is_flag=True, help="Time a float32 step of a smaller copy beside what a roofline predicts.")
@click.option("--steps", type=click.IntRange(1, 10_000), default=1, show_default=True, help="Train so many, too.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of weights, data and dropout.")
@click.option("--format", "style", type=click.Choice(("table", "json")), default="table", show_default=True)
@click.pass_context
def validate(context: click.Context, /, measure: bool, steps: int, seed: int, style: str, **job: Any) -> None:
    """Run WORKLOAD, shrunk, in NumPy with real quantizers, and compare every op with its counts.

    Exits with 1 if a count is not what was measured, or a gradient is wrong. --measure compares times instead, on the
    device of --hardware, or on this machine, which is then measured first.

    \b
    costsim validate iwslt17-dsq.yaml
    costsim validate glue-mrpc-dsq --policy dsq --steps 3
    costsim validate gpt2-small --measure --hardware my-machine.yaml
    """
    from costsim import report_validation, simulate
    from costsim import validate as validation
    from costsim.errors import InputError

    if measure:
        _validate_time(steps, seed, style, **job)
        return
    if job["hardware"]:
        raise InputError("--hardware: only --measure compares times")

    prepared = simulate.prepare(**job)
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=validation.work_to_do(prepared, steps), file=sys.stderr, hidden=hidden) as bar:
        found = validation.validate(prepared, steps, seed, lambda: bar.update(1))
    click.echo(report_validation.to_json(found) if style == "json" else report_validation.to_table(found), nl=False)
    context.exit(0 if found.passed else 1)


def _validate_time(steps: int, seed: int, style: str, **job: Any) -> None:
    """`validate --measure`."""
    from costsim import calibrate, report_validation, simulate
    from costsim import measure as timing
    from costsim.errors import InputError

    for name, given in (("policy", job["policies"]), ("bits", job["bits"]), ("traffic", job["traffic"])):
        if given:
            raise InputError(f"--{name}: --measure times plain float32, op by op")
    if steps > 1 or len(job["hardware"]) > 1:
        raise InputError("--measure: takes one --hardware, and no --steps")
    prepared = simulate.prepare(**job)
    bench = None if job["hardware"] else calibrate.NumpyBench()
    ticks = 1 + timing.STEPS + (calibrate.work_to_do(bench) if bench else 0)
    with click.progressbar(length=ticks, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        device = calibrate.device_here(lambda: bar.update(1), bench) if bench else prepared.hardware[0]
        found = timing.measure(prepared, device, seed, tick=lambda: bar.update(1))
    click.echo(report_validation.time_json(found) if style == "json" else report_validation.time_table(found), nl=False)


@main.command()
@click.option("--out", type=click.Path(), help="File to write, instead of printing.")
@click.option("--device", type=click.Choice(("cpu", "cuda")), default="cpu", show_default=True, help="What to measure.")
@click.option("--seconds", type=click.FloatRange(0, 3600), default=20, show_default=True, help="At most, about.")
def calibrate(out: str | None, device: str, seconds: float) -> None:
    """Measure this machine and write it as a hardware profile: rates, bandwidth, launches, each with its spread.

    Let nothing else run meanwhile. The CPU through NumPy; cuda needs PyTorch and a device.

    \b
    costsim calibrate --out my-machine.yaml
    costsim run gpt2-small --policy fp32 --hardware my-machine.yaml
    """
    from costsim import calibrate as calibration
    from costsim import files

    if out is not None:
        calibration.check_place(_path(out))
    bench = calibration.open_bench(device)
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=calibration.work_to_do(bench), file=sys.stderr, hidden=hidden) as bar:
        text = calibration.calibrate(bench, seconds, tick=lambda: bar.update(1))
    click.echo(text if out is None else files.write(_path(out), text.encode()), nl=out is not None)


def _whole_numbers(name: str, text: str | None) -> list[int | None]:
    """The numbers of a list such as 4,8,16."""
    from costsim.errors import InputError, one_line

    if text is None:
        return [None]
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 0 < len(part) < 10 and int(part) for part in parts):
        raise InputError(f"{name}: expected whole numbers above 0, such as 4,8,16, got {one_line(text)!r}")
    return [int(part) for part in dict.fromkeys(parts)]


@main.command()
@_options(*_WORKLOAD)
@click.option("--batch", metavar="N,...", help="Sequences of a micro-batch, instead of the workload's.")
@click.option("--accumulation", type=click.IntRange(1), help="Split the batch into so many micro-batches.")
@click.option("--capacity-bytes", type=click.IntRange(1), help="What a device has: does it fit, and the largest batch.")
@click.option("--hardware", "device", metavar="NAME", help="Device whose DRAM is the capacity.")
@click.option("--reserve-bytes", type=click.IntRange(0), default=0, help="Set aside for what is not modelled.")
@click.option("--stash", is_flag=True, help="List the stash tensor by tensor.")
@click.option("--format", "style", type=click.Choice(FORMATS), default="table", show_default=True)
def memory(
    batch: str | None,
    accumulation: int | None,
    capacity_bytes: int | None,
    device: str | None,
    reserve_bytes: int,
    stash: bool,
    style: str,
    **job: Any,
) -> None:
    """Show what fills the memory at the peak of WORKLOAD's training step.

    \b
    costsim memory gpt2-small --batch 4,8,16
    costsim memory gpt2-small --policy bf16-mixed --hardware a100-80gb
    costsim memory gpt2-small --set model.checkpointing=full --stash
    """
    from costsim import report_memory, simulate

    batches = _whole_numbers("--batch", batch)
    capacity_bytes = report_memory.capacity(capacity_bytes, device)
    asked = report_memory.Asked(batches, accumulation, capacity_bytes, reserve_bytes, stash)
    click.echo(report_memory.render(simulate.prepare(**job), asked, style), nl=False)


@main.command("import")
@click.argument("config")
@click.option("--out", type=click.Path(), help="File to write, instead of printing.")
def import_(config: str, out: str | None) -> None:
    """Turn CONFIG, a Hugging Face config.json, into a workload file.

    What the config does not say (batch, optimizer, policies) is our choice, and marked in a comment.

    \b
    costsim import config.json
    costsim import config.json --out model.yaml
    """
    from costsim import files, importers

    made = importers.workload_of(config)
    click.echo(made.text if out is None else files.write(_path(out), made.text.encode()), nl=out is not None)
    for note in made.notes:
        click.echo(f"costsim: {note}", err=True)


def _catalogue(what: str) -> dict[str, str]:
    from costsim import catalogue

    entries: Callable[[], dict[str, str]] = catalogue.CATALOGUES[what]
    return entries()


@main.command("list")
@click.argument("what", type=click.Choice(("workloads", "policies", "hardware", "formats", "ops")))
def list_(what: str) -> None:
    """List what costsim knows, a line each, the name first.

    \b
    costsim list policies
    """
    entries = _catalogue(what)
    width = max((len(name) for name in entries), default=0)
    for name, text in entries.items():
        click.echo(f"{name:{width}}  {text}".rstrip())
    if not entries:
        click.echo(f"costsim: nothing of {what} is shipped yet", err=True)


@main.command()
@click.argument("name")
def show(name: str) -> None:
    """Print a shipped workload, policy or hardware profile with its sources, a format, or an op kind.

    \b
    costsim show dsq
    costsim show bfp4
    """
    from costsim import catalogue

    click.echo(catalogue.describe(name), nl=False)


@main.command()
@click.argument("what", type=click.Choice(("workload", "policy", "hardware")))
def schema(what: str) -> None:
    """Print the JSON schema of a file, for editors and checks.

    \b
    costsim schema policy
    """
    from costsim import catalogue

    click.echo(catalogue.json_schema(what), nl=False)


if __name__ == "__main__":
    sys.exit(main())
