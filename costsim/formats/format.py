"""What a number format is.

A format is data: everything that is printed or charged (bits per element, stored bits of a tensor, the width that
meets a multiplier, range and step) is derived from a few numbers. The formats themselves, and the grammar of their
names, are in named.py. What a format does to numbers is in elements.py (one element), scales.py (what a block of them
shares), blocks.py (a matrix of blocks), quantize.py and pack.py (a tensor, as numbers and as bits).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, NamedTuple

from costsim.errors import InputError
from costsim.names import Values
from costsim.notebook import card

STOCHASTIC = "-sr"  # ends the names of formats that are rounded to by chance


class Scale(NamedTuple):
    """A number that a block of elements shares: a scale, an exponent, a zero point."""

    kind: str  # what the number is, as tables print it; how it is taken, coded and read: scales.py
    bits: int  # bits of its code, of which each block has one
    contracted: int | None  # elements of a block along the dims that a GEMM sums over, else the last dim; None: all
    free: int | None = 1  # elements of a block along the other dims; None: all

    def blocks(self, run: int, free: int) -> tuple[int, int]:
        """How many blocks lie across and along `free` runs of `run` elements; cut-off blocks count whole."""
        return (
            1 if self.free is None else -(-free // self.free),
            1 if self.contracted is None else -(-run // self.contracted),
        )

    def number(self, run: int, free: int) -> int:
        """How many blocks a tensor of `free` runs of `run` elements has."""
        across, along = self.blocks(run, free)
        return across * along

    @property
    def of_tensor(self) -> bool:
        """Whether the whole tensor shares the number, as one block."""
        return self.contracted is None and self.free is None

    @property
    def block(self) -> str:
        """The block as free x contracted elements."""
        return " x ".join("all" if n is None else str(n) for n in (self.free, self.contracted))


class Family(NamedTuple):
    """Formats whose elements are coded alike. How a family's elements are rounded and coded is in elements.py."""

    name: str  # as `costsim show` prints it
    whole: bool = False  # whether elements are whole numbers of a unit, which is a scale or a static power of two
    values: Values = "float"  # what tensors in these formats hold
    width: str = "bits of an element with its sign"  # which bits a multiplier sees, in words


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A number format: its elements, and the scales that blocks of them share. Exponent handling is not priced."""

    name: str  # as policies spell it; a name means one format
    family: Family  # how an element stands for a number: a row of named.py
    element_bits: int  # bits of an element in memory, or of the code that several have together
    width: int  # bits that a multiplier sees, in every MAC law: with the sign, or the significand with its hidden bit
    source: str  # the standard, paper or product that defines the format
    exponent_bits: int = 0  # bits of the exponent that each element has (floats)
    top: Literal["ieee", "nan", "numbers"] = "ieee"  # what the top exponent has: inf and NaNs; one NaN; numbers only
    signs: int = 1  # sign bits of an element (bfp; more than 1 in FAST)
    together: int = 1  # elements that have one code of `element_bits` (ternary: five in 8 bits)
    symmetric: bool = False  # whether the lowest code of two's complement is left out, so that codes end at -max
    fraction_bits: int = 0  # bits of an element behind its binary point (int; MXINT8: a code is 1/64)
    log_base: int = 0  # steps of a logarithm from a power of two to the next (log)
    codebook: tuple[float, ...] = ()  # the numbers that codes 0, 1, ... stand for, rising, in units of the scale
    flat: bool = False  # whether blocks lie along the flattened tensor, whatever a GEMM sums over (bitsandbytes)
    scales: tuple[Scale, ...] = ()  # what blocks share: scales, the innermost first, then what refines them
    stochastic: bool = False  # whether numbers are rounded up or down by chance, without bias
    grid: "Format | None" = None  # of a container: the format whose values it holds (fake quantization)

    def __hash__(self) -> int:
        return hash(self.name)  # a name means one format

    def __repr__(self) -> str:
        return f"Format({self.name!r})"

    def _repr_html_(self) -> str:
        """What a notebook shows: bits, range and source."""
        rows = {
            "family": self.family.name,
            "bits of an element in memory": self.element_bits,
            "bits of an element with its share of scales": float(self.bits_per_element),
            "bits in a multiplier": self.width,
            "largest": self.largest,
            "step": self.step,
            "blocks": [f"{scale.kind} of {scale.bits} bit per {scale.block} elements" for scale in self.scales],
            "source": self.source,
        }
        return card("format", self.name, rows)

    # --- what elements are ---

    @property
    def values(self) -> Values:
        """What a tensor in this format holds: float (numbers), index or mask."""
        return self.family.values

    @property
    def whole(self) -> bool:
        """Whether elements are whole numbers of a unit."""
        return self.family.whole

    @property
    def floating(self) -> bool:
        """Whether each element has an exponent."""
        return self.exponent_bits > 0

    @property
    def scaled(self) -> bool:
        """Whether elements are in units of something: what blocks share, or a power of two that nothing stores."""
        return bool(self.scales) or self.whole

    @property
    def holds_infinity(self) -> bool:
        """Whether infinity is one of the values."""
        return self.floating and self.top == "ieee" and not self.scales

    @property
    def magnitude_bits(self) -> int:
        """Bits of an element that are not its sign."""
        return (self.element_bits if self.together == 1 else self.width) - self.signs

    @property
    def largest(self) -> float | None:
        """The largest value of an element, its scale left aside; None where codes are looked up or not numbers."""
        if self.floating:
            bias = 2 ** (self.exponent_bits - 1) - 1
            exponent = 2**self.exponent_bits - (2 if self.top == "ieee" else 1) - bias
            significand = 2**self.width - (2 if self.top == "nan" else 1)  # all ones is the NaN
            return float(significand * Fraction(2) ** (exponent - self.width + 1))
        return float(2**self.magnitude_bits - 1) if self.whole else None

    @property
    def smallest(self) -> float | None:
        """The smallest positive value of an element (subnormal), as `largest`."""
        if self.floating:
            return float(Fraction(2) ** (3 - 2 ** (self.exponent_bits - 1) - self.width))
        return self.step

    @property
    def step(self) -> float | None:
        """From 1 to the next number for floats, between codes (times the scale) otherwise; None as for `largest`."""
        if self.floating:
            return float(Fraction(1, 2 ** (self.width - 1)))
        return 1.0 if self.whole else None

    @property
    def plain(self) -> "Format":
        """What a multiplier sees: the format, however numbers were rounded to it."""
        return replace(self, name=self.name.removesuffix(STOCHASTIC), stochastic=False) if self.stochastic else self

    @property
    def conversion(self) -> dict[str, int]:
        """Work of making an element from a number in another format: for blocks the largest, for chance a draw."""
        return {"quantize": 1, **({"cmp": 1} if self.scales else {}), **({"random": 1} if self.stochastic else {})}

    # --- what blocks of elements share ---

    @property
    def needs_whole_tensor(self) -> bool:
        """Whether something that blocks share depends on elements that no kernel has on chip at once."""
        return any(scale.free is None for scale in self.scales)

    @property
    def blocked(self) -> bool:
        """Whether it matters along which dims the blocks lie."""
        return not all(scale.of_tensor for scale in self.scales)

    def block_axes(self, rank: int, along: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """The axes along which blocks lie in a tensor of `rank` dims: all if flattened, `along`, or the last."""
        if (self.grid or self).flat:
            return tuple(range(rank))
        return tuple(range(rank))[-1:] if along is None else along

    def fits(self, run: int) -> bool:
        """Whether blocks along runs of `run` elements are never cut off, so that longer runs have the same blocks."""
        return all(s.free == 1 and s.contracted is not None and run % s.contracted == 0 for s in self.scales)

    @property
    def bits_per_element(self) -> Fraction:
        """Bits per element of a large tensor of whole blocks (for tables; counts use `stored_bits`)."""
        shared = (Fraction(s.bits, s.contracted * s.free) for s in self.scales if s.contracted and s.free)
        return Fraction(self.element_bits, self.together) + sum(shared, Fraction())

    def codes(self, elements: int) -> int:
        """How many codes so many elements have; a group that is not full has one."""
        return -(-elements // self.together)

    def stored_bits(self, elements: int, run: int) -> int:
        """Exact bits of `elements` elements in runs of `run` along which blocks lie; cut-off blocks count whole.

        Source: N bits an element plus what blocks share; Darvish Rouhani et al., NeurIPS 2020 (MSFP); OCP MX v1.0.
        """
        return self.bits_of_runs(((run, elements // run if run else 0),))

    def bits_of_runs(self, runs: Sequence[tuple[int, int]]) -> int:
        """As `stored_bits`, of runs of several lengths: (elements of a run, number of runs).

        Blocks of one run are cut off where it ends. Larger ones (tiles, columns) lie as if all runs were the longest.
        """
        elements = sum(run * number for run, number in runs)
        whole = ((max(run for run, _ in runs), sum(number for _, number in runs)),)
        shared = (
            scale.bits * scale.number(run, number)
            for scale in self.scales
            for run, number in (runs if scale.free == 1 else whole)
        )
        return self.codes(elements) * self.element_bits + sum(shared) if elements else 0


def holds(outer: Format, inner: Format) -> bool:
    """Whether every element code of `inner` is a value of an element of `outer`; scales and the like are left aside."""
    if outer.name == inner.name:
        return True
    if inner.whole and outer.whole:
        return outer.width >= inner.width
    if not outer.floating:
        return False
    if inner.whole:
        lowest = 2 ** (inner.width - 1)  # -2^(N-1) is a power of two, the other codes have N - 1 bits
        return outer.width >= inner.width - 1 and (outer.largest or 0) >= lowest
    if inner.codebook:  # its values are at most 1 and are used at that width
        return outer.width >= inner.width
    within = (outer.largest or 0) >= (inner.largest or 0) and (outer.smallest or 0) <= (inner.smallest or 0)
    return inner.floating and outer.width >= inner.width and within


def contained(format: Format, container: Format) -> Format:
    """The values of one format, stored and multiplied in another: what fake quantization does.

    Bits and widths are the container's. Raises InputError if the container does not hold the format's values.

    >>> from costsim.formats.named import parse_format
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
