"""Ways to split a step over devices as a document, the fastest that fits first."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from costsim.devices.profile import Hardware
from costsim.results.records import Record
from costsim.search.split_formats import Chosen
from costsim.search.splits import SIZES, Split
from costsim.tables.cells import duration, percent, short
from costsim.tables.document import Block, Document, Drawn, Heading, Notes
from costsim.tables.table import Column, Table, of_policies


def record(split: Split) -> Record:
    """A row of an export."""
    return {
        "policy": split.policy,
        **{axis: getattr(split.parallel, axis) for axis in SIZES},
        "micro_batches": split.micro_batches,
        "step_s": split.step_s,
        "bubble_share": split.bubble_share,
        "peak_memory_bytes": str(split.peak_bytes),
        "fits": split.fits,
        "set": " ".join(split.fields),
        **({} if split.chosen is None else _chosen(split.chosen)),
    }


def _chosen(chosen: Chosen) -> Record:
    """The fields of formats that are chosen, and what they lose if somebody says."""
    loss = {} if chosen.loss is None else {"loss": float(chosen.loss)}
    return {**loss, "formats": " ".join(f"{group}={format}" for group, format in chosen.formats.items())}


def _table(rows: Sequence[Split]) -> Table:
    axes = [axis for axis in SIZES if axis != "expert" or any(split.parallel.expert > 1 for split in rows)]
    several = len({split.policy for split in rows}) > 1
    columns = [Column("policy", "left")] if several else []
    columns += [Column("pipe-\nline", full=axis) if axis == "pipeline" else Column(axis) for axis in axes]
    columns += [Column("micro-\nbatches", full="micro-batches"), Column("step"), Column("bubble\n%", full="bubble %")]
    columns += [Column("peak\nbyte", full="peak byte"), Column("fits", "left")]
    cells = [
        [
            *([split.policy] if several else []),
            *(str(getattr(split.parallel, axis)) for axis in axes),
            str(split.micro_batches),
            duration(split.step_s),
            percent(split.bubble_share),
            short(str(split.peak_bytes)),
            "yes" if split.fits else "no",
        ]
        for split in rows
    ]
    return of_policies(columns, cells, 0)


def _formats(chosen: Chosen) -> Table:
    """The format of each group."""
    return Table([Column("group", "left"), Column("format", "left")], [list(of) for of in chosen.formats.items()])


def document(
    workload: str, found: Sequence[Split], device: Hardware, devices: int, most: int, folder: str | None = None
) -> Document:
    """The first of the splits found, of `most` rows; exports have all. `folder` has policies that were chosen."""
    shown = found[:most]
    best, fitting = shown[0], sum(split.fits for split in found)
    notes = [
        f"{len(found)} splits over {devices} devices of {device.name}, of which {fitting} fit; the first {len(shown)}",
        "steps of as many sequences in all; peak: of the fullest stage, without workspaces and buffers of messages",
    ]
    chosen: list[Block] = []
    if best.chosen:
        notes.append("formats are those with which all stages are busy least, in the memory of a device if any keep it")
        chosen = [
            Heading(f"formats of {best.policy}"),
            Drawn(_formats(best.chosen)),
        ]
    if best.chosen and folder is None:
        notes.append("--save FOLDER writes these policies, which `costsim run` takes")
    elif best.fits:
        sets = " ".join(f"--set {field}" for field in best.fields)
        policy = Path(folder, f"{best.policy}.yaml") if best.chosen and folder else best.policy
        notes.append(f"costsim run {workload} --policy {policy} --hardware {device.name} {sets}")
    blocks = [Drawn(_table(shown)), Notes(notes), *chosen]

    def data() -> dict[str, Any]:
        rows = [{**record(s), **({"formats": s.chosen.formats} if s.chosen else {})} for s in found]
        return {"workload": workload, "hardware": device.name, "devices": devices, "rows": rows}

    caption = f"Ways to split a step of {workload} over {devices} devices of {device.name}."
    paper = replace(_table(shown), label=f"tab:costsim-{workload}-splits", caption=caption)
    return Document(
        stem=f"{workload}-splits",
        screen=lambda: [blocks],
        page=lambda: blocks,
        paper=lambda: [paper],
        data=data,
        records=lambda: [record(split) for split in found],
    )
