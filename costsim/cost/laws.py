"""What arithmetic costs, by law: a product and an addition, by the formats that meet; always integers."""

from collections.abc import Callable
from typing import NamedTuple

from costsim.formats.format import Format, Scale

Additions = tuple[tuple[Format, int], ...]  # of products to their sums: how many in each format

# Of a MAC: operands, and how many products are summed; None where the law says nothing.
Cost = Callable[[Format, Format, int], int | None]


def _free(_accumulator: Format) -> int:
    return 0


class Law(NamedTuple):
    """A way to price MACs. Where a price is None the law is not defined, and the total says so."""

    unit: str
    multiply: Cost
    defined: str  # for which formats
    source: str
    add: Callable[[Format], int | None] = _free  # an addition to a sum in that format, beside `multiply`
    of_its_own: bool = False  # whether it prices its paper's formats alone, and so is no other way to price a policy

    @property
    def prices_additions(self) -> bool:
        """Whether it matters in which format products add up."""
        return self.add is not _free

    def cost(self, a: Format, b: Format, summed: int, macs: int, additions: Additions) -> int | None:
        """The cost of MACs and of their additions; None where the law is not defined for a pair or an accumulator."""
        price = self.multiply(a, b, summed)
        if price is None or not self.prices_additions:
            return None if price is None else macs * price
        prices = [(n, self.add(format)) for format, n in additions]
        known = [n * of_one for n, of_one in prices if of_one is not None]
        return macs * price + sum(known) if len(known) == len(prices) else None


def _multiplied(law: Cost) -> Cost:
    """A law of multipliers, which is not defined for logarithms: their product is a sum."""
    return lambda a, b, summed: None if a.log_base or b.log_base else law(a, b, summed)


def _product(a: Format, b: Format, _summed: int) -> int:
    return a.width * b.width


def _magnitude_bits(format: Format) -> int:
    """Bits that a multiplier of magnitudes sees; significands of floats have no sign in them."""
    return format.magnitude_bits if format.whole else format.width


def _magnitude(a: Format, b: Format, _summed: int) -> int:
    return _magnitude_bits(a) * _magnitude_bits(b)


def _bops(a: Format, b: Format, summed: int) -> int:
    """a b + a + b + log2 n; the logarithm rounded up, as an accumulator has whole bits."""
    return a.width * b.width + a.width + b.width + (summed - 1).bit_length()


_BOX = Scale(kind="exponent", bits=8, contracted=16)
# Published arithmetic densities relative to an fp32 MAC, by bits of an element with its sign; boxes of 16.
_MSFP_DENSITY = {3: 50.9, 4: 31.9, 5: 18.3, 6: 13.9, 7: 10.8, 8: 8.8}


def _msfp(a: Format, b: Format, _summed: int) -> int | None:
    if a.name == b.name == "fp32":
        return 10**6
    if a.name != b.name or a.scales != (_BOX,) or a.width not in _MSFP_DENSITY:
        return None
    return round(10**6 / _MSFP_DENSITY[a.width])


_HBFP_DENSITY = 8.5  # of hbfp8, relative to an fp16 MAC


def _hbfp(a: Format, b: Format, _summed: int) -> int | None:
    if a.name != b.name or a.name not in ("fp16", "hbfp8"):
        return None
    return 10**6 if a.name == "fp16" else round(10**6 / _HBFP_DENSITY)


_GROUP = Scale(kind="exponent", bits=4, contracted=16)


def _passes(a: Format, b: Format, _summed: int) -> int | None:
    """A pass for each pair of chunks of 2 bits; a chunk takes 3, for each has a sign."""
    chunks = [f.width // 2 if f.scales == (_GROUP,) and f.element_bits == f.width // 2 * 3 else 0 for f in (a, b)]
    return chunks[0] * chunks[1] or None


_MULTIPLY_FJ = {("int", 8): 200, ("int", 32): 3100, ("float", 11): 1100, ("float", 24): 3700}
_ADD_FJ = {"fp32": 900, "fp16": 400, "fixed32": 100, "int32": 100, "fixed8": 30, "int8": 30}


def _multiply_aj(a: Format, b: Format, _summed: int) -> int | None:
    """Attojoule of a product; integer widths that the table lacks scale as a b / 32^2."""
    families = {("int" if f.whole else f.family.name) for f in (a, b)}
    if len(families) > 1:
        return None
    [family] = families
    multiply = _MULTIPLY_FJ.get((family, a.width)) if a.width == b.width else None
    if multiply is not None and (family == "int" or a.name == b.name in ("fp16", "fp32")):
        return 1000 * multiply
    return round(1000 * 3100 * a.width * b.width / 1024) if family == "int" else None


def _add_aj(accumulator: Format) -> int | None:
    add = _ADD_FJ.get(accumulator.name)
    return None if add is None else 1000 * add


LAWS = {
    "product": Law(
        "bit^2",
        _multiplied(_product),
        "all formats but logarithms",
        "arithmetic computation effort: MACs between i and j bits count i j; Zhang et al., PokeBNN, CVPR 2022",
    ),
    "magnitude": Law(
        "bit^2",
        _multiplied(_magnitude),
        "all formats but logarithms",
        "as product, of bits without signs, which MSFP multiplies apart; Darvish Rouhani et al., NeurIPS 2020",
    ),
    "bops": Law(
        "bit-op",
        _multiplied(_bops),
        "all formats but logarithms",
        "a b + a + b + log2 n bit operations a MAC, n the products summed; Baskin et al., UNIQ, arXiv:1804.10969",
    ),
    "msfp": Law(
        "ppm fp32",
        _msfp,
        "both operands the same MSFP format (bfpN, N 3 to 8, box 16, 8-bit exponent), and fp32",
        "millionths of an fp32 MAC, from the arithmetic densities of Darvish Rouhani et al., NeurIPS 2020, table 1",
    ),
    "hbfp": Law(
        "ppm fp16",
        _hbfp,
        "both operands hbfp8 (tiles of 24 x 24), and fp16",
        "millionths of an fp16 MAC: 8.5 times its throughput on an FPGA; Drumond et al., NeurIPS 2018 (HBFP)",
        of_its_own=True,
    ),
    "fast": Law(
        "pass",
        _passes,
        "fast2 and fast4, in any pair",
        "passes through a multiplier of 2-bit chunks, (m_x / 2) (m_y / 2) a MAC; Zhang et al., HPCA 2022, "
        "arXiv:2110.15456 (FAST)",
        of_its_own=True,
    ),
    "energy": Law(
        "aJ",
        _multiply_aj,
        "fp16, fp32, and integers of any width (fixed, int, bfp: 8 and 32 bits published, others scaled as a b / 32^2)",
        "multiply plus add at 45 nm, 0.9 V: Horowitz, ISSCC 2014, figure 1.1.9 (through PMC8934428); scaling: "
        "accelergy-aladdin-plug-in@5e2e1263",
        _add_aj,
    ),
}
