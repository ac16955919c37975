"""A pipeline as a table under that of a run: each stage of a step, and what waiting costs."""

from collections.abc import Mapping
from typing import Any

from costsim.results.stages import pipeline_records
from costsim.run.simulate import Result
from costsim.tables.cells import duration, percent, short
from costsim.tables.document import Block, Drawn, Heading, Notes
from costsim.tables.table import Column, of_policies, simple

_COLUMNS = (
    Column("policy", "left"),
    Column("stage"),
    Column("parameters"),
    Column("forward"),
    Column("backward"),
    Column("once a\nstep", full="once a step"),
    Column("in\nflight", full="in flight"),
    Column("peak\nbyte", full="peak byte"),
)


def _rows(row: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            str(stage["stage"]),
            short(stage["parameters"]),
            *(duration(stage[part]) for part in ("forward_s", "backward_s", "once_s")),
            str(stage["in_flight"]),
            short(stage["peak_memory_bytes"]),
        ]
        for stage in row["stages"]
    ]


def _line(row: Mapping[str, Any]) -> str:
    step, run = duration(row["step_s"]), duration(row["time_s"])
    return f"{row['policy']}: a step takes {step}, of which stages wait {percent(row['bubble_share'])} %; the run {run}"


def blocks(result: Result) -> list[Block]:
    """By device a table and what a run takes with bubbles; nothing without a pipeline or devices."""
    made: list[Block] = []
    every = pipeline_records(result)
    parallel, micro_batches = result.job.file.parallel, result.job.convention.micro_batches
    chunks = f" in {parallel.chunks} chunks" if parallel.chunks > 1 else ""
    for device in dict.fromkeys(row["hardware"] for row in every):
        rows = [row for row in every if row["hardware"] == device]
        table = of_policies(_COLUMNS, [[row["policy"], *cells] for row in rows for cells in _rows(row)])
        lines = [_line(row) for row in rows if row["step_s"] is not None]
        made.append(Heading(f"stages on {device}, a micro-batch each; {parallel.schedule} of {micro_batches}{chunks}"))
        made += [Drawn(table, simple), Notes(lines)]
    return made
