"""What fills the memory, as a document: a policy at a batch size a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from costsim.cost.memory import COMPONENTS, Memory, Stored, of_policy
from costsim.errors import InputError
from costsim.models.build import sections
from costsim.policy.assign import assign
from costsim.policy.policy import Policy
from costsim.results.records import Record
from costsim.run.batch import largest_batch, with_batch
from costsim.run.job import Job
from costsim.run.sweep import NOWHERE, Point
from costsim.tables.cells import gigabytes
from costsim.tables.document import Block, Document, Drawn, Heading, Notes
from costsim.tables.sweep import columns, shared, values, without
from costsim.tables.table import Column, Table, clip, composed, dense


@dataclass(frozen=True, slots=True)
class Row:
    """The memory of a policy at a batch size."""

    policy: Policy
    phase: int  # of the policy, from 0: where its peak is highest
    job: Job  # at that batch
    memory: Memory
    largest_batch: int | None  # that fits, if a capacity is given
    point: Point = field(default_factory=dict)  # of a sweep

    @property
    def sequences(self) -> int:
        """The batch size."""
        size: int = self.job.graph.sizes["batch"]
        return size

    @property
    def name(self) -> str:
        """The policy, and the point of a sweep."""
        return ", ".join([self.policy.name, *(f"{name}={text}" for name, text in self.point.items())])

    @property
    def mask_bits(self) -> int:
        """Bits of an element of a dropout mask; 0 if there are none."""
        graph = self.job.graph
        drawn = next((op.outputs[0] for op in graph.ops if op.kind.name == "bernoulli"), None)
        return 0 if drawn is None else assign(graph, self.policy, self.phase).format(drawn).element_bits


@dataclass(frozen=True, slots=True)
class Asked:
    """What to list. `capacity_bytes` is what a device has, `reserve_bytes` is for what the model leaves out."""

    batches: Sequence[int | None] = (None,)  # None: as in the file
    accumulation: int | None = None
    capacity_bytes: int | None = None
    reserve_bytes: int = 0
    stash: bool = False  # whether tables list the stash tensor by tensor
    places: Sequence[tuple[Point, Job]] = ()  # of a sweep, instead of the one job


def capacity(capacity_bytes: int | None, device: str | None) -> int | None:
    """Bytes to fit into: as given, or the DRAM of a device. Raises InputError if both are given, or none is known."""
    if device is None:
        return capacity_bytes
    if capacity_bytes is not None:
        raise InputError("--capacity-bytes and --hardware both say what there is; leave one out")
    from costsim.devices.profile import load_hardware

    dram_bytes = load_hardware(device).dram_bytes
    if dram_bytes is None:
        raise InputError(f"--hardware {device}: the profile does not know its DRAM; say --capacity-bytes")
    return dram_bytes


def rows(job: Job, asked: Asked) -> list[Row]:
    """A row per policy, point of a sweep and batch size. Raises InputError for what does not fit the workload."""
    places = asked.places or [(NOWHERE, job)]
    batches = [[with_batch(there, sequences, asked.accumulation) for sequences in asked.batches] for _, there in places]
    made = []
    for policy in job.policies:
        for (point, there), jobs in zip(places, batches, strict=True):
            largest = None
            if asked.capacity_bytes is not None:
                room = asked.capacity_bytes - asked.reserve_bytes
                largest = largest_batch(there, policy, room, asked.accumulation or 1)
            for batch in jobs:
                phase, memory = of_policy(batch.graph, policy, batch.convention.traffic)
                made.append(Row(policy, phase, batch, memory, largest, point))
    return made


def _stash_record(row: Row, stored: Stored) -> Record:
    graph = row.job.graph
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
        **values(row.point),
        "phase": row.phase + 1,
        "batch": row.sequences,
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


_COMPONENTS = ("weight", "master", "grad", "state", "stash", "logit", "temp")  # COMPONENTS, short
_STASH = [
    *(Column(header, "left") for header in ("tensor", "shape", "format")),
    Column("bytes"),
    Column("last read by", "left"),
]


def _table(listed: Sequence[Row]) -> Table:
    first = listed[0]
    heads = [Column("policy", "left"), *columns(first.point), *map(Column, ("batch", *_COMPONENTS, "peak"))]
    full, shown = [], []
    for row in listed:
        sizes = [*(row.memory.components[name] for name in COMPONENTS), row.memory.peak_bytes]
        cells = [*row.point.values(), str(row.sequences), *map(gigabytes, sizes)]
        full.append([row.policy.name, *cells])
        shown.append([composed(row.policy.name, 13), *cells])
    table = Table(heads, full, shown)
    one = len({(row.point.get("batch.sequences"), row.sequences) for row in listed}) == 1
    return without(table, "batch") if first.point and (one or "batch.sequences" in first.point) else table


def _in_force_line(listed: Sequence[Row]) -> str:
    choices = [in_force(row.job) for row in listed]
    either = {name: " or ".join(dict.fromkeys(str(choice[name]) for choice in choices)) for name in choices[0]}
    activations = dict.fromkeys("fused" if choice["fused_activation"] else "op by op" for choice in choices)
    masks = sorted({row.mask_bits for row in listed} - {0})
    return (
        f"in force: attention {either['attention']}, checkpointing {either['checkpointing']}, "
        f"activation {' or '.join(activations)}, traffic {either['traffic']} (what it keeps "
        f"on chip takes none), {either['micro_batches']} micro-batches"
        + (f", dropout masks of {' or '.join(map(str, masks))} bit" if masks else ", no dropout masks")
    )


def notes(listed: Sequence[Row], asked: Asked) -> list[str]:
    """The lines under a table: what is in force, where the peaks are, what fits."""
    lines = [f"GB (10^9 bytes) at the peak of a step, by last use; {_parameters(listed)}", _in_force_line(listed)]
    for where in dict.fromkeys((row.policy.name, row.memory.peak_op.name, row.memory.peak_op.phase) for row in listed):
        lines.append("the peak of {} is at {} ({})".format(*where))
    if asked.reserve_bytes:
        lines.append(f"{asked.reserve_bytes} bytes are reserved for what is not modelled")
    else:
        lines.append("fragmentation, workspaces and communication are left out; --reserve-bytes stands for them")
    if asked.capacity_bytes is not None:
        for name, largest in {row.name: row.largest_batch for row in listed}.items():
            fits = [str(row.sequences) for row in listed if row.name == name and record(row, asked)["fits"]]
            lines.append(
                f"{name}: of these, batch {', '.join(fits) or '(none)'} fits into {asked.capacity_bytes} bytes; "
                f"at most {largest} sequences do"
            )
    return lines


def _parameters(listed: Sequence[Row]) -> str:
    """How many parameters there are and how many are trained; of a sweep that changes them, from and to."""
    graphs = [row.job.graph for row in listed]
    every, trained = [graph.parameters for graph in graphs], [graph.trainable_parameters for graph in graphs]

    def span(numbers: Sequence[int]) -> str:
        return f"{min(numbers)}" + (f" to {max(numbers)}" if max(numbers) > min(numbers) else "")

    return f"{span(every)} parameters" + (f", {span(trained)} trained" if trained != every else "")


def _stash_records(row: Row) -> list[Record]:
    return [_stash_record(row, stored) for stored in row.memory.at_peak("stash")]


def _stash_tables(listed: Sequence[Row]) -> list[tuple[str, Table]]:
    """What the stash of each row holds, under the line that says whose it is."""
    tables = []
    for row in listed:
        full = [
            [r["name"], "x".join(map(str, r["shape"])), r["format"], r["bytes"], r["consumer"]]
            for r in _stash_records(row)
        ]
        shown = [[clip(r[0], 30), r[1], clip(r[2], 10), r[3], clip(r[4], 18)] for r in full]
        tables.append((f"stash of {row.name} at batch {row.sequences}, the largest first", Table(_STASH, full, shown)))
    return tables


def _screen(listed: Sequence[Row], asked: Asked) -> list[list[Block]]:
    groups: list[list[Block]] = [[Drawn(_table(listed), dense)], [Notes(notes(listed, asked))]]
    stashes = _stash_tables(listed) if asked.stash else []
    return groups + [[Heading(heading), Drawn(table)] for heading, table in stashes]


def _page(listed: Sequence[Row], asked: Asked) -> list[Block]:
    return [block for group in _screen(listed, asked) for block in group]


def _paper(workload: str, listed: Sequence[Row], asked: Asked) -> list[Table]:
    label = f"tab:costsim-{workload}-memory"
    caption = f"Memory at the peak of a training step of {workload} by component, in GB."
    tables = [replace(_table(listed), label=label, caption=caption, notes=notes(listed, asked))]
    for i, (heading, table) in enumerate(_stash_tables(listed) if asked.stash else [], 1):
        tables.append(replace(table, label=f"{label}-stash-{i}", caption=f"{workload}: {heading}."))
    return tables


def _sizes(job: Job) -> Record:
    return {"parameters": job.graph.parameters, "trainable_parameters": job.graph.trainable_parameters}


def _data(workload: str, listed: Sequence[Row], asked: Asked) -> Mapping[str, Any]:
    """Exact integers as decimal strings but for `parameters`."""
    return {
        "workload": workload,
        **shared([_sizes(row.job) for row in listed]),
        "convention": shared([in_force(row.job) for row in listed]),
        "components": list(COMPONENTS),
        "rows": [{**record(row, asked), "mask_bits": row.mask_bits, "stash": _stash_records(row)} for row in listed],
    }


def _records(listed: Sequence[Row], asked: Asked) -> list[Record]:
    return [record(row, asked) for row in listed]


def document(job: Job, asked: Asked) -> Document:
    """The memory of a job's policies. Raises InputError as `rows`."""
    listed = rows(job, asked)
    return Document(
        stem=f"{job.workload}-memory",
        screen=partial(_screen, listed, asked),
        page=partial(_page, listed, asked),
        paper=partial(_paper, job.workload, listed, asked),
        data=partial(_data, job.workload, listed, asked),
        records=partial(_records, listed, asked),
    )
