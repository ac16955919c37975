"""What a number format is, and the formats that costsim knows.

A format is data: everything that is printed or charged (bits per element, stored bits of a tensor, the width that
meets a multiplier) is derived from a few numbers. Names are the grammar that policy files use: `fp32`, `fixed16`,
`bfp4`, `bfp4-box32-exp5`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from costsim.errors import InputError, nearest, one_line


@dataclass(frozen=True, slots=True)
class Format:
    """A number format.

    `width` is what a multiplier sees (the convention of every MAC law): N with the sign for fixed point and block
    floating point, the significand with its hidden bit for floats. `element_bits` is what an element takes in memory;
    a block format adds one shared exponent of `shared_bits` per box of `box` elements. Exponent handling is not priced.
    """

    name: str
    family: str  # float, fixed, bfp, index, mask
    element_bits: int
    width: int
    source: str
    exponent_bits: int = 0  # of each element (floats)
    box: int = 1  # elements that share one exponent
    shared_bits: int = 0  # bits of the exponent that a box shares

    def __hash__(self) -> int:
        return hash(self.name)  # a name means one format

    @property
    def blocked(self) -> bool:
        """Whether it matters along which dims the boxes lie."""
        return self.box > 1

    @property
    def values(self) -> str:
        """What it holds: float, index or mask."""
        return self.family if self.family in ("index", "mask") else "float"

    @property
    def bits_per_element(self) -> float:
        """Bits per element when every box is full (for tables; counts use `stored_bits`)."""
        return self.element_bits + self.shared_bits / self.box

    def stored_bits(self, elements: int, run: int) -> int:
        """Exact bits of `elements` elements whose boxes lie along runs of `run` elements, partial boxes included.

        Each of the `elements / run` runs starts a new box and ends in a partial one if `box` does not divide it.
        Source: Darvish Rouhani et al., NeurIPS 2020 (MSFP): N bits an element plus one 8-bit exponent a box.
        """
        bits = elements * self.element_bits
        if self.shared_bits and run:
            bits += elements // run * -(-run // self.box) * self.shared_bits
        return bits


_IEEE = "IEEE 754-2019"
NAMED = {
    f.name: f
    for f in (
        Format("fp32", "float", 32, 24, f"{_IEEE} binary32", exponent_bits=8),
        Format("fp16", "float", 16, 11, f"{_IEEE} binary16", exponent_bits=5),
        Format("bf16", "float", 16, 8, "Intel BFLOAT16 white paper, 2018", exponent_bits=8),
        # What ids, labels and masks are held in. No arithmetic of a MAC law meets them.
        Format("index64", "index", 64, 0, "torch.int64, what PyTorch wants of ids and labels"),
        Format("index32", "index", 32, 0, "int32 ids"),
        Format("mask8", "mask", 8, 0, "torch.bool, one byte an element"),
        Format("mask1", "mask", 1, 0, "one bit an element"),
    )
}


def _fixed(bits: int) -> Format:
    return Format(f"fixed{bits}", "fixed", bits, bits, "two's complement, one power-of-two scale per tensor (static)")


def _bfp(bits: int, box: int = 16, exponent: int = 8) -> Format:
    name = f"bfp{bits}" + (f"-box{box}" if box != 16 else "") + (f"-exp{exponent}" if exponent != 8 else "")
    source = "block floating point, N bits with sign, shared exponent (MSFP: box 16, 8 bits; NeurIPS 2020)"
    return Format(name, "bfp", bits, bits, source, box=box, shared_bits=exponent)


@dataclass(frozen=True, slots=True)
class FormatFamily:
    """Formats named by numbers: the spelling, the numbers' bounds (inclusive), and how to make one."""

    spelling: str
    pattern: str
    bounds: tuple[tuple[str, int, int], ...]
    make: Callable[..., Format]
    examples: tuple[str, ...]


FAMILIES = (
    FormatFamily("fixedN", r"fixed(\d+)", (("bits", 2, 32),), _fixed, ("fixed4", "fixed8", "fixed16", "fixed32")),
    FormatFamily(
        "bfpN[-boxB][-expE]",
        r"bfp(\d+)(?:-box(\d+))?(?:-exp(\d+))?",
        (("bits", 2, 32), ("box", 1, 65536), ("exponent bits", 0, 16)),
        _bfp,
        ("bfp2", "bfp4", "bfp8", "bfp16", "bfp32"),
    ),
)
EXAMPLES = (*NAMED, *(name for family in FAMILIES for name in family.examples))


@cache
def parse_format(name: str) -> Format:
    """The format of that name. Raises InputError with the nearest name, or the bound that a number breaks.

    >>> parse_format("bfp4").stored_bits(elements=40, run=20)  # 2 runs of 20: each a full and a partial box of 16
    192
    """
    if name in NAMED:
        return NAMED[name]
    for family in FAMILIES:
        match = re.fullmatch(family.pattern, name, re.ASCII)
        if match is None:
            continue
        arguments = {}
        for (what, low, high), text in zip(family.bounds, match.groups(), strict=True):
            if text is None:
                continue
            if len(text) > 6 or not low <= int(text) <= high:
                raise InputError(f"format {one_line(name)!r}: {what} must be from {low} to {high}")
            arguments[what.split()[0]] = int(text)
        return family.make(**arguments)
    spellings = " or ".join(family.spelling for family in FAMILIES)
    raise InputError(f"unknown format {one_line(name)!r}{nearest(name, EXAMPLES)}; or {spellings}")
