"""The sections of a hardware profile. Units are in the names of fields, and every figure has its sources."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from costsim.inputs.section import (
    MAX_INTEGER,
    After,
    Before,
    Count,
    Field,
    Name,
    Positive,
    Section,
    WrongError,
    parsed,
)

HARDWARE_VERSION = 1  # `schema_version` of hardware profiles

OtherUnits = tuple[tuple[str, str, str], ...]
# Fields as they are often named, and what to write instead: units are in the names, so another unit is another name.
_OTHER_UNITS: OtherUnits = (
    (r"vector_.*", "vector_op_per_s", ", in operations on elements a second"),
    (r".*(flop|tops|ops?_per_s|mac).*", "mac_per_s", " of an entry of rates, in MACs a second: half the operations"),
    (r"on_?chip.*|sram.*|l2.*|cache.*", "on_chip_bytes", ", in bytes"),
    (r".*bandwidth.*|.*bps|(dram|memory|hbm)_.*_per_(s|sec|second)", "dram_bytes_per_s", ", in bytes a second"),
    (r"(dram|memory|hbm|capacity).*", "dram_bytes", ", in bytes"),
    (r"launch.*", "launch_s", ", in seconds"),
    (r"(tdp|static).*", "tdp_w", " or static_w, in watts"),
    (r"units?", "no unit", ": it is in the field's name"),
)
_OTHER_UNITS_OF_LINKS: OtherUnits = (
    (r".*bandwidth.*|.*bps|.*_per_(s|sec|second)|speed.*", "bytes_per_s", ", of a device in one direction, in bytes"),
    (r".*latency.*|delay.*", "latency_s", ", in seconds"),
    (r".*size|ranks|ports|nodes|gpus.*", "devices", ": how many it joins"),
)


class Measured(Section):
    """A section whose fields have units in their names; says which name is right for a field in another unit."""

    other_units: ClassVar[OtherUnits] = _OTHER_UNITS

    @classmethod
    def meant(cls, key: str) -> list[str]:
        """The field for a figure in another unit, else those of a near name."""
        return [name for pattern, name, _ in cls.other_units if re.fullmatch(pattern, key)][:1] or super().meant(key)

    @classmethod
    def hint(cls, key: str) -> str:
        """The field in the right unit, else as other sections have it."""
        units = (f"; write {name}{unit}" for pattern, name, unit in cls.other_units if re.fullmatch(pattern, key))
        return next(units, None) or super().hint(key)


class Sourced(Measured):
    """A figure and where it comes from."""

    source: Annotated[tuple[str, ...], Field(min_length=1, description="keys of `sources`")]
    verified: bool = Field(default=True, description="false: recalled, or computed from what is; shown as such")
    note: str = Field(default="", description="conditions, or how it was computed")
    disagreement: str = Field(default="", description="what other sources say")


class _Bare(Sourced):
    """A section that a bare number cannot stand for."""

    expected: ClassVar[str] = "expected `value: ...` and `source: [...]`"


class Figure(_Bare):
    """A whole number with its source; the unit is in the field's name."""

    value: Count = Field(description="the figure, whole")


class Quantity(_Bare):
    """A number with its source; the unit is in the field's name."""

    value: Positive = Field(description="the figure")


class Factor(_Bare):
    """A part of a peak that is reached, with its source."""

    value: Annotated[float, Field(gt=0.0, le=1.0)] = Field(description="the part that is reached, 1 is all")


def _known(value: Any) -> Any:
    """None for `unknown`; null is an error."""
    if value is None:
        raise WrongError(f"{_Bare.expected}, or unknown", got=True)
    return None if value == "unknown" else value


def _unknown_is_text(json_schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of a figure or `unknown`, which is None once it is read."""
    choices = json_schema["anyOf"]
    return {"anyOf": [{"const": "unknown"} if choice == {"type": "null"} else choice for choice in choices]}


def _whole(value: Any) -> Any:
    """1.0e14 is a whole number too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


OrUnknown = Annotated[Figure | None, Before(_known, _unknown_is_text)]
# A device that does less is described in another unit.
PerSecond = Annotated[int, Field(ge=10**5, le=MAX_INTEGER), Before(_whole)]


def _code(name: str) -> str:
    """The name of a format that multipliers know: element codes without scales."""
    format = parsed(name)
    if format.values != "float" or format.grid is not None or format.codebook:
        raise WrongError(f"{format.name} is nothing that a multiplier takes")
    return name


Code = Annotated[str, After(_code)]


class MacRate(Sourced):
    """How fast the device multiplies and accumulates in some formats. Either order of the operands is meant."""

    operands: tuple[Code, Code] = Field(description="formats of the elements, without scales")
    accumulator: Code = Field(description="format of the sums")
    mac_per_s: PerSecond = Field(description="MACs a second, dense; vendors count a MAC as 2 operations")


class BitSerial(Sourced):
    """A multiplier that takes the bits of integer operands one by one: A x B cycles for a MAC of A by B bits."""

    bit_product_per_s: PerSecond = Field(description="products of 1 by 1 bit a second")
    accumulator: Code = Field(default="int32", description="format of the sums")


class Efficiency(Measured):
    """What part of a peak is reached; 1 where nothing is said."""

    mac: Factor | None = Field(default=None, description="of the rates of MACs")
    vector: Factor | None = Field(default=None, description="of vector_op_per_s")
    dram: Factor | None = Field(default=None, description="of dram_bytes_per_s")


class AtSize(Factor):
    """The part of the peak that one GEMM of some size reaches, with its source."""

    macs: Count = Field(description="MACs of one run of the GEMM")


class AtElements(Measured):
    """What one run took at a size."""

    elements: Count = Field(description="numbers that it reads and writes, all tensors together")
    s: Annotated[float, Field(ge=0.0)] = Field(description="seconds beyond the launch, in fp32")


class KernelTime(Sourced):
    """How long one run of a kind of kernel takes: its launch, its MACs, its traffic after each other. Measured in fp32.

    Kinds are those of `costsim list ops`, equations of products, `product` for all equations that are not there, or
    `quantize FORMAT`: kernels that make copies in that format or in one of other widths, measured from fp32 to it.
    """

    kind: str = Field(description="kind of op, an equation of two operands, product, or quantize and a format")
    launch_s: Annotated[float, Field(ge=0.0)] = Field(description="seconds of a run however small")
    s_per_mac: Annotated[float, Field(ge=0.0)] = Field(default=0.0, description="seconds of a MAC, of products")
    s_per_element: tuple[Annotated[float, Field(ge=0.0)], ...] = Field(
        default=(), description="of products: seconds of an element of each operand and of the result"
    )
    sizes: tuple[AtElements, ...] = Field(
        default=(), description="of others, elements rising: straight in between, in proportion beyond"
    )
    spread: Annotated[float, Field(ge=0.0)] = Field(description="how far a time may be off, as a part of it")


class Link(Sourced):
    """What joins devices: the innermost joins the devices of a node, the next one nodes, and so on."""

    other_units: ClassVar[OtherUnits] = _OTHER_UNITS_OF_LINKS

    name: Name = Field(description="such as nvlink, pcie, infiniband, ethernet")
    devices: Annotated[int, Field(ge=2, le=MAX_INTEGER)] | None = Field(
        default=None, description="how many it joins; if not said, any number (of the outermost only)"
    )
    bytes_per_s: PerSecond = Field(description="that one device sends, in one direction; vendors add up both")
    latency_s: Quantity | None = Field(default=None, description="of a message from device to device; 0 if not said")
    efficiency: Factor | None = Field(default=None, description="part of bytes_per_s that is reached; 1 if not said")


Links = tuple[Link, ...]
SourceTexts = Annotated[dict[str, str], Field(min_length=1, description="what the keys of `source` stand for")]


class Hardware(Measured):
    """A hardware profile: what a device does and holds, with the source of every figure."""

    schema_version: Literal[1] = Field(description="version of this format")
    description: str = Field(description="one line, which `costsim list hardware` shows")
    vendor: str = Field(default="", description="who makes it")
    memory: Name = Field(description="type of the main memory, such as hbm3, gddr6, lpddr5, sram, none")
    rates: Annotated[tuple[MacRate, ...], Field(min_length=1)] = Field(
        description="MACs a second, an entry for each triple of formats"
    )
    bit_serial: BitSerial | None = Field(
        default=None, description="rates of all pairs of integer widths, of multipliers that take bits one by one"
    )
    vector_op_per_s: OrUnknown = Field(description="elementwise fp32 operations a second, outside matrix units")
    dram_bytes_per_s: OrUnknown = Field(description="bandwidth of the main memory, bytes a second")
    dram_bytes: OrUnknown = Field(description="size of the main memory, bytes")
    on_chip_bytes: OrUnknown = Field(description="last level before main memory that holds tiles of any operand")
    launch_s: Quantity | None = Field(default=None, description="to start a kernel; 0 if not said")
    static_w: Quantity | None = Field(default=None, description="drawn whatever runs")
    tdp_w: Quantity | None = Field(default=None, description="thermal design power")
    energy_table: Name | None = Field(default=None, description="table of energies per operation")
    node_nm: Quantity | None = Field(default=None, description="process, nanometres")
    year: Figure | None = Field(default=None, description="of its release")
    efficiency: Efficiency = Field(
        default=Efficiency(), description="what part of a peak is reached; 1 where nothing is said"
    )
    gemm_efficiency: tuple[AtSize, ...] = Field(
        default=(), description="by size, MACs rising; on a log scale of MACs straight in between, constant beyond"
    )
    kernels: tuple[KernelTime, ...] = Field(
        default=(), description="what kernels took that were measured; they have no roofline. From costsim calibrate"
    )
    links: Links = Field(default=(), description="to other devices of the kind, from the innermost on")
    notes: tuple[str, ...] = Field(default=(), description="what else a reader should know")
    sources: SourceTexts


class Cluster(Measured):
    """A hardware profile of many devices: those of another profile, a cluster's maybe, and the links that join them."""

    schema_version: Literal[1] = Field(description="version of this format")
    description: str = Field(description="one line, which `costsim list hardware` shows")
    vendor: str = Field(default="", description="who makes it")
    device: str = Field(description="profile of the devices: a shipped name, or a file as seen from this one")
    links: Annotated[Links, Field(min_length=1, description="from the innermost on, beyond those of `device`")]
    notes: tuple[str, ...] = Field(default=(), description="what else a reader should know")
    sources: SourceTexts


def section_of(data: Mapping[str, Any]) -> type[Hardware] | type[Cluster]:
    """What a profile's data are to be read as."""
    return Cluster if "device" in data else Hardware
