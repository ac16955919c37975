"""Tables of time and energy on devices: a policy a row, or a group of its ops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from costsim.cost.memory import standing_bytes
from costsim.results.records import Record, group_records, hardware_record
from costsim.run.simulate import Result, buffer_on
from costsim.tables.cells import duration, joules, percent, short, three_digits
from costsim.tables.document import Block, Drawn, Heading, Notes
from costsim.tables.table import Column, Table, clip, composed, dense

if TYPE_CHECKING:
    from costsim.devices.profile import Hardware

_LEFT = "left"
_POLICY_COLUMNS = (
    Column("policy", _LEFT),
    Column("time"),
    Column("x", full="time x"),
    Column("energy"),
    Column("x ", full="energy x"),
    Column("bound by", _LEFT),
    Column("op/byte"),
    Column("upcast"),
)
_GROUP_COLUMNS = (
    Column("time"),
    Column("%", full="time %"),
    Column("energy"),
    Column("%", full="energy %"),
    Column("bound by", _LEFT),
    Column("op/byte"),
    Column("ridge", full="ridge op/byte"),
)


def timed(result: Result, by: str) -> bool:
    """Whether rows, one of `names.BY`, have time and energy."""
    return bool(result.job.hardware) and not undivided(result, by)


def has_tables(result: Result, by: str) -> bool:
    """Whether devices have tables of their own; reductions have time and energy in columns."""
    return timed(result, by) and by != "reduction"


def undivided(result: Result, by: str) -> str | None:
    """Why rows have no time and energy although devices are asked for; None if they have, or none are."""
    if not result.job.hardware:
        return None
    from costsim.run.timing import UNDIVIDED  # a run without devices does without

    return f"time and energy by {by}: n/a, {UNDIVIDED[by]}" if by in UNDIVIDED else None


def _policy_rows(result: Result, device: Hardware) -> list[list[str]]:
    rows = []
    for counted in result.policies:
        its = hardware_record(result, counted, device)
        runs = len(its["upcast"])
        rows.append(
            [
                counted.policy.name,
                duration(its["time_s"]),
                short(its["time_reduction"]),
                joules(its["energy_j"]),
                short(its["energy_reduction"]),
                its["bound"],
                three_digits(its["op_per_byte"]),
                f"{runs} pair{'s' * (runs > 1)}" if runs else "-",
            ]
        )
    return rows


def _group_cells(its: Record) -> list[str]:
    """The cells of a group on a device; a group whose ops all belong to other groups' kernels has no time."""
    if its["time_s"] == 0:
        return ["-", "-", "-", "-", "-", "-", "-"]
    return [
        duration(its["time_s"]),
        percent(its["time_share"]),
        joules(its["energy_j"]),
        percent(its["energy_share"]),
        its["bound"],
        three_digits(its["op_per_byte"]),
        three_digits(its["ridge_op_per_byte"]),
    ]


def _group_tables(result: Result, by: str) -> Iterator[tuple[Hardware, str, Table]]:
    """A table for each device and policy."""
    found = group_records(result, by)
    for device in result.job.hardware:
        for policy in dict.fromkeys(record["policy"] for record in found):
            its = [record for record in found if record["policy"] == policy]
            cells = [_group_cells(record["hardware"][device.name]) for record in its]
            rows = [[record[by], *rest] for record, rest in zip(its, cells, strict=True)]
            shown = [[clip(record[by], 20), *rest] for record, rest in zip(its, cells, strict=True)]
            yield device, policy, Table((Column(by, _LEFT), *_GROUP_COLUMNS), rows, shown)


def paper_table(result: Result, by: str) -> Table:
    """All devices in one table for papers."""
    if by == "policy":
        columns = (Column("hardware", _LEFT), *_POLICY_COLUMNS)
        rows = [[device.name, *row] for device in result.job.hardware for row in _policy_rows(result, device)]
        return Table(columns, rows, merged=1)
    parts = list(_group_tables(result, by))
    rows = [[device.name, policy, *row] for device, policy, table in parts for row in table.rows]
    return Table(
        (Column("hardware", _LEFT), Column("policy", _LEFT), Column(by, _LEFT), *_GROUP_COLUMNS), rows, merged=2
    )


def screen(result: Result, by: str) -> list[list[Block]]:
    """For a screen: the tables of each device, its peaks above, what stands behind the times by them; a sentence."""
    blocks = _policy_blocks(result) if by == "policy" else _group_blocks(result, by)
    return [*blocks, [Notes([roofline_note(result, by)], indent="")]]


def _policy_blocks(result: Result) -> Iterator[list[Block]]:
    for device in result.job.hardware:
        rows = _policy_rows(result, device)
        shown = [[composed(row[0], 13), *row[1:]] for row in rows]
        table = Drawn(Table(_POLICY_COLUMNS, rows, shown))
        yield [Heading(_peaks(device), bold=True), table, Notes(_behind(result, device))]


def _group_blocks(result: Result, by: str) -> Iterator[list[Block]]:
    above = None
    for device, policy, table in _group_tables(result, by):
        if device is not above:
            yield [Heading(_peaks(device), bold=True), Notes(_behind(result, device))]
        above = device
        yield [Heading(f"{device.name}, {policy}"), Drawn(table, dense)]


def _peaks(device: Hardware) -> str:
    rates = [rate.mac_per_s for rate in device.shown_rates]
    bandwidth = device.dram_bytes_per_s
    parts = [
        f"up to {short(str(max(rates)))} MAC/s" if rates else "MAC rates unknown",
        f"{short(str(bandwidth))} byte/s" if bandwidth else "DRAM bandwidth unknown",
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
        "n/a, as the profile does not know": sorted({what for its in spent for what in its.lacks}),
        "scaled, weak or recalled": sorted({what for its in spent for what in its.unverified} | device.unverified),
    }
    buffer = buffer_on(result.job, device)
    lines = [f"tiled for a buffer of {buffer} byte"] if result.job.convention.tiled and buffer else []
    lines += _too_large(result, device)
    for what, its in said.items():
        more = [f"and {len(its) - 3} more"] if len(its) > 3 else []
        if its:
            lines.append(f"{what}: {'; '.join([*its[:3], *more])}")
    return lines


def _too_large(result: Result, device: Hardware) -> list[str]:
    """Policies whose weights and states alone do not fit the device's DRAM. Peaks, which take longer, are not asked."""
    has = device.dram_bytes
    needs = {its.policy.name: standing_bytes(result.job.graph, its.policy) for its in result.policies} if has else {}
    larger = [f"{name} {size / 1e9:.3g} GB" for name, size in needs.items() if has and size > has]
    if not has or not larger:
        return []
    more = [f"and {len(larger) - 3} more"] if len(larger) > 3 else []
    said = f"weights and states alone take more than its {has / 1e9:.3g} GB of DRAM"
    return [f"DOES NOT FIT: {said}: {'; '.join([*larger[:3], *more])}; costsim memory has the peak"]


def roofline_note(result: Result, by: str) -> str:
    """What times and energies are, in a sentence."""
    overlap = "overlaps with" if result.job.overlap else "does not overlap with"
    said = (
        f"a roofline for each kernel, summed over the run; arithmetic {overlap} DRAM traffic; energy is that of "
        "arithmetic, buffer and DRAM, and of static power where a profile has it"
    )
    if by in ("policy", "reduction"):
        return said
    return (
        f"{said}; a kernel of several ops belongs to the {by} of its first one; one with more op/byte than the ridge "
        "is bound by arithmetic: of the multipliers in use, or of operations on elements where there are no MACs"
    )


def notes(result: Result, by: str) -> list[str]:
    """The notes of all devices."""
    found = [roofline_note(result, by)]
    for device in result.job.hardware:
        found += [_peaks(device), *_behind(result, device)]
    return found
