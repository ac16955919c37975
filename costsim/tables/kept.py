"""What is kept for the backward, tensor by tensor: what of it is alive at the peak, and all of it at forward's end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from costsim.cost.memory import Memory, Stored
from costsim.results.records import Record
from costsim.run.peaks import Row
from costsim.tables.table import Column, Table, clip

_SHAPE, _FORMAT, _BYTES = Column("shape", "left"), Column("format", "left"), Column("bytes")


def records(row: Row, places: Sequence[Stored]) -> list[Record]:
    """Tensors and copies in memory, a record each: exact bytes as decimal strings."""
    graph = row.job.graph
    return [
        {
            "name": place.name,
            "layer": graph.tensors[place.tensor].layer,
            "shape": list(graph.shape(place.tensor)),
            "producer": place.producer,
            "consumer": place.consumer,
            "format": place.format.name,
            "bytes": str(place.size_bytes),
        }
        for place in places
    ]


def _shape(record: Record) -> str:
    return "x".join(map(str, record["shape"]))


def _by_size(listed: Sequence[Record]) -> Table:
    """A row per tensor."""
    full = [[r["name"], _shape(r), r["format"], r["bytes"], r["consumer"]] for r in listed]
    shown = [[clip(r[0], 30), r[1], clip(r[2], 10), r[3], clip(r[4], 18)] for r in full]
    return Table([Column("tensor", "left"), _SHAPE, _FORMAT, _BYTES, Column("last read by", "left")], full, shown)


def by_layer(listed: Sequence[Record]) -> dict[str, list[Record]]:
    """The records of each layer, in the order in which layers begin."""
    layers: dict[str, list[Record]] = {}
    for record in listed:
        layers.setdefault(record["layer"] or "none", []).append(record)
    return layers


def _in_layers(listed: Sequence[Record]) -> Table:
    """For each layer a row with its sum, then a row per tensor."""
    full, shown = [], []
    for layer, members in by_layer(listed).items():
        total = str(sum(int(r["bytes"]) for r in members))
        full.append([layer, f"all {len(members)}", "", "", total])
        full += [[layer, r["name"], _shape(r), r["format"], r["bytes"]] for r in members]
        within = [[layer, clip(r["name"].removeprefix(f"{layer}."), 30), _shape(r), r["format"]] for r in members]
        shown += [full[-len(within) - 1], *([*cells, r["bytes"]] for cells, r in zip(within, members, strict=True))]
    heads = [Column("layer", "left"), Column("tensor", "left"), _SHAPE, _FORMAT, _BYTES]
    return Table(heads, full, [[clip(layer, 16), *cells] for layer, *cells in shown], merged=1)


class List(NamedTuple):
    """A list of tensors that is shown on request: its heading, filled from a row's peak; what is in it; the table."""

    heading: str
    places: Callable[[Memory], list[Stored]]
    table: Callable[[Sequence[Record]], Table]


LISTS: Mapping[str, List] = {
    "stash": List(
        "stash of {name} at batch {batch}: {bytes} bytes that are alive at the peak ({peak}), the largest first",
        lambda memory: memory.at_peak("stash"),
        _by_size,
    ),
    "activations": List(
        "activations of {name} at batch {batch}: {bytes} bytes that are kept for the backward when the forward ends",
        lambda memory: memory.activations,
        _in_layers,
    ),
}


def listed(row: Row, name: str) -> list[Record]:
    """The records of one of LISTS."""
    return records(row, LISTS[name].places(row.memory))


def is_partial(memory: Memory) -> bool:
    """Whether at the peak more than a hundredth is lacking of what the forward keeps."""
    lacking = sum(place.size_bytes for place in memory.activations if not memory.is_alive(place))
    return 100 * lacking > sum(place.size_bytes for place in memory.activations)


class Of(NamedTuple):
    """Whose lists these are."""

    name: str  # the policy, and the point of a sweep
    sequences: int
    peak: str  # where it is
    lists: Mapping[str, list[Record]]  # by names of LISTS


def of_row(row: Row, names: Iterable[str]) -> Of:
    """Some of the lists of a row."""
    peak = f"{row.memory.peak_op.name}, {row.memory.peak_op.phase}"
    return Of(row.name, row.sequences, peak, {name: listed(row, name) for name in names})


def tables(rows: Iterable[Of]) -> Iterator[tuple[str, str, Table]]:
    """The tables of lists, row by row: the name of the list, the line above, the table."""
    for row in rows:
        for name, records in row.lists.items():
            total = sum(int(record["bytes"]) for record in records)
            heading = LISTS[name].heading.format(name=row.name, batch=row.sequences, peak=row.peak, bytes=total)
            yield name, heading, LISTS[name].table(records)


def csv_records(lists: Mapping[str, list[Record]], of: Record) -> list[Record]:
    """A record per tensor for a CSV file, beginning with `of`, which says whose it is."""
    nothing: Record = {**dict.fromkeys(("name", "layer", "shape", "producer", "consumer", "format"), ""), "bytes": "0"}
    return [
        {**of, "list": name, **record, "shape": _shape(record)}
        for name, records in lists.items()
        for record in records or [nothing]
    ]
