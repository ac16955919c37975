"""What a rank sends to others, as a table under that of a run."""

from collections.abc import Iterator

from costsim.results.sent import describe, sent_records
from costsim.run.simulate import Result
from costsim.tables.cells import short
from costsim.tables.document import Block, Drawn, Heading
from costsim.tables.table import Column, Table, clip, simple


def table(result: Result) -> Table:
    """A row for each policy, axis, collective and role of what is sent."""
    columns = [Column("policy", "left"), Column("axis", "left"), Column("ranks"), Column("collective", "left")]
    columns += [Column("of", "left"), Column("runs"), Column("sent bit")]
    cells, shown = [], []
    for row in sent_records(result):
        rest = [row["axis"], str(row["ranks"]), row["collective"], row["role"], short(row["runs"])]
        rest.append(short(row["sent_bits"]))
        cells.append([row["policy"], *rest])
        shown.append([clip(row["policy"], 13), *rest])
    return Table(columns, cells, shown, 1)


def blocks(result: Result) -> list[Block]:
    """The table with its heading; nothing for a step on one device."""
    if not result.job.graph.mesh:
        return []
    return [Heading("sent by a rank to others, on a ring"), Drawn(table(result), simple)]


def note(result: Result) -> Iterator[str]:
    """Whose step it is, of many devices."""
    if devices := describe(result.job.file.parallel):
        yield f"{devices}; batch and micro-batches are those of a rank of data"
