"""What a rank sends to others, as a table under that of a run."""

from collections.abc import Iterator

from costsim.names import COLLECTIVES
from costsim.results.sent import describe, link_records, sent_records
from costsim.run.simulate import Result
from costsim.tables.cells import duration, short
from costsim.tables.document import Block, Drawn, Heading
from costsim.tables.table import Column, Table, of_policies, simple


def table(result: Result) -> Table:
    """A row for each policy, axis, collective and role of what is sent."""
    columns = [Column("policy", "left"), Column("axis", "left"), Column("ranks"), Column("collective", "left")]
    columns += [Column("of", "left"), Column("runs"), Column("sent bit")]
    words = ("policy", "axis", "ranks", "collective", "role")
    rows = sent_records(result)
    cells = [[*(str(row[word]) for word in words), short(row["runs"]), short(row["sent_bits"])] for row in rows]
    return of_policies(columns, cells)


def blocks(result: Result) -> list[Block]:
    """The table with its heading; nothing for a step on one device."""
    if not result.job.graph.mesh:
        return []
    return [Heading(f"sent by a rank to others, {_how(result)}"), Drawn(table(result), simple)]


def _how(result: Result) -> str:
    """The algorithms of collectives."""
    of = result.job.file.parallel.algorithms
    default = type(of)()
    others = [
        f"{name} {getattr(of, name)}" for name in COLLECTIVES if getattr(of, name, "") != getattr(default, name, "")
    ]
    return "; ".join(["on a ring", *others, *([] if of.levels else ["rings over nodes in one level"])])


def links_table(result: Result, device: str) -> Table:
    """A row for each policy, axis and link of a device: what crosses it, and how long it is busy with that."""
    columns = [Column("policy", "left"), Column("axis", "left"), Column("link", "left"), Column("sent bit")]
    rows = [row for row in link_records(result) if row["hardware"] == device]
    words = ("policy", "axis", "link")
    cells = [[*(row[word] for word in words), short(row["sent_bits"]), duration(row["busy_s"])] for row in rows]
    return of_policies([*columns, Column("link busy")], cells)


def links_blocks(result: Result, device: str) -> list[Block]:
    """The table of a device's links with its heading; nothing where no link is used."""
    table = links_table(result, device)
    return [Heading(f"sent by a rank over links of {device}"), Drawn(table, simple)] if table.rows else []


_OVERLAPS = {
    "none": "what comes after a message waits for it",
    "data": "messages between ranks of data hide behind the rest of the step as far as it lasts, others are waited for",
    "full": "messages hide behind the rest of the step as far as it lasts",
}


def time_note(result: Result) -> str:
    """How messages take time, to end the sentence on times; "" for a step on one device."""
    if not result.job.graph.mesh:
        return ""
    parallel = result.job.file.parallel
    words = ["", "a message takes as long as the slowest of its links", _OVERLAPS[parallel.overlap]]
    if parallel.pipeline > 1:
        words.append(
            f"kernels are those of stage {parallel.stage}, whose waits for others are in the step of all stages"
        )
    return "; ".join(words)


def note(result: Result) -> Iterator[str]:
    """Whose step it is, of many devices."""
    if devices := describe(result.job.file.parallel):
        yield f"{devices}; batch and micro-batches are those of a rank of data"
