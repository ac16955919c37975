"""What fills the memory, as a document: a policy at a batch size a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from costsim.cost.memory import COMPONENTS
from costsim.models.build import sections
from costsim.results.records import Record
from costsim.run.job import Job
from costsim.run.peaks import Asked, Row, rows
from costsim.tables import kept, warnings
from costsim.tables.cells import gigabytes
from costsim.tables.document import Block, Document, Drawn, Heading, Notes
from costsim.tables.sweep import columns, shared, values, without
from costsim.tables.table import Column, Table, composed, dense


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
        "activations_bytes": str(sum(place.size_bytes for place in memory.activations)),
    }
    if asked.capacity_bytes is not None:
        made["capacity_bytes"] = str(asked.capacity_bytes)
        made["fits"] = memory.peak_bytes + asked.reserve_bytes <= asked.capacity_bytes
        made["largest_batch"] = row.largest_batch
    return made


_CHOICES = ("attention", "checkpointing", "fused_activation", "fused_norm", "upcast")  # fields of a model


def in_force(job: Job) -> Record:
    """The choices of the implementation that memory depends on."""
    model, _ = sections(job.file, job.document)
    return {
        "traffic": job.convention.traffic,
        **{name: getattr(model, name) for name in _CHOICES},
        "micro_batches": job.convention.micro_batches,
    }


_COMPONENTS = ("weight", "master", "grad", "state", "stash", "logit", "temp")  # COMPONENTS, short


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
    written = {
        part: " or ".join(dict.fromkeys("fused" if choice[f"fused_{part}"] else "op by op" for choice in choices))
        for part in ("activation", "norm")
    }
    masks = sorted({row.mask_bits for row in listed} - {0})
    return (
        f"in force: attention {either['attention']}, checkpointing {either['checkpointing']}, "
        f"activation {written['activation']}, norm {written['norm']}, traffic {either['traffic']} (what it keeps "
        f"on chip takes none), {either['micro_batches']} micro-batches"
        + (f", dropout masks of {' or '.join(map(str, masks))} bit" if masks else ", no dropout masks")
    )


def _where(row: Row) -> str:
    op = row.memory.peak_op
    return f"the peak of {row.policy.name} is at {op.name} ({op.phase})"


def notes(listed: Sequence[Row], asked: Asked) -> list[str]:
    """The lines under a table: warnings, what is in force, where the peaks are, what fits."""
    lines = warnings.of_memory(listed)
    lines += [f"GB (10^9 bytes) at the peak of a step, by last use; {_parameters(listed)}", _in_force_line(listed)]
    lines += dict.fromkeys(map(_where, listed))
    if any(kept.is_partial(row.memory) for row in listed):
        lines.append("stash is what a peak has of what the forward keeps; --activations lists all that it keeps")
    if asked.reserve_bytes:
        lines.append(f"{asked.reserve_bytes} bytes are reserved for what is not modelled")
    else:
        lines.append("fragmentation, workspaces and communication are left out; --reserve-bytes stands for them")
    if asked.capacity_bytes is not None:
        for name, largest in {row.name: row.largest_batch for row in listed}.items():
            rows_of = [row for row in listed if row.name == name]
            fits = [str(row.sequences) for row in rows_of if record(row, asked)["fits"]]
            lines.append(
                f"{name}: of these, batch {', '.join(fits) or '(none)'} fits into {asked.capacity_bytes} bytes; "
                f"at most {largest} sequences do" + ("" if fits else f"; {_largest(rows_of[0])}")
            )
    return lines


def _largest(row: Row) -> str:
    """The component that takes most of a peak."""
    name, size = max(row.memory.components.items(), key=lambda component: component[1])
    return f"the most is in {name.replace('_', ' ')}, {size} bytes at batch {row.sequences}"


def _parameters(listed: Sequence[Row]) -> str:
    """How many parameters there are and how many are trained; of a sweep that changes them, from and to."""
    graphs = [row.job.graph for row in listed]
    every, trained = [graph.parameters for graph in graphs], [graph.trainable_parameters for graph in graphs]

    def span(numbers: Sequence[int]) -> str:
        return f"{min(numbers)}" + (f" to {max(numbers)}" if max(numbers) > min(numbers) else "")

    return f"{span(every)} parameters" + (f", {span(trained)} trained" if trained != every else "")


def _screen(listed: Sequence[Row], asked: Asked) -> list[list[Block]]:
    groups: list[list[Block]] = [[Drawn(_table(listed), dense)], [Notes(notes(listed, asked))]]
    return groups + [[Heading(heading), Drawn(table)] for _, heading, table in kept.tables(listed, asked.lists)]


def _page(listed: Sequence[Row], asked: Asked) -> list[Block]:
    return [block for group in _screen(listed, asked) for block in group]


def _paper(workload: str, listed: Sequence[Row], asked: Asked) -> list[Table]:
    label = f"tab:costsim-{workload}-memory"
    caption = f"Memory at the peak of a training step of {workload} by component, in GB."
    tables = [replace(_table(listed), label=label, caption=caption, notes=notes(listed, asked))]
    for i, (name, heading, table) in enumerate(kept.tables(listed, asked.lists)):
        number = i // len(asked.lists) + 1
        tables.append(replace(table, label=f"{label}-{name}-{number}", caption=f"{workload}: {heading}."))
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
        "warnings": warnings.of_memory(listed),
        "rows": [
            {**record(row, asked), "mask_bits": row.mask_bits, **{name: kept.listed(row, name) for name in kept.LISTS}}
            for row in listed
        ],
    }


def _records(listed: Sequence[Row], asked: Asked) -> list[Record]:
    """The rows; or the tensors that are listed, each with the policy and what else tells rows apart."""
    made = []
    for row in listed:
        full = record(row, asked)
        of = {name: full[name] for name in ("policy", *row.point, "phase", "batch", "micro_batches")}
        made += kept.csv_records(row, asked.lists, of) if asked.lists else [full]
    return made


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
