"""Time of a kernel whose kinds were measured on a device, step by step: the second way to devices/measured."""

from collections.abc import Mapping, Sequence

from costsim.cost.row import Row
from costsim.devices.measured import KernelTimes, bits_of, elements_of, measured_cast, measured_kind
from costsim.devices.profile import Hardware, Rate, pair_on
from costsim.devices.roofline import Kernel
from costsim.explain.formula import Number, Part
from costsim.explain.steps import Steps
from costsim.formats.named import parse_format

MEASURED = "kernels of these kinds were measured by themselves; what overlaps in them is in that"
# By row: times of its kind, elements of operands and results, and how many bits these were when it was measured, which
# is 0 where nothing hangs on it: of a quantize kernel.
Paces = Mapping[int, tuple[KernelTimes, tuple[int, ...], int]]


def paces_of(device: Hardware, kernel: Kernel) -> Paces | None:
    """What was measured of each row's kind; None if the profile lacks one of them."""
    kinds, graph = dict(device.kernels), kernel.graph
    found = {}
    for row in kernel.rows:
        op, copy = row.ops[0], row.cast and row.cast.copy
        times = measured_kind(op, kinds) if copy is None else measured_cast(copy, kinds)
        if times is None:
            return None
        if copy is None:
            elements = elements_of(graph, op)
            found[id(row)] = times, elements, bits_of(graph, op, elements)
        else:
            found[id(row)] = times, 2 * (graph.elements(graph.tensors[row.result(op)].dims),), 0
    return found


def measured_macs(steps: Steps, gemms: Sequence[tuple[Row, Rate]], paces: Paces) -> Number:
    """Seconds of the MACs: what one took in fp32, by the rates of both multipliers."""
    plain = pair_on(steps.device, *[parse_format("fp32")] * 3)
    terms, sources = [], []
    for row, rate in gemms:
        part = [Part("MACs", row.macs), Part("s/MAC in fp32", paces[id(row)][0].mac_s)]
        if plain is not None:
            part += [Part("MAC/s in fp32", plain[0].mac_per_s), Part("MAC/s", rate.mac_per_s, under=True)]
        terms.append(part)
        sources.append(f"{row.pair_name} runs on {rate.name}: {rate.source}")
    return steps.add("MAC time", terms, "s", "; ".join(dict.fromkeys(sources)) or "no MACs")


def measured_traffic(steps: Steps, kernel: Kernel, paces: Paces) -> Number:
    """Seconds of the traffic: what as much took in fp32, by the bits that it is of those."""
    terms = []
    for row in kernel.rows:
        times, elements, measured_bits = paces[id(row)]
        bits = sum(move.read_bits + move.written_bits for move in row.moves)
        if row.cast is not None:
            terms.append([Part("runs", kernel.runs), Part("s a run, from fp32", times.memory_s(elements))])
        elif measured_bits:
            plain = Part("bits in fp32", measured_bits, under=True)
            terms.append([Part("DRAM bits", bits), Part("s in fp32", times.memory_s(elements)), plain])
    return steps.add("DRAM time", terms, "s", "operations on elements are in it")


def measured_launches(steps: Steps, paces: Paces, runs: int) -> Number:
    """Seconds of the launches: of several ops in a kernel the longest."""
    longest = max(times.launch_s for times, _, _ in paces.values())
    term = [Part("s a launch", longest), *([Part("runs", runs)] if runs != 1 else [])]
    return steps.add("launch time", [term], "s", "of a kernel however small")
