"""How the elements of each family are rounded, coded and decoded, in units of their scale."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from costsim.formats.format import Format

Array = Any  # NumPy arrays: NumPy's own types say little of what ufuncs return
FP32_MAX = float(np.finfo(np.float32).max)
MANTISSA: dict[Any, int] = {np.dtype(np.float32): 23, np.dtype(np.float64): 52}
_BITS: dict[Any, Any] = {np.dtype(np.float32): np.dtype(np.int32), np.dtype(np.float64): np.dtype(np.int64)}


@dataclass(frozen=True, slots=True)
class How:
    """What a format leaves open. `rng` makes rounding stochastic; else it is to the nearest, ties to even.

    `scale_rule` is how a power-of-two scale is taken from the largest of a block (OCP MX: floor). `saturate`: what is
    too large becomes the largest number; by default for formats of 8 bits and less, as accelerators do.
    """

    rng: np.random.Generator | None = None
    scale_rule: str = "floor"
    saturate: bool | None = None


NEAREST = How()


# --- rounding ---------------------------------------------------------------------------------------------------------


def round_whole(v: Array, rng: np.random.Generator | None) -> Array:
    """To whole numbers, in place. Stochastic: up with the probability of the fraction, without bias."""
    if rng is None:
        return np.rint(v, out=v)
    low = np.floor(v)
    np.subtract(v, low, out=v)
    low += rng.random(v.shape, np.float32) < v
    return low


def _emin(format: Format) -> int:
    """The exponent of the smallest normal number."""
    return 2 - (1 << (format.exponent_bits - 1))


def round_float(v: Array, format: Format, how: How) -> Array:
    """To the numbers of a float format, in place where that helps; NaN and infinity as `_overflow` says."""
    mantissa, m = MANTISSA[v.dtype], format.width - 1
    if m >= mantissa:
        return v
    finite = bool(np.isfinite(v).all())
    if not finite:
        lost = v.copy()
        v = np.where(np.isfinite(v), v, 0)
    bits = v.view(_BITS[v.dtype])
    exponents = 31 - mantissa if v.dtype == np.float32 else 63 - mantissa
    if how.rng is None and format.exponent_bits == exponents:
        # The same exponents: add half a step to the code, a little less where the last bit is even, and cut it off.
        code = bits >> (mantissa - m)
        code &= 1
        code += (1 << (mantissa - m - 1)) - 1
        code += bits
        code &= -1 << (mantissa - m)
        r = code.view(v.dtype)
    else:
        step = bits & (((1 << exponents) - 1) << mantissa)  # the exponent of v, at least that of subnormals
        bias = (1 << (exponents - 1)) - 1
        lowest = (_emin(format) + bias) << mantissa
        if how.rng is None:
            # Adding and taking away 1.5 x 2^k leaves whole multiples of a step, rounded by the processor. What is too
            # large stays so with the steps of the largest; with its own, 1.5 x 2^k could be beyond all numbers.
            np.clip(step, lowest, (math.frexp(format.largest or 0.0)[1] - 1 + bias) << mantissa, out=step)
            step += ((mantissa - m) << mantissa) | 1 << (mantissa - 1)
            magic = step.view(v.dtype)
            r = np.add(v, magic)
            r -= magic
        else:
            np.maximum(step, lowest, out=step)
            quantum = np.ldexp(step.view(v.dtype).astype(np.float64), -m)
            with np.errstate(over="ignore"):  # above the largest float32
                r = (round_whole(v.astype(np.float64) / quantum, how.rng) * quantum).astype(v.dtype)
        np.copysign(r, v, out=r)
    r = _overflow(r, format, how)
    return r if finite else _not_finite(r, lost, format, how)


def _saturates(format: Format, how: How) -> bool:
    return format.top == "numbers" or (format.element_bits <= 8 if how.saturate is None else how.saturate)


def _overflow(r: Array, format: Format, how: How) -> Array:
    largest = format.largest
    assert largest is not None
    if _saturates(format, how):
        return np.clip(r, -largest, largest, out=r)
    above = np.abs(r) > largest
    if above.any():
        r[above] = np.copysign(np.inf if format.top == "ieee" else np.nan, r[above])
    return r


def _not_finite(r: Array, given: Array, format: Format, how: How) -> Array:
    if format.top == "numbers":
        raise ValueError(f"{format.name} holds no NaN or infinity")
    infinite = np.isinf(given)
    if _saturates(format, how):
        r[infinite] = np.copysign(format.largest or 0.0, given[infinite])
    else:
        r[infinite] = given[infinite] if format.top == "ieee" else np.nan
    r[np.isnan(given)] = np.nan
    return r


# --- elements: in units of their scale --------------------------------------------------------------------------------


class Elements(NamedTuple):
    """How elements of a family are rounded, and what their codes are."""

    largest: float  # what the largest of a block is scaled to
    round: Callable[[Array, How], Array]
    encode: Callable[[Array], Array]  # to unsigned codes
    decode: Callable[[Array], Array]


def _whole(format: Format) -> Elements:
    """Two's complement (fixed, int). Where the largest is scaled to the largest code, the lowest code is not used."""
    high = 2 ** (format.element_bits - 1) - 1
    low = -high if [scale.what for scale in format.scales] == ["scale fp32"] else -high - 1
    mask = 2**format.element_bits - 1

    def rounded(v: Array, how: How) -> Array:
        r = np.clip(round_whole(v, how.rng), low, high)
        r += 0.0  # there is no negative zero
        return r

    def decode(code: Array) -> Array:
        return code.astype(np.int64) - ((code > high).astype(np.int64) << format.element_bits)

    return Elements(high, rounded, lambda r: r.astype(np.int64).astype(np.uint64) & np.uint64(mask), decode)


def _sign_magnitude(format: Format) -> Elements:
    """Block floating point: a sign and a magnitude (in FAST a sign for every two bits of it)."""
    m = format.magnitude_bits
    high = 2**m - 1
    chunks = [(2 * c, 2) for c in range(m // 2)] if format.element_bits != m + 1 else [(0, m)]

    def rounded(v: Array, how: How) -> Array:
        return np.clip(round_whole(v, how.rng), -high, high)

    def encode(r: Array) -> Array:
        magnitude, sign = np.abs(r).astype(np.uint64), np.signbit(r).astype(np.uint64)
        code = np.zeros(r.shape, np.uint64)
        for at, (low, width) in enumerate(chunks):
            part = (magnitude >> np.uint64(low)) & np.uint64(2**width - 1)
            code |= (part | sign << np.uint64(width)) << np.uint64(low + at)
        return code

    def decode(code: Array) -> Array:
        magnitude = np.zeros(code.shape, np.uint64)
        for at, (low, width) in enumerate(chunks):
            magnitude |= ((code >> np.uint64(low + at)) & np.uint64(2**width - 1)) << np.uint64(low)
        sign = (code >> np.uint64(format.element_bits - 1)) & np.uint64(1)
        return np.copysign(magnitude.astype(np.float64), np.where(sign, -1.0, 1.0))

    return Elements(high, rounded, encode, decode)


def _float(format: Format) -> Elements:
    m, e, emin = format.width - 1, format.exponent_bits, _emin(format)
    spare = format.element_bits - 1 - e - m  # of tf32, which is stored in 32 bits
    top = ((1 << e) - 1) << m

    def encode(r: Array) -> Array:
        a = np.abs(r).astype(np.float64)
        finite = np.isfinite(a)
        exponent = np.maximum(np.where(a > 0, np.frexp(np.where(finite, a, 0))[1] - 1, emin), emin)
        units = np.ldexp(np.where(finite, a, 0), m - exponent).astype(np.int64)  # with the hidden bit of normal numbers
        code = units + ((exponent - emin).astype(np.int64) << m)
        code = np.where(np.isinf(a), top, np.where(np.isnan(a), top | (2**m - 1 if format.top == "nan" else 1), code))
        return (code | np.signbit(r).astype(np.int64) << (e + m)).astype(np.uint64) << np.uint64(spare)

    def decode(code: Array) -> Array:
        code = (code >> np.uint64(spare)).astype(np.int64)
        units, exponent = code & ((1 << m) - 1), (code >> m) & ((1 << e) - 1)
        hidden = (exponent > 0).astype(np.int64) << m
        a = np.ldexp((units + hidden).astype(np.float64), np.maximum(exponent, 1) - 1 + emin - m)
        if format.top == "ieee":
            a = np.where(exponent == (1 << e) - 1, np.where(units == 0, np.inf, np.nan), a)
        elif format.top == "nan":
            a = np.where(code & ((1 << (e + m)) - 1) == (1 << (e + m)) - 1, np.nan, a)
        return np.copysign(a, np.where(code >> (e + m), -1.0, 1.0))

    return Elements(format.largest or 0.0, lambda v, how: round_float(v, format, how), encode, decode)


# QLoRA's NormalFloat: quantiles of the normal distribution, with 0 (Dettmers et al. 2023, appendix E; recalled).
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def _dynamic_map() -> tuple[float, ...]:
    """The signed dynamic tree of 8 bits: 2^i means in each decade (Dettmers et al. 2022, section 1.3; recalled)."""
    values = [0.0, 1.0]
    for i in range(7):
        edges = [0.1 + 0.9 * j / 2**i for j in range(2**i + 1)]
        means = [10.0 ** (i - 6) * (low + high) / 2 for low, high in pairwise(edges)]
        values += means + [-mean for mean in means]
    return tuple(sorted(values))


_CODEBOOKS: dict[str, Callable[[], tuple[float, ...]]] = {
    "nf4": lambda: _NF4,
    "nf4-double": lambda: _NF4,
    "dynamic8": _dynamic_map,
}


def _codebook(format: Format) -> Elements:
    values = np.array(_CODEBOOKS[format.name](), np.float32).astype(np.float64)
    middles = (values[1:] + values[:-1]) / 2

    def nearest(v: Array, how: How) -> Array:
        at = np.searchsorted(middles, v)
        if how.rng is not None:
            low = np.clip(np.searchsorted(values, v, side="right") - 1, 0, len(values) - 2)
            share = (v - values[low]) / (values[low + 1] - values[low])
            at = low + (how.rng.random(v.shape) < share)
        return values[at].astype(v.dtype)

    def encode(r: Array) -> Array:
        return np.searchsorted(middles, r.astype(np.float64)).astype(np.uint64)

    return Elements(1.0, nearest, encode, lambda code: values[code.astype(np.int64)])


_FAMILIES = {"fixed": _whole, "int": _whole, "bfp": _sign_magnitude, "float": _float, "codebook": _codebook}


@cache
def elements(format: Format) -> Elements:
    """How the elements of a format are rounded and coded."""
    return _FAMILIES[format.family](format)
