"""What formats do to numbers, in NumPy: quantize (fake-quantized floats), pack (the real bits) and unpack.

Every format is one scheme: blocks share scales, elements are rounded in units of them. A tensor is seen as a matrix of
free rows, along which blocks lie: the axes named (a GEMM's contracted axes) are flattened in that order, the others
before them. Formats of more than 24 significant bits work in float64, all others in float32 (or float64, if given).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from costsim.formats.format import Format, Scale, parse_format

Array = Any  # NumPy arrays: NumPy's own types say little of what ufuncs return

SCALE_RULES = ("floor", "ceil", "rceil", "even")
_CHUNK = 1 << 18  # elements that are worked on at once: they stay in cache, and so little more memory is taken
_FP32_MAX = float(np.finfo(np.float32).max)
_MANTISSA: dict[Any, int] = {np.dtype(np.float32): 23, np.dtype(np.float64): 52}
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


def _round(v: Array, rng: np.random.Generator | None) -> Array:
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


def _round_float(v: Array, format: Format, how: How) -> Array:
    """To the numbers of a float format, in place where that helps; NaN and infinity as `_overflow` says."""
    mantissa, m = _MANTISSA[v.dtype], format.width - 1
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
                r = (_round(v.astype(np.float64) / quantum, how.rng) * quantum).astype(v.dtype)
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
        r = np.clip(_round(v, how.rng), low, high)
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
        return np.clip(_round(v, how.rng), -high, high)

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

    return Elements(format.largest or 0.0, lambda v, how: _round_float(v, format, how), encode, decode)


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
    top = np.float32(_FP32_MAX / goal)
    top = np.nextafter(top, np.float32(0)) if float(top) * goal > _FP32_MAX else top
    values = np.minimum(largest / goal, np.where(largest > _FP32_MAX, _FP32_MAX, top)).astype(np.float32)
    values = np.where(values > 0, values, np.float32(1))
    return Shared(values.astype(np.float64), values.view(np.uint32).astype(np.uint64))


def _share_float8(largest: Array, goal: float, _format: Format, _scale: Scale, _how: How) -> Shared:
    format = parse_format("fp8-e4m3")
    values = _round_float((largest / goal).astype(np.float64), format, NEAREST)
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


_SCALES = {
    "scale e8m0": _ScaleKind(_share_power, _read_power),
    "exponent": _ScaleKind(_share_exponent, _read_exponent),
    "scale fp32": _ScaleKind(_share_fp32, _read_fp32),
    "scale e4m3": _ScaleKind(_share_float8, _read_float8, 448.0),
    "scale fp8": _ScaleKind(_share_float8, _read_float8, 448.0),
}


def _asymmetric(format: Format) -> bool:
    return any(scale.what == "zero point" for scale in format.scales)


def _goals(format: Format) -> list[tuple[Scale, float]]:
    """The scales that nest, the innermost first, and the largest number that each has to bring a block's largest to."""
    found, goal = [], elements(format).largest
    if _asymmetric(format):
        goal += 0.5  # of all codes, half lie on either side of the middle
    for scale in format.scales:
        if scale.what in _SCALES:
            found.append((scale, goal))
            goal *= _SCALES[scale.what].largest
    return found


def _largest_of_each(matrix: Array, block: int) -> Array:
    """The largest of each `block` numbers along the last axis, and of what is left over."""
    rows, run = matrix.shape
    whole = run - run % block
    if block & (block - 1) == 0 and whole:  # by halves, which is many times faster than reducing short rows
        parts = matrix[:, :whole].reshape(rows, -1, block)
        while parts.shape[2] > 1:
            half = parts.shape[2] // 2
            parts = np.maximum(parts[:, :, :half], parts[:, :, half:])
        left = [matrix[:, whole:].max(axis=1, keepdims=True)] if whole < run else []
        return np.concatenate([parts[:, :, 0], *left], axis=1)
    return np.maximum.reduceat(matrix, np.arange(0, run, block), axis=1)


def _blocks(matrix: Array, scale: Scale) -> Array:
    """The largest of each block of a matrix (free, run), cut-off blocks too."""
    by_row = (
        matrix.max(axis=1, keepdims=True) if scale.contracted is None else _largest_of_each(matrix, scale.contracted)
    )
    if scale.free is None:
        return by_row.max(axis=0, keepdims=True)
    return by_row if scale.free == 1 else _largest_of_each(by_row.T, scale.free).T


def _spread(values: Array, scale: Scale, shape: tuple[int, ...]) -> Array:
    """One number per block, repeated so that it broadcasts with the matrix."""
    if scale.free is not None and scale.free > 1:
        values = np.repeat(values, min(scale.free, shape[0]), axis=0)[: shape[0]]
    if scale.contracted is not None and scale.contracted > 1:
        values = np.repeat(values, min(scale.contracted, shape[1]), axis=1)[:, : shape[1]]
    return values


class Coded(NamedTuple):
    """A matrix in units of its scales: value = (rounded - offset) unit; and what blocks share, as in the format."""

    rounded: Array
    offset: Array | None
    unit: Array
    shared: list[Shared]

    @property
    def values(self) -> Array:
        """The numbers that the codes stand for."""
        if self.offset is None:
            return np.multiply(self.rounded, self.unit, out=self.rounded)
        values = np.subtract(self.rounded, self.offset, out=self.rounded)
        with np.errstate(over="ignore"):  # half a unit beyond the largest number
            np.multiply(values, self.unit, out=values)
        limit = np.finfo(values.dtype).max
        return np.clip(values, -limit, limit, out=values)


def _scaled(matrix: Array, format: Format, how: How, whole: tuple[float, float]) -> Coded:
    """The matrix over its units, in place, not yet rounded. `whole` are the extremes of the whole tensor."""
    asymmetric = _asymmetric(format)
    size: Array = None  # found where it is needed
    shared: list[Shared] = []
    unit: Array = np.full((1, 1), _static_unit(format, whole))
    offset: Array = None
    low: Array = None
    for scale, goal in reversed(_goals(format)):  # the outermost first
        if (scale.free, scale.contracted) == (None, None):
            low, high = (np.full((1, 1), extreme, matrix.dtype) for extreme in whole)
            high = high if asymmetric else np.maximum(-low, high)
        else:
            size = size if size is not None else matrix if asymmetric else np.abs(matrix)
            low, high = -_blocks(-size, scale) if asymmetric else None, _blocks(size, scale)
        if asymmetric:
            low = np.minimum(low, 0)
            high = np.maximum(high, 0).astype(np.float64) / 2 - low.astype(np.float64) / 2
        outer = unit if unit.shape == (1, 1) else _blocks(np.broadcast_to(unit, matrix.shape), scale)
        shared.insert(0, _SCALES[scale.what].share(high / outer, goal, format, scale, how))
        unit = unit * _spread(shared[0].values, scale, matrix.shape)
    largest = elements(format).largest
    for scale in format.scales:
        if scale.what == "microexponent":
            # A pair whose numbers are all below the shared power of two is shifted by a bit (MX; ISCA 2023, section 3).
            reaches = _blocks((np.abs(matrix) >= unit * ((largest + 1) / 2)).astype(np.int8), scale) > 0
            shared.append(Shared(np.where(reaches, 1.0, 0.5), (~reaches).astype(np.uint64)))
            unit = unit * _spread(shared[-1].values, scale, matrix.shape)
        elif scale.what == "zero point":
            zero = -np.rint(low / shared[0].values) - (largest + 1)  # a code, as 0 lies between the extremes
            zero = np.clip(zero, -largest - 1, largest)  # where the scale is subnormal, and so a rough one
            shared.append(Shared(zero, zero.astype(np.int64).astype(np.uint64) & np.uint64(2**scale.bits - 1)))
            offset = _spread(zero, scale, matrix.shape).astype(matrix.dtype)
    unit = _in_dtype(unit, matrix.dtype)
    if how.rng is not None and format.width > 12 and any(scale.what == "scale fp32" for scale in format.scales):
        matrix = matrix.astype(np.float64)  # beside 12 bits and more, float32 keeps too little of a quotient's fraction
    np.divide(matrix, unit, out=matrix)
    return Coded(matrix, offset, unit, shared)


def _in_dtype(unit: Array, dtype: Any) -> Array:
    """Units as numbers of the type worked in, and none 0: each is at least the smallest number there."""
    unit = unit.astype(dtype)
    return np.maximum(unit, np.finfo(dtype).smallest_subnormal, out=unit)


def _static_unit(format: Format, whole: tuple[float, float]) -> float:
    """A power of two for the tensor that nothing stores: of fixed point, and of floating point without blocks 1."""
    if format.scales or format.family not in ("fixed", "bfp"):
        return 1.0
    largest = max(-whole[0], whole[1])
    return math.ldexp(2.0 / (elements(format).largest + 1), math.frexp(largest)[1] - 1) if largest else 1.0


def _code(matrix: Array, format: Format, how: How, whole: tuple[float, float]) -> Coded:
    dtype = matrix.dtype
    scaled = _scaled(matrix, format, how, whole)
    if scaled.offset is not None:  # added to whole numbers, as ONNX has it: added to others it would round them
        rounded = _round(scaled.rounded, how.rng)
        rounded += scaled.offset
        scaled, how = scaled._replace(rounded=rounded), NEAREST
    return scaled._replace(rounded=elements(format).round(scaled.rounded, how).astype(dtype, copy=False))


# --- whole arrays -----------------------------------------------------------------------------------------------------


def needs_float64(format: Format) -> bool:
    """Whether float32 does not hold the codes of a format."""
    return format.width > 24 and format.family != "float"


def _dtype(x: Array, format: Format) -> Any:
    return np.dtype(np.float64 if x.dtype == np.float64 or needs_float64(format) else np.float32)


def _moved(x: Array, axes: Sequence[int] | None) -> tuple[Array, int]:
    """The array with the axes along which blocks lie last, and how many those are."""
    if axes is None or not len(axes):
        axes = (x.ndim - 1,)
    if x.ndim == 0:
        return x.reshape(1), 1
    return np.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim)), len(axes)


def _matrix_shape(moved: Array, along: int) -> tuple[int, int]:
    run = math.prod(moved.shape[moved.ndim - along :])
    return moved.size // run if run else 0, run


def _extremes(x: Array, format: Format) -> tuple[float, float]:
    """The least and the largest number. Raises ValueError for NaN and infinity in a format that cannot hold them."""
    if not x.size:
        return 0.0, 0.0
    low, high = float(x.min()), float(x.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{format.name} holds no NaN or infinity")
    return low, high


def _pieces(moved: Array, along: int, format: Format) -> Iterator[tuple[Any, tuple[int, int]]]:
    """Slices of an array in which no block is cut, each with its shape as a matrix (free, run)."""
    shape = moved.shape
    run = math.prod(shape[len(shape) - along :])
    rows_of_one = math.prod(shape[1 : len(shape) - along])
    blocks = [(scale.free, scale.contracted) for scale in format.scales]
    blocks = [block for block in blocks if block != (None, None)]  # what spans the tensor is known beforehand
    across = math.lcm(*(free or 0 for free, _ in blocks)) if blocks else 1
    contracted = math.lcm(*(n or 0 for _, n in blocks)) if blocks else 1
    if len(shape) == along == 1 and contracted:
        step = max(1, _CHUNK // contracted) * contracted
        for start in range(0, run, step):
            yield slice(start, start + step), (1, min(step, run - start))
    elif along < len(shape) and across and (across == 1 or rows_of_one % across == 0 or rows_of_one == 1):
        step = max(1, _CHUNK // max(1, rows_of_one * run) // across) * across
        for start in range(0, shape[0], step):
            yield slice(start, start + step), (min(step, shape[0] - start) * rows_of_one, run)
    elif along == 1 and contracted and not across:  # blocks that span the rows: by columns
        free = moved.size // run
        step = max(1, _CHUNK // free // contracted) * contracted
        for start in range(0, run, step):
            yield (..., slice(start, start + step)), (free, min(step, run - start))
    else:
        yield ..., (moved.size // run, run)


def quantize(x: Array, format: Format, axes: Sequence[int] | None = None, how: How = NEAREST) -> Array:
    """The nearest numbers that the format holds (`how` says otherwise), in the shape of x.

    `axes` are those along which blocks lie, flattened in this order; by default the last. The result is float32, or
    float64 if x is, or if the format needs it. Raises ValueError for NaN and infinity in a format that has none.
    """
    if format.grid is not None:
        return quantize(quantize(x, format.grid, axes, how), replace(format, grid=None), None, how)
    if format.values != "float":
        return x
    dtype = _dtype(x, format)
    plain = format.family == "float" and not format.scales
    if plain and format.width > _MANTISSA[dtype]:
        return x.astype(dtype)
    whole = (0.0, 0.0) if plain else _extremes(x, format)
    out = np.empty(x.shape, dtype)
    if x.size:
        (moved, along), (target, _) = _moved(x, axes), _moved(out, axes)
        for piece, shape in _pieces(moved, along, format):
            part = np.array(moved[piece], dtype).reshape(shape)
            values = _round_float(part, format, how) if plain else _code(part, format, how, whole).values
            target[piece] = values.reshape(moved[piece].shape)
    return out


# --- the real bits ----------------------------------------------------------------------------------------------------


class Bits(NamedTuple):
    """Codes of some width, one after the other, in bytes; `length` is in bits."""

    data: Array
    length: int
    width: int

    def codes(self) -> Array:
        """The codes again, unsigned."""
        if self.width in (8, 16, 32, 64):
            return self.data.view(f"<u{self.width // 8}").astype(np.uint64)
        bits = np.unpackbits(self.data, count=self.length, bitorder="little").reshape(-1, self.width)
        return bits.astype(np.uint64) @ (np.uint64(1) << np.arange(self.width, dtype=np.uint64))


def _bits(codes: Array, width: int) -> Bits:
    codes = np.ascontiguousarray(codes).reshape(-1)
    if width in (8, 16, 32, 64):
        data = codes.astype(f"<u{width // 8}").view(np.uint8)
        return Bits(data, 8 * data.size, width)
    bits = (codes[:, None] >> np.arange(width, dtype=np.uint64)) & np.uint64(1)
    return Bits(np.packbits(bits.astype(np.uint8), bitorder="little"), bits.size, width)


@dataclass(frozen=True, slots=True)
class Packed:
    """A tensor as it lies in memory: the codes of its elements, and those of what its blocks share.

    `unit` is a static scale, which nothing stores; `dtype` is what it is worked on in.
    """

    format: Format
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None
    dtype: Any
    elements: Bits
    shared: tuple[Bits, ...]
    unit: float = 1.0

    @property
    def bits(self) -> int:
        """How many bits it takes, measured."""
        return self.elements.length + sum(bits.length for bits in self.shared)


def pack(x: Array, format: Format, axes: Sequence[int] | None = None, how: How = NEAREST) -> Packed:
    """Quantize to the real bits: codes of exactly the format's widths. Arguments and errors as of `quantize`."""
    lies = None if axes is None else tuple(axes)
    if format.values != "float":
        codes = _bits(np.asarray(x).astype(np.int64).astype(np.uint64), format.element_bits)
        return Packed(format, x.shape, lies, x.dtype, codes, ())
    if format.grid is not None:
        return pack(quantize(x, format.grid, axes, how), replace(format, grid=None), None, how)
    dtype = _dtype(x, format)
    moved, along = _moved(np.asarray(x, dtype), axes)
    matrix = moved.reshape(_matrix_shape(moved, along))
    if format.family == "float" and not format.scales:
        rounded, shared, unit = quantize(matrix, format, None, how), [], 1.0
    elif x.size:
        whole = _extremes(x, format)
        coded = _code(matrix.copy(), format, how, whole)
        rounded, shared, unit = coded.rounded, coded.shared, _static_unit(format, whole)
    else:
        rounded, shared, unit = matrix, [], 1.0
    parts = tuple(_bits(its.codes, scale.bits) for its, scale in zip(shared, format.scales, strict=False))
    return Packed(
        format, x.shape, lies, dtype, _bits(elements(format).encode(rounded), format.element_bits), parts, unit
    )


def unpack(packed: Packed) -> Array:
    """The numbers that the bits stand for: those of `quantize`, bit for bit."""
    format = packed.format
    if format.values != "float":
        return packed.elements.codes().astype(np.int64).astype(packed.dtype).reshape(packed.shape)
    out = np.empty(packed.shape, packed.dtype)
    moved, along = _moved(out, packed.axes)
    matrix_shape = _matrix_shape(moved, along)
    rounded = elements(format).decode(packed.elements.codes()).astype(packed.dtype).reshape(matrix_shape)
    if not out.size:
        return out
    stored = [
        (scale, bits.codes().reshape(scale.blocks(*reversed(matrix_shape))))
        for scale, bits in zip(format.scales, packed.shared, strict=True)
    ]
    goals = dict(_goals(format))
    unit: Array = np.full((1, 1), packed.unit)
    offset: Array | None = None
    for scale, codes in reversed(stored):
        if scale in goals:
            unit = unit * _spread(_SCALES[scale.what].read(codes, goals[scale], format, scale), scale, matrix_shape)
    for scale, codes in stored:
        if scale.what == "microexponent":
            unit = unit * _spread(np.where(codes > 0, 0.5, 1.0), scale, matrix_shape)
        elif scale.what == "zero point":
            high = 2 ** (scale.bits - 1) - 1
            zero = codes.astype(np.int64) - ((codes > high).astype(np.int64) << scale.bits)
            offset = _spread(zero.astype(packed.dtype), scale, matrix_shape)
    values = Coded(rounded, offset, _in_dtype(unit, packed.dtype), []).values
    moved[...] = values.reshape(moved.shape)
    return out
