"""What fills the memory, as records, text and JSON."""

import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from costsim.assign import assign
from costsim.errors import InputError
from costsim.graph import Graph
from costsim.memory import COMPONENTS, Memory, Stored, largest_batch, of_policy, with_batch
from costsim.models import sections
from costsim.policy import Policy
from costsim.report import WIDTH, clip, composed, csv_text
from costsim.simulate import Job

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """The memory of a policy at a batch size."""

    policy: Policy
    phase: int  # of the policy, from 0: where its peak is highest
    job: Job  # at that batch
    memory: Memory
    largest_batch: int | None  # that fits, if a capacity is given


@dataclass(frozen=True, slots=True)
class Asked:
    """What is wanted. `capacity_bytes` is what a device has, `reserve_bytes` is for what the model leaves out."""

    batches: Sequence[int | None] = (None,)  # None: as in the file
    accumulation: int | None = None
    capacity_bytes: int | None = None
    reserve_bytes: int = 0
    stash: bool = False  # whether tables list the stash tensor by tensor


def capacity(capacity_bytes: int | None, device: str | None) -> int | None:
    """What there is: as said, or the DRAM of a device. Raises InputError if both are said, or it is not known."""
    if device is None:
        return capacity_bytes
    if capacity_bytes is not None:
        raise InputError("--capacity-bytes and --hardware both say what there is; leave one out")
    from costsim.hardware import load_hardware

    found = load_hardware(device).dram_bytes
    if found is None:
        raise InputError(f"--hardware {device}: the profile does not know its DRAM; say --capacity-bytes")
    return found


def rows(job: Job, asked: Asked) -> list[Row]:
    """A row per policy and batch size. Raises InputError for a batch that does not fit the workload."""
    jobs = [with_batch(job, sequences, asked.accumulation) for sequences in asked.batches]
    found = []
    for policy in job.policies:
        largest = None
        if asked.capacity_bytes is not None:
            room = asked.capacity_bytes - asked.reserve_bytes
            largest = largest_batch(job, policy, room, asked.accumulation or 1)
        for its in jobs:
            phase, memory = of_policy(its.graph, policy, its.convention.traffic)
            found.append(Row(policy, phase, its, memory, largest))
    return found


def _sequences(row: Row) -> int:
    sizes: int = row.job.graph.sizes["batch"]
    return sizes


def _stash_record(graph: Graph, stored: Stored, row: Row) -> Record:
    format = stored.copy.format if stored.copy else assign(graph, row.policy, row.phase).format(stored.tensor)
    return {
        "name": stored.name,
        "shape": list(graph.shape(stored.tensor)),
        "producer": stored.producer,
        "consumer": stored.consumer,
        "format": format.name,
        "bytes": str(stored.size_bytes),
    }


def record(row: Row, asked: Asked) -> Record:
    """One row: exact bytes as decimal strings."""
    memory = row.memory
    made: Record = {
        "policy": row.policy.name,
        "phase": row.phase + 1,
        "batch": _sequences(row),
        "micro_batches": row.job.convention.micro_batches,
        "peak_memory_bytes": str(memory.peak_bytes),
        **{f"{name}_bytes": str(memory.components[name]) for name in COMPONENTS},
        "reserve_bytes": str(asked.reserve_bytes),
        "peak_op": memory.peak_op.name,
        "peak_phase": memory.peak_op.phase,
    }
    if asked.capacity_bytes is not None:
        made["capacity_bytes"] = str(asked.capacity_bytes)
        made["fits"] = memory.peak_bytes + asked.reserve_bytes <= asked.capacity_bytes
        made["largest_batch"] = row.largest_batch
    return made


def in_force(job: Job) -> Record:
    """The choices of the implementation that memory depends on."""
    model, _ = sections(job.file, job.document)
    return {
        "traffic": job.convention.traffic,
        **{name: getattr(model, name) for name in ("attention", "checkpointing", "fused_activation")},
        "micro_batches": job.convention.micro_batches,
    }


def _gigabytes(size: int) -> str:
    """At most five characters up to 99 TB."""
    if not size:
        return "-"
    value = size / 1e9
    return f"{value:.{max(0, 3 - max(0, len(str(int(value))) - 1))}f}"


_SHORT = dict(zip(COMPONENTS, ("weight", "master", "grad", "state", "stash", "logit", "temp"), strict=True))


def _grid(found: Sequence[Row], style: str) -> str:
    headers = ["policy", "batch", *_SHORT.values(), "peak"]
    table = []
    for row in found:
        parts = [_gigabytes(row.memory.components[name]) for name in COMPONENTS]
        name = composed(row.policy.name, 13) if style == "simple" else row.policy.name
        table.append([name, str(_sequences(row)), *parts, _gigabytes(row.memory.peak_bytes)])
    align = ["left"] + ["right"] * (len(headers) - 1)
    if style == "simple":  # headers as a row: tabulate would widen each column by two, beyond 80 in all
        lines = tabulate([headers, *table], tablefmt="plain", disable_numparse=True, colalign=align).splitlines()
        return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
    return tabulate(table, headers=headers, tablefmt=style, disable_numparse=True, colalign=align)


def notes(found: Sequence[Row], asked: Asked) -> list[str]:
    """The lines under a table: what is in force, where the peaks are, what fits."""
    force = in_force(found[0].job)
    graph = found[0].job.graph
    masks = sorted({_mask_bits(row) for row in found} - {0})
    lines = [
        f"GB (10^9 bytes) at the peak of a step, by last use; {graph.parameters} parameters"
        + (f", {graph.trainable_parameters} trained" if graph.trainable_parameters != graph.parameters else ""),
        f"in force: attention {force['attention']}, checkpointing {force['checkpointing']}, "
        f"activation {'fused' if force['fused_activation'] else 'op by op'}, traffic {force['traffic']} (what it keeps "
        f"on chip takes none), {force['micro_batches']} micro-batches"
        + (f", dropout masks of {' or '.join(map(str, masks))} bit" if masks else ", no dropout masks"),
    ]
    for where in dict.fromkeys((row.policy.name, row.memory.peak_op.name, row.memory.peak_op.phase) for row in found):
        lines.append("the peak of {} is at {} ({})".format(*where))
    if asked.reserve_bytes:
        lines.append(f"{asked.reserve_bytes} bytes are reserved for what is not modelled")
    else:
        lines.append("fragmentation, workspaces and communication are left out; --reserve-bytes stands for them")
    if asked.capacity_bytes is not None:
        for name, largest in {row.policy.name: row.largest_batch for row in found}.items():
            its = [row for row in found if row.policy.name == name]
            fits = [str(_sequences(row)) for row in its if record(row, asked)["fits"]]
            lines.append(
                f"{name}: of these, batch {', '.join(fits) or '(none)'} fits into {asked.capacity_bytes} bytes; "
                f"at most {largest} sequences do"
            )
    return [part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent="  ")]


def _mask_bits(row: Row) -> int:
    """Bits of an element of a dropout mask; 0 if there are none."""
    graph = row.job.graph
    drawn = next((op.outputs[0] for op in graph.ops if op.kind.name == "bernoulli"), None)
    return 0 if drawn is None else assign(graph, row.policy, row.phase).format(drawn).element_bits


def _stash_lines(found: Sequence[Row]) -> list[str]:
    lines = []
    for row in found:
        graph = row.job.graph
        records = [_stash_record(graph, stored, row) for stored in row.memory.at_peak("stash")]
        lines += ["", f"stash of {row.policy.name} at batch {_sequences(row)}, the largest first"]
        cells = [
            [
                clip(r["name"], 30),
                "x".join(map(str, r["shape"])),
                clip(r["format"], 10),
                r["bytes"],
                clip(r["consumer"], 18),
            ]
            for r in records
        ]
        headers = ["tensor", "shape", "format", "bytes", "last read by"]
        align = ["left", "left", "left", "right", "left"]
        lines += tabulate(cells, headers, tablefmt="simple", disable_numparse=True, colalign=align).splitlines()
    return lines


def to_table(_job: Job, found: Sequence[Row], asked: Asked) -> str:
    """For a terminal."""
    lines = [_grid(found, "simple"), "", *notes(found, asked)]
    return "\n".join(lines + (_stash_lines(found) if asked.stash else [])) + "\n"


def to_markdown(_job: Job, found: Sequence[Row], asked: Asked) -> str:
    """GitHub's pipe table and the notes."""
    listed = "\n".join(f"- {line}" for line in notes(found, asked))
    return f"{_grid(found, 'pipe')}\n\n{listed}\n"


def to_latex(_job: Job, found: Sequence[Row], asked: Asked) -> str:
    """A booktabs tabular; the notes as comments above it."""
    comments = "".join(f"% {line}\n" for line in notes(found, asked))
    return f"{comments}{_grid(found, 'latex_booktabs')}\n"


def to_json(job: Job, found: Sequence[Row], asked: Asked) -> str:
    """One object; exact integers as decimal strings but for `parameters`."""
    made = []
    for row in found:
        listed = [_stash_record(row.job.graph, stored, row) for stored in row.memory.at_peak("stash")]
        made.append({**record(row, asked), "mask_bits": _mask_bits(row), "stash": listed})
    data = {
        "workload": job.workload,
        "parameters": found[0].job.graph.parameters,
        "trainable_parameters": found[0].job.graph.trainable_parameters,
        "convention": in_force(found[0].job),
        "components": list(COMPONENTS),
        "rows": made,
    }
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


def to_csv(_job: Job, found: Sequence[Row], asked: Asked) -> str:
    """A header and a line a row, exact bytes."""
    return csv_text([record(row, asked) for row in found])


FORMATS: dict[str, Callable[[Job, Sequence[Row], Asked], str]] = {
    "table": to_table,
    "json": to_json,
    "csv": to_csv,
    "markdown": to_markdown,
    "latex": to_latex,
}


def render(job: Job, asked: Asked, style: str) -> str:
    """The memory of a job's policies in one of FORMATS. Raises InputError as `rows`."""
    return FORMATS[style](job, rows(job, asked), asked)
