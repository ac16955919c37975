"""The command line: parse, one library call, write. Imports nothing heavy before a command runs."""

import gc
import os
import sys
from collections.abc import Callable
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import click

# The width is fixed because click would import shutil, a twentieth of the time of --help, to ask the terminal.
_SETTINGS = {"help_option_names": ["-h", "--help"], "terminal_width": 80}

Command = Callable[..., Any]

BY = ("policy", "phase", "kind", "layer", "role", "tensor", "op", "pair", "gemm", "assumption", "reduction")
FORMATS = ("table", "json", "csv", "markdown", "latex")
PLOTS = ("breakdown", "comparison", "sensitivity", "schedule", "roofline", "memory", "timeline", "sweep", "trace")


class _Group(click.Group):
    """Turns an InputError into one line on stderr and exit code 2."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.obj = tuple(args)  # the command line, which pages say
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        from costsim.errors import InputError

        try:
            return super().invoke(ctx)
        except InputError as error:
            click.echo(f"costsim: {error}", err=True)
            ctx.exit(2)


_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{end}": base**power
    for power, prefix in enumerate(("k", "M", "G", "T"), 1)
    for end, base in (("B", 1000), ("iB", 1024))
}


def _bytes(least: int) -> Callable[[click.Context, click.Parameter, str | None], int | None]:
    """Reads bytes as a whole number, or with a unit: 24000000000, 24e9, 24GB, 24GiB."""

    def read(ctx: click.Context, param: click.Parameter, text: str | None) -> int | None:
        import re
        from fractions import Fraction

        if text is None:
            return None
        match = re.fullmatch(r"(\d{1,20}(?:\.\d{1,20})?(?:e\d{1,2})?) ?([A-Za-z]*)", text)
        units = {name.lower(): size for name, size in _UNITS.items()}
        if match and match[2].lower() in units:
            size = Fraction(match[1]) * units[match[2].lower()]
            if size.denominator == 1 and least <= size < 2**63:
                return int(size)
        told = f"expected bytes, {least} or more, such as 24000000000, 24GB or 24GiB, got {text!r}"
        raise click.BadParameter(told, ctx=ctx, param=param)

    return read


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
    for stream in (sys.stdout, sys.stderr):  # a name that the encoding lacks is printed escaped, not as a traceback
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # looking for plugins takes as long as starting Python
    gc.disable()  # a short process that makes few cycles: looking for them is a fifth of its time
    context.call_on_close(_stop_collecting)


def _stop_collecting() -> None:
    gc.freeze()  # nor at exit
    gc.enable()


_WORKLOAD = (
    click.argument("workload"),
    click.option("--policy", "policies", multiple=True, help="Policy to run instead of the workload's; repeatable."),
    click.option("--traffic", type=click.Choice(("unfused", "fused", "tiled")), help="DRAM traffic model."),
    click.option(
        "--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="Override a field of the workload."
    ),
    click.option("--bits", metavar="CSV", help="Widths per layer or tensor: layer,bits (or tensor,bits)."),
)
_SWEEP = (
    click.option("--sweep", multiple=True, metavar="FIELD=V,...", help="A run for each value; several: all pairs."),
)
_BUFFER = (
    click.option(
        "--buffer-bytes", callback=_bytes(1), metavar="N", help="On chip, for traffic tiled; else the device's."
    ),
)
_HARDWARE = (
    click.option("--hardware", multiple=True, metavar="NAME", help="Device for time and energy; repeatable."),
    click.option(
        "--overlap/--no-overlap", default=True, help="Arithmetic and DRAM traffic at the same time.", show_default=True
    ),
)
_ENGINE = (
    click.option("--device", type=click.Choice(("cpu", "cuda")), help="What runs and is measured.  [default: cpu]"),
    click.option(
        "--engine",
        type=click.Choice(("numpy", "torch")),
        help="What it runs through; torch needs costsim[torch].  [default: numpy, on cuda torch]",
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
@_options(*_WORKLOAD, *_SWEEP, *_BUFFER, *_RATIOS, *_HARDWARE)
@click.option("--by", type=click.Choice(BY), default="policy", show_default=True, help="What a row is.")
@click.option(
    "--format", "style", type=click.Choice(FORMATS), help="Output format.  [default: table, or the ending of --out]"
)
@click.option("--out", type=click.Path(), help="File to write (.tex .md .csv .json .txt), or folder for all of them.")
@click.option(
    "--assert", "expected", multiple=True, metavar="EXPR", help="Exit with 1 unless dsq.dram_reduction > 2; repeatable."
)
@click.pass_context
def run(
    context: click.Context,
    /,
    by: str,
    style: str | None,
    out: str | None,
    expected: tuple[str, ...],
    sweep: tuple[str, ...],
    **job: Any,
) -> None:
    """Count WORKLOAD under its policies: a path, or a shipped name.

    --assert takes comparisons of POLICY.FIELD and POLICY.DEVICE.FIELD as JSON names them, with and, or, not, + - * /;
    names with hyphens are quoted.

    \b
    costsim run iwslt17-dsq.yaml
    costsim run iwslt17-dsq --policy dsq --by layer --format csv
    costsim run iwslt17-dsq --set model.encoder_layers=12 --scope step
    costsim run iwslt17-dsq --by assumption
    costsim run iwslt17-dsq --assert 'dsq.dram_reduction > 2'
    costsim run iwslt17-dsq --assert '"stash-bfp".macs == dsq.macs'
    costsim run iwslt17-dsq --by reduction --hardware h100-sxm --format latex
    costsim run iwslt17-dsq --hardware jetson-orin-nano --hardware h100-sxm
    costsim run iwslt17-dsq --scope step --traffic tiled --buffer-bytes 131072
    costsim run glue-mrpc-dsq --sweep batch=8,16 --sweep model.layers=6,12
    """
    from costsim.run import simulate
    from costsim.tables import run as run_tables
    from costsim.tables import table

    style = _style(style, out)
    if out is not None and not _is_file(out):
        run_tables.check_folder(_path(out))
    if sweep:
        _run_sweep(sweep, by, style, out, expected, **job)
        return
    prepared = simulate.prepare(**job)
    failed = _failed(prepared, expected)
    result = simulate.execute(prepared)
    failures = failed(result)
    if out is None:
        click.echo(run_tables.render(result, by, style, table.screen()), nl=False)
    else:
        _write(out, lambda: run_tables.render(result, by, style), lambda: run_tables.texts(result, by))
    for failure in failures:
        click.echo(f"costsim: {failure}", err=True)
    context.exit(1 if failures else 0)


def _run_sweep(
    sweep: tuple[str, ...], by: str, style: str, out: str | None, expected: tuple[str, ...], **job: Any
) -> None:
    """`run --sweep`."""
    from costsim.errors import InputError
    from costsim.run import sweep as sweeping
    from costsim.tables import sweep as sweep_tables
    from costsim.tables import table

    if expected:
        raise InputError("--assert: is of one run; leave out --sweep")
    found = sweeping.run(sweeping.points(sweep), **job)
    if out is None:
        click.echo(sweep_tables.render(found, by, style, table.screen()), nl=False)
    else:
        _write(out, lambda: sweep_tables.render(found, by, style), lambda: sweep_tables.texts(found, by))


_ENDINGS = {"txt": "table", "json": "json", "csv": "csv", "md": "markdown", "tex": "latex"}


def _is_file(out: str) -> bool:
    """Whether --out names one file, by its ending, and not the folder for all formats."""
    return out.rpartition(".")[2] in _ENDINGS and not os.path.isdir(out)


def _style(style: str | None, out: str | None) -> str:
    """The format that is asked for, by --format or by the ending of --out. Raises InputError if they differ."""
    from costsim.errors import InputError

    ending = _ENDINGS[out.rpartition(".")[2]] if out is not None and _is_file(out) else None
    if style and ending and style != ending:
        raise InputError(f"--out {out}: that is for {ending}, and --format says {style}")
    return style or ending or "table"


def _write(out: str, render: Callable[[], str], texts: Callable[[], dict[str, str]]) -> None:
    """Write one file, or every format to a folder, and print what was written."""
    from costsim.inputs import files
    from costsim.tables import run as run_tables

    if _is_file(out):
        click.echo(files.write(_path(out), render().encode(errors="backslashreplace")))
        return
    for path in run_tables.write_all(texts(), _path(out)):
        click.echo(path)


def _failed(job: Any, expected: tuple[str, ...]) -> Callable[[Any], list[str]]:
    """What tells which assertions do not hold of a result; their names are checked before anything is counted."""
    if not expected:
        return lambda _: []
    from costsim.results import assertions

    expressions = assertions.read(expected, job)
    return lambda result: assertions.failures(expressions, result)


def _path(out: str) -> Any:
    from pathlib import Path

    from costsim.errors import InputError

    if not out:
        raise InputError("--out: expected a name")
    return Path(out)


@main.command()
@_options(*_WORKLOAD, *_SWEEP, *_BUFFER, *_RATIOS, *_HARDWARE)
@click.argument("kind", type=click.Choice(PLOTS))
@click.option(
    "--by", type=click.Choice(("phase", "role", "layer", "kind")), help="Groups of breakdown.  [default: phase]"
)
@click.option("--batch", metavar="N,...", help="Sequences of a micro-batch, for memory.")
@click.option("--phase", type=click.IntRange(1), help="Phase of the policies, for trace.  [default: 1]")
@click.option(
    "--out", type=click.Path(), help="File to write: .svg, .pdf, .png, of trace .json  [default: WORKLOAD-KIND.svg]"
)
def plot(
    kind: str,
    out: str | None,
    by: str | None,
    batch: str | None,
    phase: int | None,
    sweep: tuple[str, ...],
    **job: Any,
) -> None:
    """Draw WORKLOAD's results, or write a step as a trace.

    breakdown: what makes up arithmetic, DRAM traffic and memory. comparison: how many times less than the baseline.
    sensitivity: where each assumption takes the ratios. schedule: bits over training, and what is spent by then.
    roofline, memory: on devices. timeline: live memory over a step. sweep: ratios over the values of a field.
    trace: a step's kernels, for Perfetto.

    \b
    costsim plot iwslt17-dsq breakdown --by role
    costsim plot iwslt17-dsq comparison --hardware a100-80gb
    costsim plot iwslt17-dsq.yaml sensitivity
    costsim plot iwslt17-dsq.yaml schedule --out schedule.png
    costsim plot iwslt17-dsq.yaml roofline --hardware h100-sxm
    costsim plot gpt2-small memory --batch 4,8,16 --hardware a100-80gb
    costsim plot gpt2-small timeline --policy bf16-mixed
    costsim plot glue-mrpc-dsq sweep --sweep batch=1,4,16,64
    costsim plot gpt2-small trace --policy bf16-mixed --hardware t4 --out t.json
    """
    from costsim.run import simulate

    options: dict[str, Any] = {} if by is None else {"by": by}
    options |= {} if batch is None else {"batches": _whole_numbers("--batch", batch)}
    options |= {} if phase is None else {"phase": phase}
    _check_kind(kind, by=by, batch=batch, phase=phase, sweep=sweep or None)
    if kind == "sweep":
        from costsim import plots
        from costsim.plots import sweep as sweep_plot
        from costsim.run import sweep as sweeping

        places = sweeping.places(sweeping.points(sweep), **job)
        path = _path(f"{places[0][1].workload}-sweep.svg" if out is None else out)
        found = ((point, simulate.execute(its)) for point, its in places)
        click.echo(plots.write(lambda: sweep_plot.sweep(list(found)), path))
        return
    prepared = simulate.prepare(**job)
    path = _path(f"{prepared.workload}-{kind}.{'json' if kind == 'trace' else 'svg'}" if out is None else out)
    result = simulate.execute(prepared)
    if kind == "trace":
        from costsim.results import trace

        click.echo(trace.save(result, path, **options))
    else:
        from costsim import plots

        click.echo(plots.save(result, kind, path, **options))


@main.command()
@_options(*_WORKLOAD, *_BUFFER, *_RATIOS, *_HARDWARE)
@click.option("--out", type=click.Path(), help="Page to write, .html  [default: WORKLOAD.html]")
@click.pass_context
def report(context: click.Context, /, out: str | None, **job: Any) -> None:
    """Write WORKLOAD's results as one page: summary, tables that sort, figures, the source of every figure.

    The page needs nothing from outside, so it can be sent, archived and printed as it is.

    \b
    costsim report iwslt17-dsq
    costsim report gpt2-small --hardware h100-sxm --out report.html
    """
    import shlex

    from costsim.page import page
    from costsim.run import simulate

    if out is not None:
        page.check_place(_path(out))
    prepared = simulate.prepare(**job)
    path = _path(f"{prepared.workload}.html" if out is None else out)
    page.check_place(path)
    command = shlex.join(("costsim", *context.find_root().obj))
    click.echo(page.save(simulate.execute(prepared), path, command))


_OF_KIND = {
    "by": ("breakdown", ""),
    "batch": ("memory", "; --set batch.sequences=N sets one"),
    "phase": ("trace", ""),
    "sweep": ("sweep", ""),
}


def _check_kind(kind: str, **given: object) -> None:
    """Raises InputError if an option is given that is of another kind of plot."""
    from costsim.errors import InputError

    for name, value in given.items():
        of, instead = _OF_KIND[name]
        if value is not None and kind != of:
            raise InputError(f"--{name}: is of plot {of}, not of plot {kind}{instead}")


@main.command()
@_options(*_WORKLOAD, *_HARDWARE)
@click.option("--measure", is_flag=True, help="Time a float32 step of a smaller copy beside what a roofline predicts.")
@_options(*_ENGINE)
@click.option("--steps", type=click.IntRange(1, 10_000), default=1, show_default=True, help="Train so many, too.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of weights, data and dropout.")
@click.option("--format", "style", type=click.Choice(("table", "json")), default="table", show_default=True)
@click.pass_context
def validate(
    context: click.Context,
    /,
    measure: bool,
    device: str | None,
    engine: str | None,
    steps: int,
    seed: int,
    style: str,
    **job: Any,
) -> None:
    """Run WORKLOAD, shrunk, in NumPy with real quantizers, and compare every op with its counts.

    Exits with 1 if a count is not what was measured, or a gradient is wrong. --measure compares times instead, on the
    device of --hardware, or on this machine, which is then measured first; --engine torch runs the step in PyTorch.

    \b
    costsim validate iwslt17-dsq.yaml
    costsim validate glue-mrpc-dsq --policy dsq --steps 3
    costsim validate gpt2-small --measure --engine numpy --hardware t4
    """
    from costsim.errors import InputError
    from costsim.reference import validate as validation
    from costsim.run import simulate
    from costsim.tables import validation as validation_tables

    if measure:
        _validate_time(device or "cpu", engine, steps, seed, style, **job)
        return
    for name, given in (("hardware", job["hardware"]), ("device", device), ("engine", engine)):
        if given:
            raise InputError(f"--{name}: only --measure compares times")

    _untiled(job["traffic"])
    prepared = simulate.prepare(**job)
    _untiled(prepared.convention.traffic)
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=validation.work_to_do(prepared, steps), file=sys.stderr, hidden=hidden) as bar:
        found = validation.validate(prepared, steps, seed, lambda: bar.update(1))
    click.echo(validation_tables.to_json(found) if style == "json" else validation_tables.to_table(found), nl=False)
    context.exit(0 if found.passed else 1)


def _untiled(traffic: str | None) -> None:
    """Raises InputError for a traffic model that is tiled for a buffer."""
    from costsim.errors import InputError
    from costsim.graph.fusion import MODELS

    if traffic is not None and MODELS[traffic].tiled:
        raise InputError(f"--traffic {traffic}: the reference has no buffer to tile for; fused has the same kernels")


def _validate_time(device: str, engine: str | None, steps: int, seed: int, style: str, **job: Any) -> None:
    """`validate --measure`."""
    from costsim.errors import InputError
    from costsim.reference import benches, calibrate
    from costsim.reference import measure as timing
    from costsim.run import simulate
    from costsim.tables import validation as validation_tables

    for name, given in (("policy", job["policies"]), ("bits", job["bits"]), ("traffic", job["traffic"])):
        if given:
            raise InputError(f"--{name}: --measure times plain float32, op by op")
    if steps > 1 or len(job["hardware"]) > 1:
        raise InputError("--measure: takes one --hardware, and no --steps")
    prepared = simulate.prepare(**job)
    runner = timing.open_engine(device, engine)
    bench = None if job["hardware"] else benches.open_bench(device, engine, ("fp32",))
    ticks = 1 + timing.STEPS + (calibrate.work_to_do(bench) if bench else 0)
    with click.progressbar(length=ticks, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        hardware = calibrate.device_here(lambda: bar.update(1), bench) if bench else prepared.hardware[0]
        found = timing.measure(prepared, hardware, seed, engine=runner, tick=lambda: bar.update(1))
    click.echo(validation_tables.time_json(found) if style == "json" else validation_tables.time_table(found), nl=False)


@main.command()
@click.option("--out", type=click.Path(), help="File to write, instead of printing.")
@_options(*_ENGINE)
@click.option("--seconds", type=click.FloatRange(0, 3600), default=20, show_default=True, help="At most, about.")
def calibrate(out: str | None, device: str | None, engine: str | None, seconds: float) -> None:
    """Measure this machine and write it as a hardware profile: rates, bandwidth, launches, each with its spread.

    Let nothing else run meanwhile. The engine should be the one whose time is to be predicted.

    \b
    costsim calibrate --out my-machine.yaml
    costsim calibrate --device cpu --engine numpy --seconds 2
    costsim run gpt2-small --policy fp32 --hardware my-machine.yaml
    """
    from costsim.inputs import files
    from costsim.reference import benches
    from costsim.reference import calibrate as calibration

    if out is not None:
        calibration.check_place(_path(out))
    bench = benches.open_bench(device or "cpu", engine)
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
@_options(*_WORKLOAD, *_SWEEP, *_BUFFER)
@click.option("--batch", metavar="N,...", help="Sequences of a micro-batch, instead of the workload's.")
@click.option("--accumulation", type=click.IntRange(1), help="Split the batch into so many micro-batches.")
@click.option(
    "--capacity-bytes", callback=_bytes(1), metavar="N", help="What a device has: does it fit, and the largest batch."
)
@click.option("--hardware", "device", metavar="NAME", help="Device whose DRAM is the capacity.")
@click.option(
    "--reserve-bytes", callback=_bytes(0), default="0", metavar="N", help="Set aside for what is not modelled."
)
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
    sweep: tuple[str, ...],
    **job: Any,
) -> None:
    """Show what fills the memory at the peak of WORKLOAD's training step.

    \b
    costsim memory gpt2-small --batch 4,8,16
    costsim memory gpt2-small --policy bf16-mixed --hardware a100-80gb
    costsim memory gpt2-small --set model.checkpointing=full --stash
    costsim memory gpt2-small --policy bf16-mixed --sweep model.layers=6,12,24
    """
    from costsim.run import simulate
    from costsim.run import sweep as sweeping
    from costsim.tables import memory as memory_tables
    from costsim.tables import table

    batches = _whole_numbers("--batch", batch)
    capacity_bytes = memory_tables.capacity(capacity_bytes, device)
    job["hardware"] = (device,) if device else ()
    places = sweeping.places(sweeping.points(sweep), **job) if sweep else ()
    asked = memory_tables.Asked(batches, accumulation, capacity_bytes, reserve_bytes, stash, places)
    prepared = simulate.prepare(**job)
    click.echo(memory_tables.render(prepared, asked, style, table.screen()), nl=False)


@main.command()
@_options(*_WORKLOAD, *_BUFFER, *_RATIOS, *_HARDWARE)
@click.argument("name", metavar="OP")
@click.option("--format", "style", type=click.Choice(("table", "json")), default="table", show_default=True)
def explain(name: str, style: str, **job: Any) -> None:
    """Explain every number of an op of WORKLOAD: formula, values, result, source.

    OP is a name that run --by op lists, or a total: macs, arithmetic_cost, dram_bits, dram_reduction, time_s, ...

    \b
    costsim explain iwslt17-dsq encoder.0.self_attention.q --policy dsq
    costsim explain gpt2-small decoder.0.ffn.fc1 --hardware h100-sxm
    costsim explain iwslt17-dsq dram_reduction --policy dsq
    """
    from costsim.run import simulate
    from costsim.tables import explain as explain_tables

    click.echo(explain_tables.render(simulate.prepare(**job), name, style), nl=False)


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
    from costsim.huggingface import importer
    from costsim.inputs import files

    made = importer.workload_of(config)
    click.echo(made.text if out is None else files.write(_path(out), made.text.encode()), nl=out is not None)
    for note in made.notes:
        click.echo(f"costsim: {note}", err=True)


def _catalogue(what: str) -> dict[str, str]:
    from costsim.cli import catalogue

    entries: Callable[[], dict[str, str]] = catalogue.CATALOGUES[what]
    return entries()


@main.command("list")
@click.argument("what", type=click.Choice(("workloads", "policies", "hardware", "formats", "ops", "traffic")))
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
    """Print a shipped workload, policy or hardware profile with its sources, a format, an op kind, or a traffic model.

    \b
    costsim show dsq
    costsim show tiled
    costsim show bfp4
    """
    from costsim.cli import catalogue

    click.echo(catalogue.describe(name), nl=False)


@main.command()
@click.argument("what", type=click.Choice(("workload", "policy", "hardware")))
def schema(what: str) -> None:
    """Print the JSON schema of a file, for editors and checks.

    \b
    costsim schema policy
    """
    from costsim.cli import catalogue

    click.echo(catalogue.json_schema(what), nl=False)


if __name__ == "__main__":
    sys.exit(main())
