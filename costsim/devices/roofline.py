"""Time, bound and energy of counted ops on a device: a roofline for each kernel.

A kernel takes as long as its arithmetic, its DRAM traffic or what it sends to other ranks, whichever is longest, or all
after each other if they do not overlap. Its MACs run at the rate of the pair of formats that the device has for them,
its operations on elements at the vector rate after them. Messages may hide behind the rest of a step; then a kernel
takes no time for them until the whole step is known (`exposed`). Floats begin here: all before are exact integers.
Source: Williams et al., Roofline, CACM 2009.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypedDict

from costsim.cost.parts import cast_times
from costsim.cost.row import Row, each_op
from costsim.devices.energy import DRAM, PICO, TABLES, mac_pj, recalled
from costsim.devices.links import time_of
from costsim.devices.profile import Hardware, Rate, pair_on
from costsim.formats.format import Format
from costsim.graph.fusion import group_ops, grouping
from costsim.graph.graph import Graph, Op
from costsim.names import Axis, Traffic

Pair = tuple[Format, Format, Format]
BOUNDS = ("arithmetic", "vector", "dram", "link", "launch")


class Kernel(NamedTuple):
    """What one kernel does in a step, and how many of a step do the same."""

    first: tuple[Row, Op]  # what names it: its first op
    rows: tuple[Row, ...]
    number: int
    runs: int  # of each in a step


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
    named = [(first[key], tuple(part), 1) for key, part in members.items()]
    if not each:
        alike = Counter(part for _, part, _ in named)
        firsts = {part: op for op, part, _ in reversed(named)}
        named = [(firsts[part], part, number) for part, number in alike.items()]
    return [
        Kernel((rows[part[0]], op), tuple([rows[i] for i in part]), number, _runs(graph, rows[part[0]], op))
        for op, part, number in named
    ]


def _runs(graph: Graph, row: Row, op: Op) -> int:
    """How often a kernel runs in a step: as its op, or as what a quantize kernel reads changes."""
    if row.cast is None or row.cast.copy is None:
        return op.times
    return cast_times(graph, op, op.inputs[row.cast.slot], row.cast.copy)


def _sum(a: float | None, b: float | None) -> float | None:
    """The sum, if both are known."""
    return None if a is None or b is None else a + b


def _times(n: float, a: float | None) -> float | None:
    """The product, if `a` is known."""
    return None if a is None else n * a


@dataclass(frozen=True, slots=True)
class Spent:
    """Time and energy of some kernels on a device. None: a pair, a rate or the bandwidth is lacking.

    They add up, and multiply by how often kernels run: a run's are `sum((phase.steps * step for ...), Spent())`.
    """

    mac_s: float = 0.0
    vector_s: float | None = 0.0
    dram_s: float | None = 0.0
    link_s: float | None = 0.0
    hidden_s: float = 0.0  # of link_s: behind the rest of the step, so that it is no part of time_s
    launch_s: float = 0.0
    time_s: float | None = 0.0
    arithmetic_j: float | None = 0.0
    on_chip_j: float | None = 0.0
    dram_j: float | None = 0.0
    static_j: float | None = 0.0
    macs: int = 0
    vector_ops: int = 0
    dram_bits: int = 0
    bound_s: Mapping[str, float] = field(default_factory=dict)  # time by what bounds it
    unsupported: frozenset[str] = frozenset()  # pairs that the device cannot multiply
    upcast: frozenset[tuple[str, str]] = frozenset()  # pairs and what they run as
    unverified: frozenset[str] = frozenset()  # what of the energy is scaled from other widths, or weak
    lacks: frozenset[str] = frozenset()  # what the profile does not know, without which traffic is not known

    @property
    def bound(self) -> str:
        """What most of the time is bound by, one of BOUNDS; unsupported, or n/a."""
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

    def __add__(self, other: "Spent") -> "Spent":
        """Both after each other."""
        bounds = {**self.bound_s, **other.bound_s}
        return Spent(
            mac_s=self.mac_s + other.mac_s,
            vector_s=_sum(self.vector_s, other.vector_s),
            dram_s=_sum(self.dram_s, other.dram_s),
            link_s=_sum(self.link_s, other.link_s),
            hidden_s=self.hidden_s + other.hidden_s,
            launch_s=self.launch_s + other.launch_s,
            time_s=_sum(self.time_s, other.time_s),
            arithmetic_j=_sum(self.arithmetic_j, other.arithmetic_j),
            on_chip_j=_sum(self.on_chip_j, other.on_chip_j),
            dram_j=_sum(self.dram_j, other.dram_j),
            static_j=_sum(self.static_j, other.static_j),
            macs=self.macs + other.macs,
            vector_ops=self.vector_ops + other.vector_ops,
            dram_bits=self.dram_bits + other.dram_bits,
            bound_s={name: self.bound_s.get(name, 0.0) + other.bound_s.get(name, 0.0) for name in bounds},
            unsupported=self.unsupported | other.unsupported,
            upcast=self.upcast | other.upcast,
            unverified=self.unverified | other.unverified,
            lacks=self.lacks | other.lacks,
        )

    def __rmul__(self, times: int) -> "Spent":
        """So many times the same."""
        return Spent(
            mac_s=times * self.mac_s,
            vector_s=_times(times, self.vector_s),
            dram_s=_times(times, self.dram_s),
            link_s=_times(times, self.link_s),
            hidden_s=times * self.hidden_s,
            launch_s=times * self.launch_s,
            time_s=_times(times, self.time_s),
            arithmetic_j=_times(times, self.arithmetic_j),
            on_chip_j=_times(times, self.on_chip_j),
            dram_j=_times(times, self.dram_j),
            static_j=_times(times, self.static_j),
            macs=times * self.macs,
            vector_ops=times * self.vector_ops,
            dram_bits=times * self.dram_bits,
            bound_s={name: times * seconds for name, seconds in self.bound_s.items()},
            unsupported=self.unsupported,
            upcast=self.upcast,
            unverified=self.unverified,
            lacks=self.lacks,
        )

    def without_traffic(self, lacks: str) -> "Spent":
        """The same where what depends on DRAM traffic is not known, for the profile lacks something."""
        unknown = replace(self, dram_s=None, time_s=None, on_chip_j=None, dram_j=None, static_j=None)
        return replace(unknown, dram_bits=0, bound_s={}, lacks=self.lacks | {lacks})

    def exposed(self, seconds: float, static_w: float | None) -> "Spent":
        """The same where so much of its messages is hidden no more."""
        if not seconds or self.time_s is None:
            return self
        return replace(
            self,
            hidden_s=max(0.0, self.hidden_s - seconds),
            time_s=self.time_s + seconds,
            static_j=_sum(self.static_j, (static_w or 0.0) * seconds),
            bound_s={**self.bound_s, "link": self.bound_s.get("link", 0.0) + seconds},
        )


class Rates(dict[Pair, tuple[Rate, bool] | None]):
    """The multipliers that a device has for pairs of formats, looked up once each."""

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = hardware

    def __missing__(self, pair: Pair) -> tuple[Rate, bool] | None:
        chosen = self[pair] = pair_on(self.hardware, *pair)
        return chosen


class _Macs(NamedTuple):
    """What the MACs of a kernel take on a device."""

    macs: int = 0
    time_s: float = 0.0
    energy_j: float = 0.0  # 0 if the device has no energy table
    unsupported: frozenset[str] = frozenset()
    upcast: frozenset[tuple[str, str]] = frozenset()
    unverified: frozenset[str] = frozenset()


_NO_MACS = _Macs()


def _multiply(kernel: Kernel, hardware: Hardware, rates: Rates) -> _Macs:
    """The MACs of a kernel, each pair of formats at the rate of the multiplier that takes it."""
    rows = [row for row in kernel.rows if row.pair is not None and row.macs]
    if not rows:
        return _NO_MACS
    table = TABLES[hardware.energy_table] if hardware.energy_table else None
    macs, time_s, energy_j = 0, 0.0, 0.0
    unsupported, upcast, unverified = set(), set(), set()
    for row in rows:
        assert row.pair is not None
        macs += row.macs
        chosen = rates[row.pair]
        if chosen is None:
            unsupported.add(row.pair_name)
            continue
        rate, is_upcast = chosen
        if is_upcast:
            upcast.add((row.pair_name, rate.name))
        time_s += row.macs / (rate.mac_per_s * hardware.mac_part(row.macs / row.ops[0].times))
        if table:
            picojoules, scaled = mac_pj(table, rate.a, rate.b, rate.accumulator)
            energy_j += row.macs * picojoules * PICO
            unverified |= recalled(table, rate.a, rate.b, rate.accumulator) | (
                {f"a MAC of {rate.name}"} if scaled else set()
            )
    return _Macs(macs, time_s, energy_j, frozenset(unsupported), frozenset(upcast), frozenset(unverified))


class _Sent(NamedTuple):
    """What the messages of a kernel take; None where no link joins some ranks."""

    link_s: float | None = 0.0
    hidden_s: float = 0.0
    lacks: frozenset[str] = frozenset()


_NOTHING_SENT = _Sent()


def _send(kernel: Kernel, hardware: Hardware, hidden: frozenset[Axis]) -> _Sent:
    """The messages of a kernel, on the links that join their ranks."""
    messages = [message for row in kernel.rows for message in row.messages]
    if not messages:
        return _NOTHING_SENT
    link_s: float | None = 0.0
    hidden_s, lacks = 0.0, set()
    for message in messages:
        one_s = time_of(message, hardware.links)
        link_s = _sum(link_s, one_s)
        if one_s is None:
            lacks.add(f"links that join {message.ranks} ranks of {message.axis}")
        elif message.axis in hidden:
            hidden_s += one_s
    return _Sent(link_s, hidden_s, frozenset(lacks))


def _bound_of(multiplied_s: float, vector_s: float, dram_s: float, link_s: float) -> str:
    """What takes longest while a kernel is busy."""
    on_chip_s = multiplied_s + vector_s
    if link_s > max(on_chip_s, dram_s):
        return "link"
    return "dram" if dram_s > on_chip_s else "arithmetic" if multiplied_s >= vector_s else "vector"


def spend(
    kernel: Kernel,
    hardware: Hardware,
    overlap: bool = True,
    rates: Rates | None = None,
    hidden: frozenset[Axis] = frozenset(),
) -> Spent:
    """Time and energy of one such kernel, over all its runs in a step. `rates` are what was looked up before.

    Messages along `hidden` axes are in `link_s` and `hidden_s`, and not in the time.
    """
    multiplied = _multiply(kernel, hardware, Rates(hardware) if rates is None else rates)
    sent = _send(kernel, hardware, hidden)
    vector_ops = sum([sum(row.vector.values()) for row in kernel.rows])
    dram_bits = sum([move.read_bits + move.written_bits for row in kernel.rows for move in row.moves])
    vector_rate, bandwidth = hardware.vector_op_per_s, hardware.dram_bytes_per_s
    vector_s: float | None = 0.0
    if vector_ops:
        vector_s = vector_ops / (vector_rate * hardware.vector_efficiency) if vector_rate else None
    dram_s = dram_bits / 8 / (bandwidth * hardware.dram_efficiency) if bandwidth else None
    launch_s = hardware.launch_s * kernel.runs
    time_s, bound_s = None, {}
    if not multiplied.unsupported and dram_s is not None and vector_s is not None and sent.link_s is not None:
        shown_s = sent.link_s - sent.hidden_s
        parts_s = (multiplied.time_s + vector_s, dram_s, shown_s)
        busy_s = max(parts_s) if overlap else sum(parts_s)
        time_s = busy_s + launch_s
        bound_s = {"launch" if launch_s > busy_s else _bound_of(multiplied.time_s, vector_s, dram_s, shown_s): time_s}
    return Spent(
        mac_s=multiplied.time_s,
        vector_s=vector_s,
        dram_s=dram_s,
        link_s=sent.link_s,
        hidden_s=sent.hidden_s,
        launch_s=launch_s,
        time_s=time_s,
        **_energy(hardware, multiplied, vector_ops, dram_bits, time_s),
        macs=multiplied.macs,
        vector_ops=vector_ops,
        dram_bits=dram_bits,
        bound_s=bound_s,
        unsupported=multiplied.unsupported,
        upcast=multiplied.upcast,
        lacks=sent.lacks,
    )


class _Joules(TypedDict):
    """The energy of a kernel, as fields of Spent; messages are not in it."""

    arithmetic_j: float | None
    on_chip_j: float | None
    dram_j: float | None
    static_j: float | None
    unverified: frozenset[str]


def _energy(hardware: Hardware, multiplied: _Macs, vector_ops: int, dram_bits: int, time_s: float | None) -> _Joules:
    table, dram = TABLES.get(hardware.energy_table or ""), DRAM.get(hardware.memory)
    weak = {f"a bit of {hardware.memory}"} if dram and not dram.verified else set()
    return {
        "arithmetic_j": multiplied.energy_j + vector_ops * table.vector_op_pj * PICO if table else None,
        "on_chip_j": dram_bits * table.sram_pj_per_bit * PICO if table else None,
        "dram_j": dram_bits * dram.pj_per_bit * PICO if dram else None,
        "static_j": 0.0 if hardware.static_w is None else _times(hardware.static_w, time_s),
        "unverified": multiplied.unverified | weak,
    }
