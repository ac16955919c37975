"""Records as tables: terminal, JSON, CSV, Markdown, LaTeX."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from costsim.cost.laws import LAWS
from costsim.errors import InputError, one_line
from costsim.graph.fusion import UNTILED
from costsim.inputs import files
from costsim.models.build import padding
from costsim.results.records import FIGURES, Record, convention, full_records, published, records
from costsim.run.simulate import Result
from costsim.tables import devices as device_tables
from costsim.tables.cells import percent, short, signed
from costsim.tables.table import (
    FILE,
    WIDTH,
    Column,
    Screen,
    Table,
    clip,
    composed,
    csv_text,
    dense,
    markdown,
    markdown_text,
    plain,
    simple,
    terminal,
    wrap,
)

__all__ = ["FORMATS", "WIDTH", "clip", "composed", "csv_text", "headline", "notes", "render", "write_all"]

Fill = Callable[[Record], str]
# A column, what fills its cells, and what fills those of a terminal of 80 columns where it cuts or wraps.
Columns = list[tuple[Column, Fill, Fill | None]]
_PLAIN = FILE
_IDENTIFIERS = ("op", "tensor")  # which other commands take: never cut
_WIDE = 2  # devices of which a table for papers has columns, not rows


def _words(key: str, shown: Fill) -> tuple[Column, Fill, Fill]:
    return Column(key, "left"), lambda r: str(r[key]).replace(" > ", " >\n"), shown


def _setup(r: Record) -> str:
    return "\n".join(wrap(part, 14) for part in r["setup"].split(" > "))


def _number(header: str, key: str, cell: Callable[[Any], str] = short, full: str = "") -> tuple[Column, Fill, None]:
    return Column(header, full=full), lambda r: cell(r[key]), None


def _policy_columns(result: Result) -> Columns:
    unit = LAWS[result.job.convention.law].unit
    return [
        _words("policy", lambda r: composed(r["policy"], 13)),
        _words("setup", _setup),
        _number(f"arith.\n{unit}", "arithmetic_cost", full=f"arithmetic {unit}"),
        _number("x", "arithmetic_reduction", full="arithmetic x"),
        _number("DRAM\nbit", "dram_bits"),
        _number("x ", "dram_reduction", full="DRAM x"),
        _number(f"{unit}\n/MAC", "arithmetic_cost_per_mac", full=f"{unit}/MAC"),
        _number("bit\n/elem", "bits_per_element_moved", full="bit/element"),
    ]


def _group_columns(by: str) -> Columns:
    return [
        _words("policy", lambda r: clip(r["policy"], 11)),
        _words(by, lambda r: r[by] if by in _IDENTIFIERS else clip(r[by], 20)),
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
        _words("policy", lambda r: clip(r["policy"], 11)),
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
        _words("policy", lambda r: composed(r["policy"], 13)),
        _words("setup", lambda r: "\n".join(wrap(part, 12) for part in r["setup"].split(" > "))),
        _number("arith.\nx", "arithmetic_reduction", full="arithmetic x"),
        _number("DRAM\nx", "dram_reduction"),
        _number("memory\nx", "memory_reduction"),
    ]


def _device_columns(result: Result) -> Columns:
    """Time and energy on each device, side by side."""

    def fill(name: str, what: str) -> Fill:
        return lambda r: short(r["hardware"][name][f"{what}_reduction"])

    pairs = [(device.name, what) for device in result.job.hardware for what in ("time", "energy")]
    return [(Column(f"{what}\nx", "right", f"{name} {what} x", name), fill(name, what), None) for name, what in pairs]


def _device_rows(found: list[Record]) -> tuple[Columns, list[Record]]:
    """The same with a row a device."""
    columns: Columns = [
        (Column("hardware", "left"), lambda r: r["device"], lambda r: clip(r["device"], 13)),
        _number("time\nx", "time_reduction"),
        _number("energy\nx", "energy_reduction"),
    ]
    rows = [{**record, "device": name, **its} for record in found for name, its in record["hardware"].items()]
    return columns, rows


def table_of(result: Result, by: str, paper: bool = False) -> Table:
    """The table of one of BY; for papers, few devices side by side."""
    found, merged = records(result, by), 0
    if by == "policy":
        columns = _policy_columns(result)
    elif by == "reduction":
        columns, devices = _reduction_columns(), len(result.job.hardware)
        if paper and devices <= _WIDE:
            columns += _device_columns(result)
        elif devices:
            merged = len(columns)
            more, found = _device_rows(found)
            columns += more
    elif by == "assumption":
        columns = _assumption_columns()
        one = len({record["policy"] for record in found}) == 1
        del columns[0 if one else 2]  # one policy is named by the notes
        merged = 2
    else:
        columns = _group_columns(by)
    rows = [[fill(record) for _, fill, _ in columns] for record in found]
    shown = [[(cut or fill)(record) for _, fill, cut in columns] for record in found]
    return Table([column for column, _, _ in columns], rows, shown, merged)


def remarks(result: Result, by: str = "policy") -> list[str]:
    """What stands under a table, a line each: the phases, what is fitted and recalled, what is not defined."""
    lines = []
    for counted in result.policies:
        if len(counted.phases) > 1:
            setups = zip(counted.phases, counted.policy.setup, strict=True)
            fitted = any(phase.until_grade == "fitted" for phase in counted.policy.file.phases)
            lines.append(
                f"{counted.policy.name}: "
                + ", ".join(f"{p.steps} steps {setup}" for p, setup in setups)
                + ("; where phases end is fitted" if fitted else "")
            )
    lengths = padding(result.job.file, result.job.document)
    if lengths is not None:
        real, padded = lengths
        lines.append(
            f"padding: {padded - real} of {padded} tokens ({100 - 100 * real / padded:.1f} %), counted as all others"
        )
    law = result.job.convention.law
    unpriced = sorted({pair for counted in (*result.policies, result.baseline) for pair in counted.total.unpriced})
    if unpriced:
        pairs = ", ".join(unpriced[:3]) + (", ..." if len(unpriced) > 3 else "")
        lines.append(f"n/a: law {law} is defined for {LAWS[law].defined}; not for {pairs}")
    if by == "reduction":
        lines.append("memory is the peak of a step, of all ops whatever the scope")
    why = device_tables.undivided(result, by)
    lines += [] if why is None else [why]
    if any(counted.policy.recalled for counted in result.policies):
        lines.append("* levels recalled, not stated by the paper")
    return lines


def said(result: Result, baseline: str) -> str:
    """The convention in a line."""
    its = result.job.convention
    return f"law {its.law}, traffic {its.traffic_said}, scope {its.scope}, {its.steps} steps; x less than {baseline}"


def notes(result: Result, by: str = "policy", screen: Screen = _PLAIN) -> list[str]:
    """The lines under a table: the convention, `remarks`, the published figures beside ours."""
    lines = [said(result, clip(result.job.convention.baseline, 15)), *remarks(result, by)]
    return screen.notes(lines) + headline(result, screen)


def _against(result: Result, policy: str, its: list[Record]) -> tuple[str, Table, str]:
    """A policy's published figures: what is stated, a table of ours, and the sources."""
    quantities = dict.fromkeys(entry["quantity"] for entry in its)
    stated = {entry["quantity"]: f"{entry['stated']:g}x {FIGURES[entry['quantity']]}" for entry in its}
    rows = []
    for scope, traffic in dict.fromkeys((entry["scope"], entry["traffic"]) for entry in its):
        if (scope, traffic) == ("gemm", "fused"):
            continue  # the same: GEMMs do not fuse
        row = [scope, "any" if scope == "gemm" and traffic in UNTILED else traffic]
        for quantity in quantities:
            entry = next(e for e in its if (e["scope"], e["traffic"], e["quantity"]) == (scope, traffic, quantity))
            row += [f"{entry['ours']:.2f}x", f"{100 * entry['difference']:+.1f} %"]
        rows.append([*row, "<- as in the file" if entry["convention"] else ""])
    columns = [Column(part) for quantity in quantities for part in (FIGURES[quantity], "")]
    table = Table([Column("scope", "left"), Column("traffic", "left"), *columns, Column("", "left")], rows)
    above = f"{policy} against {result.job.convention.baseline}: the paper states {', '.join(stated.values())}; here"
    return above, table, f"stated by {', '.join(dict.fromkeys(entry['source'] for entry in its))}"


def _headlines(result: Result) -> list[tuple[str, Table, str]]:
    entries = published(result)
    policies = dict.fromkeys(entry["policy"] for entry in entries)
    return [_against(result, name, [entry for entry in entries if entry["policy"] == name]) for name in policies]


def _left_out(result: Result) -> list[str]:
    if not result.job.file.published or result.job.of_the_file:
        return []
    return [f"published figures are left out: they are relative to {result.job.file.baseline}"]


def headline(result: Result, screen: Screen = _PLAIN) -> list[str]:
    """The published figures beside ours, a line for each scope and traffic model; the file's own is marked."""
    lines = []
    for above, table, sources in _headlines(result):
        lines += wrap(above, screen.width).split("\n") if screen.width != WIDTH else [above]
        lines += [*terminal(table, screen, plain), *screen.notes([sources])]
    return lines + screen.notes(_left_out(result))


def to_table(result: Result, by: str, screen: Screen = _PLAIN) -> str:
    """For a terminal, at most 80 columns unless the screen has more."""
    draw = dense if by == "reduction" else simple
    whole = replace(screen, width=10**6) if by in _IDENTIFIERS and screen.whole_names else screen
    lines = [*terminal(table_of(result, by), whole, draw), "", *notes(result, by, screen)]
    if device_tables.has_tables(result, by):
        lines += device_tables.terminal_tables(result, by, screen)
    elif by == "reduction" and result.job.hardware:
        lines += screen.notes(device_tables.notes(result, by))
    return "\n".join(lines) + "\n"


def _bullets(lines: list[str]) -> str:
    return "".join(f"- {markdown_text(line)}\n" for line in lines)


def to_markdown(result: Result, by: str) -> str:
    """GitHub's pipe tables and the notes; whatever names hold renders as itself."""
    above_all = said(result, result.job.convention.baseline)
    parts = [
        markdown(table_of(result, by, paper=True)) + "\n",
        _bullets([above_all, *remarks(result, by), *_left_out(result)]),
    ]
    for above, table, sources in _headlines(result):
        parts += [f"{markdown_text(above)}:\n", f"{markdown(table)}\n", f"{markdown_text(sources)}\n"]
    if device_tables.has_tables(result, by):
        parts.append(f"{markdown(device_tables.paper_table(result, by))}\n")
    if result.job.hardware and by != "assumption" and not device_tables.undivided(result, by):
        parts.append(_bullets(device_tables.notes(result, by)))
    return "\n".join(parts)


_CAPTIONS = {
    "policy": "Arithmetic and DRAM traffic of {workload}",
    "assumption": "Reductions of arithmetic and DRAM traffic of {workload}, one assumption moved at a time",
    "reduction": "Reductions of {workload}",
}


def paper_tables(result: Result, by: str) -> list[Table]:
    """What goes into a paper: each table with its caption, label and notes."""
    said, workload = result.job.convention, result.job.workload
    title = _CAPTIONS.get(by, "Arithmetic and DRAM traffic of {workload} by {by}").format(workload=workload, by=by)
    notes = remarks(result, by)
    recalled = [line for line in notes if line.startswith("*")]
    under = f"law {said.law}, traffic {said.traffic_said}, scope {said.scope}, {said.steps} steps"
    caption = f"{title} ({under}); \u00d7: times less than {said.baseline}." + "".join(f" {line}." for line in recalled)
    label = f"tab:costsim-{workload}-{by}"
    below = [line for line in notes if line not in recalled]
    timed = result.job.hardware and by != "assumption" and not device_tables.undivided(result, by)
    times = device_tables.notes(result, by) if timed else []
    if not device_tables.has_tables(result, by):
        return [replace(table_of(result, by, True), label=label, caption=caption, notes=below + times)]
    on = f"Time and energy of {workload}" + ("" if by == "policy" else f" by {by}")
    more = replace(
        device_tables.paper_table(result, by),
        label=f"{label}-hardware",
        caption=f"{on} ({under}); \u00d7: times less than {said.baseline}.",
        notes=times,
    )
    return [replace(table_of(result, by, True), label=label, caption=caption, notes=below), more]


def to_latex(result: Result, by: str) -> str:
    """Tables for a paper (`report_latex`); the published figures beside ours as comments."""
    from costsim.tables.latex import document  # pandas

    return document(paper_tables(result, by), headline(result))


def to_json(result: Result, by: str) -> str:
    """One object; exact integers as decimal strings. Texts are as they are in files."""
    said = convention(result)
    if result.job.hardware:
        said["hardware"] = device_tables.undivided(result, by) or device_tables.roofline_note(result, by)
    data = {
        "workload": result.job.workload,
        "baseline": result.job.convention.baseline,
        "convention": said,
        "rows": full_records(result, by),
        "published": published(result),
    }
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


def to_csv(result: Result, by: str) -> str:
    """A header and the records, full precision; what does not fit a cell is left to JSON."""
    return csv_text(full_records(result, by))


FORMATS: dict[str, tuple[str, Callable[[Result, str], str]]] = {
    "table": ("txt", to_table),
    "json": ("json", to_json),
    "csv": ("csv", to_csv),
    "markdown": ("md", to_markdown),
    "latex": ("tex", to_latex),
}


def render(result: Result, by: str, style: str, screen: Screen = _PLAIN) -> str:
    """A result in one of FORMATS; a table fits the screen."""
    return to_table(result, by, screen) if style == "table" else FORMATS[style][1](result, by)


def check_folder(folder: Path) -> None:
    """Raise InputError at once, before counting, where files could not be written to a folder afterwards."""
    for part in (folder, *folder.parents):
        try:
            known, there = part.exists(), part.is_dir()
        except OSError as error:
            raise _refused(folder, error.strerror or str(error)) from None
        if known and not there:
            raise _refused(
                folder, "expected a folder, got a file" if part == folder else f"{one_line(part, 200)} is a file"
            )
        if known:
            if not os.access(part, os.W_OK | os.X_OK):
                raise _refused(
                    folder, "cannot be written to" if part == folder else f"{one_line(part, 200)} cannot be written to"
                )
            return


def _refused(folder: Path, why: str) -> InputError:
    return InputError(f"--out {one_line(folder, 200)}: {why}")


def texts(result: Result, by: str) -> dict[str, str]:
    """Every format, by the name of its file: WORKLOAD[-by-X].ext."""
    stem = result.job.workload + ("" if by == "policy" else f"-by-{by}")
    return {f"{stem}.{extension}": make(result, by) for extension, make in FORMATS.values()}


def write_all(texts: Mapping[str, str], folder: Path) -> list[Path]:
    """Write files of those names to `folder`; made if missing, each file replaced whole or not at all.

    Raises InputError, before anything is written, if the folder cannot be, or has a folder of such a name.
    """
    check_folder(folder)
    for name in texts:
        if (folder / name).is_dir():
            raise _refused(folder, f"{one_line(name)} is a folder there")
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        for part in missing:  # what was made on the way
            with suppress(OSError):
                part.rmdir()
        raise _refused(folder, error.strerror or str(error)) from None
    return [files.write(folder / name, text.encode(errors="backslashreplace")) for name, text in texts.items()]
