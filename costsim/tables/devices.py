"""Tables of time and energy on devices: a policy a row, or a group of its ops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from costsim.results.records import Record, group_records, hardware_record
from costsim.run.counted import buffer_on
from costsim.run.simulate import Result
from costsim.tables import sent
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
        record = hardware_record(result, counted, device)
        upcast = len(record["upcast"])
        rows.append(
            [
                counted.policy.name,
                duration(record["time_s"]),
                short(record["time_reduction"]),
                joules(record["energy_j"]),
                short(record["energy_reduction"]),
                record["bound"],
                three_digits(record["op_per_byte"]),
                f"{upcast} pair{'s' * (upcast > 1)}" if upcast else "-",
            ]
        )
    return rows


def _group_cells(record: Record) -> list[str]:
    """The cells of a group on a device; a group whose ops all belong to other groups' kernels has no time."""
    if record["time_s"] == 0:
        return ["-"] * len(_GROUP_COLUMNS)
    return [
        duration(record["time_s"]),
        percent(record["time_share"]),
        joules(record["energy_j"]),
        percent(record["energy_share"]),
        record["bound"],
        three_digits(record["op_per_byte"]),
        three_digits(record["ridge_op_per_byte"]),
    ]


def _group_tables(result: Result, by: str) -> Iterator[tuple[Hardware, str, Table]]:
    """A table for each device and policy."""
    records = group_records(result, by)
    for device in result.job.hardware:
        for policy in dict.fromkeys(record["policy"] for record in records):
            rows = [
                [record[by], *_group_cells(record["hardware"][device.name])]
                for record in records
                if record["policy"] == policy
            ]
            shown = [[clip(name, 20), *cells] for name, *cells in rows]
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
    """Groups of blocks for a screen: each device's peaks, its tables and what is behind the times; a sentence."""
    blocks = _policy_blocks(result) if by == "policy" else _group_blocks(result, by)
    return [*blocks, [Notes([roofline_note(result, by)], indent="")]]


def _policy_blocks(result: Result) -> Iterator[list[Block]]:
    for device in result.job.hardware:
        rows = _policy_rows(result, device)
        shown = [[composed(row[0]), *row[1:]] for row in rows]
        table = Drawn(Table(_POLICY_COLUMNS, rows, shown))
        yield [Heading(_peaks(device), bold=True), table, Notes(_behind(result, device))]
        yield from filter(None, [sent.links_blocks(result, device.name)])


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
    if device.kernels:
        less = [f"{len(device.kernels)} kinds of kernels measured"]
    else:
        less += ["GEMMs at the efficiency of their size"] if device.gemm_efficiency else []
    return f"{device.name}: {', '.join([*parts, *(less or ['all at their peaks'])])}"


def _behind(result: Result, device: Hardware) -> list[str]:
    """Pairs that run as others, those that do not run, and what no source vouches for."""
    spent = [result.spent[counted.policy.name, device.name] for counted in result.policies]
    kinds = {
        "upcast": {f"{pair} as {runs_as}" for each in spent for pair, runs_as in each.upcast},
        "unsupported": {pair for each in spent for pair in each.unsupported},
        "n/a, as the profile does not know": {name for each in spent for name in each.lacks},
        "not measured, so at a roofline": {name for each in spent for name in each.not_measured},
        "scaled, weak or recalled": {name for each in spent for name in each.unverified} | device.unverified,
    }
    buffer = buffer_on(result.job, device)
    lines = [f"tiled for a buffer of {buffer} byte"] if result.job.convention.tiled and buffer else []
    lines += [*_too_large(result, device), *_messages(result, device), *_spreads(result, device)]
    return lines + [f"{kind}: {_first(sorted(entries))}" for kind, entries in kinds.items() if entries]


def _spreads(result: Result, device: Hardware) -> Iterator[str]:
    """How far times may be off, by what was measured."""
    if device.kernels:
        spent = {one.policy.name: result.spent[one.policy.name, device.name] for one in result.policies}
        off = [f"{name} {100 * each.spread_s / each.time_s:.0f} %" for name, each in spent.items() if each.time_s]
        yield f"times may be off by as much as what was measured: {_first(off)}"


def _messages(result: Result, device: Hardware) -> Iterator[str]:
    """How long a rank's messages take, and what of that is hidden."""
    if not result.job.graph.mesh:
        return
    spent = {counted.policy.name: result.spent[counted.policy.name, device.name] for counted in result.policies}
    took = [
        f"{name} {duration(one.link_s)}" + (f" ({duration(one.hidden_s)} hidden)" if one.hidden_s else "")
        for name, one in spent.items()
    ]
    yield f"messages take {_first(took)}"


def _first(entries: Sequence[str], most: int = 3) -> str:
    """Some entries, and how many more there are."""
    more = [f"and {len(entries) - most} more"] if len(entries) > most else []
    return "; ".join([*entries[:most], *more])


def _too_large(result: Result, device: Hardware) -> list[str]:
    """Policies whose weights and states alone exceed the device's DRAM; peaks would take longer to find."""
    from costsim.cost.memory import standing_bytes  # a run without devices does without

    room = device.dram_bytes
    if not room:
        return []
    sizes = {one.policy.name: standing_bytes(result.job.graph, one.policy) for one in result.policies}
    larger = [f"{name} {size / 1e9:.3g} GB" for name, size in sizes.items() if size > room]
    if not larger:
        return []
    reason = f"weights and states alone take more than its {room / 1e9:.3g} GB of DRAM"
    return [f"DOES NOT FIT: {reason}: {_first(larger)}; costsim memory has the peak"]


def roofline_note(result: Result, by: str) -> str:
    """What times and energies are, in a sentence."""
    overlap = "overlaps with" if result.job.overlap else "does not overlap with"
    measured = any(device.kernels for device in result.job.hardware)
    way = "a roofline for each kernel" + (", or what was measured of its kinds" if measured else "")
    sentence = (
        f"{way}, summed over the run; arithmetic {overlap} DRAM traffic; energy is that of "
        f"arithmetic, buffer and DRAM, and of static power where a profile has it{sent.time_note(result)}"
    )
    if by in ("policy", "reduction"):
        return sentence
    return (
        f"{sentence}; a kernel of several ops belongs to the {by} of its first one; one with more op/byte than the "
        "ridge is bound by arithmetic: of the multipliers in use, or of operations on elements where there are no MACs"
    )


def notes(result: Result, by: str) -> list[str]:
    """The notes of all devices."""
    lines = [roofline_note(result, by)]
    for device in result.job.hardware:
        lines += [_peaks(device), *_behind(result, device)]
    return lines
