"""A checked hardware profile as plain data, and which of its multipliers a pair of formats runs on."""

import math
from bisect import bisect_left
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

from costsim.devices import check
from costsim.devices.links import Link
from costsim.devices.measured import KernelTimes
from costsim.errors import InputError, UnreadError, apart, refuse
from costsim.formats.format import Format, holds
from costsim.formats.named import parse_format
from costsim.inputs import files, schema, schema_hardware
from costsim.inputs.document import Document, Where
from costsim.inputs.parse import parse_yaml
from costsim.inputs.sorts import check_sort
from costsim.notebook import card

BIT_SERIAL_SHOWN = (4, 8, 16)  # widths that stand for all where the rates of a bit-serial device are listed


@dataclass(frozen=True, slots=True)
class Rate:
    """MACs a second of one triple of formats; either order of the operands is meant."""

    a: Format
    b: Format
    accumulator: Format
    mac_per_s: int
    verified: bool
    source: str

    @property
    def name(self) -> str:
        """The formats, for tables."""
        return f"{self.a.name} x {self.b.name} + {self.accumulator.name}"


@dataclass(frozen=True, slots=True)
class BitSerial:
    """A multiplier that takes A x B cycles for a MAC of A by B bits, of integers only."""

    bit_product_per_s: int
    accumulator: Format
    verified: bool
    source: str

    def rate(self, a_bits: int, b_bits: int) -> Rate:
        """The rate of a pair of widths, rounded down to whole MACs a second."""
        a, b = parse_format(f"int{a_bits}"), parse_format(f"int{b_bits}")
        return Rate(a, b, self.accumulator, self.bit_product_per_s // (a_bits * b_bits), self.verified, self.source)


@dataclass(frozen=True, slots=True)
class Hardware:
    """A device, and what joins it to others. Peaks are as printed; an efficiency is the part that is reached.

    None: not known. `source` has the text of every figure's source by field, with note and disagreement; `unverified`
    names the fields whose figures nobody has looked up.
    """

    name: str
    description: str
    memory: str
    rates: tuple[Rate, ...]
    bit_serial: BitSerial | None
    vector_op_per_s: int | None
    dram_bytes_per_s: int | None
    dram_bytes: int | None
    on_chip_bytes: int | None
    launch_s: float
    static_w: float | None
    tdp_w: float | None
    node_nm: float | None
    year: int | None
    energy_table: str | None
    mac_efficiency: float
    vector_efficiency: float
    dram_efficiency: float
    gemm_efficiency: tuple[tuple[int, float], ...]  # MACs of a GEMM, rising, and what part of the peak it reaches
    kernels: tuple[tuple[str, KernelTimes], ...]  # by kind: what was measured of each, in place of a roofline
    links: tuple[Link, ...]  # to devices of the same kind, from the innermost on
    unverified: frozenset[str]
    source: Mapping[str, str] = field(compare=False)

    def __repr__(self) -> str:
        return f"Hardware({self.name!r})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the figures, and what nobody has looked up."""
        rates = [f"{rate.name} {rate.mac_per_s / 1e12:.4g}" for rate in self.shown_rates]
        links = [f"{link.name} {link.bytes_per_s / 1e9:.4g}" for link in self.links]
        rows = {
            "description": self.description,
            "TMAC/s": rates,
            "memory": self.memory,
            "DRAM, GB": self.dram_bytes and self.dram_bytes / 1e9,
            "DRAM, GB/s": self.dram_bytes_per_s and self.dram_bytes_per_s / 1e9,
            "on chip, MB": self.on_chip_bytes and self.on_chip_bytes / 1e6,
            "links, GB/s": links,
            "unverified": sorted(self.unverified),
        }
        return card("hardware", self.name, rows)

    def mac_part(self, macs: float) -> float:
        """The part of a rate that a GEMM of so many MACs a run reaches: `mac_efficiency` times that of its size.

        Between the sizes that the profile has, linear in the logarithm of the MACs; beyond them, that of the last.
        """
        curve = self.gemm_efficiency
        if not curve:
            return self.mac_efficiency
        above = bisect_left(curve, (macs, 0.0))
        if above in (0, len(curve)):
            return self.mac_efficiency * curve[min(above, len(curve) - 1)][1]
        (less, low), (more, high) = curve[above - 1], curve[above]
        return self.mac_efficiency * (low + (high - low) * math.log(macs / less) / math.log(more / less))

    @property
    def shown_rates(self) -> tuple[Rate, ...]:
        """The rates to list and to plot: a bit-serial device has one for any two widths, here a few equal ones."""
        serial = self.bit_serial
        return self.rates + (tuple(serial.rate(bits, bits) for bits in BIT_SERIAL_SHOWN) if serial else ())


def load_hardware(name: str, named_by: Document | None = None, at: Where = ()) -> Hardware:
    """The device of a profile: a path, or a shipped name with or without .yaml.

    Raises InputError for a file that cannot be read, is of another schema version, or for all that is wrong in it; if
    there is none, at the field of the document that names it.
    """
    try:
        path = files.find(name, "hardware_profiles", "hardware profile")
    except InputError as error:
        raise named_by.error(at, str(error)) if named_by else error from None
    return _load(path, ())


def _load(path: Path, within: tuple[Path, ...]) -> Hardware:
    """The device of a file, which clusters of other files may be made of."""
    document = parse_yaml(files.read_text(path), str(path))
    check_sort("hardware profile", str(path), document.data)
    check.check_version(document)
    if schema_hardware.section_of(document.data) is schema_hardware.Cluster:
        return _cluster(document, path, within)
    file, errors = schema.read(schema_hardware.Hardware, document)
    checks = (check.energy_table, check.sources, check.second_rates, check.falling_sizes, check.kernels, check.links)
    refuse([*errors, *apart(*(partial(each, document, file) for each in checks))])
    return Hardware(
        name=path.stem,
        description=file.description,
        memory=file.memory,
        rates=tuple(_rate(file, given) for given in file.rates),
        bit_serial=_bit_serial(file),
        vector_op_per_s=_whole(file.vector_op_per_s),
        dram_bytes_per_s=_whole(file.dram_bytes_per_s),
        dram_bytes=_whole(file.dram_bytes),
        on_chip_bytes=_whole(file.on_chip_bytes),
        launch_s=_number(file.launch_s) or 0.0,
        static_w=_number(file.static_w),
        tdp_w=_number(file.tdp_w),
        node_nm=_number(file.node_nm),
        year=_whole(file.year),
        energy_table=file.energy_table,
        mac_efficiency=_number(file.efficiency.mac) or 1.0,
        vector_efficiency=_number(file.efficiency.vector) or 1.0,
        dram_efficiency=_number(file.efficiency.dram) or 1.0,
        gemm_efficiency=tuple((point.macs, point.value) for point in file.gemm_efficiency),
        kernels=tuple((given.kind, _times(given)) for given in file.kernels),
        links=tuple(map(_link, file.links)),
        unverified=frozenset(check.dotted(at) for at, figure in check.figures(file) if not figure.verified),
        source={check.dotted(at): _source(file, figure) for at, figure in check.figures(file)},
    )


def _cluster(document: Document, path: Path, within: tuple[Path, ...]) -> Hardware:
    """The device of another profile, joined by the links of that and then of this one.

    Raises InputError for all that is wrong, in the profile of the device too.
    """
    file, errors = schema.read(schema_hardware.Cluster, document)
    devices = []
    try:
        with suppress(UnreadError):
            devices.append(_device(document, file.device, path, within))
    except InputError as error:
        errors.append(error)
    before = devices[0].links if devices else ()
    refuse([*errors, *apart(partial(check.sources, document, file), partial(check.links, document, file, before))])
    [device] = devices
    figures = [(check.dotted((at[0], int(at[1]) + len(before), *at[2:])), figure) for at, figure in check.figures(file)]
    return replace(
        device,
        name=path.stem,
        description=file.description,
        links=(*before, *map(_link, file.links)),
        unverified=device.unverified | {at for at, figure in figures if not figure.verified},
        source={**device.source, **{at: _source(file, figure) for at, figure in figures}},
    )


def _device(document: Document, name: str, path: Path, within: tuple[Path, ...]) -> Hardware:
    """The device that a cluster names, as seen from its file. Raises InputError there, or for the device's own file."""
    try:
        inner = files.find(name, "hardware_profiles", "hardware profile", path)
    except InputError as error:
        raise document.error(("device",), str(error)) from None
    around = (*within, path.resolve())
    if inner.resolve() in around:
        raise document.error(("device",), f"{inner} would be made of itself; expected the profile of a device")
    return _load(inner, around)


def _link(given: schema_hardware.Link) -> Link:
    efficiency, latency_s = _number(given.efficiency) or 1.0, _number(given.latency_s) or 0.0
    return Link(given.name, given.devices, given.bytes_per_s, latency_s, efficiency)


def _times(given: schema_hardware.KernelTime) -> KernelTimes:
    sizes = tuple((point.elements, point.s) for point in given.sizes)
    return KernelTimes(given.launch_s, given.s_per_mac, given.s_per_element, sizes, given.spread)


def _whole(figure: schema_hardware.Figure | None) -> int | None:
    return figure.value if figure else None


def _number(figure: schema_hardware.Quantity | schema_hardware.Factor | None) -> float | None:
    return figure.value if figure else None


def _source(file: check.Profile, figure: schema_hardware.Sourced) -> str:
    """A figure's sources in full, then how it was got and what others say."""
    parts = [file.sources[key] for key in figure.source]
    parts += [figure.note] if figure.note else []
    parts += [f"others: {figure.disagreement}"] if figure.disagreement else []
    return "; ".join(parts)


def _bit_serial(file: schema_hardware.Hardware) -> BitSerial | None:
    given = file.bit_serial
    if given is None:
        return None
    return BitSerial(given.bit_product_per_s, parse_format(given.accumulator), given.verified, _source(file, given))


def _rate(file: schema_hardware.Hardware, given: schema_hardware.MacRate) -> Rate:
    a, b, accumulator = map(parse_format, (*given.operands, given.accumulator))
    return Rate(a, b, accumulator, given.mac_per_s, given.verified, _source(file, given))


def _sums(rate: Rate, accumulator: Format, grid: bool) -> bool:
    """Whether a rate's accumulator is at least as good as the one asked for; `grid`: for products of whole numbers.

    One that holds it is. Products of whole numbers are whole numbers, so a multiplier of integers that sums in an
    integer of at least as many bits as the significand asked for is too: int32 never rounds where fp32 would. (It may
    overflow; that is left to whoever chooses the formats.) Where whole numbers run as floats they add as floats, of at
    least as many bits: fp32 for int32.
    """
    both = (rate.a, rate.b, rate.accumulator)
    whole = all(format.whole for format in both) and rate.accumulator.width >= accumulator.width
    long = rate.accumulator.floating and rate.accumulator.element_bits >= accumulator.width
    return whole or (grid and accumulator.whole and long) or holds(rate.accumulator, accumulator)


def _takes(rate: Rate, a: Format, b: Format) -> bool:
    """Whether the multiplier's operands hold both formats, in either order."""
    return (holds(rate.a, a) and holds(rate.b, b)) or (holds(rate.a, b) and holds(rate.b, a))


def _same(x: Format, y: Format) -> bool:
    """Whether two formats have the same element codes."""
    return holds(x, y) and holds(y, x)


def _is_of(rate: Rate, a: Format, b: Format) -> bool:
    return (_same(rate.a, a) and _same(rate.b, b)) or (_same(rate.a, b) and _same(rate.b, a))


def pair_on(hardware: Hardware, a: Format, b: Format, accumulator: Format) -> tuple[Rate, bool] | None:
    """The rate at which a device multiplies two formats, and whether they had to be upcast; None: unsupported.

    The device's own rate of the two elements if it has one, even if an upcast would be faster. Else the cheapest that
    holds both: most MACs a second, then fewest bits, then integers for integers, then by name. The accumulator must be
    at least as good as the one asked for (`_sums`); a wider one is no upcast.

    Scales, shared exponents and zero points are left aside, which flatters block formats: an int8 multiplier takes the
    elements of bfp8 or int8-1x128, but a sum that crosses blocks must be rescaled and added up outside of it, and that
    work is not counted here. Source: design.md, section 5.
    """
    rates = hardware.rates
    if hardware.bit_serial and a.whole and b.whole:
        rates += (hardware.bit_serial.rate(a.width, b.width),)
    grid = a.whole and b.whole
    fitting = [rate for rate in rates if _sums(rate, accumulator, grid) and _takes(rate, a, b)]
    if not fitting:
        return None
    own = [rate for rate in fitting if _is_of(rate, a, b)]

    def cost(rate: Rate) -> tuple[int, int, bool, str]:
        bits = rate.a.element_bits + rate.b.element_bits
        return -rate.mac_per_s, bits, grid != rate.a.whole, rate.name

    return min(own or fitting, key=cost), not own


def ridge_point(hardware: Hardware, rate: Rate) -> Fraction | None:
    """Operations (2 a MAC) a byte at which arithmetic and DRAM take equally long at their peaks, without efficiencies.

    None if the bandwidth is not known. Source: Williams et al., Roofline, CACM 2009.
    """
    bandwidth = hardware.dram_bytes_per_s
    return None if bandwidth is None else Fraction(2 * rate.mac_per_s, bandwidth)
