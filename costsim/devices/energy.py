"""Energy of arithmetic and memory, by published table: joules of an operation, an access to SRAM, a bit of DRAM.

A width that a table lacks is scaled by the stated law and marked: integer multipliers as the product of the widths,
adders as the width (accelergy-aladdin-plug-in@5e2e1263), floats as the product of their significands.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from costsim.formats.format import Format

PICO = 1e-12


@dataclass(frozen=True, slots=True)
class Table:
    """Energies of one process, in pJ. Multipliers and adders by (family, width in a multiplier or bits of a sum)."""

    multiply_pj: Mapping[tuple[str, int], float]
    add_pj: Mapping[tuple[str, int], float]
    vector_op_pj: float  # an operation on elements: an addition of fp32
    sram_pj_per_bit: float  # an access to a buffer of about 1 MB
    source: str
    # What is recalled in it, not read: (multiply or add, family, width) -> how tables call it.
    unverified: Mapping[tuple[str, str, int], str] = field(default_factory=dict)


TABLES = {
    "horowitz-45nm": Table(
        {("int", 8): 0.2, ("int", 32): 3.1, ("float", 11): 1.1, ("float", 24): 3.7},
        {("int", 8): 0.03, ("int", 32): 0.1, ("float", 16): 0.4, ("float", 32): 0.9},
        0.9,
        100 / 64,
        "Horowitz, ISSCC 2014, figure 1.1.9 (through PMC8934428): 45 nm, 0.9 V; SRAM of 1 MB, 64 bits an access",
    ),
    "jouppi-7nm": Table(
        {("int", 8): 0.07, ("float", 8): 0.21, ("float", 11): 0.34, ("float", 24): 1.31},
        {("int", 32): 0.03, ("float", 32): 0.38, ("float", 16): 0.16},
        0.38,
        14 / 64,
        "Jouppi et al., ISCA 2021, table 2 (through secondary quotations): 7 nm; SRAM of 1 MB, 64 bits an access",
        {("add", "float", 16): "an addition of fp16"},
    ),
}


@dataclass(frozen=True, slots=True)
class Dram:
    """Energy of a bit that crosses the interface of a type of memory; not verified where the source is weak."""

    pj_per_bit: float
    source: str
    verified: bool = True


_JOUPPI = "Jouppi et al., ISCA 2021, table 2 (through secondary quotations)"
_WEAK = "secondary, without a primary source"
DRAM = {
    "hbm": Dram(7.0, "HyGCN, HPCA 2020 (through Dongyunkam/DRAM_info@046f68eb)"),
    "hbm2": Dram(5.45, f"{_JOUPPI}, the middle of 250 to 450 pJ per 64 bits"),
    "hbm2e": Dram(3.75, "recalled: 3.5 to 4.0", verified=False),
    "hbm3": Dram(4.05, f"hwcomponents-cacti@de2520f3, {_WEAK}", verified=False),
    "hbm3e": Dram(4.05, f"as hbm3; eureka.patsnap.com prints 7 to 9, {_WEAK}", verified=False),
    "gddr6": Dram(6.5, f"{_JOUPPI}, the middle of 350 to 480 pJ per 64 bits"),
    "gddr6x": Dram(6.5, "as gddr6: no figure found", verified=False),
    "gddr7": Dram(6.5, "as gddr6; StarBeat/cpu-gpu-arch mem/Memory.md prints 8, but 15 for gddr6", verified=False),
    "lpddr4": Dram(8.0, "accelergy-cacti-plug-in@291018b1, cacti_wrapper.py"),
    "lpddr4x": Dram(8.0, "as lpddr4: no figure found", verified=False),
    "lpddr5": Dram(5.0, _WEAK, verified=False),
    "lpddr5x": Dram(5.0, f"as lpddr5; other pages print 2, {_WEAK}", verified=False),
    "ddr4": Dram(1300 / 64, f"{_JOUPPI}: 1300 pJ per 64 bits, as DDR3"),
    "ddr5": Dram(11.8, f"{_WEAK}; branes-ai/graphs@83f4e5a5 has 0.8 of ddr4's, which would be 16", verified=False),
}


def _family(*formats: Format) -> str:
    return "int" if all(format.whole for format in formats) else "float"


def _nearest(known: Mapping[tuple[str, int], float], family: str, product: float, power: int) -> int:
    """The width of a family that is known and nearest to another (or, as a square, to a product of two)."""
    return min(
        (width for other, width in known if other == family), key=lambda width: (abs(width**power - product), width)
    )


def _scaled(known: Mapping[tuple[str, int], float], family: str, product: float, power: int) -> tuple[float, bool]:
    """The energy at a width (or a product of two), from the nearest width that is known; whether it is scaled."""
    width = _nearest(known, family, product, power)
    return known[family, width] * product / width**power, width**power != product


def mac_pj(table: Table, a: Format, b: Format, accumulator: Format) -> tuple[float, bool]:
    """pJ of a multiplication of elements and an addition to the sum; whether any of it is scaled from other widths.

    Operands of two families multiply as floats. A codebook's elements are floats of their width.
    """
    multiply, scaled = _scaled(table.multiply_pj, _family(a, b), a.width * b.width, 2)
    add, also = _scaled(table.add_pj, _family(accumulator), accumulator.element_bits, 1)
    return multiply + add, scaled or also


def recalled(table: Table, a: Format, b: Format, accumulator: Format) -> set[str]:
    """The recalled figures of the table that `mac_pj` of these formats takes."""
    if not table.unverified:
        return set()
    family, sums = _family(a, b), _family(accumulator)
    used = (
        ("multiply", family, _nearest(table.multiply_pj, family, a.width * b.width, 2)),
        ("add", sums, _nearest(table.add_pj, sums, accumulator.element_bits, 1)),
    )
    return {table.unverified[key] for key in used if key in table.unverified}
