"""What fills the memory, as a document: a policy at a batch size a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from costsim.cost.memory import COMPONENTS
from costsim.cost.read_only import size_in_flash
from costsim.models.build import sections
from costsim.policy.assign import assign
from costsim.policy.policy import labels_of
from costsim.results.records import Record
from costsim.results.sent import describe
from costsim.run.job import Job
from costsim.run.peaks import Asked, Row, rows
from costsim.run.sweep import Point
from costsim.tables import kept, warnings
from costsim.tables.cells import BYTE_UNITS, byte_unit, in_unit
from costsim.tables.document import Block, Document, Drawn, Heading, Notes
from costsim.tables.recipes import beside, of_recipes
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
    if row.job.graph.frozen_in_flash:
        made["flash_bytes"] = str(size_in_flash(row.job.graph, assign(row.job.graph, row.policy, row.phase)))
    if asked.capacity_bytes is not None:
        made["capacity_bytes"] = str(asked.capacity_bytes)
        made["fits"] = not asked.excess_bytes(memory)
        made["excess_bytes"] = str(asked.excess_bytes(memory))
        largest = memory.largest
        made["largest"] = {"name": largest.name, "component": largest.component, "bytes": str(largest.size_bytes)}
        if not asked.must_fit:
            made["largest_batch"] = row.largest_batch
    return made


_CHOICES = ("attention", "checkpointing", "fused_activation", "fused_norm", "upcast")  # fields of a model


_TRACED = "as traced"  # of models that leave none of these choices
_WRITTEN: Mapping[object, str] = {True: "fused", False: "op by op"}


def in_force(job: Job) -> Record:
    """The choices of the implementation that memory depends on."""
    model, _ = sections(job.file, job.document)
    return {
        "traffic": job.convention.traffic,
        **{name: getattr(model, name, _TRACED) for name in _CHOICES},
        "micro_batches": job.convention.micro_batches,
    }


_COMPONENTS = ("weight", "master", "grad", "state", "stash", "logit", "temp")  # COMPONENTS, short


class _Line(NamedTuple):
    """What a table needs of a row, which itself takes megabytes."""

    policy: str
    name: str  # of the policy, and the point of a sweep
    point: Point
    sequences: int
    record: Record
    sizes: Sequence[int]  # bytes of components, and the peak
    rank: str  # which of many devices, "" of one
    parameters: int
    trainable: int
    active: int
    in_force: Record
    mask_bits: int
    peak: str  # where it is
    partial: bool  # whether at the peak much is lacking of what the forward keeps
    warnings: tuple[list[str], list[str]]
    kept: kept.Of


def _line(row: Row, asked: Asked, lists: Iterable[str]) -> _Line:
    graph, op = row.job.graph, row.memory.peak_op
    return _Line(
        policy=row.policy.name,
        name=row.name,
        point=row.point,
        sequences=row.sequences,
        record=record(row, asked),
        sizes=[*(row.memory.components[name] for name in COMPONENTS), row.memory.peak_bytes],
        rank=describe(row.job.file.parallel),
        parameters=graph.parameters,
        trainable=graph.trainable_parameters,
        active=graph.active_parameters,
        in_force=in_force(row.job),
        mask_bits=row.mask_bits,
        peak=f"the peak of {row.policy.name} is at {op.name} ({op.phase})",
        partial=kept.is_partial(row.memory),
        warnings=warnings.of_memory(row),
        kept=kept.of_row(row, lists),
    )


def _lines(job: Job, asked: Asked, lists: Iterable[str] = ()) -> list[_Line]:
    """The lines of a table, with the lists asked for and others. Raises InputError as `rows`."""
    names = tuple(lists) or asked.lists
    return rows(job, asked, partial(_line, asked=asked, lists=names))


def _unit(listed: Sequence[_Line]) -> str:
    return byte_unit(max((max(line.sizes) for line in listed), default=0))


def _table(listed: Sequence[_Line]) -> Table:
    first = listed[0]
    heads = [Column("policy", "left"), *columns(first.point), *map(Column, ("batch", *_COMPONENTS, "peak"))]
    full, shown, unit = [], [], _unit(listed)
    for line in listed:
        cells = [*line.point.values(), str(line.sequences), *(in_unit(unit, size) for size in line.sizes)]
        full.append([line.policy, *cells])
        shown.append([composed(line.policy), *cells])
    table = Table(heads, full, shown)
    one = len({(line.point.get("batch.sequences"), line.sequences) for line in listed}) == 1
    return without(table, "batch") if first.point and (one or "batch.sequences" in first.point) else table


def _in_force_line(listed: Sequence[_Line]) -> str:
    choices = [line.in_force for line in listed]
    either = {name: " or ".join(dict.fromkeys(str(choice[name]) for choice in choices)) for name in choices[0]}
    written = {
        part: " or ".join(
            dict.fromkeys(_WRITTEN.get(value := choice[f"fused_{part}"], str(value)) for choice in choices)
        )
        for part in ("activation", "norm")
    }
    masks = sorted({line.mask_bits for line in listed} - {0})
    return (
        f"in force: attention {either['attention']}, checkpointing {either['checkpointing']}, "
        f"activation {written['activation']}, norm {written['norm']}, traffic {either['traffic']} (what it keeps "
        f"on chip takes none), {either['micro_batches']} micro-batches"
        + (f", dropout masks of {' or '.join(map(str, masks))} bit" if masks else ", no dropout masks")
    )


def _warnings(listed: Sequence[_Line]) -> list[str]:
    """The warnings of all lines, each once."""
    return list(dict.fromkeys(text for i in (0, 1) for line in listed for text in line.warnings[i]))


def notes(listed: Sequence[_Line], asked: Asked) -> list[str]:
    """The lines under a table: warnings, what is in force, where the peaks are, what fits."""
    lines = _warnings(listed)
    unit = _unit(listed)
    power = len(str(BYTE_UNITS[unit])) - 1
    lines += [
        f"{unit} (10^{power} bytes) at the peak of a step, by last use; {_parameters(listed)}",
        _in_force_line(listed),
    ]
    ranks = {line.rank for line in listed}
    lines += ranks if len(ranks) == 1 and all(ranks) else ()  # of a sweep its columns tell them apart
    lines += dict.fromkeys(line.peak for line in listed)
    if any(line.partial for line in listed):
        lines.append("stash is what a peak has of what the forward keeps; --activations lists all that it keeps")
    lines += dict.fromkeys(
        f"{line.name}: {line.record['flash_bytes']} bytes of frozen weights lie in flash, and take none of the memory"
        for line in listed
        if "flash_bytes" in line.record
    )
    if asked.reserve_bytes:
        lines.append(f"{asked.reserve_bytes} bytes are reserved for what is not modelled")
    else:
        lines.append("fragmentation, workspaces and communication are left out; --reserve-bytes stands for them")
    if asked.capacity_bytes is not None:
        by_name: dict[str, list[_Line]] = {}
        for line in listed:
            by_name.setdefault(line.name, []).append(line)
        if asked.must_fit:
            lines += [_whether_fits(line, asked) for line in listed]
        else:
            lines += [_what_fits(name, of_name, asked.capacity_bytes) for name, of_name in by_name.items()]
    return lines


def _whether_fits(line: _Line, asked: Asked) -> str:
    """Whether a row fits; if not, by how much it does not, and what is largest at its peak."""
    peak, largest = line.record["peak_memory_bytes"], line.record["largest"]
    of = f"{line.name}, batch {line.sequences}: {peak} bytes"
    if line.record["fits"]:
        return f"{of} fit into {asked.capacity_bytes}"
    return (
        f"{of} do not fit into {asked.capacity_bytes}, by {line.record['excess_bytes']} bytes; the largest is "
        f"{largest['name']} ({largest['component'].replace('_', ' ')}), {largest['bytes']} bytes"
    )


def misfits(job: Job, asked: Asked) -> list[str]:
    """The rows that do not fit, in words. Raises InputError as `rows`."""
    return [_whether_fits(line, asked) for line in _lines(job, asked) if not line.record["fits"]]


def _what_fits(name: str, listed: Sequence[_Line], capacity_bytes: int) -> str:
    """Which batches of a policy, at a point of a sweep, fit."""
    fits = [str(line.sequences) for line in listed if line.record["fits"]]
    return (
        f"{name}: of these, batch {', '.join(fits) or '(none)'} fits into {capacity_bytes} bytes; "
        f"at most {listed[-1].record['largest_batch']} sequences do" + ("" if fits else f"; {_largest(listed[0])}")
    )


def _largest(line: _Line) -> str:
    """The component that takes most of a peak."""
    size, name = max(zip(line.sizes, COMPONENTS, strict=False), key=lambda component: component[0])
    return f"the most is in {name.replace('_', ' ')}, {size} bytes at batch {line.sequences}"


def _parameters(listed: Sequence[_Line]) -> str:
    """How many parameters there are, are trained, and work on a token; of a sweep that changes them, from and to."""
    every, trained = [line.parameters for line in listed], [line.trainable for line in listed]
    active = [line.active for line in listed]

    def span(numbers: Sequence[int]) -> str:
        return f"{min(numbers)}" + (f" to {max(numbers)}" if max(numbers) > min(numbers) else "")

    less = {"trained": trained, "active for each token": active}
    return f"{span(every)} parameters" + "".join(f", {span(n)} {word}" for word, n in less.items() if n != every)


def _screen(job: Job, asked: Asked) -> list[list[Block]]:
    listed = _lines(job, asked)
    groups: list[list[Block]] = [[Drawn(_table(listed), dense)], [Notes(notes(listed, asked))]]
    figures = beside(of_recipes(job, "memory"))
    groups += [figures] if figures else []
    return groups + [
        [Heading(heading), Drawn(table)] for _, heading, table in kept.tables(line.kept for line in listed)
    ]


def _page(job: Job, asked: Asked) -> list[Block]:
    return [block for group in _screen(job, asked) for block in group]


def _paper(job: Job, asked: Asked) -> list[Table]:
    listed = _lines(job, asked)
    label = f"tab:costsim-{job.workload}-memory"
    caption = f"Memory at the peak of a training step of {job.workload} by component, in {_unit(listed)}."
    main = _table(listed).labelled(labels_of(job.policies))
    tables = [replace(main, label=label, caption=caption, notes=notes(listed, asked))]
    for i, (name, heading, table) in enumerate(kept.tables(line.kept for line in listed)):
        number = i // len(asked.lists) + 1
        tables.append(replace(table, label=f"{label}-{name}-{number}", caption=f"{job.workload}: {heading}."))
    return tables


def _data(job: Job, asked: Asked) -> Mapping[str, Any]:
    """Exact integers as decimal strings but for `parameters`."""
    listed = _lines(job, asked, kept.LISTS)
    return {
        "workload": job.workload,
        **shared(
            [
                {"parameters": line.parameters, "trainable_parameters": line.trainable}
                | ({"active_parameters": line.active} if line.active != line.parameters else {})
                for line in listed
            ]
        ),
        "convention": shared([line.in_force for line in listed]),
        "components": list(COMPONENTS),
        "warnings": _warnings(listed),
        "rows": [{**line.record, "mask_bits": line.mask_bits, **line.kept.lists} for line in listed],
        "recipes": of_recipes(job, "memory"),
    }


def _records(job: Job, asked: Asked) -> list[Record]:
    """The rows; or the tensors that are listed, each with the policy and what else tells rows apart."""
    made = []
    for line in _lines(job, asked):
        of = {name: line.record[name] for name in ("policy", *line.point, "phase", "batch", "micro_batches")}
        made += kept.csv_records(line.kept.lists, of) if asked.lists else [line.record]
    return made


def document(job: Job, asked: Asked) -> Document:
    """The memory of a job's policies. Views raise InputError as `rows`."""
    views = {"screen": _screen, "page": _page, "paper": _paper, "data": _data, "records": _records}
    made: dict[str, Any] = {name: partial(view, job, asked) for name, view in views.items()}
    return Document(stem=f"{job.workload}-memory", **made)
