"""The tables of the HTML report: policies, groups, devices, memory, published figures, assumptions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from costsim.cost.laws import LAWS
from costsim.cost.memory import COMPONENTS, of_policy
from costsim.page.table import PageTable, integer, number, table, time, words
from costsim.policy.policy import labels_of
from costsim.results.records import (
    FIGURES,
    Record,
    full_records,
    group_records,
    hardware_record,
    published,
    reduction_records,
)
from costsim.run.simulate import Result
from costsim.tables.cells import joules, percent, signed, size, three_digits
from costsim.tables.run import distinct
from costsim.tables.warnings import copies

if TYPE_CHECKING:
    from costsim.results.survey import Survey

MOST_GROUPS = 8  # rows of a policy in a table of groups, counting what is left as one
TIMED = ("phase", "kind")  # groupings whose time the page shows: that of layers takes seconds


def _timeless(result: Result) -> Result:
    """The result without devices, for tables that do not show them."""
    return replace(result, job=replace(result.job, hardware=())) if result.job.hardware else result


def policies(result: Result) -> PageTable:
    """Totals of each policy over the run, and how many times less than the baseline they are."""
    unit, base = LAWS[result.job.convention.law].unit, result.job.convention.baseline
    timeless = _timeless(result)
    rows = [
        {**record, "memory_reduction": reductions["memory_reduction"]}
        for record, reductions in zip(full_records(timeless, "policy"), reduction_records(timeless), strict=True)
    ]
    labels = labels_of(counted.policy for counted in (*result.policies, result.baseline))
    named = any(labels[record["policy"]] != record["policy"] for record in rows)
    figures = [words("in figures", lambda r: labels[r["policy"]])] if named else []
    columns = [
        words("policy", lambda r: r["policy"] + (" (baseline)" if r["policy"] == base else "")),
        *figures,
        words("setup"),
        words("grade"),
        number("arithmetic \u00d7", "arithmetic_reduction"),
        integer(f"arithmetic, {unit}", "arithmetic_cost"),
        number("DRAM \u00d7", "dram_reduction"),
        integer("DRAM, bit", "dram_bits"),
        number("peak memory \u00d7", "memory_reduction"),
        integer("peak memory", "peak_memory_bytes", size),
        number(f"{unit} per MAC", "arithmetic_cost_per_mac"),
        number("bit per element moved", "bits_per_element_moved"),
    ]
    caption = f"Policies: totals of the run; \u00d7 is how many times less than {base}. Memory is the peak of a step."
    return table("policies", caption, columns, rows)


# --- groups -----------------------------------------------------------------------------------------------------------

_COUNTED = ("macs", "arithmetic_cost", "dram_bits", "dram_read_bits", "dram_written_bits", "vector_ops", "quantize_ops")
_SHARES = {"arithmetic_share": "arithmetic_cost", "dram_share": "dram_bits"}
_SPENT = ("time_s", "time_share", "energy_j", "energy_share")


def _sum(values: Iterable[Any]) -> Any:
    """The sum of all values; None if one of them is not known."""
    known = list(values)
    return None if None in known else sum(known)


def _count(records: Iterable[Record], field: str) -> int | None:
    """The sum of a field that holds exact integers as decimal strings."""
    total: int | None = _sum(None if record[field] is None else int(record[field]) for record in records)
    return total


def _as_one(others: Sequence[Record], by: str, every: Sequence[Record]) -> Record:
    """The groups `others` of a policy, added up to one; shares are relative to `every` group."""
    first = others[0]
    counts = {field: _count(others, field) for field in _COUNTED}
    merged: Record = {"policy": first["policy"], by: f"other ({len(others)})"}
    merged |= {field: None if count is None else str(count) for field, count in counts.items()}
    for share, field in _SHARES.items():
        part, whole = counts[field], _count(every, field)
        merged[share] = float(Fraction(part, whole)) if part is not None and whole else None
    if "hardware" in first:
        merged["hardware"] = {
            name: {field: _sum(record["hardware"][name][field] for record in others) for field in _SPENT}
            for name in first["hardware"]
        }
    return merged


def largest(records: Sequence[Record], by: str, most: int = MOST_GROUPS) -> list[Record]:
    """The groups of each policy with the largest shares of arithmetic or DRAM traffic; the others as one."""
    rows: list[Record] = []
    for policy in dict.fromkeys(record["policy"] for record in records):
        every = [record for record in records if record["policy"] == policy]
        if len(every) <= most:
            rows += every
            continue
        ranked = sorted(every, key=lambda record: -max(record[share] or 0.0 for share in _SHARES))
        kept = {record[by] for record in ranked[: most - 1]}
        others = [record for record in every if record[by] not in kept]
        rows += [*(record for record in every if record[by] in kept), _as_one(others, by, every)]
    return rows


def groups(result: Result, by: str) -> PageTable:
    """The totals of each policy by group; of more than MOST_GROUPS, the smallest are added up to one."""
    unit = LAWS[result.job.convention.law].unit
    timed = result.job.hardware if by in TIMED else ()
    every = group_records(result if timed else _timeless(result), by)
    columns = [
        words("policy"),
        words(by, lambda r: r[by] or "none"),
        integer("MACs", "macs"),
        integer(f"arithmetic, {unit}", "arithmetic_cost"),
        number("arithmetic %", "arithmetic_share", percent),
        integer("DRAM, bit", "dram_bits"),
        number("DRAM %", "dram_share", percent),
        integer("vector ops", "vector_ops"),
    ]
    for device in timed:
        columns += [
            number(f"time, {device.name}", _on(device.name, "time_s"), lambda s: "-" if s == 0 else time(s)),
            number(f"time %, {device.name}", _on(device.name, "time_share"), percent),
        ]
    shown = largest(every, by)
    cut = len(shown) < len(every)
    notes = [f"the {MOST_GROUPS - 1} largest of each policy; costsim run --by {by} lists all"] if cut else []
    return table(f"by-{by}", f"Policies by {by}: parts of the run's totals.", columns, shown, notes)


def _on(device: str, field: str) -> Callable[[Record], Any]:
    return lambda r: r["hardware"][device][field]


# --- devices and memory -----------------------------------------------------------------------------------------------

_NOTES = {  # of a device, by the field of its records
    "upcast": "pairs that the device lacks, and what they run as",
    "unsupported": "pairs that do not run",
    "lacks": "not known to the profile, so n/a",
    "unverified": "scaled, from a weak source, or recalled",
}


def devices(result: Result) -> list[PageTable]:
    """Time and energy of the run, a table for each device."""
    columns = [
        words("policy"),
        number("time", "time_s", time),
        number("time \u00d7", "time_reduction"),
        number("energy", "energy_j", joules),
        number("energy \u00d7", "energy_reduction"),
        words("bound by", "bound"),
        number("op/byte", "op_per_byte", three_digits),
        number("ridge, op/byte", "ridge_op_per_byte", three_digits),
        number("pairs upcast", lambda r: float(len(r["upcast"])), lambda value: f"{value:.0f}"),
    ]
    tables = []
    for device in result.job.hardware:
        rows = [
            {"policy": counted.policy.name, **hardware_record(result, counted, device)} for counted in result.policies
        ]
        entries = {field: sorted({entry for row in rows for entry in row[field]}) for field in _NOTES}
        notes = [f"{text}: {'; '.join(entries[field])}" for field, text in _NOTES.items() if entries[field]]
        caption = f"{device.name}: {device.description}. Time and energy of the run."
        tables.append(table(f"on-{device.name}", caption, columns, rows, notes))
    return tables


def memory(result: Result) -> PageTable:
    """The components of memory at the peak of a step."""
    rows: list[Record] = []
    notes: list[str] = []
    for counted in result.policies:
        phase, peak = of_policy(result.job.graph, counted.policy, result.job.convention.traffic)
        notes += copies(result.job, counted.policy, peak)
        when = f"phase {phase + 1}, " if len(counted.phases) > 1 else ""
        rows.append(
            {
                "policy": counted.policy.name,
                "peak": str(peak.peak_bytes),
                "at": f"{when}{peak.peak_op.name}",
                **{name: str(size_bytes) for name, size_bytes in peak.components.items()},
            }
        )
    used = [name for name in COMPONENTS if any(int(row[name]) for row in rows)]
    columns = [
        words("policy"),
        integer("peak", "peak", size),
        *(integer(name.replace("_", " "), name, size) for name in used),
        words("at"),
    ]
    caption = "Peak memory of a step by component, of all ops whatever the scope."
    return table("memory", caption, columns, rows, notes)


# --- published figures and assumptions --------------------------------------------------------------------------------


def stated(result: Result) -> PageTable | None:
    """Published figures beside ours, in every scope and traffic model; None if there are none."""
    rows = distinct(published(result), "any untiled")
    if not rows:
        return None
    columns = [
        words("policy"),
        words("quantity", lambda r: f"{FIGURES[r['quantity']]} \u00d7"),
        number("stated", "stated", lambda value: f"{value:g}"),
        number("ours", "ours"),
        number("difference, %", "difference", lambda value: signed(value) or "0.0"),
        words("scope"),
        words("traffic"),
        words("compared", lambda r: "as the workload says" if r["convention"] else "for comparison"),
        words("stated by", "source"),
    ]
    caption = f"Published figures beside ours; \u00d7 is how many times less than {result.job.convention.baseline}."
    return table("published", caption, columns, rows)


def recipes(survey: Survey | None) -> PageTable | None:
    """Recipes of the field side by side on the workload; None without a survey."""
    if survey is None:
        return None
    from costsim.tables.survey import notes, snr  # few pages have them

    columns = [
        words("recipe"),
        words("grade"),
        number("arithmetic \u00d7", "arithmetic_reduction"),
        number("DRAM \u00d7", "dram_reduction"),
        number("peak memory \u00d7", "memory_reduction"),
        *(
            number(f"{quantity} \u00d7, {device.name}", _on(device.name, f"{quantity}_reduction"))
            for device in survey.job.hardware
            for quantity in ("time", "energy")
        ),
        *([number("signal to noise, dB", "gradient_snr_db", snr)] if survey.with_noise else []),
    ]
    caption = f"Recipes of the field on this workload; \u00d7 is how many times less than {survey.baseline}."
    return table("recipes", caption, columns, survey.records, notes(survey))


def assumptions(result: Result) -> PageTable | None:
    """The assumptions of the files where their sources leave something open; None if there are none."""
    entries: list[tuple[str, Any]] = [(result.job.workload, entry) for entry in result.job.file.assumptions]
    for policy in dict.fromkeys(counted.policy for counted in (*result.policies, result.baseline)):
        entries += [(policy.name, assumption.entry) for assumption in policy.assumptions]
    if not entries:
        return None
    rows = [
        {
            "of": owner,
            "assumption": entry.name,
            "here": entry.here,
            "grade": entry.grade,
            "instead": "; ".join(case.name for case in entry.cases),
        }
        for owner, entry in entries
    ]
    columns = [words("of"), words("assumption"), words("here"), words("grade"), words("could have been", "instead")]
    notes = ["costsim run --by assumption moves one at a time, and says where that takes the ratios"]
    return table("assumptions", "Assumptions of the workload and of each policy.", columns, rows, notes)
