"""Time, bound and energy of an op's kernel, step by step: the second way to the numbers of devices/roofline."""

from collections.abc import Sequence

from costsim.cost.row import Row
from costsim.devices.energy import DRAM, PICO, TABLES, mac_pj
from costsim.devices.profile import Hardware, Rate, pair_on
from costsim.devices.roofline import Kernel
from costsim.explain.formula import Number, Part, Step, Term, undefined, worked
from costsim.run.timing import LACKS_BUFFER

_ROOFLINE = "a roofline; Williams et al., Roofline, CACM 2009"


class _Steps:
    """Collects the steps of one kernel on one device; a number that is not known is None, as are those made of it."""

    def __init__(self, device: Hardware) -> None:
        self.device = device
        self.listed: list[Step] = []

    def source(self, *figures: str) -> str:
        """Where figures of the profile come from, as far as it says."""
        sources = [f"{name}: {self.device.source[name]}" for name in figures if name in self.device.source]
        return "; ".join(sources) or f"profile {self.device.name}"

    def add(self, what: str, terms: Sequence[Term], unit: str, source: str, largest: bool = False) -> Number:
        """Add a number and return it."""
        step = worked(f"{self.device.name}, {what}", terms, unit, source, largest)
        self.listed.append(step)
        assert isinstance(step.result, (int, float))
        return step.result

    def add_unknown(self, what: str, formula: str, unit: str, why: str) -> Number | None:
        """Add a number that is not known: None."""
        self.listed.append(undefined(f"{self.device.name}, {what}", formula, unit, why))
        return None

    def add_sum(
        self, what: str, parts: dict[str, Number | None], unit: str, source: str, largest: bool = False
    ) -> Number | None:
        """Add a sum (or the largest) of numbers, if all are known."""
        lacking = [name for name, value in parts.items() if value is None]
        if lacking:
            return self.add_unknown(what, " + ".join(parts), unit, f"{', '.join(lacking)} is not known")
        return self.add(what, [[Part(name, value or 0)] for name, value in parts.items()], unit, source, largest)


def device_steps(kernel: Kernel, device: Hardware, overlap: bool, buffer_bytes: int | None = 0) -> list[Step]:
    """Time, bound and energy of a kernel over all its runs in a step, on a device.

    `buffer_bytes` are those that traffic is tiled for, 0 if it is not; None: not known, so neither is traffic.
    """
    steps = _Steps(device)
    vector_ops = sum(sum(row.vector.values()) for row in kernel.rows)
    moved = sum(move.read_bits + move.written_bits for row in kernel.rows for move in row.moves)
    dram_bits = None if buffer_bytes is None else moved
    if buffer_bytes:
        steps.add("buffer", [[Part("on chip", buffer_bytes)]], "byte", "traffic on the device is tiled for it")
    gemms = [(row, pair_on(device, *row.pair)) for row in kernel.rows if row.pair is not None and row.macs]
    fitting = [(row, chosen[0]) for row, chosen in gemms if chosen is not None]
    unsupported = sorted({row.pair_name for row, chosen in gemms if chosen is None})
    mac_s = _mac_time(steps, fitting, unsupported)
    vector_s = _vector_time(steps, vector_ops)
    dram_s = _dram_time(steps, dram_bits)
    time_s = _time(steps, {"MAC time": mac_s, "vector time": vector_s}, dram_s, kernel.runs, overlap)
    multiplied = None if unsupported else [(row.macs, rate) for row, rate in fitting]
    joules = {**_on_chip_energy(steps, multiplied, vector_ops, dram_bits), **_dram_energy(steps, dram_bits)}
    if device.static_w is not None:
        terms = None if time_s is None else [[Part("time", time_s), Part("W", device.static_w)]]
        joules["static energy"] = (
            steps.add_unknown("static energy", "time * W", "J", "the time is not known")
            if terms is None
            else steps.add("static energy", terms, "J", steps.source("static_w"))
        )
    steps.add_sum("energy", joules, "J", "of all runs in a step")
    return steps.listed


def _mac_time(steps: _Steps, gemms: Sequence[tuple[Row, Rate]], unsupported: list[str]) -> Number | None:
    """Seconds of the GEMMs, each at that part of its multiplier's rate that a GEMM of its size reaches."""
    if unsupported:
        why = f"unsupported: no multiplier takes {', '.join(unsupported)}"
        return steps.add_unknown("MAC time", "MACs / (MAC/s)", "s", why)
    terms, sources = [], []
    for row, rate in gemms:
        reached = steps.device.mac_part(row.macs / row.ops[0].times)
        part = [Part("part reached", reached, under=True)] if reached != 1 else []
        terms.append([Part("MACs", row.macs), Part("MAC/s", rate.mac_per_s, under=True), *part])
        sources.append(f"{row.pair_name} runs on {rate.name}: {rate.source}")
    return steps.add("MAC time", terms, "s", "; ".join(dict.fromkeys(sources)) or "no MACs")


def _vector_time(steps: _Steps, vector_ops: int) -> Number | None:
    device = steps.device
    if not vector_ops:
        return steps.add("vector time", [], "s", "no operations on elements")
    if device.vector_op_per_s is None:
        return steps.add_unknown("vector time", "vector operations / (op/s)", "s", "the profile has no vector_op_per_s")
    part = [Part("part reached", device.vector_efficiency, under=True)] if device.vector_efficiency != 1 else []
    term = [Part("vector operations", vector_ops), Part("op/s", device.vector_op_per_s, under=True), *part]
    return steps.add("vector time", [term], "s", steps.source("vector_op_per_s", "efficiency.vector"))


def _dram_time(steps: _Steps, dram_bits: int | None) -> Number | None:
    device = steps.device
    lacks = "dram_bytes_per_s" if device.dram_bytes_per_s is None else LACKS_BUFFER if dram_bits is None else ""
    if device.dram_bytes_per_s is None or dram_bits is None:
        return steps.add_unknown("DRAM time", "DRAM bits / 8 / (byte/s)", "s", f"the profile has no {lacks}")
    part = [Part("part reached", device.dram_efficiency, under=True)] if device.dram_efficiency != 1 else []
    bits = [Part("DRAM bits", dram_bits), Part("bit/byte", 8, under=True)]
    term = [*bits, Part("byte/s", device.dram_bytes_per_s, under=True), *part]
    return steps.add("DRAM time", [term], "s", steps.source("dram_bytes_per_s", "efficiency.dram"))


def _time(
    steps: _Steps, arithmetic: dict[str, Number | None], dram_s: Number | None, times: int, overlap: bool
) -> Number | None:
    """Seconds of a kernel: the longer of arithmetic and DRAM traffic, or their sum, and launches. Adds the bound."""
    device = steps.device
    launch_s: Number = 0
    if device.launch_s:
        term = [Part("s a launch", device.launch_s), *([Part("runs", times)] if times != 1 else [])]
        launch_s = steps.add("launch time", [term], "s", steps.source("launch_s"))
    else:
        steps.add("launch time", [], "s", f"profile {device.name} has no launch_s")
    on_chip_s = steps.add_sum("arithmetic time", arithmetic, "s", "operations on elements run after the MACs")
    both = {"arithmetic time": on_chip_s, "DRAM time": dram_s}
    way = "overlaps with" if overlap else "does not overlap with"
    busy_s = steps.add_sum("busy time", both, "s", f"{_ROOFLINE}; arithmetic {way} DRAM traffic", overlap)
    time_s = steps.add_sum("time", {"busy time": busy_s, "launch time": launch_s}, "s", "of all runs in a step")
    if busy_s is None or on_chip_s is None or dram_s is None:
        bound = "unsupported" if arithmetic["MAC time"] is None else "n/a"
    elif launch_s > busy_s:
        bound = "launch"
    elif dram_s > on_chip_s:
        bound = "dram"
    else:
        bound = "arithmetic" if (arithmetic["MAC time"] or 0) >= (arithmetic["vector time"] or 0) else "vector"
    source = "what takes longest of " + ", ".join(f"{name} time" for name in ("MAC", "vector", "DRAM", "launch"))
    steps.listed.append(Step(f"{device.name}, bound", "", "", bound, "", source))
    return time_s


def _on_chip_energy(
    steps: _Steps, gemms: list[tuple[int, Rate]] | None, vector_ops: int, dram_bits: int | None
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


def _bits(steps: _Steps, name: str, bits: int | None, picojoules: float, source: str) -> Number | None:
    """Joules of bits that cost so many picojoules each."""
    if bits is None:
        return steps.add_unknown(name, "DRAM bits * pJ/bit", "J", f"the profile has no {LACKS_BUFFER}")
    term = [Part("DRAM bits", bits), Part("pJ/bit", picojoules), Part("J/pJ", PICO)]
    return steps.add(name, [term], "J", source)


def _dram_energy(steps: _Steps, dram_bits: int | None) -> dict[str, Number | None]:
    memory = steps.device.memory
    name, dram = "DRAM energy", DRAM.get(memory)
    if dram is None:
        return {name: steps.add_unknown(name, "DRAM bits * pJ/bit", "J", f"no figure for {memory}")}
    return {name: _bits(steps, name, dram_bits, dram.pj_per_bit, f"{memory}: {dram.source}")}
