"""Time, bound and energy of an op's kernel, step by step: the second way to the numbers of devices/roofline."""

from collections.abc import Sequence
from typing import NamedTuple

from costsim.cost.row import Row
from costsim.devices.energy import DRAM, PICO, TABLES, mac_pj
from costsim.devices.profile import Hardware, Rate, pair_on
from costsim.devices.roofline import Kernel
from costsim.explain.formula import Number, Part, Step, Term
from costsim.explain.links import link_time
from costsim.explain.measured import (
    MEASURED,
    Paces,
    measured_launches,
    measured_macs,
    measured_traffic,
    paces_of,
)
from costsim.explain.steps import Steps
from costsim.names import Axis
from costsim.run.timing import LACKS_BUFFER

_ROOFLINE = "a roofline; Williams et al., Roofline, CACM 2009"


class Hides(NamedTuple):
    """Messages along which axes hide behind the rest of the step, and what part of them finds no room there."""

    axes: frozenset[Axis]
    exposed: float


NOTHING_HIDES = Hides(frozenset(), 0.0)


def device_steps(
    kernel: Kernel, device: Hardware, overlap: bool, buffer_bytes: int | None = 0, hides: Hides = NOTHING_HIDES
) -> list[Step]:
    """Time, bound and energy of a kernel over all its runs in a step, on a device.

    `buffer_bytes` are those that traffic is tiled for, 0 if it is not; None: not known, so neither is traffic.
    """
    steps = Steps(device)
    vector_ops = sum(sum(row.vector.values()) for row in kernel.rows)
    moved = sum(move.read_bits + move.written_bits for row in kernel.rows for move in row.moves)
    dram_bits = None if buffer_bytes is None else moved
    if buffer_bytes:
        steps.add("buffer", [[Part("on chip", buffer_bytes)]], "byte", "traffic on the device is tiled for it")
    gemms = [(row, pair_on(device, *row.pair)) for row in kernel.rows if row.pair is not None and row.macs]
    fitting = [(row, chosen[0]) for row, chosen in gemms if chosen is not None]
    unsupported = sorted({row.pair_name for row, chosen in gemms if chosen is None})
    paces = paces_of(device, kernel)
    mac_s = _mac_time(steps, fitting, unsupported, paces)
    vector_s = _vector_time(steps, vector_ops) if paces is None else 0
    dram_s = (
        _dram_time(steps, dram_bits) if paces is None or dram_bits is None else measured_traffic(steps, kernel, paces)
    )
    others = {"DRAM time": dram_s}
    hidden: list[Number | None] = []
    for message in [message for row in kernel.rows for message in row.messages]:  # of a kernel one at most
        link_s = link_time(steps, message)
        if message.axis in hides.axes:
            hidden.append(link_s)
        else:
            others["link time"] = link_s
    arithmetic = {"MAC time": mac_s, "vector time": vector_s}
    time_s, bound = _time(steps, arithmetic, others, kernel.runs, overlap and paces is None, paces)
    for link_s in hidden:
        time_s, bound = _with_exposed(steps, time_s, bound, link_s, hides.exposed)
    names = ("MAC", "vector", "DRAM", *(["link"] if hidden or "link time" in others else []), "launch")
    source = "what takes longest of " + ", ".join(f"{name} time" for name in names)
    steps.listed.append(Step(f"{device.name}, bound", "", "", bound, "", source))
    multiplied = None if unsupported else [(row.macs, rate) for row, rate in fitting]
    joules = {**_on_chip_energy(steps, multiplied, vector_ops, dram_bits), **_dram_energy(steps, dram_bits)}
    if device.static_w is not None:
        joules["static energy"] = _static_energy(steps, device.static_w, time_s)
    steps.add_sum("energy", joules, "J", "of all runs in a step")
    return steps.listed


def _static_energy(steps: Steps, static_w: float, time_s: Number | None) -> Number | None:
    if time_s is None:
        return steps.add_unknown("static energy", "time * W", "J", "the time is not known")
    return steps.add("static energy", [[Part("time", time_s), Part("W", static_w)]], "J", steps.source("static_w"))


def _mac_time(
    steps: Steps, gemms: Sequence[tuple[Row, Rate]], unsupported: list[str], paces: Paces | None
) -> Number | None:
    """Seconds of the GEMMs, each at that part of its multiplier's rate that a GEMM of its size reaches, or measured."""
    if unsupported:
        why = f"unsupported: no multiplier takes {', '.join(unsupported)}"
        return steps.add_unknown("MAC time", "MACs / (MAC/s)", "s", why)
    if paces is not None:
        return measured_macs(steps, gemms, paces)
    terms, sources = [], []
    for row, rate in gemms:
        reached = steps.device.mac_part(row.macs / row.ops[0].times)
        part = [Part("part reached", reached, under=True)] if reached != 1 else []
        terms.append([Part("MACs", row.macs), Part("MAC/s", rate.mac_per_s, under=True), *part])
        sources.append(f"{row.pair_name} runs on {rate.name}: {rate.source}")
    return steps.add("MAC time", terms, "s", "; ".join(dict.fromkeys(sources)) or "no MACs")


def _vector_time(steps: Steps, vector_ops: int) -> Number | None:
    device = steps.device
    if not vector_ops:
        return steps.add("vector time", [], "s", "no operations on elements")
    if device.vector_op_per_s is None:
        return steps.add_unknown("vector time", "vector operations / (op/s)", "s", "the profile has no vector_op_per_s")
    part = [Part("part reached", device.vector_efficiency, under=True)] if device.vector_efficiency != 1 else []
    term = [Part("vector operations", vector_ops), Part("op/s", device.vector_op_per_s, under=True), *part]
    return steps.add("vector time", [term], "s", steps.source("vector_op_per_s", "efficiency.vector"))


def _dram_time(steps: Steps, dram_bits: int | None) -> Number | None:
    device = steps.device
    lacks = "dram_bytes_per_s" if device.dram_bytes_per_s is None else LACKS_BUFFER if dram_bits is None else ""
    if device.dram_bytes_per_s is None or dram_bits is None:
        return steps.add_unknown("DRAM time", "DRAM bits / 8 / (byte/s)", "s", f"the profile has no {lacks}")
    part = [Part("part reached", device.dram_efficiency, under=True)] if device.dram_efficiency != 1 else []
    bits = [Part("DRAM bits", dram_bits), Part("bit/byte", 8, under=True)]
    term = [*bits, Part("byte/s", device.dram_bytes_per_s, under=True), *part]
    return steps.add("DRAM time", [term], "s", steps.source("dram_bytes_per_s", "efficiency.dram"))


def _with_exposed(
    steps: Steps, time_s: Number | None, bound: str, link_s: Number | None, share: float
) -> tuple[Number | None, str]:
    """Seconds and bound of a kernel with that part of its messages which the rest of the step does not hide."""
    if link_s is None or time_s is None:
        lacking = "link time" if link_s is None else "time"
        return steps.add_unknown("time in all", "time + link time * share", "s", f"{lacking} is not known"), "n/a"
    why = "messages hide behind the rest of the step; the share that finds no room there is the same for all"
    exposed_s = steps.add("exposed time", [[Part("link time", link_s), Part("share", share)]], "s", why)
    parts: dict[str, Number | None] = {"time": time_s, "exposed time": exposed_s}
    return steps.add_sum("time in all", parts, "s", "of all runs in a step"), "link" if exposed_s > time_s else bound


def _time(
    steps: Steps,
    arithmetic: dict[str, Number | None],
    others: dict[str, Number | None],
    times: int,
    overlap: bool,
    paces: Paces | None,
) -> tuple[Number | None, str]:
    """Seconds of a kernel: the longest of arithmetic, DRAM traffic and messages, or their sum; launches. Its bound."""
    device = steps.device
    launch_s: Number = 0
    if paces is not None:
        launch_s = measured_launches(steps, paces, times)
    elif device.launch_s:
        term = [Part("s a launch", device.launch_s), *([Part("runs", times)] if times != 1 else [])]
        launch_s = steps.add("launch time", [term], "s", steps.source("launch_s"))
    else:
        steps.add("launch time", [], "s", f"profile {device.name} has no launch_s")
    on_chip_s = steps.add_sum("arithmetic time", arithmetic, "s", "operations on elements run after the MACs")
    parts = {"arithmetic time": on_chip_s, **others}
    way = "overlaps with" if overlap else "does not overlap with"
    what = "DRAM traffic and messages" if "link time" in others else "DRAM traffic"
    source = MEASURED if paces is not None else f"{_ROOFLINE}; arithmetic {way} {what}"
    busy_s = steps.add_sum("busy time", parts, "s", source, overlap)
    time_s = steps.add_sum("time", {"busy time": busy_s, "launch time": launch_s}, "s", "of all runs in a step")
    dram_s, link_s = others["DRAM time"], others.get("link time", 0)
    if busy_s is None or on_chip_s is None or dram_s is None or link_s is None:
        return time_s, "unsupported" if arithmetic["MAC time"] is None else "n/a"
    if launch_s > busy_s:
        return time_s, "launch"
    if link_s > max(on_chip_s, dram_s):
        return time_s, "link"
    if dram_s > on_chip_s:
        return time_s, "dram"
    return time_s, "arithmetic" if (arithmetic["MAC time"] or 0) >= (arithmetic["vector time"] or 0) else "vector"


def _on_chip_energy(
    steps: Steps, gemms: list[tuple[int, Rate]] | None, vector_ops: int, dram_bits: int | None
) -> dict[str, Number | None]:
    """Joules of arithmetic and of the buffer that all DRAM traffic goes through; without `gemms` none is known."""
    table = TABLES.get(steps.device.energy_table or "")
    if table is None or gemms is None:
        why = "the profile names no energy_table" if table is None else "a pair of formats is unsupported"
        names = ("arithmetic energy", "buffer energy")
        return {name: steps.add_unknown(name, "operations * pJ", "J", why) for name in names}
    terms: list[Term] = []
    for macs, rate in gemms:
        picojoules = mac_pj(table, rate.a, rate.b, rate.accumulator)[0]
        terms.append([Part("MACs", macs), Part(f"pJ of {rate.name}", picojoules), Part("J/pJ", PICO)])
    if vector_ops:
        each = Part("pJ each", table.vector_op_pj)
        terms.append([Part("vector operations", vector_ops), each, Part("J/pJ", PICO)])
    arithmetic = steps.add("arithmetic energy", terms, "J", table.source)
    through = _bits(steps, "buffer energy", dram_bits, table.sram_pj_per_bit, table.source)
    return {"arithmetic energy": arithmetic, "buffer energy": through}


def _bits(steps: Steps, name: str, bits: int | None, picojoules: float, source: str) -> Number | None:
    """Joules of bits that cost so many picojoules each."""
    if bits is None:
        return steps.add_unknown(name, "DRAM bits * pJ/bit", "J", f"the profile has no {LACKS_BUFFER}")
    term = [Part("DRAM bits", bits), Part("pJ/bit", picojoules), Part("J/pJ", PICO)]
    return steps.add(name, [term], "J", source)


def _dram_energy(steps: Steps, dram_bits: int | None) -> dict[str, Number | None]:
    memory = steps.device.memory
    name, dram = "DRAM energy", DRAM.get(memory)
    if dram is None:
        return {name: steps.add_unknown(name, "DRAM bits * pJ/bit", "J", f"no figure for {memory}")}
    return {name: _bits(steps, name, dram_bits, dram.pj_per_bit, f"{memory}: {dram.source}")}
