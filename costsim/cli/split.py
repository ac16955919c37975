"""`costsim split`: all ways to split a step over so many devices."""

from collections.abc import Mapping
from typing import Any

import click

from costsim import names
from costsim.cli.options import FIGURE, OUTPUT, WORKLOAD, apart, chosen, options, path_of
from costsim.cli.output import echo_line, progress, style_beside_figure, write


@click.command()
@options(*WORKLOAD)
@click.option("--devices", type=click.IntRange(1, 1_000_000), required=True, help="How many there are.")
@click.option("--hardware", metavar="NAME", help="Their profile, with links: h100-node.  [default: the workload's]")
@click.option("--zero", default="0,1,2,3", show_default=True, metavar="N,...", help="What ranks of data may share.")
@click.option("--formats", metavar="NAME,...", help="Choose formats for each split, of these, as `search` does.")
@options(
    *chosen(
        ("operand", "sent"),
        "What takes them: what GEMMs multiply, messages, tensors; repeatable.",
        "What tells groups apart that take a format each.",
    )
)
@click.option("--sensitivity", type=click.Path(), metavar="CSV", help="What they cost in quality, as for `search`.")
@click.option("--at-most", multiple=True, metavar="FIELD=N", help="Budget of loss or peak_memory_bytes; repeatable.")
@click.option("--save", "folder", type=click.Path(), help="Folder for the policies that are found.")
@click.option("--rows", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many are shown.")
@options(*OUTPUT, *FIGURE)
def split(
    devices: int, hardware: str | None, zero: str, rows: int, style: str | None, out: str | None, **given: Any
) -> None:
    """Find how to split a step of WORKLOAD over many devices.

    All sizes of tensor, pipeline, data and expert that multiply to --devices and that the model allows: how long a step
    takes, how long stages wait, what the fullest device holds. The batch of a step is the workload's in all of them.
    With --formats, groups of tensors and messages take in each split those with which it is fastest. --out takes .svg,
    .pdf and .png, too: the time of all splits over their memory.

    \b
    costsim split llama-small --devices 8 --hardware h100-node
    costsim split mixtral-8x7b --devices 8 --hardware h100-node --zero 1
    costsim split llama-small --devices 8 --hardware h100-node --out splits.svg
    costsim split llama-60m --devices 4 --hardware h100-node --formats bf16,int8
    """
    from costsim.errors import InputError
    from costsim.inputs import files
    from costsim.run.job import Request, prepare
    from costsim.search.split_formats import policy_files
    from costsim.search.splits import splits, ways, zeros_of
    from costsim.tables.splits import document

    style = style_beside_figure(style, out)
    look, given = apart(given, out)
    folder = given.pop("folder")
    if folder is not None:
        files.check_folder(path_of(folder))
    asked = {name: given.pop(name) for name in ("formats", "varied", "groups", "sensitivity", "at_most")}
    prepared, zeros = prepare(Request(**given, hardware=(hardware,) if hardware else ())), zeros_of(zero)
    if len(prepared.hardware) != 1:
        raise InputError("split: expected a device, --hardware NAME (see costsim list hardware)")
    [device] = prepared.hardware
    wanted = _wanted(prepared, asked, folder)
    with progress(len(list(ways(prepared, devices, zeros)))) as bar:
        found = splits(prepared, prepared.policies, device, devices, zeros, lambda: bar.update(1), wanted)
    table = document(prepared.workload, found, device, devices, rows, folder)
    if out is None:
        write(table, style)
    else:
        _save(prepared, (found, devices), table, out, look)
    if folder is not None:
        named = {split.policy: split.chosen for split in found if split.chosen}
        for name, content in policy_files(prepared.workload, named, path_of(folder)).items():
            echo_line(files.write(path_of(folder) / name, content))


def _save(job: Any, what: tuple[Any, int], table: Any, out: str, look: Any) -> None:
    """Write what was found, the splits over so many devices: their figure, their table, or a folder of both."""
    from costsim.plots.findings import save_splits

    for path in save_splits(job, *what, table, out, look):
        echo_line(path)


def _wanted(job: Any, asked: Mapping[str, Any], folder: str | None) -> Any:
    """What is chosen in each split; None without formats. Raises InputError for what is said of a choice then."""
    from costsim.errors import InputError
    from costsim.search.found import Asked, losses_of, names_of
    from costsim.search.split_formats import Wanted, budgets_of

    if asked["formats"] is None:
        told = {"--sensitivity": asked["sensitivity"], "--at-most": asked["at_most"], "--save": folder}
        for option in (option for option, value in told.items() if value):
            raise InputError(f"{option}: is about formats that are chosen; say --formats, such as bf16,fp8-e4m3-tensor")
        return None
    of, budgets = Asked(policy=None, **asked), budgets_of(asked["at_most"])
    groups, varied, formats = names_of(of)
    if "loss" in budgets and of.sensitivity is None:
        raise InputError("--at-most loss: say what bits cost in quality, --sensitivity CSV")
    most_bytes = budgets.get(names.PEAK)
    return Wanted(
        groups,
        varied,
        formats,
        losses_of(job, of),
        budgets.get("loss"),
        None if most_bytes is None else int(most_bytes),
    )
