"""What the blocks of a format share: how scales are taken from the largest element, coded and read."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from costsim.formats.elements import FP32_MAX, NEAREST, Array, How, elements, round_float
from costsim.formats.format import Format, Scale
from costsim.formats.named import parse_format

# --- scales -----------------------------------------------------------------------------------------------------------


class Shared(NamedTuple):
    """What blocks share: a value and its code for each block of a matrix (free, run)."""

    values: Array
    codes: Array


def _power(largest: Array, format: Format, how: How) -> Array:
    """The exponent of a power of two that brings the largest of each block near the largest element.

    floor: the exponent of the one less that of the other (OCP MX v1.0, section 6.3). ceil: as floor, of the next power
    of two above; rceil: so that nothing is too large; even: as floor, of the largest rounded as an element would be.
    """
    target = elements(format).largest
    emax = math.frexp(target)[1] - 1
    mantissa, exponent = np.frexp(largest.astype(np.float64))
    if how.scale_rule == "rceil":
        mantissa, exponent = np.frexp(largest / target)
        return exponent - (mantissa == 0.5)
    if how.scale_rule == "ceil":
        exponent = exponent + (mantissa > 0.5)
    elif how.scale_rule == "even":
        precision = format.width if format.family == "float" else format.width - 1
        exponent = exponent + (np.rint(np.ldexp(mantissa, precision)) >= 2**precision)
    return exponent - 1 - emax


def _clipped(exponent: Array, largest: Array, scale: Scale) -> tuple[Array, Array]:
    """Exponents in the range that is stored, and their codes; blocks of zeros have the lowest."""
    bias = 2 ** (scale.bits - 1) - 1
    exponent = np.clip(np.where(largest == 0, -bias, exponent), -bias, bias)
    return exponent, (exponent + bias).astype(np.uint64)


def _point(format: Format) -> int:
    """Bits behind the binary point of an element: a code of MXINT8 is 1/64 (OCP MX v1.0, section 5.3.4)."""
    return format.width - 2 if format.family == "int" else 0


def _share_power(largest: Array, _goal: float, format: Format, scale: Scale, how: How) -> Shared:
    point = _point(format)
    exponent, codes = _clipped(_power(largest, format, how) + point, largest, scale)
    return Shared(np.ldexp(1.0, exponent - point), codes)


def _share_exponent(largest: Array, goal: float, _format: Format, scale: Scale, _how: How) -> Shared:
    """The exponent of the largest is what is stored; elements are fractions of 2 to the next power."""
    exponent, codes = _clipped(np.frexp(largest.astype(np.float64))[1] - 1, largest, scale)
    return Shared(np.ldexp(2.0 / (goal + 1), exponent), codes)


def _share_fp32(largest: Array, goal: float, _format: Format, _scale: Scale, _how: How) -> Shared:
    """Rounding up must not take the largest float32 to infinity; what is too large for a scale gets the largest."""
    top = np.float32(FP32_MAX / goal)
    top = np.nextafter(top, np.float32(0)) if float(top) * goal > FP32_MAX else top
    values = np.minimum(largest / goal, np.where(largest > FP32_MAX, FP32_MAX, top)).astype(np.float32)
    values = np.where(values > 0, values, np.float32(1))
    return Shared(values.astype(np.float64), values.view(np.uint32).astype(np.uint64))


def _share_float8(largest: Array, goal: float, _format: Format, _scale: Scale, _how: How) -> Shared:
    format = parse_format("fp8-e4m3")
    values = round_float((largest / goal).astype(np.float64), format, NEAREST)
    values = np.maximum(values, format.smallest or 0.0)
    return Shared(values, elements(format).encode(values))


def _read_float8(codes: Array, _goal: float, _format: Format, _scale: Scale) -> Array:
    return elements(parse_format("fp8-e4m3")).decode(codes)


def _read_fp32(codes: Array, _goal: float, _format: Format, _scale: Scale) -> Array:
    return codes.astype(np.uint32).view(np.float32).astype(np.float64)


def _read_power(codes: Array, _goal: float, format: Format, scale: Scale) -> Array:
    return np.ldexp(1.0, codes.astype(np.int64) - (2 ** (scale.bits - 1) - 1) - _point(format))


def _read_exponent(codes: Array, goal: float, _format: Format, scale: Scale) -> Array:
    return np.ldexp(2.0 / (goal + 1), codes.astype(np.int64) - (2 ** (scale.bits - 1) - 1))


class _ScaleKind(NamedTuple):
    share: Callable[[Array, float, Format, Scale, How], Shared]
    read: Callable[[Array, float, Format, Scale], Array]  # values from codes
    largest: float = 1.0  # that the scale itself can be


SCALES = {
    "scale e8m0": _ScaleKind(_share_power, _read_power),
    "exponent": _ScaleKind(_share_exponent, _read_exponent),
    "scale fp32": _ScaleKind(_share_fp32, _read_fp32),
    "scale e4m3": _ScaleKind(_share_float8, _read_float8, 448.0),
    "scale fp8": _ScaleKind(_share_float8, _read_float8, 448.0),
}
