"""What blocks share: how it is taken from a block's elements, coded, and read again.

Scales multiply (a row of `SCALES` each) and may nest. Two more things refine them: a microexponent halves the unit of a
few elements, a zero point shifts whole numbers. How blocks lie in a matrix is in blocks.py.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from costsim.formats.elements import NEAREST, Array, Rounding, elements, to_twos_complement, twos_complement
from costsim.formats.format import Format, Scale
from costsim.formats.named import parse_format

FP32_MAX = float(np.finfo(np.float32).max)


class Shared(NamedTuple):
    """What blocks share: a value and its code for each block of a matrix (free, run)."""

    values: Array
    codes: Array


class ScaleKind(NamedTuple):
    """How scales of a kind are taken and read. Both functions are given the target: what a block's largest becomes."""

    share: Callable[[Array, float, Format, Scale, Rounding], Shared]  # of the largest of each block
    read: Callable[[Array, float, Format, Scale], Array]  # values from codes
    largest: float = 1.0  # of the scale itself: what a scale around it has to bring it to
    power: bool = False  # whether scales are powers of two, so that dividing by them is exact


# --- powers of two ----------------------------------------------------------------------------------------------------


def _exponents(largest: Array) -> Array:
    """The exponent of the power of two at or below each number."""
    return np.frexp(largest.astype(np.float64))[1] - 1


def _floor(largest: Array, format: Format) -> Array:
    """The exponent of a block's largest less that of the largest element (OCP MX v1.0, section 6.3)."""
    return _exponents(largest) - (math.frexp(elements(format).largest)[1] - 1)


def _ceil(largest: Array, format: Format) -> Array:
    """As floor, of the next power of two above the largest."""
    mantissa, _ = np.frexp(largest.astype(np.float64))
    return _floor(largest, format) + (mantissa > 0.5)


def _rceil(largest: Array, format: Format) -> Array:
    """The lowest exponent with which nothing is too large."""
    mantissa, exponent = np.frexp(largest / elements(format).largest)
    return exponent - (mantissa == 0.5)


def _even(largest: Array, format: Format) -> Array:
    """As floor, of the largest rounded as an element would be."""
    digits = format.width if format.floating else format.width - 1
    mantissa, _ = np.frexp(largest.astype(np.float64))
    return _floor(largest, format) + (np.rint(np.ldexp(mantissa, digits)) >= 2**digits)


# How the exponent of a scale is taken from the largest of each block: as torchao's to_mx names the rules.
SCALE_RULES: Mapping[str, Callable[[Array, Format], Array]] = {
    "floor": _floor,
    "ceil": _ceil,
    "rceil": _rceil,
    "even": _even,
}


def _bias(scale: Scale) -> int:
    """What is added to exponents where they are stored."""
    return (1 << (scale.bits - 1)) - 1


def _clipped(exponents: Array, largest: Array, scale: Scale) -> tuple[Array, Array]:
    """Exponents in the range that is stored, and their codes; blocks of zeros have the lowest."""
    bias = _bias(scale)
    exponents = np.clip(np.where(largest == 0, -bias, exponents), -bias, bias)
    return exponents, (exponents + bias).astype(np.uint64)


def _share_power(largest: Array, _target: float, format: Format, scale: Scale, rounding: Rounding) -> Shared:
    """A power of two by the scale rule, for elements with so many bits behind their binary point."""
    exponents, codes = _clipped(
        SCALE_RULES[rounding.scale_rule](largest, format) + format.fraction_bits, largest, scale
    )
    return Shared(np.ldexp(1.0, exponents - format.fraction_bits), codes)


def _read_power(codes: Array, _target: float, format: Format, scale: Scale) -> Array:
    return np.ldexp(1.0, codes.astype(np.int64) - _bias(scale) - format.fraction_bits)


def _share_exponent(largest: Array, target: float, _format: Format, scale: Scale, _rounding: Rounding) -> Shared:
    """The exponent of the largest is what is stored; elements are fractions of 2 to the next power."""
    exponents, codes = _clipped(_exponents(largest), largest, scale)
    return Shared(np.ldexp(2.0 / (target + 1), exponents), codes)


def _read_exponent(codes: Array, target: float, _format: Format, scale: Scale) -> Array:
    return np.ldexp(2.0 / (target + 1), codes.astype(np.int64) - _bias(scale))


# --- floats -----------------------------------------------------------------------------------------------------------


def _share_fp32(largest: Array, target: float, _format: Format, _scale: Scale, _rounding: Rounding) -> Shared:
    """Rounding up must not take the largest float32 to infinity; what is too large for a scale gets the largest."""
    top = np.float32(FP32_MAX / target)
    top = np.nextafter(top, np.float32(0)) if float(top) * target > FP32_MAX else top
    values = np.minimum(largest / target, np.where(largest > FP32_MAX, FP32_MAX, top)).astype(np.float32)
    values = np.where(values > 0, values, np.float32(1))
    return Shared(values.astype(np.float64), values.view(np.uint32).astype(np.uint64))


def _read_fp32(codes: Array, _target: float, _format: Format, _scale: Scale) -> Array:
    return codes.astype(np.uint32).view(np.float32).astype(np.float64)


_E4M3 = parse_format("fp8-e4m3")


def _share_e4m3(largest: Array, target: float, _format: Format, _scale: Scale, _rounding: Rounding) -> Shared:
    """To the nearest, and never 0."""
    values = elements(_E4M3).round((largest / target).astype(np.float64), NEAREST)
    values = np.maximum(values, _E4M3.smallest or 0.0)
    return Shared(values, elements(_E4M3).encode(values))


def _read_e4m3(codes: Array, _target: float, _format: Format, _scale: Scale) -> Array:
    return elements(_E4M3).decode(codes)


# --- kinds of scales --------------------------------------------------------------------------------------------------

MEAN = "mean fp32"  # of the absolute values, in place of the largest (BitNet b1.58)
_E4M3_SCALE = ScaleKind(_share_e4m3, _read_e4m3, largest=elements(_E4M3).largest)
SCALES: Mapping[str, ScaleKind] = {
    "scale e8m0": ScaleKind(_share_power, _read_power, power=True),
    "exponent": ScaleKind(_share_exponent, _read_exponent, power=True),
    "scale fp32": ScaleKind(_share_fp32, _read_fp32),
    MEAN: ScaleKind(_share_fp32, _read_fp32),
    "scale e4m3": _E4M3_SCALE,
    "scale fp8": _E4M3_SCALE,
}

# --- what refines a scale ---------------------------------------------------------------------------------------------

MICROEXPONENT = "microexponent"
ZERO_POINT = "zero point"


def share_microexponents(reaches: Array) -> Shared:
    """1, or 1/2 for those blocks whose numbers are all below the shared power of two (MX; ISCA 2023, section 3).

    `reaches` is whether a block has a number that is not.
    """
    return Shared(np.where(reaches, 1.0, 0.5), (~reaches).astype(np.uint64))


def read_microexponents(codes: Array) -> Array:
    """1 or 1/2."""
    return np.where(codes > 0, 0.5, 1.0)


def share_zero_points(lowest: Array, unit: Array, scale: Scale) -> Shared:
    """The integer that stands for 0, so that the lowest number of a block has the lowest code (ONNX QuantizeLinear)."""
    most = 2 ** (scale.bits - 1)
    zero = -np.rint(lowest / unit) - most  # a code, as 0 lies between the extremes
    zero = np.clip(zero, -most, most - 1)  # where the scale is subnormal, and so a rough one
    return Shared(zero, to_twos_complement(zero, scale.bits))


def read_zero_points(codes: Array, scale: Scale) -> Array:
    """The integers that stand for 0."""
    return twos_complement(codes, scale.bits)
