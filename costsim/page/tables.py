"""Tables of the HTML report: records as cells, each with what it says and the exact value that it is sorted by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

from costsim.cost.laws import LAWS
from costsim.cost.memory import COMPONENTS, of_policy
from costsim.graph.fusion import UNTILED
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
from costsim.tables.cells import duration, joules, percent, short, signed, three_digits

MOST_GROUPS = 8  # rows of a policy in a table of groups, counting what is left as one
_ON_A_LINE = 26  # characters of a cell that are not broken
TIMED = ("phase", "kind")  # groupings whose time the page shows: that of layers takes seconds


class Cell(NamedTuple):
    """What a cell says and, of a number, its value in full: a decimal integer or a float; "" if it is not known."""

    text: str
    value: str | None = None

    @property
    def whole(self) -> bool:
        """Whether it stays on one line."""
        return self.value is not None or len(self.text) <= _ON_A_LINE


class Head(NamedTuple):
    """A column: its name and how it sorts: as `words`, as an `integer` of any size, as a `number`."""

    name: str
    sort: str = "words"


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table of the page. The first cell of a row is its header; `name` is unique on the page."""

    name: str
    caption: str
    heads: Sequence[Head]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()


class _Column(NamedTuple):
    head: Head
    value: Callable[[Record], Any]
    show: Callable[[Any], str]


def words(name: str, value: Callable[[Record], Any] | None = None) -> _Column:
    """A column of text, of the field of that name unless a function says which."""
    return _Column(Head(name), value or (lambda r: r[name]), str)


def integer(name: str, key: str, show: Callable[[Any], str] = short) -> _Column:
    """A column of exact integers, which records hold as decimal strings."""
    return _Column(Head(name, "integer"), lambda r: r[key], show)


def size(text: str | None) -> str:
    """Bytes, a decimal string, in the largest decimal unit that they have one of."""
    if text is None:
        return "n/a"
    divisor, prefix = next(
        ((10**e, p) for e, p in ((12, "T"), (9, "G"), (6, "M"), (3, "k")) if int(text) >= 10**e), (1, "")
    )
    return f"{three_digits(int(text) / divisor)} {prefix}B"


def number(name: str, value: Callable[[Record], Any], show: Callable[[Any], str] = short) -> _Column:
    """A column of floats."""
    return _Column(Head(name, "number"), value, show)


def time(seconds: float | None) -> str:
    """A time as tables print it, of more than 1000 days all digits."""
    return duration(seconds) if seconds is None or seconds < 1000 * 86400 else f"{seconds / 86400:.0f} d"


def _key(key: str) -> Callable[[Record], Any]:
    return lambda r: r[key]


def _cell(column: _Column, record: Record) -> Cell:
    value = column.value(record)
    if column.head.sort == "words":
        return Cell(str(value))
    return Cell(column.show(value), "" if value is None else str(value))


def table(name: str, caption: str, columns: Sequence[_Column], found: Iterable[Record], notes: Any = ()) -> PageTable:
    """Records under these columns."""
    rows = [[_cell(column, record) for column in columns] for record in found]
    return PageTable(name, caption, [column.head for column in columns], rows, tuple(notes))


def policies(result: Result) -> PageTable:
    """What each policy takes over the run, and how many times less than the baseline."""
    unit, base = LAWS[result.job.convention.law].unit, result.job.convention.baseline
    peaks = {its["policy"]: its["memory_reduction"] for its in reduction_records(_timeless(result))}
    found = [{**its, "memory_reduction": peaks[its["policy"]]} for its in full_records(_timeless(result), "policy")]
    columns = [
        words("policy", lambda r: r["policy"] + (" (baseline)" if r["policy"] == base else "")),
        words("setup"),
        words("grade"),
        number("arithmetic \u00d7", _key("arithmetic_reduction")),
        integer(f"arithmetic, {unit}", "arithmetic_cost"),
        number("DRAM \u00d7", _key("dram_reduction")),
        integer("DRAM, bit", "dram_bits"),
        number("peak memory \u00d7", _key("memory_reduction")),
        integer("peak memory", "peak_memory_bytes", size),
        number(f"{unit} per MAC", _key("arithmetic_cost_per_mac")),
        number("bit per element moved", _key("bits_per_element_moved")),
    ]
    caption = f"Policies: totals of the run; \u00d7 is how many times less than {base}. Memory is the peak of a step."
    return table("policies", caption, columns, found)


def _timeless(result: Result) -> Result:
    """The result without devices, where a table does not show them."""
    return replace(result, job=replace(result.job, hardware=())) if result.job.hardware else result


def _sum(found: Sequence[Any]) -> Any:
    return None if None in found else sum(found)


def _whole(found: Sequence[str | None]) -> str | None:
    total = _sum([None if its is None else int(its) for its in found])
    return None if total is None else str(total)


_COUNTED = ("macs", "arithmetic_cost", "dram_bits", "dram_read_bits", "dram_written_bits", "vector_ops", "quantize_ops")


def _as_one(found: Sequence[Record], by: str, every: Sequence[Record]) -> Record:
    """Groups added up to one; its shares are those of the policy's totals."""
    first = found[0]
    one: Record = {"policy": first["policy"], by: f"other ({len(found)})"}
    one |= {key: _whole([its[key] for its in found]) for key in _COUNTED}
    for share, of in (("arithmetic_share", "arithmetic_cost"), ("dram_share", "dram_bits")):
        whole = _whole([its[of] for its in every])
        known = one[of] is not None and whole not in (None, "0")
        one[share] = float(Fraction(int(one[of]), int(whole))) if known and whole else None
    if "hardware" in first:
        keys = ("time_s", "time_share", "energy_j", "energy_share")
        one["hardware"] = {
            name: {key: _sum([its["hardware"][name][key] for its in found]) for key in keys}
            for name in first["hardware"]
        }
    return one


def largest(found: Sequence[Record], by: str, most: int = MOST_GROUPS) -> list[Record]:
    """The groups of each policy with the largest shares of arithmetic or DRAM traffic; the others as one."""
    rows: list[Record] = []
    for policy in dict.fromkeys(its["policy"] for its in found):
        every = [its for its in found if its["policy"] == policy]
        ranked = sorted(every, key=lambda its: -max(its["arithmetic_share"] or 0.0, its["dram_share"] or 0.0))
        if len(every) <= most:
            rows += every
            continue
        kept = {its[by] for its in ranked[: most - 1]}
        left = [its for its in every if its[by] not in kept]
        rows += [*(its for its in every if its[by] in kept), _as_one(left, by, every)]
    return rows


def groups(result: Result, by: str) -> PageTable:
    """Each policy's totals by group."""
    unit = LAWS[result.job.convention.law].unit
    its = result if by in TIMED else _timeless(result)
    every = group_records(its, by)
    columns = [
        words("policy"),
        words(by, lambda r: r[by] or "none"),
        integer("MACs", "macs"),
        integer(f"arithmetic, {unit}", "arithmetic_cost"),
        number("arithmetic %", _key("arithmetic_share"), percent),
        integer("DRAM, bit", "dram_bits"),
        number("DRAM %", _key("dram_share"), percent),
        integer("vector ops", "vector_ops"),
    ]
    for device in its.job.hardware:
        columns.append(
            number(f"time, {device.name}", _on(device.name, "time_s"), lambda value: "-" if value == 0 else time(value))
        )
        columns.append(number(f"time %, {device.name}", _on(device.name, "time_share"), percent))
    shown = largest(every, by)
    cut = len(shown) < len(every)
    notes = [f"the {MOST_GROUPS - 1} largest of each policy; costsim run --by {by} lists all"] if cut else []
    return table(f"by-{by}", f"Policies by {by}: parts of the run's totals.", columns, shown, notes)


def _on(device: str, key: str) -> Callable[[Record], Any]:
    return lambda r: r["hardware"][device][key]


_BEHIND = {
    "upcast": "pairs that the device lacks, and what they run as",
    "unsupported": "pairs that do not run",
    "lacks": "not known to the profile, so n/a",
    "unverified": "scaled, from a weak source, or recalled",
}


def devices(result: Result) -> list[PageTable]:
    """Time and energy of the run, a table for each device."""
    made = []
    for device in result.job.hardware:
        found = [
            {"policy": counted.policy.name, **hardware_record(result, counted, device)} for counted in result.policies
        ]
        columns = [
            words("policy"),
            number("time", _key("time_s"), time),
            number("time \u00d7", _key("time_reduction")),
            number("energy", _key("energy_j"), joules),
            number("energy \u00d7", _key("energy_reduction")),
            words("bound by", lambda r: r["bound"]),
            number("op/byte", _key("op_per_byte"), three_digits),
            number("ridge, op/byte", _key("ridge_op_per_byte"), three_digits),
            number("pairs upcast", lambda r: float(len(r["upcast"])), lambda value: f"{value:.0f}"),
        ]
        said = {key: sorted({what for its in found for what in its[key]}) for key in _BEHIND}
        notes = [f"{text}: {'; '.join(said[key])}" for key, text in _BEHIND.items() if said[key]]
        caption = f"{device.name}: {device.description}. Time and energy of the run."
        made.append(table(f"on-{device.name}", caption, columns, found, notes))
    return made


def memory(result: Result) -> PageTable:
    """What fills the memory at the peak of a step."""
    found = []
    for counted in result.policies:
        phase, its = of_policy(result.job.graph, counted.policy, result.job.convention.traffic)
        record = {name: str(size) for name, size in its.components.items()}
        of = f"phase {phase + 1}, " if len(counted.phases) > 1 else ""
        found.append(
            {"policy": counted.policy.name, "peak": str(its.peak_bytes), "at": f"{of}{its.peak_op.name}", **record}
        )
    used = [name for name in COMPONENTS if any(int(record[name]) for record in found)]
    columns = [
        words("policy"),
        integer("peak", "peak", size),
        *(integer(name.replace("_", " "), name, size) for name in used),
        words("at", lambda r: r["at"]),
    ]
    caption = "Peak memory of a step by component, of all ops whatever the scope."
    return table("memory", caption, columns, found)


def stated(result: Result) -> PageTable | None:
    """Published figures beside ours, in every scope and traffic model; None if there are none."""
    found = [
        {**its, "traffic": "any untiled" if its["scope"] == "gemm" and its["traffic"] in UNTILED else its["traffic"]}
        for its in published(result)
        if (its["scope"], its["traffic"]) != ("gemm", "fused")  # as unfused: GEMMs do not fuse
    ]
    if not found:
        return None
    columns = [
        words("policy"),
        words("quantity", lambda r: f"{FIGURES[r['quantity']]} \u00d7"),
        number("stated", _key("stated"), lambda value: f"{value:g}"),
        number("ours", _key("ours")),
        number("difference, %", _key("difference"), lambda value: signed(value) or "0.0"),
        words("scope"),
        words("traffic"),
        words("compared", lambda r: "as the workload says" if r["convention"] else "for comparison"),
        words("stated by", lambda r: r["source"]),
    ]
    caption = f"Published figures beside ours; \u00d7 is how many times less than {result.job.convention.baseline}."
    return table("published", caption, columns, found)


def assumptions(result: Result) -> PageTable | None:
    """What the files assume where their sources leave it open; None if nothing."""
    found = []
    said = [(result.job.workload, its) for its in result.job.file.assumptions]
    for policy in dict.fromkeys(its.policy for its in (*result.policies, result.baseline)):
        said += [(policy.name, its.entry) for its in policy.assumptions]  # type: ignore[misc]
    for of, its in said:
        cases = "; ".join(case.name for case in its.cases)
        found.append({"of": of, "assumption": its.name, "here": its.here, "grade": its.grade, "instead": cases})
    if not found:
        return None
    columns = [
        words("of"), words("assumption"), words("here"), words("grade"),
        words("could have been", lambda r: r["instead"]),
    ]  # fmt: skip
    notes = ["costsim run --by assumption moves one at a time, and says where that takes the ratios"]
    return table("assumptions", "Assumptions of the workload and of each policy.", columns, found, notes)
