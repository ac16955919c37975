"""A run as a document: policies, or their parts, a row each; notes and published figures under them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from costsim.cost.laws import LAWS
from costsim.graph.fusion import UNTILED
from costsim.models.build import padding
from costsim.models.meeting import describe
from costsim.names import Scope
from costsim.policy.policy import labels_of
from costsim.results.defaults import defaults
from costsim.results.records import FIGURES, Record, convention, full_records, published, read_from_flash, records
from costsim.results.sent import link_records, sent_records
from costsim.results.stages import pipeline_records
from costsim.run.job import Convention, Job
from costsim.run.simulate import Result
from costsim.tables import defaults as default_tables
from costsim.tables import devices as device_tables
from costsim.tables import sent, stages, warnings
from costsim.tables.cells import percent, short, signed
from costsim.tables.document import Block, Document, Drawn, Heading, Notes, Source
from costsim.tables.recipes import beside, of_recipes
from costsim.tables.table import BESIDE_GROUPS, Column, Table, clip, composed, dense, plain, simple, wrap

Fill = Callable[[Record], str]
# A column, what fills its cells, and what fills those of a terminal of 80 columns if that cuts or wraps them.
Columns = list[tuple[Column, Fill, Fill | None]]
_IDENTIFIERS = ("op", "tensor")  # which other commands take: never cut
_WIDE = 2  # devices of which a table for papers has columns, not rows


def _words(key: str, shown: Fill) -> tuple[Column, Fill, Fill]:
    return Column(key, "left"), lambda r: str(r[key]).replace(" > ", " >\n"), shown


def _setup(width: int) -> tuple[Column, Fill, Fill]:
    return _words("setup", lambda r: "\n".join(wrap(part, width) for part in r["setup"].split(" > ")))


def _number(header: str, key: str, cell: Callable[[Any], str] = short, full: str = "") -> tuple[Column, Fill, None]:
    return Column(header, full=full), lambda r: cell(r[key]), None


def _policy_columns(job: Job) -> Columns:
    unit = LAWS[job.convention.law].unit
    return [
        _words("policy", lambda r: composed(r["policy"])),
        _setup(14),
        _number(f"arith.\n{unit}", "arithmetic_cost", full=f"arithmetic {unit}"),
        _number("x", "arithmetic_reduction", full="arithmetic x"),
        _number("DRAM\nbit", "dram_bits"),
        _number("x ", "dram_reduction", full="DRAM x"),
        _number(f"{unit}\n/MAC", "arithmetic_cost_per_mac", full=f"{unit}/MAC"),
        _number("bit\n/elem", "bits_per_element_moved", full="bit/element"),
    ]


def _kind_columns() -> Columns:
    """What ops of a kind are, in words, and the equation of a product beside them."""
    return [
        (Column("kind", "left"), lambda r: r["words"], lambda r: wrap(r["words"], 18)),
        (Column("einsum", "left"), lambda r: r["kind"] if "->" in r["kind"] else "", None),
    ]


def _group_columns(by: str) -> Columns:
    def shown(r: Record) -> str:
        return str(r[by]) if by in _IDENTIFIERS else clip(r[by], 20)

    return [
        _words("policy", lambda r: clip(r["policy"], BESIDE_GROUPS)),
        *(_kind_columns() if by == "kind" else [_words(by, shown)]),
        _number("MACs", "macs"),
        _number("arith.\n%", "arithmetic_share", percent, "arithmetic %"),
        _number("read\nbit", "dram_read_bits"),
        _number("written\nbit", "dram_written_bits"),
        _number("DRAM\n%", "dram_share", percent),
    ]


def _assumption_columns() -> Columns:
    def assumption(r: Record) -> str:
        return str(r["assumption"]) if r["case"] else f"{r['policy']} {r['assumption']}"

    def here(r: Record) -> str:
        return f"{r['here']} ({r['grade']})" if r["grade"] else str(r["here"])

    return [
        _words("policy", lambda r: clip(r["policy"], BESIDE_GROUPS)),
        (Column("assumption", "left"), assumption, lambda r: wrap(assumption(r), 14)),
        (Column("as shipped", "left"), here, lambda r: wrap(here(r), 14)),
        (Column("instead", "left"), lambda r: r["case"], lambda r: wrap(r["case"], 14)),
        _number("arith.\nx", "arithmetic_reduction", full="arithmetic x"),
        _number("\n%", "arithmetic_change", signed, "arithmetic %"),
        _number("DRAM\nx", "dram_reduction"),
        _number("\n% ", "dram_change", signed, "DRAM %"),
    ]


def _reduction_columns() -> Columns:
    return [
        _words("policy", lambda r: composed(r["policy"])),
        _setup(12),
        _number("arith.\nx", "arithmetic_reduction", full="arithmetic x"),
        _number("DRAM\nx", "dram_reduction"),
        _number("memory\nx", "memory_reduction"),
    ]


def _device_columns(job: Job) -> Columns:
    """Time and energy on each device, side by side."""

    def column(name: str, quantity: str) -> tuple[Column, Fill, None]:
        head = Column(f"{quantity}\nx", full=f"{name} {quantity} x", over=name)
        return head, lambda r: short(r["hardware"][name][f"{quantity}_reduction"]), None

    return [column(device.name, quantity) for device in job.hardware for quantity in ("time", "energy")]


def _device_rows(rows: Iterable[Record]) -> tuple[Columns, list[Record]]:
    """Time and energy in a row for each device: the columns, and the rows taken apart by device."""
    columns: Columns = [
        (Column("hardware", "left"), lambda r: r["device"], lambda r: clip(r["device"], 13)),
        _number("time\nx", "time_reduction"),
        _number("energy\nx", "energy_reduction"),
    ]
    return columns, [{**row, "device": name, **on} for row in rows for name, on in row["hardware"].items()]


def table_of(result: Result, by: str, paper: bool = False) -> Table:
    """The table of one of `names.BY`; for papers, few devices side by side."""
    return drawn(result.job, by, records(result, by), paper)


def drawn(job: Job, by: str, rows: Sequence[Record], paper: bool = False) -> Table:
    """The table of records of a job."""
    merged = 0
    if by == "policy":
        columns = _policy_columns(job)
    elif by == "reduction":
        columns, devices = _reduction_columns(), len(job.hardware)
        if paper and devices <= _WIDE:
            columns += _device_columns(job)
        elif devices:
            merged = len(columns)
            more, rows = _device_rows(rows)
            columns += more
    elif by == "assumption":
        columns = _assumption_columns()
        one = len({row["policy"] for row in rows}) == 1
        del columns[0 if one else 2]  # one policy is named by the notes
        merged = 2
    else:
        columns = _group_columns(by)
    full = [[fill(row) for _, fill, _ in columns] for row in rows]
    shown = [[(cut or fill)(row) for _, fill, cut in columns] for row in rows]
    return Table([column for column, _, _ in columns], full, shown, merged)


def remarks(
    result: Result, by: str = "policy", phases: bool = True, labels: Mapping[str, str] | None = None
) -> list[str]:
    """The lines under a table beside the convention; policies by their `labels`, or by their names without them."""
    labels = labels or {each.policy.name: each.policy.name for each in (*result.policies, result.baseline)}
    lines = [*warnings.of_run(result, by), *sent.note(result), *(_phases(result, labels) if phases else ())]
    lines += [*_padding(result), *_pairs(result)]
    lines += [*_flash(result, labels), *_sums(result, labels), *_unpriced(result)]
    if by == "reduction":
        lines.append("memory is the peak of a step, of all ops whatever the scope")
    undivided = device_tables.undivided(result, by)
    if undivided is not None:
        lines.append(undivided)
    if any(counted.policy.recalled for counted in result.policies):
        lines.append("* levels recalled, not stated by the paper")
    return lines


def _phases(result: Result, labels: Mapping[str, str]) -> Iterator[str]:
    for counted in result.policies:
        policy, phases = counted.policy, counted.phases
        if len(phases) > 1:
            steps = [f"{phase.steps} steps {setup}" for phase, setup in zip(phases, policy.setup, strict=True)]
            fitted = any(phase.until_grade == "fitted" for phase in policy.file.phases)
            yield f"{labels[policy.name]}: {', '.join(steps)}" + ("; where phases end is fitted" if fitted else "")


def _flash(result: Result, labels: Mapping[str, str]) -> Iterator[str]:
    """How much is read from flash, where frozen weights lie there."""
    for counted in result.policies if result.job.graph.frozen_in_flash else ():
        share = percent(read_from_flash(result, counted) / counted.total.read_bits)
        yield f"{labels[counted.policy.name]}: {share} % of the bits read are of frozen weights, from flash"


def _padding(result: Result) -> Iterator[str]:
    lengths = padding(result.job.file, result.job.document)
    if lengths is not None:
        real, padded = lengths
        percentage = f"{100 - 100 * real / padded:.1f} %"
        yield f"padding: {padded - real} of {padded} tokens ({percentage}), counted as all others"


def _pairs(result: Result) -> Iterator[str]:
    counted = describe(result.job.graph, result.job.file.attention_pairs)
    if counted:
        yield f"attention counts {counted}"


def _sums(result: Result, labels: Mapping[str, str]) -> Iterator[str]:
    """In which formats products add up, where the law prices that, and how many of them."""
    if not LAWS[result.job.convention.law].prices_additions:
        return
    policies: dict[str, dict[str, None]] = {}
    for counted in (*result.policies, result.baseline):
        shares = {name: n / counted.total.macs for name, n in sorted(counted.total.additions.items())}
        parts = [f"{percent(share)} % in {name}" if len(shares) > 1 else name for name, share in shares.items()]
        policies.setdefault(", ".join(parts), {})[labels[counted.policy.name]] = None
    yield "sums: " + "; ".join(f"{formats} ({', '.join(names)})" for formats, names in policies.items())


def _unpriced(result: Result) -> Iterator[str]:
    law = result.job.convention.law
    unpriced = sorted({pair for counted in (*result.policies, result.baseline) for pair in counted.total.unpriced})
    if unpriced:
        pairs = ", ".join(unpriced[:3]) + (", ..." if len(unpriced) > 3 else "")
        yield f"n/a: law {law} is defined for {LAWS[law].defined}; not for {pairs}"


def convention_line(convention: Convention, scope: Scope | None = None) -> str:
    """What all numbers depend on, in a line; `scope` stands for the convention's."""
    return f"{convention.summary(scope)}, {convention.steps} steps"


def _notes(result: Result, by: str, baseline: str) -> Notes:
    """The lines under the main table; `baseline` is the name to print."""
    lines = [f"{convention_line(result.job.convention)}; x less than {baseline}", *remarks(result, by)]
    return Notes([*lines, *left_out(result)])


def distinct(rows: Iterable[Record], untiled: str) -> list[Record]:
    """Published figures, those of GEMMs once for all traffic models without tiles, whose traffic is called `untiled`.

    GEMMs do not fuse: the others are as the first of them.
    """
    return [
        {**row, "traffic": untiled} if row["scope"] == "gemm" and row["traffic"] in UNTILED else row
        for row in rows
        if row["scope"] != "gemm" or row["traffic"] not in UNTILED[1:]
    ]


def _published_table(rows: list[Record]) -> Table:
    """A policy's published figures: ours and the difference, a row for each scope and traffic model."""
    quantities = dict.fromkeys(row["quantity"] for row in rows)
    by_place: dict[tuple[str, str], dict[str, Record]] = {}
    for row in distinct(rows, "any"):
        by_place.setdefault((row["scope"], row["traffic"]), {})[row["quantity"]] = row
    cells = []
    for (scope, traffic), figures in by_place.items():
        ours = [(f"{figures[name]['ours']:.2f}x", f"{100 * figures[name]['difference']:+.1f} %") for name in quantities]
        mark = "<- as in the file" if next(iter(figures.values()))["convention"] else ""
        cells.append([scope, traffic, *(text for pair in ours for text in pair), mark])
    columns = [Column(part) for name in quantities for part in (FIGURES[name], "")]
    return Table([Column("scope", "left"), Column("traffic", "left"), *columns, Column("", "left")], cells)


def headline(result: Result) -> list[Block]:
    """The published figures beside ours, of each policy that has some: what is stated, a table, the sources."""
    rows_of: dict[str, list[Record]] = {}
    for row in published(result):
        rows_of.setdefault(row["policy"], []).append(row)
    blocks: list[Block] = []
    for policy, rows in rows_of.items():
        stated = {row["quantity"]: f"{row['stated']:g}x {FIGURES[row['quantity']]}" for row in rows}
        against = f"{policy} against {result.job.convention.baseline}"
        blocks += [
            Heading(f"{against}: the paper states {', '.join(stated.values())}; here"),
            Drawn(_published_table(rows), plain),
            Source(f"stated by {', '.join(dict.fromkeys(row['source'] for row in rows))}"),
        ]
    return blocks


def left_out(result: Result) -> list[str]:
    """Why published figures are left out, as a line; none if they are shown, or the file has none."""
    if not result.job.file.published or result.job.of_the_file:
        return []
    return [f"published figures are left out: they are relative to {result.job.file.baseline}"]


def _sent(result: Result, by: str) -> list[Block]:
    """What a rank sends, and the stages of a pipeline, under the table of policies."""
    return [*sent.blocks(result), *stages.blocks(result)] if by == "policy" else []


def _over_links(result: Result, by: str, device: str) -> list[Block]:
    """What crosses the links of a device, under the table of policies."""
    return sent.links_blocks(result, device) if by == "policy" else []


def _screen(result: Result, by: str, verbose: bool) -> list[list[Block]]:
    drawing = dense if by == "reduction" else simple
    below = [_notes(result, by, clip(result.job.convention.baseline, 15)), *headline(result), *_sent(result, by)]
    if by == "reduction" and result.job.hardware:
        below.append(Notes(device_tables.notes(result, by)))
    table = Drawn(table_of(result, by), drawing, whole=by in _IDENTIFIERS)
    more = device_tables.screen(result, by) if device_tables.has_tables(result, by) else []
    figures = beside(of_recipes(result.job, "run"))
    more += [default_tables.blocks(result.job)] if verbose else []
    return [[table], below, *([figures] if figures else []), *more]


def _page(result: Result, by: str, verbose: bool) -> list[Block]:
    notes = _notes(result, by, result.job.convention.baseline)
    blocks: list[Block] = [Drawn(table_of(result, by, paper=True)), notes, *headline(result), *_sent(result, by)]
    if device_tables.has_tables(result, by):
        blocks.append(Drawn(device_tables.paper_table(result, by)))
        blocks += [block for device in result.job.hardware for block in _over_links(result, by, device.name)]
    if device_tables.timed(result, by):
        blocks.append(Notes(device_tables.notes(result, by)))
    blocks += beside(of_recipes(result.job, "run"))
    return blocks + (default_tables.blocks(result.job) if verbose else [])


_CAPTIONS = {
    "policy": "Arithmetic and DRAM traffic of {workload}",
    "assumption": "Reductions of arithmetic and DRAM traffic of {workload}, one assumption moved at a time",
    "reduction": "Reductions of {workload}",
}


def _paper(result: Result, by: str) -> list[Table]:
    """The table of the run and that of the devices, with captions, labels and notes."""
    workload = result.job.workload
    labels = labels_of(counted.policy for counted in (*result.policies, result.baseline))
    baseline = labels[result.baseline.policy.name]
    title = _CAPTIONS.get(by, "Arithmetic and DRAM traffic of {workload} by {by}").format(workload=workload, by=by)
    under = f"{convention_line(result.job.convention)}; \u00d7: times less than {baseline}"
    main = replace(
        table_of(result, by, paper=True).labelled(labels),
        label=f"tab:costsim-{workload}-{by}",
        caption=f"{title}.",
        notes=[under, *remarks(result, by, labels=labels)],
    )
    times = device_tables.notes(result, by) if device_tables.timed(result, by) else []
    if not device_tables.has_tables(result, by):
        return [replace(main, notes=[*main.notes, *times])]
    more = replace(
        device_tables.paper_table(result, by).labelled(labels),
        label=f"{main.label}-hardware",
        caption=f"Time and energy of {workload}{'' if by == 'policy' else f' by {by}'}.",
        notes=[under, *times],
    )
    return [main, more]


def _comments(result: Result) -> list[Block]:
    return [*headline(result), Notes(left_out(result))]


def _data(result: Result, by: str, verbose: bool) -> Mapping[str, Any]:
    stated = convention(result)
    if result.job.hardware:
        stated["hardware"] = device_tables.undivided(result, by) or device_tables.roofline_note(result, by)
    return {
        "workload": result.job.workload,
        "baseline": result.job.convention.baseline,
        "convention": stated,
        "warnings": warnings.of_run(result, "reduction"),  # the records of policies have memory too
        "rows": full_records(result, by),
        **({"pipeline": pipelines} if (pipelines := pipeline_records(result)) else {}),
        **({"sent": sent_records(result)} if result.job.graph.mesh else {}),
        **({"links": link_records(result)} if result.job.graph.mesh and result.job.hardware else {}),
        "published": published(result),
        "recipes": of_recipes(result.job, "run"),
        **({"defaults": defaults(result.job)} if verbose else {}),
    }


def stem(job: Job, by: str) -> str:
    """The name of the files of a run's table, without an ending: WORKLOAD[-by-X]."""
    return job.workload + ("" if by == "policy" else f"-by-{by}")


def document(result: Result, by: str = "policy", verbose: bool = False) -> Document:
    """A run; rows are one of `names.BY`. `verbose`: with the defaults that are in force."""
    return Document(
        stem=stem(result.job, by),
        screen=partial(_screen, result, by, verbose),
        page=partial(_page, result, by, verbose),
        paper=partial(_paper, result, by),
        comments=partial(_comments, result),
        data=partial(_data, result, by, verbose),
        records=partial(full_records, result, by),
    )
