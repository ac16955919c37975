"""Records as tables: terminal, JSON, CSV, Markdown, LaTeX. tabulate draws them."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from costsim import files
from costsim.errors import InputError
from costsim.laws import LAWS
from costsim.models import padding
from costsim.records import FIGURES, Record, convention, full_records, hardware_record, published, records
from costsim.simulate import Result

if TYPE_CHECKING:
    from costsim.hardware import Hardware

WIDTH = 80  # columns of a terminal table


def _short(value: Any) -> str:
    """A number as tables print it: two decimals, large integers as 1.23e45."""
    if value is None:
        return "n/a"
    if isinstance(value, float):
        return f"{value:.2g}" if value < 0.1 else f"{value:.2f}" if value < 1000 else f"{value:.0f}"
    digits = f"{int(value):.2e}" if len(value) > 6 else value
    return digits.replace("e+", "e").replace("e0", "e")


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"


def clip(text: str, width: int) -> str:
    """Text cut in the middle to so many characters."""
    return text if len(text) <= width else f"{text[: width // 2 - 1]}..{text[len(text) - (width - width // 2 - 1) :]}"


def composed(name: str, width: int) -> str:
    """A policy's name in so many columns: of a+b each part on a line, if it is too long."""
    parts = name.replace("+", "\n+").split("\n") if len(name) > width else [name]
    return "\n".join(clip(part, width) for part in parts)


def _wrap(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width))


def _signed(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:+.1f}" if abs(value) >= 0.0005 else ""


def _columns(result: Result, by: str, terminal: bool) -> dict[str, Callable[[Record], str]]:
    """Headers of a human-readable table and how to fill each column; cells are cut and wrapped for terminals only."""
    wrap = _wrap if terminal else lambda text, _: text
    short = clip if terminal else lambda text, _: text
    name = composed if terminal else lambda text, _: text
    unit = LAWS[result.job.convention.law].unit
    if by == "policy":
        return {
            "policy": lambda r: name(r["policy"], 13),
            "setup": lambda r: (
                "\n".join(wrap(part, 14) for part in r["setup"].split(" > ")) if terminal else r["setup"]
            ),
            f"arith.\n{unit}": lambda r: _short(r["arithmetic_cost"]),
            "x": lambda r: _short(r["arithmetic_reduction"]),
            "DRAM\nbit": lambda r: _short(r["dram_bits"]),
            "x ": lambda r: _short(r["dram_reduction"]),
            f"{unit}\n/MAC": lambda r: _short(r["arithmetic_cost_per_mac"]),
            "bit\n/elem": lambda r: _short(r["bits_per_element_moved"]),
        }
    if by == "assumption":
        return {
            "policy": lambda r: short(r["policy"], 11),
            "assumption": lambda r: wrap(r["assumption"] if r["case"] else f"{r['policy']} {r['assumption']}", 14),
            "as shipped": lambda r: wrap(r["here"] + (f" ({r['grade']})" if r["grade"] else ""), 14),
            "instead": lambda r: wrap(r["case"], 14),
            "arith.\nx": lambda r: _short(r["arithmetic_reduction"]),
            "\n%": lambda r: _signed(r["arithmetic_change"]),
            "DRAM\nx": lambda r: _short(r["dram_reduction"]),
            "\n% ": lambda r: _signed(r["dram_change"]),
        }
    return {
        "policy": lambda r: short(r["policy"], 11),
        by: lambda r: short(r[by], 20),
        "MACs": lambda r: _short(r["macs"]),
        "arith.\n%": lambda r: _percent(r["arithmetic_share"]),
        "read\nbit": lambda r: _short(r["dram_read_bits"]),
        "written\nbit": lambda r: _short(r["dram_written_bits"]),
        "DRAM\n%": lambda r: _percent(r["dram_share"]),
    }


def _without_repetitions(rows: list[list[str]]) -> list[list[str]]:
    """Cells before the case, where they only say again what stands above."""
    case = len(rows[0]) - 5
    above = [[""] * case, *(row[:case] for row in rows[:-1])]
    return [
        [*([""] * case if row[:case] == over else row[:case]), *row[case:]]
        for row, over in zip(rows, above, strict=True)
    ]


def _grid(result: Result, by: str, style: str) -> str:
    terminal = style == "simple"
    columns = _columns(result, by, terminal)
    found = records(result, by)
    if by == "assumption" and len({record["policy"] for record in found}) == 1:
        del columns["policy"]  # the notes name it
    elif by == "assumption":
        del columns["as shipped"]
    rows = [[fill(record) for fill in columns.values()] for record in found]
    if by == "assumption":
        rows = _without_repetitions(rows)
    headers = [header if terminal else header.replace("\n", " ") for header in columns]
    words = 2 if by != "assumption" else 3
    align = ["left"] * words + ["right"] * (len(columns) - words)
    return tabulate(rows, headers=headers, tablefmt=style, disable_numparse=True, colalign=align)


def _duration(seconds: float | None) -> str:
    """A time as tables print it: in the unit that leaves one to four digits before the point."""
    if seconds is None:
        return "n/a"
    units = ((86400 * 2, 86400, "d"), (7200, 3600, "h"), (120, 60, "min"), (1, 1, "s"), (1e-3, 1e-3, "ms"))
    size, unit = next(((size, unit) for least, size, unit in units if seconds >= least), (1e-6, "us"))
    return f"{seconds / size:.3g} {unit}"


def _joules(value: float | None) -> str:
    if value is None:
        return "n/a"
    size, unit = next(
        ((10.0**e, u) for e, u in ((9, "GJ"), (6, "MJ"), (3, "kJ"), (0, "J")) if value >= 10**e), (1e-3, "mJ")
    )
    return f"{value / size:.3g} {unit}"


def _hardware_rows(result: Result, device: Hardware, terminal: bool) -> list[list[str]]:
    rows = []
    for counted in result.policies:
        its = hardware_record(result, counted, device)
        intensity, runs = its["op_per_byte"], len(its["upcast"])
        rows.append(
            [
                composed(counted.policy.name, 13) if terminal else counted.policy.name,
                _duration(its["time_s"]),
                _short(its["time_reduction"]),
                _joules(its["energy_j"]),
                _short(its["energy_reduction"]),
                its["bound"],
                "n/a" if intensity is None else f"{intensity:.3g}",
                f"{runs} pair{'s' * (runs > 1)}" if runs else "-",
            ]
        )
    return rows


_HARDWARE_COLUMNS = {
    "policy": "left",
    "time": "right",
    "x": "right",
    "energy": "right",
    "x ": "right",
    "bound by": "left",
    "op/byte": "right",
    "upcast": "right",
}


def hardware_grid(result: Result, style: str) -> str:
    """Time, energy and bound of each policy on each device, in one table for papers."""
    rows = [
        [device.name, *row] for device in result.job.hardware for row in _hardware_rows(result, device, terminal=False)
    ]
    headers, align = ["hardware", *_HARDWARE_COLUMNS], ["left", *_HARDWARE_COLUMNS.values()]
    return tabulate(rows, headers=headers, tablefmt=style, disable_numparse=True, colalign=align)


def hardware_tables(result: Result) -> list[str]:
    """The same for a terminal: a table a device, its peaks above, what stands behind the times below."""
    lines = []
    for device in result.job.hardware:
        rows = _hardware_rows(result, device, terminal=True)
        headers, align = list(_HARDWARE_COLUMNS), list(_HARDWARE_COLUMNS.values())
        table = tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True, colalign=align)
        lines += ["", *_wrap(_peaks(device), WIDTH).splitlines(), *table.splitlines(), *_behind(result, device)]
    return [*lines, "", *_wrap(_roofline_note(result), WIDTH).splitlines()]


def _peaks(device: Hardware) -> str:
    rates = [rate.mac_per_s for rate in device.shown_rates]
    bandwidth = device.dram_bytes_per_s
    parts = [
        f"up to {_short(str(max(rates)))} MAC/s" if rates else "MAC rates unknown",
        f"{_short(str(bandwidth))} byte/s" if bandwidth else "DRAM bandwidth unknown",
    ]
    factors = {"MAC": device.mac_efficiency, "vector": device.vector_efficiency, "DRAM": device.dram_efficiency}
    less = [f"{name} at {factor:g} of its peak" for name, factor in factors.items() if factor != 1]
    less += ["GEMMs at the efficiency of their size"] if device.gemm_efficiency else []
    return f"{device.name}: {', '.join([*parts, *(less or ['all at their peaks'])])}"


def _behind(result: Result, device: Hardware) -> list[str]:
    """Pairs that run as others, those that do not run, and what no source vouches for."""
    spent = [result.spent[counted.policy.name, device.name] for counted in result.policies]
    said = {
        "upcast": sorted({f"{pair} as {runs_as}" for its in spent for pair, runs_as in its.upcast}),
        "unsupported": sorted({pair for its in spent for pair in its.unsupported}),
        "scaled, weak or recalled": sorted({what for its in spent for what in its.unverified} | device.unverified),
    }
    lines = []
    for what, its in said.items():
        more = [f"and {len(its) - 3} more"] if len(its) > 3 else []
        if its:
            lines += textwrap.wrap(f"{what}: {'; '.join([*its[:3], *more])}", WIDTH, subsequent_indent="  ")
    return lines


def _roofline_note(result: Result) -> str:
    overlap = "overlaps with" if result.job.overlap else "does not overlap with"
    return (
        f"a roofline for each kernel, summed over the run; arithmetic {overlap} DRAM traffic; energy is that of "
        "arithmetic, buffer and DRAM, and of static power where a profile has it"
    )


def hardware_notes(result: Result) -> list[str]:
    """The notes of all devices."""
    found = [_roofline_note(result)]
    for device in result.job.hardware:
        found += [_peaks(device), *_behind(result, device)]
    return found


def notes(result: Result) -> list[str]:
    """The lines under a table: the convention, the phases, what is recalled, the published figures beside ours."""
    said = result.job.convention
    lines = [
        f"law {said.law}, traffic {said.traffic}, scope {said.scope}, {said.steps} steps; "
        f"x less than {clip(said.baseline, 15)}"
    ]
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
    unpriced = sorted({pair for counted in (*result.policies, result.baseline) for pair in counted.total.unpriced})
    if unpriced:
        pairs = ", ".join(unpriced[:3]) + (", ..." if len(unpriced) > 3 else "")
        lines.append(f"n/a: law {said.law} is defined for {LAWS[said.law].defined}; not for {pairs}")
    if any(counted.policy.recalled for counted in result.policies):
        lines.append("* levels recalled, not stated by the paper")
    wrapped = [part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent="  ")]
    return wrapped + headline(result)


def headline(result: Result) -> list[str]:
    """The published figures beside ours, a line for each scope and traffic model; the file's own is marked."""
    lines = []
    entries = published(result)
    for policy in dict.fromkeys(entry["policy"] for entry in entries):
        its = [entry for entry in entries if entry["policy"] == policy]
        quantities = dict.fromkeys(entry["quantity"] for entry in its)
        stated = {entry["quantity"]: f"{entry['stated']:g}x {FIGURES[entry['quantity']]}" for entry in its}
        lines.append(
            f"{policy} against {result.job.convention.baseline}: the paper states {', '.join(stated.values())}; here"
        )
        rows = []
        for scope, traffic in dict.fromkeys((entry["scope"], entry["traffic"]) for entry in its):
            if (scope, traffic) == ("gemm", "fused"):
                continue  # the same: GEMMs do not fuse
            row = [scope, "any" if scope == "gemm" else traffic]
            for quantity in quantities:
                entry = next(e for e in its if (e["scope"], e["traffic"], e["quantity"]) == (scope, traffic, quantity))
                row += [f"{entry['ours']:.2f}x", f"{100 * entry['difference']:+.1f} %"]
            rows.append([*row, "<- as in the file" if entry["convention"] else ""])
        columns = [part for quantity in quantities for part in (FIGURES[quantity], "")]
        headers = ["scope", "traffic", *columns, ""]
        align = ["left", "left", *["right"] * len(columns), "left"]
        table = tabulate(rows, headers=headers, tablefmt="plain", disable_numparse=True, colalign=align)
        lines += [f"  {line}".rstrip() for line in table.splitlines()]
        sources = dict.fromkeys(entry["source"] for entry in its)
        lines += textwrap.wrap(f"stated by {', '.join(sources)}", WIDTH, subsequent_indent="  ")
    if result.job.file.published and not result.job.of_the_file:
        lines.append(f"published figures are left out: they are relative to {result.job.file.baseline}")
    return lines


def to_table(result: Result, by: str) -> str:
    """For a terminal, at most 80 columns."""
    lines = [_grid(result, by, "simple"), "", *notes(result)]
    if result.job.hardware and by == "policy":
        lines += hardware_tables(result)
    return "\n".join(lines) + "\n"


def to_markdown(result: Result, by: str) -> str:
    """GitHub's pipe table and the notes."""
    text = _grid(result, by, "pipe") + "\n\n" + "\n".join(f"- {line}" for line in notes(result)) + "\n"
    if result.job.hardware and by == "policy":
        text += f"\n{hardware_grid(result, 'pipe')}\n\n" + "".join(f"- {line}\n" for line in hardware_notes(result))
    return text


def to_latex(result: Result, by: str) -> str:
    """A booktabs tabular, escaped; the notes as comments above it."""
    comments = "".join(f"% {line}\n" for line in notes(result))
    text = f"{comments}{_grid(result, by, 'latex_booktabs')}\n"
    if result.job.hardware and by == "policy":
        text += (
            "".join(f"% {line}\n" for line in hardware_notes(result)) + hardware_grid(result, "latex_booktabs") + "\n"
        )
    return text


def to_json(result: Result, by: str) -> str:
    """One object; exact integers as decimal strings."""
    data = {
        "workload": result.job.workload,
        "baseline": result.job.convention.baseline,
        "convention": convention(result),
        "rows": full_records(result, by),
        "published": published(result),
    }
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


def to_csv(result: Result, by: str) -> str:
    """A header and the records, full precision; what does not fit a cell is left to JSON."""
    return csv_text(full_records(result, by))


def _flat(row: Mapping[str, Any]) -> Record:
    """A record with what it says of each device as columns of its own: h100-sxm.time_s."""
    devices: Mapping[str, Record] = row.get("hardware", {})
    flat = {f"{name}.{key}": value for name, its in devices.items() for key, value in its.items()}
    return {**{key: value for key, value in row.items() if key != "hardware"}, **flat}


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Records as CSV, with a header; what does not fit a cell is left out."""
    rows = [_flat(row) for row in rows]
    columns = [name for name, value in rows[0].items() if not isinstance(value, (dict, list))]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


FORMATS: dict[str, tuple[str, Callable[[Result, str], str]]] = {
    "table": ("txt", to_table),
    "json": ("json", to_json),
    "csv": ("csv", to_csv),
    "markdown": ("md", to_markdown),
    "latex": ("tex", to_latex),
}


def render(result: Result, by: str, style: str) -> str:
    """A result in one of FORMATS."""
    return FORMATS[style][1](result, by)


def write_all(result: Result, by: str, folder: Path) -> list[Path]:
    """Write every format to `folder` as WORKLOAD[-by-X].ext; made if missing, each file replaced whole or not at all.

    Raises InputError if the folder cannot be written.
    """
    stem = result.job.workload + ("" if by == "policy" else f"-by-{by}")
    texts = {f"{stem}.{extension}": make(result, by) for extension, make in FORMATS.values()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder}: {error.strerror or error}") from None
    return [files.write(folder / name, text.encode()) for name, text in texts.items()]
