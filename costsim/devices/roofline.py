"""Time, bound and energy of counted ops on a device: a roofline for each kernel.

A kernel takes as long as its arithmetic or its DRAM traffic, whichever is longer, or both after each other if they do
not overlap. Its MACs run at the rate of the pair of formats that the device has for them, its operations on elements at
the vector rate after them. Floats begin here: everything before is an exact integer.
Source: Williams et al., Roofline, CACM 2009.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from costsim.cost.row import Row, each_op
from costsim.devices.energy import DRAM, PICO, TABLES, mac_pj, recalled
from costsim.devices.profile import Hardware, Rate, pair_on
from costsim.formats.format import Format
from costsim.graph.fusion import group_ops, grouping
from costsim.graph.graph import Graph, Op
from costsim.names import Traffic

Pair = tuple[Format, Format, Format]
BOUNDS = ("arithmetic", "vector", "dram", "launch")


class Kernel(NamedTuple):
    """What one kernel does in a step, and how many of a step do the same."""

    first: tuple[Row, Op]  # what names it: its first op
    rows: tuple[Row, ...]
    number: int


def kernels(graph: Graph, rows: Sequence[Row], traffic: Traffic, scope: str, each: bool = False) -> list[Kernel]:
    """The kernels of a step, those that do the same once, or `each` by itself.

    A quantize kernel is one of its own, before the op that wants the copy.
    """
    group = group_ops(graph, grouping(traffic, scope))
    index = {id(row): i for i, row in enumerate(rows)}
    members: dict[tuple[int, int], list[int]] = {}
    first: dict[tuple[int, int], Op] = {}
    for op, row in each_op(rows):
        at = index[id(row)]
        key = (group[op.position], -1) if row.cast is None else (op.position, at)
        members.setdefault(key, []).append(at)
        first.setdefault(key, op)
    if each:
        return [Kernel((rows[its[0]], first[key]), tuple(rows[i] for i in its), 1) for key, its in members.items()]
    alike = Counter(tuple(its) for its in members.values())
    named = {tuple(its): first[key] for key, its in reversed(members.items())}
    return [Kernel((rows[its[0]], named[its]), tuple(rows[i] for i in its), number) for its, number in alike.items()]


@dataclass(slots=True)
class Spent:
    """Time and energy of some kernels on a device. None: a pair, a rate or the bandwidth is lacking."""

    mac_s: float = 0.0
    vector_s: float | None = 0.0
    dram_s: float | None = 0.0
    launch_s: float = 0.0
    time_s: float | None = 0.0
    arithmetic_j: float | None = 0.0
    on_chip_j: float | None = 0.0
    dram_j: float | None = 0.0
    static_j: float | None = 0.0
    macs: int = 0
    vector_ops: int = 0
    dram_bits: int = 0
    bound_s: dict[str, float] = field(default_factory=dict)  # time by what bounds it
    unsupported: set[str] = field(default_factory=set)  # pairs that the device cannot multiply
    upcast: set[tuple[str, str]] = field(default_factory=set)  # pairs and what they run as
    unverified: set[str] = field(default_factory=set)  # what of the energy is scaled from other widths, or weak
    lacks: set[str] = field(default_factory=set)  # what the profile does not know, without which traffic is not known

    @property
    def bound(self) -> str:
        """What most of the time is bound by: arithmetic, vector, dram, launch; unsupported, or n/a."""
        if self.unsupported:
            return "unsupported"
        if self.time_s is None or not self.bound_s:
            return "n/a"
        return max(BOUNDS, key=lambda name: self.bound_s.get(name, 0.0))

    @property
    def energy_j(self) -> float | None:
        """Arithmetic, on-chip buffer, DRAM, and static power over the time where the profile has one."""
        parts = (self.arithmetic_j, self.on_chip_j, self.dram_j, self.static_j)
        return None if self.unsupported or None in parts else sum(part or 0.0 for part in parts)

    @property
    def op_per_byte(self) -> float | None:
        """Arithmetic intensity: 2 operations a MAC, and those on elements, per byte of DRAM traffic."""
        return (2 * self.macs + self.vector_ops) * 8 / self.dram_bits if self.dram_bits else None

    def add(self, other: "Spent", times: int = 1) -> None:
        """Add another, so many times."""
        for name in ("mac_s", "vector_s", "dram_s", "launch_s", "time_s", *_JOULES):
            mine, its = getattr(self, name), getattr(other, name)
            setattr(self, name, None if mine is None or its is None else mine + times * its)
        for name in ("macs", "vector_ops", "dram_bits"):
            setattr(self, name, getattr(self, name) + times * getattr(other, name))
        for name, seconds in other.bound_s.items():
            self.bound_s[name] = self.bound_s.get(name, 0.0) + times * seconds
        self.unsupported |= other.unsupported
        self.upcast |= other.upcast
        self.unverified |= other.unverified
        self.lacks |= other.lacks

    def forget_traffic(self, lacks: str) -> None:
        """Leave unknown what depends on DRAM traffic, for the profile lacks something that it depends on."""
        self.dram_s = self.time_s = self.on_chip_j = self.dram_j = self.static_j = None
        self.dram_bits, self.bound_s = 0, {}
        self.lacks.add(lacks)


_JOULES = ("arithmetic_j", "on_chip_j", "dram_j", "static_j")


class Rates(dict[Pair, tuple[Rate, bool] | None]):
    """The multipliers that a device has for pairs of formats, looked up once each."""

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = hardware

    def __missing__(self, pair: Pair) -> tuple[Rate, bool] | None:
        found = self[pair] = pair_on(self.hardware, *pair)
        return found


def spend(kernel: Kernel, hardware: Hardware, overlap: bool = True, rates: Rates | None = None) -> Spent:
    """Time and energy of one such kernel, over all its runs in a step. `rates` are what was looked up before."""
    found = Spent()
    rates = Rates(hardware) if rates is None else rates
    table = TABLES[hardware.energy_table] if hardware.energy_table else None
    for row in kernel.rows:
        found.dram_bits += sum(move.read_bits + move.written_bits for move in row.moves)
        found.vector_ops += sum(row.vector.values())
        if row.pair is None or not row.macs:
            continue
        found.macs += row.macs
        chosen = rates[row.pair]
        if chosen is None:
            found.unsupported.add(row.pair_name)
            continue
        rate, upcast = chosen
        if upcast:
            found.upcast.add((row.pair_name, rate.name))
        found.mac_s += row.macs / (rate.mac_per_s * hardware.mac_part(row.macs / row.ops[0].times))
        if table:
            picojoules, scaled = mac_pj(table, rate.a, rate.b, rate.accumulator)
            found.arithmetic_j = (found.arithmetic_j or 0.0) + row.macs * picojoules * PICO
            found.unverified |= {f"a MAC of {rate.name}"} if scaled else set()
            found.unverified |= recalled(table, rate.a, rate.b, rate.accumulator)
    _time(found, kernel, hardware, overlap)
    _energy(found, hardware)
    return found


def _time(found: Spent, kernel: Kernel, hardware: Hardware, overlap: bool) -> None:
    if found.vector_ops:
        rate = hardware.vector_op_per_s
        found.vector_s = found.vector_ops / (rate * hardware.vector_efficiency) if rate else None
    bandwidth = hardware.dram_bytes_per_s
    found.dram_s = found.dram_bits / 8 / (bandwidth * hardware.dram_efficiency) if bandwidth else None
    found.launch_s = hardware.launch_s * kernel.first[1].times
    if found.unsupported or found.dram_s is None or found.vector_s is None:
        found.time_s = None
        return
    on_chip = found.mac_s + found.vector_s
    busy = max(on_chip, found.dram_s) if overlap else on_chip + found.dram_s
    found.time_s = busy + found.launch_s
    bound = "dram" if found.dram_s > on_chip else "arithmetic" if found.mac_s >= found.vector_s else "vector"
    found.bound_s = {"launch" if found.launch_s > busy else bound: found.time_s}


def _energy(found: Spent, hardware: Hardware) -> None:
    table, dram = TABLES.get(hardware.energy_table or ""), DRAM.get(hardware.memory)
    if table is None:
        found.arithmetic_j = found.on_chip_j = None
    else:
        found.arithmetic_j = (found.arithmetic_j or 0.0) + found.vector_ops * table.vector_op_pj * PICO
        found.on_chip_j = found.dram_bits * table.sram_pj_per_bit * PICO
    found.dram_j = found.dram_bits * dram.pj_per_bit * PICO if dram else None
    if dram and not dram.verified:
        found.unverified.add(f"a bit of {hardware.memory}")
    if hardware.static_w is not None:
        found.static_j = None if found.time_s is None else found.time_s * hardware.static_w


def spend_all(found: Iterable[Kernel], hardware: Hardware, overlap: bool = True) -> Spent:
    """Time and energy of a step."""
    total, rates = Spent(), Rates(hardware)
    for kernel in found:
        total.add(spend(kernel, hardware, overlap, rates), kernel.number)
    return total
