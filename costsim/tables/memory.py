"""What fills the memory, as records, text and JSON."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from costsim.cost.memory import COMPONENTS, Memory, Stored, of_policy
from costsim.errors import InputError
from costsim.graph.graph import Graph
from costsim.models.build import sections
from costsim.policy.assign import assign
from costsim.policy.policy import Policy
from costsim.run.batch import largest_batch, with_batch
from costsim.run.job import Job
from costsim.run.sweep import NOWHERE, Point, value
from costsim.tables.sweep import without
from costsim.tables.table import (
    Column,
    Screen,
    Table,
    clip,
    composed,
    csv_text,
    dense,
    markdown,
    markdown_text,
    printable,
    terminal,
    wrap,
)

Record = dict[str, Any]
_PLAIN = Screen()


@dataclass(frozen=True, slots=True)
class Row:
    """The memory of a policy at a batch size."""

    policy: Policy
    phase: int  # of the policy, from 0: where its peak is highest
    job: Job  # at that batch
    memory: Memory
    largest_batch: int | None  # that fits, if a capacity is given
    point: Point = field(default_factory=dict)  # of a sweep


@dataclass(frozen=True, slots=True)
class Asked:
    """What is wanted. `capacity_bytes` is what a device has, `reserve_bytes` is for what the model leaves out."""

    batches: Sequence[int | None] = (None,)  # None: as in the file
    accumulation: int | None = None
    capacity_bytes: int | None = None
    reserve_bytes: int = 0
    stash: bool = False  # whether tables list the stash tensor by tensor
    places: Sequence[tuple[Point, Job]] = ()  # of a sweep, instead of the one job


def capacity(capacity_bytes: int | None, device: str | None) -> int | None:
    """What there is: as said, or the DRAM of a device. Raises InputError if both are said, or it is not known."""
    if device is None:
        return capacity_bytes
    if capacity_bytes is not None:
        raise InputError("--capacity-bytes and --hardware both say what there is; leave one out")
    from costsim.devices.profile import load_hardware

    found = load_hardware(device).dram_bytes
    if found is None:
        raise InputError(f"--hardware {device}: the profile does not know its DRAM; say --capacity-bytes")
    return found


def rows(job: Job, asked: Asked) -> list[Row]:
    """A row per policy, point of a sweep and batch size. Raises InputError for what does not fit the workload."""
    places = asked.places or [(NOWHERE, job)]
    jobs = [[with_batch(its, sequences, asked.accumulation) for sequences in asked.batches] for _, its in places]
    found = []
    for policy in job.policies:
        for (point, its), batches in zip(places, jobs, strict=True):
            largest = None
            if asked.capacity_bytes is not None:
                room = asked.capacity_bytes - asked.reserve_bytes
                largest = largest_batch(its, policy, room, asked.accumulation or 1)
            for each in batches:
                phase, memory = of_policy(each.graph, policy, each.convention.traffic)
                found.append(Row(policy, phase, each, memory, largest, point))
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
        **{name: value(text) for name, text in row.point.items()},
        "phase": row.phase + 1,
        "batch": _sequences(row),
        "micro_batches": row.job.convention.micro_batches,
        **({"parameters": row.job.graph.parameters} if row.point else {}),
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
_STASH = [
    *(Column(header, "left") for header in ("tensor", "shape", "format")),
    Column("bytes"),
    Column("last read by", "left"),
]


def _table(found: Sequence[Row]) -> Table:
    fields = [Column(name.replace(".", ".\n"), full=name) for name in found[0].point]
    columns = [Column("policy", "left"), *fields, *map(Column, ("batch", *_SHORT.values(), "peak"))]
    rows, shown = [], []
    for row in found:
        parts = [_gigabytes(row.memory.components[name]) for name in COMPONENTS]
        cells = [*row.point.values(), str(_sequences(row)), *parts, _gigabytes(row.memory.peak_bytes)]
        rows.append([row.policy.name, *cells])
        shown.append([composed(row.policy.name, 13), *cells])
    table = Table(columns, rows, shown)
    one = len({(row.point.get("batch.sequences"), _sequences(row)) for row in found}) == 1
    return without(table, "batch") if found[0].point and (one or "batch.sequences" in found[0].point) else table


def notes(found: Sequence[Row], asked: Asked) -> list[str]:
    """The lines under a table: what is in force, where the peaks are, what fits."""
    everywhere = [in_force(row.job) for row in found]
    force = {name: " or ".join(dict.fromkeys(str(its[name]) for its in everywhere)) for name in everywhere[0]}
    activations = dict.fromkeys("fused" if its["fused_activation"] else "op by op" for its in everywhere)
    masks = sorted({_mask_bits(row) for row in found} - {0})
    lines = [
        f"GB (10^9 bytes) at the peak of a step, by last use; {_parameters(found)}",
        f"in force: attention {force['attention']}, checkpointing {force['checkpointing']}, "
        f"activation {' or '.join(activations)}, traffic {force['traffic']} (what it keeps "
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
        for name, largest in {_named(row): row.largest_batch for row in found}.items():
            its = [row for row in found if _named(row) == name]
            fits = [str(_sequences(row)) for row in its if record(row, asked)["fits"]]
            lines.append(
                f"{name}: of these, batch {', '.join(fits) or '(none)'} fits into {asked.capacity_bytes} bytes; "
                f"at most {largest} sequences do"
            )
    return lines


def _named(row: Row) -> str:
    """The policy, and the point of a sweep."""
    return ", ".join([row.policy.name, *(f"{name}={text}" for name, text in row.point.items())])


def _parameters(found: Sequence[Row]) -> str:
    """How many parameters there are and how many are trained; of a sweep that changes them, from and to."""
    graphs = [row.job.graph for row in found]
    every, trained = [graph.parameters for graph in graphs], [graph.trainable_parameters for graph in graphs]

    def span(numbers: Sequence[int]) -> str:
        return f"{min(numbers)}" + (f" to {max(numbers)}" if max(numbers) > min(numbers) else "")

    return f"{span(every)} parameters" + (f", {span(trained)} trained" if trained != every else "")


def _mask_bits(row: Row) -> int:
    """Bits of an element of a dropout mask; 0 if there are none."""
    graph = row.job.graph
    drawn = next((op.outputs[0] for op in graph.ops if op.kind.name == "bernoulli"), None)
    return 0 if drawn is None else assign(graph, row.policy, row.phase).format(drawn).element_bits


def _stash_tables(found: Sequence[Row]) -> list[tuple[str, Table]]:
    """What the stash of each row holds, and a line above it."""
    made = []
    for row in found:
        records = [_stash_record(row.job.graph, stored, row) for stored in row.memory.at_peak("stash")]
        rows = [[r["name"], "x".join(map(str, r["shape"])), r["format"], r["bytes"], r["consumer"]] for r in records]
        shown = [[clip(r[0], 30), r[1], clip(r[2], 10), r[3], clip(r[4], 18)] for r in rows]
        above = f"stash of {_named(row)} at batch {_sequences(row)}, the largest first"
        made.append((above, Table(_STASH, rows, shown)))
    return made


def to_table(_job: Job, found: Sequence[Row], asked: Asked, screen: Screen = _PLAIN) -> str:
    """For a terminal."""
    lines = [*terminal(_table(found), screen, dense), "", *screen.notes(notes(found, asked))]
    for above, table in _stash_tables(found) if asked.stash else []:
        lines += ["", *wrap(printable(above), screen.width).split("\n"), *terminal(table, screen)]
    return "\n".join(lines) + "\n"


def to_markdown(_job: Job, found: Sequence[Row], asked: Asked) -> str:
    """GitHub's pipe tables and the notes."""
    parts = [f"{markdown(_table(found))}\n", "".join(f"- {markdown_text(line)}\n" for line in notes(found, asked))]
    for above, table in _stash_tables(found) if asked.stash else []:
        parts += [f"{markdown_text(above)}:\n", f"{markdown(table)}\n"]
    return "\n".join(parts)


def to_latex(job: Job, found: Sequence[Row], asked: Asked) -> str:
    """Tables for a paper (`report_latex`)."""
    from costsim.tables.latex import document  # pandas

    label = f"tab:costsim-{job.workload}-memory"
    caption = f"Memory at the peak of a training step of {job.workload} by component, in GB."
    tables = [replace(_table(found), label=label, caption=caption, notes=notes(found, asked))]
    for i, (above, table) in enumerate(_stash_tables(found) if asked.stash else [], 1):
        tables.append(replace(table, label=f"{label}-stash-{i}", caption=f"{job.workload}: {above}."))
    return document(tables)


def _sizes(job: Job) -> Record:
    return {"parameters": job.graph.parameters, "trainable_parameters": job.graph.trainable_parameters}


def _shared(records: Sequence[Record]) -> Record:
    """What all of them say: of a sweep, the rest is in its rows."""
    return {name: its for name, its in records[0].items() if all(other[name] == its for other in records)}


def to_json(job: Job, found: Sequence[Row], asked: Asked) -> str:
    """One object; exact integers as decimal strings but for `parameters`."""
    made = []
    for row in found:
        listed = [_stash_record(row.job.graph, stored, row) for stored in row.memory.at_peak("stash")]
        made.append({**record(row, asked), "mask_bits": _mask_bits(row), "stash": listed})
    data = {
        "workload": job.workload,
        **_shared([_sizes(row.job) for row in found]),
        "convention": _shared([in_force(row.job) for row in found]),
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


def render(job: Job, asked: Asked, style: str, screen: Screen = _PLAIN) -> str:
    """The memory of a job's policies in one of FORMATS; a table fits the screen. Raises InputError as `rows`."""
    found = rows(job, asked)
    return to_table(job, found, asked, screen) if style == "table" else FORMATS[style](job, found, asked)
