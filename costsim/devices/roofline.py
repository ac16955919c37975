"""Time, bound and energy of counted ops on a device: a roofline for each kernel.

A kernel takes as long as its arithmetic, its DRAM traffic or what it sends to other ranks, whichever is longest, or all
after each other if they do not overlap. Its MACs run at the rate of the pair of formats that the device has for them,
its operations on elements at the vector rate after them. Messages may hide behind the rest of a step; then a kernel
takes no time for them until the whole step is known (`exposed`). Where the kinds of its ops were measured, it takes
what they took in place of a roofline (`measured`). Floats begin here: all before are exact integers.
Source: Williams et al., Roofline, CACM 2009.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

from costsim.cost.parts import cast_times
from costsim.cost.row import Row, each_op
from costsim.devices.energy import DRAM, PICO, TABLES, mac_pj, recalled
from costsim.devices.links import time_of
from costsim.devices.measured import QUANTIZE, Pace, bits_of, elements_of, measured_cast, measured_kind
from costsim.devices.profile import Hardware, Rate, pair_on
from costsim.devices.spent import Spent, plus, product
from costsim.formats.format import Format
from costsim.formats.named import parse_format
from costsim.graph.fusion import group_ops, grouping
from costsim.graph.graph import Graph, Op
from costsim.names import Axis, Traffic
from costsim.policy.assign import Copy

Pair = tuple[Format, Format, Format]
_FP32 = parse_format("fp32")
_PLAIN: Pair = (_FP32, _FP32, _FP32)


class Kernel(NamedTuple):
    """What one kernel does in a step, and how many of a step do the same."""

    first: tuple[Row, Op]  # what names it: its first op
    rows: tuple[Row, ...]
    number: int
    runs: int  # of each in a step
    graph: Graph


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
        Kernel((rows[part[0]], op), tuple([rows[i] for i in part]), number, _runs(graph, rows[part[0]], op), graph)
        for op, part, number in named
    ]


def _runs(graph: Graph, row: Row, op: Op) -> int:
    """How often a kernel runs in a step: as its op, or as what a quantize kernel reads changes."""
    if row.cast is None or row.cast.copy is None:
        return op.times
    return cast_times(graph, op, op.inputs[row.cast.slot], row.cast.copy)


class Rates(dict[Pair, tuple[Rate, bool] | None]):
    """The multipliers that a device has for pairs of formats, looked up once each, and what of it was measured."""

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = hardware
        self.kernels = dict(hardware.kernels)

    def __missing__(self, pair: Pair) -> tuple[Rate, bool] | None:
        chosen = self[pair] = pair_on(self.hardware, *pair)
        return chosen

    def paces(self, graph: Graph, ops: Sequence[Op]) -> tuple[Pace, ...] | None:
        """What one run of each op of a kernel takes; None if the kind of one was not measured."""
        if not self.kernels:
            return None
        paces = []
        for op in ops:
            times = measured_kind(op, self.kernels)
            if times is None:
                return None
            elements = elements_of(graph, op)
            paces.append(times.pace(elements, bits_of(graph, op, elements)))
        return tuple(paces)

    def mac_s(self, rate: Rate, macs: int, runs: int, pace: Pace | None) -> float:
        """Seconds of a MAC of so many over all runs of a GEMM, on a multiplier.

        What was measured in fp32 is as much faster in other formats as their rate is than that of fp32.
        """
        if pace is None:
            return 1 / (rate.mac_per_s * self.hardware.mac_part(macs / runs))
        chosen = self[_PLAIN]
        return pace.mac_s * (chosen[0].mac_per_s / rate.mac_per_s if chosen else 1.0)


class _Macs(NamedTuple):
    """What the MACs of a kernel take on a device."""

    macs: int = 0
    time_s: float = 0.0
    energy_j: float = 0.0  # 0 if the device has no energy table
    unsupported: frozenset[str] = frozenset()
    upcast: frozenset[tuple[str, str]] = frozenset()
    unverified: frozenset[str] = frozenset()


_NO_MACS = _Macs()


def _multiply(kernel: Kernel, hardware: Hardware, rates: Rates, paces: Sequence[Pace | None]) -> _Macs:
    """The MACs of a kernel, each pair of formats at the rate of the multiplier that takes it."""
    rows = [(row, pace) for row, pace in zip(kernel.rows, paces, strict=True) if row.pair is not None and row.macs]
    if not rows:
        return _NO_MACS
    table = TABLES[hardware.energy_table] if hardware.energy_table else None
    macs, time_s, energy_j = 0, 0.0, 0.0
    unsupported, upcast, unverified = set(), set(), set()
    for row, pace in rows:
        assert row.pair is not None
        macs += row.macs
        chosen = rates[row.pair]
        if chosen is None:
            unsupported.add(row.pair_name)
            continue
        rate, is_upcast = chosen
        if is_upcast:
            upcast.add((row.pair_name, rate.name))
        time_s += row.macs * rates.mac_s(rate, row.macs, row.ops[0].times, pace)
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
        link_s = plus(link_s, one_s)
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
    rates = Rates(hardware) if rates is None else rates
    paces = _paces(kernel, rates)
    multiplied = _multiply(kernel, hardware, rates, paces or [None] * len(kernel.rows))
    sent = _send(kernel, hardware, hidden)
    vector_ops = sum([sum(row.vector.values()) for row in kernel.rows])
    dram_bits = sum([_bits(row) for row in kernel.rows])
    vector_s, dram_s, launch_s = _moving(kernel, hardware, paces, vector_ops, dram_bits)
    time_s, bound_s = None, {}
    if not multiplied.unsupported and dram_s is not None and vector_s is not None and sent.link_s is not None:
        shown_s = sent.link_s - sent.hidden_s
        parts_s = (multiplied.time_s + vector_s, dram_s, shown_s)
        busy_s = max(parts_s) if overlap and paces is None else sum(parts_s)
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
        spread_s=(time_s or 0.0) * max((pace.spread for pace in paces or ()), default=0.0),
        not_measured=_left_out(kernel, rates) if rates.kernels and paces is None else frozenset(),
    )


def _bits(row: Row) -> int:
    return sum([move.read_bits + move.written_bits for move in row.moves])


def _copy_made(kernel: Kernel) -> Copy | None:
    """What a quantize kernel makes, which is one row; None: a kernel is of the graph's ops."""
    cast = kernel.rows[0].cast
    return cast.copy if cast is not None else None


def _paces(kernel: Kernel, rates: Rates) -> tuple[Pace, ...] | None:
    """What one run of each row of a kernel takes; None if the kind of one was not measured."""
    cast = kernel.rows[0].cast
    if cast is None or cast.copy is None:
        return rates.paces(kernel.graph, [row.ops[0] for row in kernel.rows])
    times, elements = measured_cast(cast.copy, rates.kernels), cast.elements // kernel.runs
    return None if times is None else (times.pace((elements, elements), _bits(kernel.rows[0]) // kernel.runs),)


def _left_out(kernel: Kernel, rates: Rates) -> frozenset[str]:
    """The kinds of a kernel that were not measured."""
    copy = _copy_made(kernel)
    if copy is not None:
        return frozenset({f"{QUANTIZE}{copy.format.name}"})
    return frozenset(row.kind for row in kernel.rows if measured_kind(row.ops[0], rates.kernels) is None)


def _moving(
    kernel: Kernel, hardware: Hardware, paces: Sequence[Pace] | None, vector_ops: int, dram_bits: int
) -> tuple[float | None, float | None, float]:
    """Seconds of a kernel's operations on elements, of its traffic, and of its launches; None: not known.

    Of kinds that were measured, operations are in the traffic's time.
    """
    if paces is not None:
        launch_s = kernel.runs * max(pace.launch_s for pace in paces)
        return 0.0, sum(_bits(row) * pace.bit_s for row, pace in zip(kernel.rows, paces, strict=True)), launch_s
    vector_rate, bandwidth = hardware.vector_op_per_s, hardware.dram_bytes_per_s
    vector_s: float | None = 0.0
    if vector_ops:
        vector_s = vector_ops / (vector_rate * hardware.vector_efficiency) if vector_rate else None
    dram_s = dram_bits / 8 / (bandwidth * hardware.dram_efficiency) if bandwidth else None
    return vector_s, dram_s, hardware.launch_s * kernel.runs


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
        "static_j": 0.0 if hardware.static_w is None else product(hardware.static_w, time_s),
        "unverified": multiplied.unverified | weak,
    }
