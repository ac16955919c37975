"""Recipes side by side on one workload, as a document: a recipe a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from costsim.results.records import Record
from costsim.results.survey import Survey
from costsim.tables.cells import short
from costsim.tables.document import Block, Document, Drawn, Notes
from costsim.tables.table import Column, Table, clip

_RATIOS = {"arithmetic": "arith.", "dram": "DRAM", "memory": "memory"}  # of records, and how columns name them
_SPENT = ("time", "energy")


def snr(value: float | None) -> str:
    """Decibel with one decimal."""
    return "n/a" if value is None else f"{value + 0.0:.1f}".replace("-0.0", "0.0")


def _device_columns(of: Survey) -> list[Column]:
    heads = [(device.name, quantity) for device in of.job.hardware for quantity in _SPENT]
    several = len(of.job.hardware) > 1
    return [
        Column(f"{name}\n{quantity} x" if several else f"{quantity}\nx", full=f"{name} {quantity} x", over=name)
        for name, quantity in heads
    ]


def _columns(of: Survey) -> list[Column]:
    ratios = [Column(f"{head}\nx", full=f"{'arithmetic' if name == 'arithmetic' else head} x")
              for name, head in _RATIOS.items()]  # fmt: skip
    noise = [Column("SNR\ndB", full="gradient SNR dB")] if of.with_noise else []
    return [Column("recipe", "left"), Column("grade", "left"), *ratios, *_device_columns(of), *noise]


def _cells(of: Survey, record: Record) -> list[str]:
    devices = record["hardware"].values()
    return [
        record["recipe"],
        record["grade"],
        *(short(record[f"{name}_reduction"]) for name in _RATIOS),
        *(short(device[f"{quantity}_reduction"]) for device in devices for quantity in _SPENT),
        *([snr(record["gradient_snr_db"])] if of.with_noise else []),
    ]


def _table(of: Survey) -> Table:
    rows = [_cells(of, record) for record in of.records]
    return Table(_columns(of), rows, [[clip(row[0], 18), *row[1:]] for row in rows])


def notes(of: Survey) -> list[str]:
    """What the numbers are, what recipes set beside formats, and what is left out."""
    convention = of.job.convention
    lines = [
        f"{convention.summary()}, {convention.steps} steps; x less than {of.baseline}, without what recipes set",
        "grade is that of the formats: stated by the source, inferred from it, recalled, or ours",
        "memory is the peak of a step, of all ops whatever the scope",
    ]
    if of.with_noise:
        lines.append(
            "SNR is signal to noise of the gradients of all weights, in the noisiest phase, of a shrunken copy of few "
            "layers with random weights and data, run in NumPy: a proxy, no loss; what training learns to live with, "
            "and what is lost in optimizer states, is not in it"
        )
    lines += _settings(of)
    lines += [line for device in of.job.hardware for line in _device_notes(of, device.name)]
    return lines + [f"left out: {recipe}: {reason}" for recipe, reason in of.left_out.items()]


def _settings(of: Survey) -> list[str]:
    """What recipes have beside the formats of their file."""
    by_fields: dict[str, list[str]] = {}
    for record in of.records:
        if record["set"]:
            by_fields.setdefault(" ".join(record["set"]), []).append(record["recipe"])
    lines = [f"{', '.join(recipes)}: {fields}" for fields, recipes in by_fields.items()]
    composed = [record for record in of.records if record["policy"] != record["recipe"]]
    return lines + [f"{record['recipe']}: {record['policy']}" for record in composed]


def _device_notes(of: Survey, device: str) -> list[str]:
    """Which recipes a device runs in other formats than theirs, and which not at all."""
    overlap = "overlaps with" if of.job.overlap else "does not overlap with"
    lines = [f"{device}: a roofline for each kernel, summed over the run; arithmetic {overlap} DRAM traffic"]
    for kind, words in (("upcast", "some pairs run as wider ones"), ("unsupported", "pairs that it does not run")):
        names = [record["recipe"] for record in of.records if record["hardware"][device][kind]]
        lines += [f"{device}, {words}: {', '.join(names)}"] if names else []
    return lines


def _page(of: Survey) -> list[Block]:
    return [Drawn(_table(of)), Notes(notes(of))]


def _paper(of: Survey) -> list[Table]:
    workload = of.job.workload
    return [
        Table(
            _columns(of),
            _table(of).rows,
            label=f"tab:costsim-{workload}-recipes",
            caption=f"Recipes on {workload}.",
            notes=[f"{of.job.convention.summary()}; \u00d7: times less than {of.baseline}", *notes(of)],
        )
    ]


def _data(of: Survey) -> Mapping[str, Any]:
    return {
        "workload": of.job.workload,
        "baseline": of.baseline,
        "convention": of.job.convention.summary(),
        "steps": of.job.convention.steps,
        "hardware": [device.name for device in of.job.hardware],
        "rows": list(of.records),
        "left_out": of.left_out,
        "notes": notes(of),
    }


def records(of: Survey) -> Sequence[Record]:
    """A row a recipe, without lists."""
    return [{**record, "set": " ".join(record["set"])} for record in of.records]


def document(of: Survey) -> Document:
    """A survey."""
    return Document(
        stem=f"{of.job.workload}-recipes",
        screen=lambda: [_page(of)],
        page=partial(_page, of),
        paper=partial(_paper, of),
        data=partial(_data, of),
        records=partial(records, of),
    )
