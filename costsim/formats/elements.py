"""How the elements of each family are rounded, coded and decoded, in units of their scale.

A new family adds a function that makes its `Elements` of a format, and a row of `_FAMILIES`. Scales are taken in
scales.py and laid over matrices in blocks.py.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from costsim.formats.format import Format

Array = Any  # NumPy arrays: NumPy's own types say little of what ufuncs return


@dataclass(frozen=True, slots=True)
class Rounding:
    """What a format leaves open: how numbers are rounded, what scales are taken, what becomes of large numbers."""

    rng: np.random.Generator | None = None  # makes rounding stochastic; else to the nearest, ties to even
    scale_rule: str = "floor"  # how a power-of-two scale is taken from the largest of a block: SCALE_RULES in scales.py
    saturate: bool | None = None  # large numbers become the largest; None: in formats of 8 bits and less, as hardware


NEAREST = Rounding()


class Elements(NamedTuple):
    """How the elements of a format are rounded, and what their codes are."""

    largest: float  # what the largest of a block is scaled to
    round: Callable[[Array, Rounding], Array]  # numbers to values of elements, in place where that helps
    encode: Callable[[Array], Array]  # values to unsigned codes
    decode: Callable[[Array], Array]  # codes to values


# --- whole numbers ----------------------------------------------------------------------------------------------------


def round_to_integers(v: Array, rng: np.random.Generator | None) -> Array:
    """To the nearest integers, in place. Stochastic: up with the probability of the fraction, without bias."""
    if rng is None:
        return np.rint(v, out=v)
    low = np.floor(v)
    np.subtract(v, low, out=v)
    low += rng.random(v.shape, np.float32) < v
    return low


def twos_complement(codes: Array, bits: int) -> Array:
    """The integers that unsigned codes of so many bits stand for."""
    return codes.astype(np.int64) - ((codes >= 1 << (bits - 1)).astype(np.int64) << bits)


def to_twos_complement(integers: Array, bits: int) -> Array:
    """The unsigned codes of integers."""
    return integers.astype(np.int64).astype(np.uint64) & np.uint64(2**bits - 1)


def _signed(format: Format) -> Elements:
    """Two's complement (fixed, int)."""
    bits = format.element_bits
    high = 2 ** (bits - 1) - 1
    low = -high if format.symmetric else -high - 1

    def rounded(v: Array, rounding: Rounding) -> Array:
        r = np.clip(round_to_integers(v, rounding.rng), low, high)
        r += 0.0  # there is no negative zero
        return r

    return Elements(high, rounded, lambda r: to_twos_complement(r, bits), lambda codes: twos_complement(codes, bits))


def _sign_magnitude(format: Format) -> Elements:
    """Block floating point: a sign and a magnitude (in FAST a sign for every two bits of it)."""
    high = 2**format.magnitude_bits - 1
    width = format.magnitude_bits // format.signs
    chunks = [(i * width, i * (width + 1)) for i in range(format.signs)]  # bits below each, in magnitude and in code

    def rounded(v: Array, rounding: Rounding) -> Array:
        return np.clip(round_to_integers(v, rounding.rng), -high, high)

    def encode(r: Array) -> Array:
        magnitude, sign = np.abs(r).astype(np.uint64), np.signbit(r).astype(np.uint64)
        codes = np.zeros(r.shape, np.uint64)
        for below, below_in_code in chunks:
            part = (magnitude >> np.uint64(below)) & np.uint64(2**width - 1)
            codes |= (part | sign << np.uint64(width)) << np.uint64(below_in_code)
        return codes

    def decode(codes: Array) -> Array:
        magnitude = np.zeros(codes.shape, np.uint64)
        for below, below_in_code in chunks:
            magnitude |= ((codes >> np.uint64(below_in_code)) & np.uint64(2**width - 1)) << np.uint64(below)
        sign = (codes >> np.uint64(format.element_bits - 1)) & np.uint64(1)
        return np.copysign(magnitude.astype(np.float64), np.where(sign, -1.0, 1.0))

    return Elements(high, rounded, encode, decode)


# --- floats -----------------------------------------------------------------------------------------------------------


class _Layout(NamedTuple):
    """How NumPy's floats lie in memory: a sign, the exponent, the mantissa."""

    exponent_bits: int
    mantissa_bits: int
    integer: Any  # the type of its codes


_LAYOUTS: dict[Any, _Layout] = {
    np.dtype(np.float32): _Layout(8, 23, np.dtype(np.int32)),
    np.dtype(np.float64): _Layout(11, 52, np.dtype(np.int64)),
}


def _lowest_exponent(format: Format) -> int:
    """The exponent of the smallest normal number."""
    return 2 - (1 << (format.exponent_bits - 1))


def keeps(format: Format, dtype: Any) -> bool:
    """Whether a float format has all digits of a NumPy type, so that nothing is rounded."""
    return format.floating and format.width > _LAYOUTS[dtype].mantissa_bits


def _round_float(v: Array, format: Format, rounding: Rounding) -> Array:
    """To the numbers of a float format. Raises ValueError for NaN and infinity in a format that has neither."""
    if keeps(format, v.dtype):
        return v
    finite = np.isfinite(v)
    numbers = v if finite.all() else np.where(finite, v, 0)
    if rounding.rng is not None:
        r = np.copysign(_round_by_chance(numbers, format, rounding.rng), numbers)
    elif format.exponent_bits == _LAYOUTS[v.dtype].exponent_bits:
        r = _cut_mantissa(numbers, format)
    else:
        r = _round_by_adding(numbers, format)
    r = _overflow(r, format, rounding)
    return r if numbers is v else _not_finite(r, v, format, rounding)


def _cut_mantissa(v: Array, format: Format) -> Array:
    """To the nearest, where exponents are those of the type: adds half a step to the code and cuts it off."""
    layout = _LAYOUTS[v.dtype]
    cut = layout.mantissa_bits - format.width + 1
    bits = v.view(layout.integer)
    code = bits >> cut
    code &= 1  # a little less than half a step where the last bit is even
    code += (1 << (cut - 1)) - 1
    code += bits
    code &= -1 << cut
    return code.view(v.dtype)


def _steps(v: Array, layout: _Layout, lowest: int, highest: int | None = None) -> Array:
    """Codes of the powers of two in the numbers, at least 2^lowest and at most 2^highest."""
    codes = v.view(layout.integer) & (((1 << layout.exponent_bits) - 1) << layout.mantissa_bits)
    bias = (1 << (layout.exponent_bits - 1)) - 1
    if highest is None:
        return np.maximum(codes, (lowest + bias) << layout.mantissa_bits, out=codes)
    return np.clip(codes, (lowest + bias) << layout.mantissa_bits, (highest + bias) << layout.mantissa_bits, out=codes)


def _round_by_adding(v: Array, format: Format) -> Array:
    """To the nearest: adding and taking away 1.5 x 2^k leaves whole multiples of a step, rounded by the processor.

    What is too large stays so with the steps of the largest; with its own, 1.5 x 2^k could be beyond all numbers.
    """
    layout = _LAYOUTS[v.dtype]
    highest = math.frexp(format.largest or 0.0)[1] - 1
    codes = _steps(v, layout, _lowest_exponent(format), highest)
    codes += ((layout.mantissa_bits - format.width + 1) << layout.mantissa_bits) | 1 << (layout.mantissa_bits - 1)
    magic = codes.view(v.dtype)
    r = np.add(v, magic)
    r -= magic
    return np.copysign(r, v, out=r)


def _round_by_chance(v: Array, format: Format, rng: np.random.Generator) -> Array:
    """To one of the two numbers beside each, without bias."""
    codes = _steps(v, _LAYOUTS[v.dtype], _lowest_exponent(format))
    step = np.ldexp(codes.view(v.dtype).astype(np.float64), 1 - format.width)
    with np.errstate(over="ignore"):  # above the largest float32
        return (round_to_integers(v.astype(np.float64) / step, rng) * step).astype(v.dtype)


def _saturates(format: Format, rounding: Rounding) -> bool:
    return format.top == "numbers" or (format.element_bits <= 8 if rounding.saturate is None else rounding.saturate)


def _overflow(r: Array, format: Format, rounding: Rounding) -> Array:
    """Rounded numbers beyond the largest: made the largest, infinity or NaN, in place."""
    largest = format.largest
    assert largest is not None
    if _saturates(format, rounding):
        return np.clip(r, -largest, largest, out=r)
    above = np.abs(r) > largest
    if above.any():
        r[above] = np.copysign(np.inf if format.top == "ieee" else np.nan, r[above])
    return r


def _not_finite(r: Array, v: Array, format: Format, rounding: Rounding) -> Array:
    """Rounded numbers, in place, with what the format has for the NaN and infinity in v."""
    if format.top == "numbers":
        raise ValueError(f"{format.name} holds no NaN or infinity")
    infinite = np.isinf(v)
    if _saturates(format, rounding):
        r[infinite] = np.copysign(format.largest or 0.0, v[infinite])
    else:
        r[infinite] = v[infinite] if format.top == "ieee" else np.nan
    r[np.isnan(v)] = np.nan
    return r


def _float(format: Format) -> Elements:
    """A sign, an exponent and a mantissa."""
    m, e, lowest = format.width - 1, format.exponent_bits, _lowest_exponent(format)
    spare = format.element_bits - 1 - e - m  # of tf32, which is stored in 32 bits
    top = ((1 << e) - 1) << m

    def encode(r: Array) -> Array:
        a = np.abs(r).astype(np.float64)
        finite = np.isfinite(a)
        exponent = np.maximum(np.where(a > 0, np.frexp(np.where(finite, a, 0))[1] - 1, lowest), lowest)
        units = np.ldexp(np.where(finite, a, 0), m - exponent).astype(np.int64)  # with the hidden bit of normal numbers
        codes = units + ((exponent - lowest).astype(np.int64) << m)
        nan = top | (2**m - 1 if format.top == "nan" else 1)
        codes = np.where(np.isinf(a), top, np.where(np.isnan(a), nan, codes))
        return (codes | np.signbit(r).astype(np.int64) << (e + m)).astype(np.uint64) << np.uint64(spare)

    def decode(codes: Array) -> Array:
        codes = (codes >> np.uint64(spare)).astype(np.int64)
        units, exponent = codes & ((1 << m) - 1), (codes >> m) & ((1 << e) - 1)
        hidden = (exponent > 0).astype(np.int64) << m
        a = np.ldexp((units + hidden).astype(np.float64), np.maximum(exponent, 1) - 1 + lowest - m)
        if format.top == "ieee":
            a = np.where(exponent == (1 << e) - 1, np.where(units == 0, np.inf, np.nan), a)
        elif format.top == "nan":
            a = np.where(codes & ((1 << (e + m)) - 1) == (1 << (e + m)) - 1, np.nan, a)
        return np.copysign(a, np.where(codes >> (e + m), -1.0, 1.0))

    return Elements(format.largest or 0.0, lambda v, rounding: _round_float(v, format, rounding), encode, decode)


# --- ternary and logarithmic ------------------------------------------------------------------------------------------


def _ternary(_format: Format) -> Elements:
    """-1, 0 and 1, with codes 0, 1 and 2."""

    def rounded(v: Array, rounding: Rounding) -> Array:
        r = np.clip(round_to_integers(v, rounding.rng), -1, 1)
        r += 0.0  # there is no negative zero
        return r

    return Elements(1, rounded, lambda r: (r + 1).astype(np.uint64), lambda codes: codes.astype(np.float64) - 1)


def _log(format: Format) -> Elements:
    """A sign and a power 2^(k / base) up to 1; there is no 0, what is too small becomes the smallest.

    Rounded in the domain of logarithms, as LNS-Madam does (Zhao et al. 2022, equation 3), there by chance too.
    """
    top = 2 ** (format.element_bits - 1) - 1
    smallest = 2.0 ** (-top / format.log_base)

    def rounded(v: Array, rounding: Rounding) -> Array:
        logarithm = np.log2(np.clip(np.abs(v.astype(np.float64)), smallest, 1)) * format.log_base
        k = np.clip(round_to_integers(logarithm, rounding.rng), -top, 0)
        return np.copysign(np.exp2(k / format.log_base), v).astype(v.dtype)

    def encode(r: Array) -> Array:
        k = np.rint(np.log2(np.abs(r.astype(np.float64))) * format.log_base).astype(np.int64) + top
        return (k | np.signbit(r).astype(np.int64) << (format.element_bits - 1)).astype(np.uint64)

    def decode(codes: Array) -> Array:
        k = (codes & np.uint64(top)).astype(np.float64) - top
        return np.copysign(np.exp2(k / format.log_base), np.where(codes > np.uint64(top), -1.0, 1.0))

    return Elements(1.0, rounded, encode, decode)


# --- codebooks --------------------------------------------------------------------------------------------------------


def _codebook(format: Format) -> Elements:
    """Values that are looked up; of two that are equally near, the lower."""
    values = np.array(format.codebook, np.float32).astype(np.float64)
    middles = (values[1:] + values[:-1]) / 2

    def rounded(v: Array, rounding: Rounding) -> Array:
        at = np.searchsorted(middles, v)
        if rounding.rng is not None:
            low = np.clip(np.searchsorted(values, v, side="right") - 1, 0, len(values) - 2)
            share = (v - values[low]) / (values[low + 1] - values[low])
            at = low + (rounding.rng.random(v.shape) < share)
        return values[at].astype(v.dtype)

    def encode(r: Array) -> Array:
        return np.searchsorted(middles, r.astype(np.float64)).astype(np.uint64)

    return Elements(1.0, rounded, encode, lambda codes: values[codes.astype(np.int64)])


# --- families ---------------------------------------------------------------------------------------------------------

_FAMILIES: dict[str, Callable[[Format], Elements]] = {
    "fixed": _signed,
    "int": _signed,
    "bfp": _sign_magnitude,
    "ternary": _ternary,
    "log": _log,
    "float": _float,
    "codebook": _codebook,
}


@cache
def elements(format: Format) -> Elements:
    """How the elements of a format are rounded and coded."""
    return _FAMILIES[format.family.name](format)
