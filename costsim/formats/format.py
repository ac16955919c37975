"""What a number format is, and the formats that costsim knows.

A format is data: everything that is printed or charged (bits per element, stored bits of a tensor, the width that
meets a multiplier, range and step) is derived from a few numbers. Names are the grammar that policy files use:
`fp32`, `fixed16`, `bfp4`, `bfp4-box32-exp5`, `int8-row`, `fp8-e4m3-128x128`, `mxfp4`, `nvfp4`, `int8-row-in-bf16`.
"""

from dataclasses import dataclass, replace
from fractions import Fraction

from costsim.errors import InputError

ON_A_GRID = ("fixed", "int", "bfp")  # families whose elements are whole numbers of a unit


@dataclass(frozen=True, slots=True)
class Scale:
    """A number that a block of elements shares: a scale, an exponent, a zero point.

    A block is `contracted` elements along the dims that a GEMM sums over (along the last dim, where nothing multiplies)
    times `free` along the others; None is all of them.
    """

    what: str
    bits: int
    contracted: int | None
    free: int | None = 1

    def blocks(self, run: int, free: int) -> tuple[int, int]:
        """Of `free` runs of `run` elements: blocks one below the other, and side by side; cut-off ones count whole."""
        return (
            1 if self.free is None else -(-free // self.free),
            1 if self.contracted is None else -(-run // self.contracted),
        )

    def number(self, run: int, free: int) -> int:
        """How many a tensor of `free` runs of `run` elements has."""
        across, along = self.blocks(run, free)
        return across * along

    @property
    def block(self) -> str:
        """The block as free x contracted elements."""
        return " x ".join("all" if n is None else str(n) for n in (self.free, self.contracted))


@dataclass(frozen=True, slots=True)
class Format:
    """A number format.

    `width` is what a multiplier sees (the convention of every MAC law): N with the sign for fixed point, integers and
    block floating point, the significand with its hidden bit for floats. `element_bits` is what an element takes in
    memory; `scales` is what blocks of elements share on top. Exponent handling is not priced.
    """

    name: str
    family: str  # fixed, int, float, bfp, codebook, index, mask
    element_bits: int
    width: int
    source: str
    exponent_bits: int = 0  # of each element (floats)
    top: str = "ieee"  # floats: what the top exponent holds. ieee: inf and NaN; nan: one NaN, else numbers; numbers
    scales: tuple[Scale, ...] = ()
    signs: int = 1  # sign bits of an element (bfp)
    grid: "Format | None" = None  # of a container: the format whose values it holds (fake quantization)

    def __hash__(self) -> int:
        return hash(self.name)  # a name means one format

    @property
    def values(self) -> str:
        """What it holds: float, index or mask."""
        return self.family if self.family in ("index", "mask") else "float"

    @property
    def needs_whole_tensor(self) -> bool:
        """Whether something that blocks share depends on elements that no kernel has on chip at once."""
        return any(scale.free is None for scale in self.scales)

    @property
    def blocked(self) -> bool:
        """Whether it matters along which dims the blocks lie."""
        return any((scale.contracted, scale.free) != (None, None) for scale in self.scales)

    def fits(self, run: int) -> bool:
        """Whether blocks along runs of `run` elements are never cut off, so that longer runs have the same blocks."""
        return all(s.free == 1 and s.contracted is not None and run % s.contracted == 0 for s in self.scales)

    @property
    def bits_per_element(self) -> Fraction:
        """Bits per element of a large tensor of whole blocks (for tables; counts use `stored_bits`)."""
        shared = (Fraction(s.bits, s.contracted * s.free) for s in self.scales if s.contracted and s.free)
        return self.element_bits + sum(shared, Fraction())

    def stored_bits(self, elements: int, run: int) -> int:
        """Exact bits of `elements` elements in runs of `run` along which blocks lie; cut-off blocks count whole.

        Source: N bits an element plus what blocks share; Darvish Rouhani et al., NeurIPS 2020 (MSFP); OCP MX v1.0.
        """
        free = elements // run if run else 0
        return elements * self.element_bits + sum(s.bits * s.number(run, free) for s in self.scales if elements)

    @property
    def magnitude_bits(self) -> int:
        """Bits of an element that are not its sign, where those are separate (bfp)."""
        return self.element_bits - self.signs

    @property
    def largest(self) -> float | None:
        """The largest value of an element, its scale left aside; None where codes are looked up or not numbers."""
        if self.family == "float":
            bias = 2 ** (self.exponent_bits - 1) - 1
            exponent = 2**self.exponent_bits - (2 if self.top == "ieee" else 1) - bias
            significand = 2**self.width - (2 if self.top == "nan" else 1)  # all ones is the NaN
            return float(significand * Fraction(2) ** (exponent - self.width + 1))
        if self.family == "bfp":
            return float(2**self.magnitude_bits - 1)
        return float(2 ** (self.width - 1) - 1) if self.family in ("fixed", "int") else None

    @property
    def smallest(self) -> float | None:
        """The smallest positive value of an element (subnormal), as `largest`."""
        if self.family == "float":
            return float(Fraction(2) ** (3 - 2 ** (self.exponent_bits - 1) - self.width))
        return self.step

    @property
    def step(self) -> float | None:
        """From 1 to the next number for floats, between codes (times the scale) otherwise; None as for `largest`."""
        if self.family == "float":
            return float(Fraction(1, 2 ** (self.width - 1)))
        return 1.0 if self.family in ON_A_GRID else None


def holds(outer: Format, inner: Format) -> bool:
    """Whether every element code of `inner` is a value of an element of `outer`; scales and the like are left aside."""
    if outer.name == inner.name:
        return True
    if inner.family in ON_A_GRID:
        if outer.family in ON_A_GRID:
            return outer.width >= inner.width
        lowest = 2 ** (inner.width - 1)  # -2^(N-1) is a power of two, the other codes have N - 1 bits
        return outer.family == "float" and outer.width >= inner.width - 1 and (outer.largest or 0) >= lowest
    if outer.family != "float" or inner.family not in ("float", "codebook"):
        return False
    if inner.family == "codebook":  # its values are at most 1 and are used at that width
        return outer.width >= inner.width
    widest = (outer.largest or 0) >= (inner.largest or 0)
    return outer.width >= inner.width and widest and (outer.smallest or 0) <= (inner.smallest or 0)


def contained(format: Format, container: Format) -> Format:
    """The values of one format, stored and multiplied in another: what fake quantization does.

    Bits and widths are the container's. Raises InputError if the container does not hold the format's values.

    >>> contained(parse_format("int8"), parse_format("bf16")).width
    8
    """
    grid = format.grid or format
    if container.name == grid.name:
        return grid
    if container.grid or container.scales or not holds(container, grid):
        raise InputError(f"{container.name} does not hold the values of {grid.name}")
    source = f"the values of {grid.name} in {container.name} (fake quantization)"
    return replace(container, name=f"{grid.name}-in-{container.name}", source=source, grid=grid)
