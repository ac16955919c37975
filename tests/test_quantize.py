"""Quantizers: against ml_dtypes and gfloat, against slow definitions in exact fractions, and what they promise.

The definitions read one block at a time, as the sources state them, and know nothing of matrices, chunks or bits. Where
a quantizer works in float32, what it divides and multiplies is rounded there too: `work` is that type.
"""

import math
import tracemalloc
from bisect import bisect_left
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from itertools import pairwise
from statistics import NormalDist
from typing import Any, NamedTuple

import gfloat
import gfloat.formats
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import costsim.formats.quantize as module
from costsim.formats.elements import Rounding, elements
from costsim.formats.named import EXAMPLES, parse_format
from costsim.formats.pack import pack, unpack
from costsim.formats.quantize import quantize
from costsim.formats.scales import SCALE_RULES

SATURATE, OVERFLOW = Rounding(saturate=True), Rounding(saturate=False)


def seeded(seed=0):
    return Rounding(rng=np.random.default_rng(seed))


def frozen(x):
    """The array, which nothing may write to: no test's input is modified, or the test fails."""
    x.flags.writeable = False
    return x


def assert_same(actual, expected):
    """Every number and the sign of every zero; a NaN is as good as another."""
    assert actual.shape == expected.shape
    wrong = ~(
        (actual == expected) & (np.signbit(actual) == np.signbit(expected)) | np.isnan(actual) & np.isnan(expected)
    )
    assert not wrong.any(), f"{wrong.sum()} differ, as {actual[wrong][:5]} from {expected[wrong][:5]}"


def assert_same_bits(actual, expected):
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    assert actual.tobytes() == expected.tobytes()


# --- floats, against ml_dtypes and gfloat -----------------------------------------------------------------------------

TF32 = gfloat.FormatInfo(
    name="tf32",
    k=19,
    precision=11,
    bias=127,
    is_signed=True,
    domain=gfloat.Domain.Extended,
    has_nz=True,
    num_high_nans=2**10 - 1,
    has_subnormals=True,
    is_twos_complement=False,
)
GFLOAT = {
    "fp8-e4m3": gfloat.formats.format_info_ocp_e4m3,
    "fp8-e5m2": gfloat.formats.format_info_ocp_e5m2,
    "fp6-e3m2": gfloat.formats.format_info_ocp_e3m2,
    "fp6-e2m3": gfloat.formats.format_info_ocp_e2m3,
    "fp4-e2m1": gfloat.formats.format_info_ocp_e2m1,
    "bf16": gfloat.formats.format_info_bfloat16,
    "fp16": gfloat.formats.format_info_binary16,
    "tf32": TF32,
}
ML_DTYPES = {
    "fp8-e4m3": ml_dtypes.float8_e4m3fn,
    "fp8-e5m2": ml_dtypes.float8_e5m2,
    "fp6-e3m2": ml_dtypes.float6_e3m2fn,
    "fp6-e2m3": ml_dtypes.float6_e2m3fn,
    "fp4-e2m1": ml_dtypes.float4_e2m1fn,
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
}
FINITE_ONLY = ("fp6-e3m2", "fp6-e2m3", "fp4-e2m1")  # they have no NaN or infinity, so they always saturate


@cache
def probes(name, dtype):
    """Where rounding can go wrong: each number of the format, each middle of two, where it overflows, and the numbers
    beside these; all of float16; every exponent that there is; NaN and infinity."""
    info = GFLOAT[name]
    codes = np.arange(info.code_of_max + 1)
    if info.k > 16:  # a part of tf32: its subnormals, its largest, and some of the others
        codes = np.unique(np.concatenate([codes[:3000], codes[-3000:], codes[::61], codes[60::61]]))
    values = gfloat.decode_ndarray(info, codes)
    values = np.append(values, values[-1] + np.diff(values)[-1])  # the next, were there one
    exact = np.concatenate([values, (values[1:] + values[:-1]) / 2])
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    with np.errstate(over="ignore", invalid="ignore"):
        points = exact.astype(dtype)
        ties = [points, np.nextafter(points, dtype(-np.inf)), np.nextafter(points, dtype(np.inf))]
        halves = np.append(halves[~np.isnan(halves)], np.nan).astype(dtype)
        x = np.concatenate([*ties, *(-tie for tie in ties), halves, every_exponent(dtype)])
    return frozen(x[np.isfinite(x)] if name in FINITE_ONLY else x)


def every_exponent(dtype):
    """All patterns of the highest 16 bits: both signs, all exponents, all that comes first in a mantissa; one NaN."""
    bits, rest = (np.uint32, 16) if dtype is np.float32 else (np.uint64, 48)
    x = (np.arange(2**16, dtype=bits) << rest).view(dtype)
    return np.append(x[~np.isnan(x)], dtype(np.nan))


def cast(x, type):
    with np.errstate(over="ignore", invalid="ignore"):
        return x.astype(type)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ML_DTYPES)
def test_floats_are_those_of_ml_dtypes(name, dtype):
    x = probes(name, np.float32)  # float64 too is given what float32 holds: ml_dtypes rounds twice there
    actual = quantize(x.astype(dtype), parse_format(name), rounding=OVERFLOW)
    assert actual.dtype == dtype
    assert_same(actual, cast(x, ML_DTYPES[name]).astype(dtype))


@pytest.mark.parametrize("saturate", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", GFLOAT)
def test_floats_are_those_of_gfloat(name, dtype, saturate):
    x = probes(name, dtype)
    info = GFLOAT[name]
    saturates = name in FINITE_ONLY or saturate
    with np.errstate(over="ignore"):
        expected = gfloat.round_ndarray(info, x.astype(np.float64), sat=saturates)
    assert_same(quantize(x, parse_format(name), rounding=Rounding(saturate=saturate)), expected.astype(dtype))


@pytest.mark.parametrize("name", GFLOAT)
def test_floats_of_8_bits_and_less_saturate_unless_told_otherwise(name):
    x, format = probes(name, np.float32), parse_format(name)
    assert_same(quantize(x, format), quantize(x, format, rounding=SATURATE if GFLOAT[name].k <= 8 else OVERFLOW))


@pytest.mark.parametrize("name", GFLOAT)
def test_codes_of_floats(name):
    x = probes(name, np.float32)
    format = parse_format(name)
    packed = pack(x, format, rounding=OVERFLOW)
    actual = unpack(packed)
    assert_same(actual, quantize(x, format, rounding=OVERFLOW))
    number = ~np.isnan(actual)  # NaN has many codes
    expected = gfloat.encode_ndarray(GFLOAT[name], actual.astype(np.float64))
    if name == "tf32":
        expected = expected << np.uint64(13)  # a float32 whose lowest bits are 0
        assert (expected[number] == actual.view(np.uint32)[number]).all()
    else:
        bits = cast(x, ML_DTYPES[name])
        assert (expected[number] == bits.view(f"u{bits.itemsize}")[number]).all()
    assert (packed.elements.codes()[number] == expected[number]).all()
    assert packed.elements.data.size == math.ceil(x.size * format.element_bits / 8)


def test_fp32_is_float32():
    x = frozen(every_exponent(np.float32))
    exact = probes("bf16", np.float64)
    assert_same_bits(quantize(x, parse_format("fp32")), x)
    assert_same(quantize(exact, parse_format("fp32")), cast(exact, np.float32).astype(np.float64))
    number = ~np.isnan(x)
    assert (pack(x, parse_format("fp32")).elements.codes() == x.view(np.uint32))[number].all()


def test_float32_to_fp8_is_not_nan_where_it_is_large():
    """Regression: 1.5 x 2^(e+20), with which rounding was done, is NaN for one exponent e."""
    for name, e in [("fp8-e4m3", 108), ("fp8-e5m2", 107), ("fp16", 115), ("fp4-e2m1", 106)]:
        actual = quantize(np.float32([2.0**e, -(2.0**e)]), parse_format(name), rounding=SATURATE)
        assert actual.tolist() == [parse_format(name).largest, -parse_format(name).largest]


# --- microscaling, against gfloat -------------------------------------------------------------------------------------

MX = {
    "mxfp8": gfloat.formats.format_info_mxfp8_e4m3,
    "mxfp8-e5m2": gfloat.formats.format_info_mxfp8_e5m2,
    "mxfp6": gfloat.formats.format_info_mxfp6_e3m2,
    "mxfp6-e2m3": gfloat.formats.format_info_mxfp6_e2m3,
    "mxfp4": gfloat.formats.format_info_mxfp4_e2m1,
    "mxint8": gfloat.formats.format_info_mxint8,
}


def blocks_of_32():
    """Blocks at every sixth binade of float32, with numbers of like size and of all sizes below; ties; zeros."""
    rng = np.random.default_rng(1)
    like = rng.standard_normal((43, 32)) * 2.0 ** np.arange(-132, 126, 6)[:, None]
    below = like * 2.0 ** rng.integers(-24, 1, like.shape)
    ties = rng.integers(-64, 65, (9, 32)) * 2.0 ** np.arange(-136, 80, 24)[:, None]
    tiny = rng.integers(-9, 10, (2, 32)) * 2.0**-149
    edges = np.full((2, 32), float(np.finfo(np.float32).max))
    edges[1, 1:] = -0.0
    x = np.concatenate([like, below, ties, tiny, edges, np.zeros((1, 32)), -np.zeros((1, 32))])
    return frozen(x.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", MX)
def test_microscaling_is_that_of_gfloat(name, dtype):
    info, x = MX[name], blocks_of_32()
    codes = []
    for block in x.astype(np.float64):
        scale = gfloat.compute_scale_amax(info.etype.emax, block)
        codes.append(list(gfloat.encode_block(info, scale, block / scale)))
    values = np.array([list(gfloat.decode_block(info, block)) for block in codes])
    assert_same(quantize(x.astype(dtype), parse_format(name)), values.astype(dtype))
    packed = pack(x.astype(dtype), parse_format(name))
    assert packed.shared[0].codes().tolist() == [block[0] for block in codes]
    assert packed.elements.codes().reshape(x.shape).tolist() == [block[1:] for block in codes]


# --- definitions in exact fractions -----------------------------------------------------------------------------------


@cache
def power(e):
    return Fraction(2) ** e


def floor_log2(v):
    e = v.numerator.bit_length() - v.denominator.bit_length()
    return e if v >= power(e) else e - 1


def ceil_log2(v):
    return floor_log2(v) + (v > power(floor_log2(v)))


def clamp(v, low, high):
    return min(max(v, low), high)


def largest_of(block):
    return max((abs(x) for x in block), default=Fraction(0))


class Float(NamedTuple):
    """A float format: digits of its significand, the exponent of its smallest normal number, its largest number."""

    digits: int
    emin: int
    largest: Fraction

    def round(self, v):
        """To the nearest, ties to even; subnormals kept; what is too large becomes the largest."""
        if v == 0:
            return v
        step = power(max(floor_log2(abs(v)), self.emin) - self.digits + 1)
        return clamp(round(v / step) * step, -self.largest, self.largest)

    @property
    def smallest(self):
        return power(self.emin - self.digits + 1)


FLOAT32 = Float(24, -126, (2 - Fraction(1, 2**23)) * 2**127)
FLOAT64 = Float(53, -1022, (2 - Fraction(1, 2**52)) * power(1023))
ELEMENTS = {  # OCP OFP8 v1.0, table 1, and OCP MX v1.0, tables 3 to 5
    "fp8-e4m3": Float(4, -6, Fraction(448)),
    "fp8-e5m2": Float(3, -14, Fraction(57344)),
    "fp6-e3m2": Float(3, -2, Fraction(28)),
    "fp6-e2m3": Float(4, 0, Fraction(15, 2)),
    "fp4-e2m1": Float(2, 0, Fraction(6)),
}


def fp32_scale(largest, goal):
    """What brings the largest to the goal, in float32; 1 if that is 0. Not rounded up beyond float32 altogether."""
    scale = FLOAT32.round(largest / goal)
    if scale * goal > FLOAT32.largest >= largest:
        scale = Fraction(float(np.nextafter(np.float32(scale), np.float32(0))))
    return scale or Fraction(1)


def fixed(bits):
    """Two's complement fractions of the power of two above the largest of the tensor."""

    def quantized(block, work, _outer):
        unit = power(floor_log2(largest_of(block)) + 2 - bits) if any(block) else Fraction(1)
        unit = max(unit, work.smallest)
        return [clamp(round(x / unit), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * unit for x in block]

    return quantized


def symmetric(bits):
    def quantized(block, work, _outer):
        high = 2 ** (bits - 1) - 1
        scale = fp32_scale(largest_of(block), high)
        return [work.round(clamp(round(work.round(x / scale)), -high, high) * scale) for x in block]

    return quantized


def asymmetric(bits):
    """ONNX DynamicQuantizeLinear, of any width, with signed codes: round(x / scale) + zero point, saturated."""

    def quantized(block, work, _outer):
        low, high = min(0, *block), max(0, *block)
        least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        scale = fp32_scale((high - low) / 2, Fraction(most - least, 2))
        zero = clamp(least - round(low / scale), least, most)
        codes = [clamp(round(work.round(x / scale)) + zero, least, most) for x in block]
        return [work.round((code - zero) * scale) for code in codes]

    return quantized


def shared_exponent(block, bits):
    """That of the largest, as far as it can be stored with a bias."""
    bias = 2 ** (bits - 1) - 1
    return clamp(floor_log2(largest_of(block)), -bias, bias) if any(block) else -bias


def bfp(magnitude_bits, exponent_bits=8):
    """A sign and a magnitude, in steps of 2^(shared exponent + 1 - bits of the magnitude)."""

    def quantized(block, work, _outer):
        unit = max(power(shared_exponent(block, exponent_bits) + 1 - magnitude_bits), work.smallest)
        high = 2**magnitude_bits - 1
        return [clamp(round(x / unit), -high, high) * unit for x in block]

    return quantized


def microexponents(magnitude_bits):
    """As bfp; neighbours that are both below 2^(shared exponent) have steps half as large (ISCA 2023, section 3)."""

    def quantized(block, _work, _outer):
        e = shared_exponent(block, 8)
        high = 2**magnitude_bits - 1
        values = []
        for at in range(0, len(block), 2):
            pair = block[at : at + 2]
            shift = 0 if largest_of(pair) >= power(e) else 1
            unit = power(e - shift + 1 - magnitude_bits)
            values += [clamp(round(x / unit), -high, high) * unit for x in pair]
        return values

    return quantized


def scaled_float(element):
    def quantized(block, work, _outer):
        scale = fp32_scale(largest_of(block), element.largest)
        return [work.round(element.round(work.round(x / scale)) * scale) for x in block]

    return quantized


def two_scales(round_element, largest):
    """An fp32 scale for the outer block brings the scales of the inner ones into fp8-e4m3 (nvfp4.rst)."""

    def quantized(block, work, outer):
        e4m3 = ELEMENTS["fp8-e4m3"]
        wide = fp32_scale(outer, largest * e4m3.largest)
        narrow = max(e4m3.round(largest_of(block) / wide / largest), e4m3.smallest)
        unit = max(work.round(wide * narrow), work.smallest)
        return [work.round(round_element(work.round(x / unit)) * unit) for x in block]

    return quantized


def to_nearest_of(values):
    """The nearest, of two equally near ones the lower."""

    def nearest(v):
        at = bisect_left(values, v)
        return min(values[max(at - 1, 0) : at + 1], key=lambda value: (abs(value - v), value))

    return nearest


def codebook(nearest):
    def quantized(block, work, _outer):
        scale = fp32_scale(largest_of(block), 1)
        return [work.round(nearest(work.round(x / scale)) * scale) for x in block]

    return quantized


def table(name):
    format = parse_format(name)
    return elements(format).decode(np.arange(2**format.element_bits, dtype=np.uint64))


NF4, DYNAMIC8 = (to_nearest_of([Fraction(value) for value in table(name).tolist()]) for name in ("nf4", "dynamic8"))


def test_nf4_holds_quantiles_of_the_normal_distribution():
    """QLoRA, equation 4 and appendix E, as bitsandbytes makes them: 8 above 0, 7 below, the ends 1 - 0.9677083 off."""
    quantile = NormalDist().inv_cdf
    above = [quantile(p) for p in np.linspace(0.9677083, 0.5, 9)[:-1]]
    below = [-quantile(p) for p in np.linspace(0.9677083, 0.5, 8)[:-1]]
    expected = np.sort(np.array([*above, 0, *below]) / above[0])
    np.testing.assert_allclose(table("nf4"), expected, atol=2e-7)


def test_the_dynamic_map_has_decades_with_a_fraction_each():
    """arXiv:2110.02861, figure 2: leading zeros are the decade, the bits after the first 1 a linear fraction."""
    expected = {Fraction(0), Fraction(1)}
    for zeros in range(7):
        steps = 2 ** (6 - zeros)  # what bits are left for the fraction
        for j in range(steps):
            middle = Fraction(1, 10) + Fraction(9, 10) * (j + Fraction(1, 2)) / steps
            expected |= {middle / 10**zeros, -middle / 10**zeros}
    np.testing.assert_allclose(table("dynamic8"), sorted(float(value) for value in expected), rtol=1e-7)


class Case(NamedTuple):
    """A format, its blocks (free, contracted; None is all), and how the numbers of one block are quantized.

    Where larger blocks, `outer`, share one more scale, `quantized` is given the largest of those too.
    """

    name: str
    block: tuple[int | None, int | None]
    quantized: Callable[..., list[Fraction]]
    outer: tuple[int | None, int | None] = (None, None)
    sides: tuple[int, int] = (6, 40)  # of the tensors to try it on: at most, of an axis
    flat: bool = False  # whether blocks lie along all axes where none are named


ALL = (None, None)
BITS = st.integers(2, 32)
SIDE = st.integers(1, 12)
BLOCKS = st.one_of(
    st.sampled_from([("", ALL), ("-row", (1, None)), ("-column", (None, 1))]),
    st.builds(lambda free, contracted: (f"-{free}x{contracted}", (free, contracted)), SIDE, SIDE),
)


def bfp_case(bits, box, exponent):
    block = (1, box) if exponent else ALL
    # Without a stored exponent it is that of the tensor, which any width holds.
    return Case(f"bfp{bits}-box{box}-exp{exponent}", block, bfp(bits - 1, exponent or 16))


FAMILIES = {
    "fixed": st.builds(lambda n: Case(f"fixed{n}", ALL, fixed(n)), BITS),
    "int": st.builds(lambda n, block: Case(f"int{n}{block[0]}", block[1], symmetric(n)), BITS, BLOCKS),
    "int-asym": st.builds(lambda n, block: Case(f"int{n}-asym{block[0]}", block[1], asymmetric(n)), BITS, BLOCKS),
    "bfp": st.builds(bfp_case, BITS, st.integers(1, 40), st.integers(0, 16)),
    "msfp": st.sampled_from(range(3, 9)).map(lambda n: Case(f"msfp{n + 8}", (1, 16), bfp(n - 1))),
    "mx": st.sampled_from([("mx9", 7), ("mx6", 4), ("mx4", 2)]).map(
        lambda named: Case(named[0], (1, 16), microexponents(named[1]))
    ),
    "hbfp": st.sampled_from([8, 12]).map(lambda n: Case(f"hbfp{n}", (24, 24), bfp(n - 1), sides=(30, 30))),
    "flex16": st.just(Case("flex16", ALL, bfp(15, 5))),
    "fast": st.sampled_from([2, 4]).map(lambda m: Case(f"fast{m}", (1, 16), bfp(m, 4))),
    "float": st.builds(
        lambda name, block: Case(f"{name}{block[0] or '-tensor'}", block[1], scaled_float(ELEMENTS[name])),
        st.sampled_from(sorted(ELEMENTS)),
        BLOCKS,
    ),
    "float-128": st.just(Case("fp8-e4m3-1x128", (1, 128), scaled_float(ELEMENTS["fp8-e4m3"]), sides=(2, 150))),
    "nvfp4": st.sampled_from([("", (1, 16)), ("-16x16", (16, 16))]).map(
        lambda named: Case(
            f"nvfp4{named[0]}", named[1], two_scales(ELEMENTS["fp4-e2m1"].round, Fraction(6)), sides=(20, 40)
        )
    ),
    "nf4": SIDE.map(lambda n: Case(f"nf4-{n}", (1, n), codebook(NF4), sides=(3, 50), flat=True)),
    "nf4-row": SIDE.map(lambda n: Case(f"nf4-1x{n}", (1, n), codebook(NF4), sides=(3, 50))),
    "nf4-double": SIDE.map(
        lambda n: Case(f"nf4-double-{n}", (1, n), two_scales(NF4, Fraction(1)), (1, n * 256), sides=(3, 150), flat=True)
    ),
    "dynamic8": st.just(Case("dynamic8-256", (1, 256), codebook(DYNAMIC8), sides=(2, 300), flat=True)),
    "float-flat": SIDE.map(
        lambda n: Case(f"fp8-e4m3-flat{n}", (1, n), scaled_float(ELEMENTS["fp8-e4m3"]), sides=(3, 50), flat=True)
    ),
}


def numbers(rng, shape, dtype, spread=0, kind="any"):
    """Numbers of sizes that differ by 2^(2 spread), a fifth of them 0, one huge or some tiny if `kind` says so."""
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(-spread, spread + 1, shape)
    x = np.where(rng.random(shape) < 0.2, np.copysign(0, x), x)
    if kind in ("above", "below"):
        x = np.copysign(x, 1 if kind == "above" else -1)
    if kind == "subnormal":
        x *= 2.0**-140 if dtype is np.float32 else 2.0**-1060
    x = np.asarray(x.astype(dtype))
    if kind in ("huge", "largest") and x.size:
        x.flat[rng.integers(x.size)] *= 2.0**40
        x.flat[rng.integers(x.size)] = 1e35 if kind == "huge" else np.finfo(np.float32).max
    if kind == "zeros":
        x.reshape(-1)[: x.size // 2] = 0
    return x


def rearranged(x, layout):
    """The same numbers, lying otherwise in memory."""
    if layout == "fortran":
        return np.asfortranarray(x)
    if layout == "backwards":
        return np.flip(np.flip(x).copy())
    if layout == "sparse" and x.ndim:
        return np.repeat(x, 2, axis=-1)[..., ::2]
    return x


KINDS = ("any", "huge", "largest", "subnormal", "above", "below", "zeros")
LAYOUTS = ("as made", "fortran", "backwards", "sparse")


@st.composite
def tensors(draw, sides=(6, 40), least=1):
    """A tensor and the axes along which blocks lie, one or two of them, anywhere among the others."""
    across, along = sides
    contracted = draw(
        st.one_of(
            st.integers(least, along).map(lambda n: [n]),
            st.lists(st.integers(least, math.isqrt(along)), min_size=2, max_size=2),
        )
    )
    free = draw(
        st.one_of(
            st.lists(st.integers(least, across), max_size=1),
            st.lists(st.integers(least, math.isqrt(across)), min_size=2, max_size=2),
        )
    )
    sizes = contracted + free
    order = draw(st.permutations(range(len(sizes))))
    shape = [sizes[at] for at in order]
    axes = tuple(order.index(i) for i in range(len(contracted)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    spread = draw(st.sampled_from([0, 3, 20, 40]))
    x = numbers(rng, shape, dtype, spread, draw(st.sampled_from(KINDS)))
    if axes == (len(shape) - 1,) and draw(st.booleans()):
        axes = None
    elif draw(st.booleans()):
        axes = tuple(axis - len(shape) for axis in axes)
    return frozen(rearranged(x, draw(st.sampled_from(LAYOUTS)))), axes


def place(index, shape, axes, flat):
    """Row and column of an element in the matrix whose columns are the axes, in that order; the others are rows."""
    default = range(len(shape)) if flat else (-1,)
    along = [axis % len(shape) for axis in (default if axes is None else axes)]
    at = []
    for dims in ([axis for axis in range(len(shape)) if axis not in along], along):
        rank = 0
        for axis in dims:
            rank = rank * shape[axis] + index[axis]
        at.append(rank)
    return tuple(at)


def by_definition(x, axes, case, work):
    cells: dict[Any, Any] = {}
    outer: dict[Any, Any] = {}
    for index in np.ndindex(x.shape):
        row, column = place(index, x.shape, axes, case.flat)
        inside, around = (
            tuple(at // side if side else 0 for at, side in zip((row, column), block, strict=True))
            for block in (case.block, case.outer)
        )
        cells.setdefault((inside, around), []).append((row, column, index))
        outer[around] = max(outer.get(around, 0.0), abs(float(x[index])))
    defined = np.empty(x.shape)
    for (_, around), cell in cells.items():
        places = [index for _, _, index in sorted(cell)]
        values = case.quantized([Fraction(float(x[index])) for index in places], work, Fraction(outer[around]))
        for index, value in zip(places, values, strict=True):
            defined[index] = float(value)
    return defined


def assert_as_defined(x, axes, case):
    format = parse_format(case.name)
    actual = quantize(x, format, axes)
    work = FLOAT64 if actual.dtype == np.float64 else FLOAT32
    expected = by_definition(x, axes, case, work)
    wrong = actual != expected
    assert not wrong.any(), f"{case.name} of {x[wrong][:5]} is {actual[wrong][:5]}, not {expected[wrong][:5]}"
    assert not (np.signbit(actual) & ~np.signbit(x)).any()


@pytest.mark.parametrize("family", FAMILIES)
@given(st.data())
@settings(max_examples=15, deadline=None)
def test_every_family_is_as_defined(family, data):
    case = data.draw(FAMILIES[family])
    x, axes = data.draw(tensors(case.sides))
    assert_as_defined(x, axes, case)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("fp8-e4m3-128x128", (129, 130)), ("dynamic8", (2, 2100)), ("nf4-double", (64 * 256 + 100,)), ("hbfp8", (49, 50))],
)
def test_large_blocks_are_as_defined(name, shape):
    known = {
        "fp8-e4m3-128x128": Case(name, (128, 128), scaled_float(ELEMENTS["fp8-e4m3"])),
        "dynamic8": Case(name, (1, 2048), codebook(DYNAMIC8), flat=True),
        "nf4-double": Case(name, (1, 64), two_scales(NF4, Fraction(1)), (1, 64 * 256), flat=True),
        "hbfp8": Case(name, (24, 24), bfp(7)),
    }
    assert_as_defined(frozen(numbers(np.random.default_rng(0), shape, np.float32, 2, "huge")), None, known[name])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "case", [*[Case(f"bfp{n}-box2", (1, 2), bfp(n - 1)) for n in (2, 8, 24)], Case("mx9", (1, 16), microexponents(7))]
)
def test_exponents_about_powers_of_two(case, dtype):
    powers = 2.0 ** np.arange(-120, 120, 8).astype(dtype)
    beside = [np.nextafter(powers, dtype(0)), powers, np.nextafter(powers, dtype(np.inf))]
    for largest in beside:
        assert_as_defined(frozen(np.stack([largest, -largest * dtype(0.7)], axis=1)), None, case)


@pytest.mark.parametrize(("name", "nearest"), [("nf4", NF4), ("dynamic8", DYNAMIC8)])
def test_codebooks_take_the_lower_of_two_that_are_equally_near(name, nearest):
    values = table(name)
    middles = (values[1:] + values[:-1]) / 2  # exact, and so is their ratio to the largest, 1
    x = np.concatenate([[1.0], middles])
    actual = quantize(frozen(x), parse_format(name))
    assert (actual[1:] == values[:-1]).all()
    assert actual.tolist() == [float(nearest(Fraction(v))) for v in x.tolist()]


# --- rules for the scales of microscaling -----------------------------------------------------------------------------

# Bits of the element's mantissa, the exponent of its largest number (OCP MX v1.0, tables 3 to 6), how it is rounded.
MX_ELEMENTS = {
    "mxfp8": (3, 8, ELEMENTS["fp8-e4m3"]),
    "mxfp8-e5m2": (2, 15, ELEMENTS["fp8-e5m2"]),
    "mxfp6": (2, 4, ELEMENTS["fp6-e3m2"]),
    "mxfp6-e2m3": (3, 2, ELEMENTS["fp6-e2m3"]),
    "mxfp4": (1, 2, ELEMENTS["fp4-e2m1"]),
    "mxint8": (6, 0, Float(7, 0, Fraction(127, 64))),  # fixed point: its numbers below 2 are multiples of 1/64
}


def exponent_by_rule(rule, amax, mantissa_bits, emax, largest):
    """As torchao's to_mx has them; amax is not 0."""
    if rule == "floor":
        return floor_log2(amax) - emax
    if rule == "ceil":
        return ceil_log2(amax) - emax
    if rule == "rceil":
        return ceil_log2(amax / largest)
    step = power(floor_log2(amax) - mantissa_bits)
    return floor_log2(math.floor(amax / step + Fraction(1, 2)) * step) - emax  # half a step up


def largest_of_blocks():
    """Powers of two, and what elements are rounded at: 2 - 2^-k, 1 + 2^-k, and the numbers beside these."""
    ones = np.float32([1, *(1 + 2.0**-k for k in range(1, 10)), *(2 - 2.0**-k for k in range(1, 10))])
    beside = np.concatenate([ones, np.nextafter(ones, np.float32(0)), np.nextafter(ones, np.float32(9))])
    return np.unique([cast(beside * 2.0**e, np.float32) for e in (-149, -130, -126, -118, 0, 7, 126)])


@pytest.mark.parametrize("rule", SCALE_RULES)
@pytest.mark.parametrize("name", MX)
def test_scale_rules(name, rule):
    mantissa_bits, emax, element = MX_ELEMENTS[name]
    largest = largest_of_blocks()
    largest = largest[largest > 0]
    x = np.concatenate([largest[:, None], largest[:, None] * -np.float32([0.76, 0.49, 0.3, 0.011])], axis=1)
    exponents, values = [], []
    for block in x:
        amax = Fraction(float(block[0]))
        e = clamp(exponent_by_rule(rule, amax, mantissa_bits, emax, element.largest), -127, 127)
        exponents.append(e)
        scale = power(e)
        values.append([float(element.round(Fraction(float(number)) / scale) * scale) for number in block])
    rounding = Rounding(scale_rule=rule)
    packed = pack(frozen(x), parse_format(name), rounding=rounding)
    assert (packed.shared[0].codes().astype(int) - 127).tolist() == exponents
    assert quantize(x, parse_format(name), rounding=rounding).tolist() == values


# --- bits worked out by hand ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "x", "codes", "shared"),
    [
        # 1 has exponent 0, so the step is 2^(0 + 1 - 3)
        ("bfp4", [1, -0.5, 0.25, -0.0, 1.75], [4, 0b1010, 1, 0b1000, 7], [[127]]),
        # steps of 2^(0 + 1 - 4); each two bits of the magnitude have the sign above them
        ("fast4", [1, -1, 0.125, -0.625], [0b010_000, 0b110_100, 0b000_001, 0b101_101], [[7]]),
        # the second pair lies below 2^0, so its steps are half as large
        ("mx4", [1, 0.5, 0.5, -0.75], [2, 1, 2, 0b111], [[127], [0, 1]]),
        # the largest is below 2^2, so the step is 2^(2 - 7)
        ("fixed8", [3, -3.96875, 0.03125], [96, 256 - 127, 1], []),
        ("int4", [7, -7, 0.4, -1], [7, 9, 0, 15], [[0x3F800000]]),
        # four codes from -2 on; 0 has the first
        ("int2-asym", [0, 1, 2, 3], [2, 3, 0, 1], [[0x3F800000], [2]]),
        ("int2-asym", [-3, -2, -1, 0], [2, 3, 0, 1], [[0x3F800000], [1]]),
        # a code is 1/64, the scale 2^0
        ("mxint8", [1, -1.984375, 1.984375, -0.015625], [64, 256 - 127, 127, 255], [[127]]),
        ("mxfp4", [6, -0.5, 1.5], [7, 9, 3], [[127]]),
        # 6 x 448: the fp32 scale is 1, that of the first block 448, and that of the second 1
        ("nvfp4", [2688, -448, *[0] * 14, 6, 1.5], [7, 10, *[0] * 14, 7, 3], [[0x7E, 0x38], [0x3F800000]]),
        ("nf4", [0, 4, -4], [7, 15, 0], [[0x40800000]]),
        ("dynamic8", [0, 1], [127, 255], [[0x3F800000]]),
    ],
)
def test_bits_by_hand(name, x, codes, shared):
    packed = pack(np.float32(x), parse_format(name))
    assert packed.elements.codes().tolist() == codes
    assert [bits.codes().tolist() for bits in packed.shared] == shared


def test_codes_lie_one_after_the_other_from_the_lowest_bit():
    assert pack(np.float32([1, -0.5, 0.25]), parse_format("bfp4")).elements.data.tolist() == [0xA4, 0x01]
    codes = pack(np.float32([1, -1, 0.125]), parse_format("fast4")).elements.data
    assert int.from_bytes(codes.tobytes(), "little") == 0b010_000 | 0b110_100 << 6 | 0b000_001 << 12


# --- packing ----------------------------------------------------------------------------------------------------------


def assert_packs(x, format, axes, rounding=None):
    """The bits give the numbers back, and are as many as the format says."""
    packed = pack(x, format, axes, *([rounding()] if rounding else []))
    assert_same_bits(unpack(packed), quantize(x, format, axes, *([rounding()] if rounding else [])))
    default = tuple(range(x.ndim)) if format.flat else (x.ndim - 1,)
    along = default if axes is None else axes
    run = math.prod(x.shape[axis] for axis in along) if x.ndim else 1
    assert packed.bits == format.stored_bits(x.size, run)
    for bits in (packed.elements, *packed.shared):
        assert bits.data.size == math.ceil(bits.length / 8)
        assert bits.length % bits.width == 0


SHAPES = [((5, 33), None), ((5, 33), (0,)), ((3, 4, 35), (2, 0)), ((40,), None), ((), None), ((1, 1), (1,))]
EMPTY = [((0,), None), ((0, 7), None), ((7, 0), None), ((2, 0, 3), (0, 1)), ((0, 0), (1,))]


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_format_packs(name):
    format = parse_format(name)
    rng = np.random.default_rng(2)
    for shape, axes in SHAPES + EMPTY:
        if format.values == "float":
            for dtype in (np.float32, np.float64):
                assert_packs(frozen(numbers(rng, shape, dtype, 4)), format, axes)
        else:
            x = frozen(np.asarray(rng.integers(0, 2, shape)))
            assert_packs(x, format, axes)
            assert_packs(x.astype(bool), format, axes)


@pytest.mark.parametrize("family", FAMILIES)
@given(st.data())
@settings(max_examples=15, deadline=None)
def test_every_family_packs(family, data):
    case = data.draw(FAMILIES[family])
    x, axes = data.draw(tensors((8, 40), least=0))
    assert_packs(x, parse_format(case.name), axes)
    assert_packs(x, parse_format(case.name), axes, seeded)


@pytest.mark.parametrize("name", [name for name in EXAMPLES if parse_format(name).values == "float"])
def test_results_are_float32_unless_more_is_needed(name):
    needs_more = name in ("fixed32", "bfp32")  # the only ones of more than 24 digits
    for dtype in (np.float16, np.float32, np.float64):
        expected = np.float64 if dtype is np.float64 or needs_more else np.float32
        assert quantize(np.ones((2, 3), dtype), parse_format(name)).dtype == expected


@pytest.mark.parametrize("name", ["index64", "index32", "mask8", "mask1"])
def test_ids_and_masks_are_left_alone(name):
    x = np.array([[0, 1], [1, 0]])
    assert quantize(x, parse_format(name)) is x


def test_values_in_a_container_are_rounded_twice():
    x = numbers(np.random.default_rng(3), (7, 40), np.float32)
    actual = quantize(x, parse_format("int8-row-in-bf16"))
    assert_same(actual, quantize(quantize(x, parse_format("int8-row")), parse_format("bf16")))


# --- what holds whatever the numbers ----------------------------------------------------------------------------------

PLAIN = (*GFLOAT, "fp32")
# Quantized again, these stay. Scales are powers of two, and stay, as the largest of a block stays in its binade, or its
# binade rises (falls) to where all numbers are multiples of the new (still within reach of the old) step. Not so where
# -2^(N-1) is a code, but 2^(N-1) is not: fixedN, mxint8. Nor where a scale is divided: intN, nvfp4 and floats with an
# fp32 scale, whose largest times the scale, rounded, may give another scale.
IDEMPOTENT = (
    *PLAIN,
    *(name for name in MX if name != "mxint8"),
    *("bfp2", "bfp4", "bfp16", "bfp17-box5", "bfp24", "bfp32", "bfp8-exp4", "bfp8-exp0", "msfp11", "msfp16"),
    *("mx9", "mx6", "mx4", "hbfp8", "flex16", "fast2", "fast4"),
)
# The code of -x is that of x with another sign. Not so in two's complement with a power of two (fixedN, mxint8), with a
# zero point, and in codebooks.
ODD = (
    *IDEMPOTENT,
    *("int2", "int8", "int8-row", "int8-column", "int24", "int32", "int4-1x128"),
    *("nvfp4", "nvfp4-16x16", "fp8-e4m3-tensor", "fp8-e5m2-row", "fp8-e4m3-3x5"),
)


def samples(dtype=np.float32):
    """Matrices of all sorts, none with numbers so small that a float32 scale is subnormal."""
    rng = np.random.default_rng(4)
    for kind in ("any", "huge", "above", "zeros"):
        for spread in (0, 3, 20):
            yield frozen(numbers(rng, (30, 37), dtype, spread, kind))


@pytest.mark.parametrize("name", IDEMPOTENT)
def test_quantized_numbers_stay_as_they_are(name):
    format = parse_format(name)
    for rule in SCALE_RULES if name in MX else ["floor"]:
        for x in samples():
            once = quantize(x, format, rounding=Rounding(scale_rule=rule))
            assert_same(quantize(once, format, rounding=Rounding(scale_rule=rule)), once)


@pytest.mark.parametrize("name", ODD)
def test_the_negative_gives_the_negative(name):
    for dtype in (np.float32, np.float64):
        for x in samples(dtype):
            actual, expected = quantize(-x, parse_format(name)), -quantize(x, parse_format(name))
            assert_same(actual, expected + 0.0 if name.startswith("int") else expected)  # which have one zero


@pytest.mark.parametrize("rounding", [SATURATE, OVERFLOW], ids=["saturating", "overflowing"])
@pytest.mark.parametrize("name", PLAIN)
def test_floats_are_monotone(name, rounding):
    x = np.sort(every_exponent(np.float32))
    x = x[np.isfinite(x)]
    actual = quantize(x, parse_format(name), rounding=rounding)
    actual = actual[~np.isnan(actual)]  # beyond the largest, of e4m3
    assert (actual[1:] >= actual[:-1]).all()
    assert actual.size > x.size / 3


CHUNKED = (
    *("fp8-e4m3", "bf16", "fixed16", "bfp4", "bfp8-box24", "bfp4-exp0", "mx9", "hbfp8", "mxfp8", "mxint8"),
    *(
        "int8",
        "int8-row",
        "int8-column",
        "int8-asym-column",
        "int8-asym",
        "int4-1x128",
        "nf4",
        "nf4-double",
        "dynamic8",
    ),
    *("nvfp4", "nvfp4-16x16", "fp8-e4m3-128x128", "fp8-e4m3-3x5", "fp8-e5m2-column"),
)
PLACES = [
    *[((40, 150), None), ((150, 40), (0,)), ((600,), None), ((1, 300), (0,))],
    *[((6, 16, 35), None), ((4, 24, 50), (2, 1)), ((5, 6, 7), (0,)), ((20, 5, 6), (2, 0, 1))],
]


@pytest.mark.parametrize("name", CHUNKED)
def test_chunks_and_layout_do_not_matter(name, monkeypatch):
    format = parse_format(name)
    for shape, axes in PLACES:
        x = frozen(numbers(np.random.default_rng(5), shape, np.float32, 3))
        expected = quantize(x, format, axes)
        assert_same_bits(unpack(pack(x, format, axes)), expected)  # in one piece
        for layout in LAYOUTS:
            assert_same_bits(quantize(rearranged(x, layout), format, axes), expected)
        for chunk in (1, 300):
            with monkeypatch.context() as patch:
                patch.setattr(module, "_CHUNK", chunk)
                assert_same_bits(quantize(x, format, axes), expected)


@pytest.mark.parametrize("bits", range(2, 25))
def test_the_largest_float32_does_not_become_infinite(bits):
    """Regression: a scale or a zero point that was rounded put it beyond; masks of attention hold such numbers."""
    most = np.finfo(np.float32).max
    for x in ([most, -most / 2], [-most, 1], [-most, most], [-most, most / 3], [-most / 3, most]):
        for name in (f"int{bits}", f"int{bits}-asym"):
            actual = quantize(np.float32(x), parse_format(name))
            assert np.isfinite(actual).all()
            assert_same_bits(unpack(pack(np.float32(x), parse_format(name))), actual)


def test_numbers_beyond_fp32_scales_saturate():
    x = np.array([[1e300, -1e299, 1.0, 0.0]])
    for name in EXAMPLES:
        format = parse_format(name)
        if format.values == "float" and format.scales:
            actual = quantize(x, format)
            assert np.isfinite(actual).all()
            assert_same_bits(unpack(pack(x, format)), actual)
            if "asym" not in name:  # its zero point is that of numbers too large, too
                assert 0 < actual[0, 0] < 1e300


# --- stochastic rounding ----------------------------------------------------------------------------------------------

DRAWS = 1 << 20
# The distance of the numbers that a format holds about 0.7, in blocks whose first pair is 1.
STEPS = {
    "bfp17": Fraction(1, 2**15),
    "bfp4": Fraction(1, 4),
    "mx9": Fraction(1, 2**7),
    "fixed16": Fraction(1, 2**14),
    "fixed20": Fraction(1, 2**18),
    "int16": FLOAT32.round(Fraction(1, 2**15 - 1)),
    "int8": FLOAT32.round(Fraction(1, 127)),
    "int20": FLOAT32.round(Fraction(1, 2**19 - 1)),
    "int16-asym": FLOAT32.round(Fraction(1, 2**16 - 1)),
    "bf16": Fraction(1, 2**8),
    "tf32": Fraction(1, 2**11),
    "fp16": Fraction(1, 2**11),
    "fp8-e4m3": Fraction(1, 2**4),
    "fp8-e5m2": Fraction(1, 2**3),
    "fp4-e2m1": Fraction(1, 2),
    "mxfp8": Fraction(1, 2**4),
    "mxint8": Fraction(1, 2**6),
    "fp8-e4m3-tensor": FLOAT32.round(Fraction(1, 448)) * 32,
}


@pytest.mark.parametrize("share", [0.02, 0.37])
@pytest.mark.parametrize("name", STEPS)
def test_stochastic_rounding_is_unbiased(name, share):
    """Of many draws only two numbers come out, those beside the value, as often as it lies near them."""
    step = float(STEPS[name])
    value = float(np.float32((math.floor(0.7 / step) + share) * step))
    low = math.floor(value / step) * step
    share = (value - low) / step  # what is left of it in float32
    x = np.full((DRAWS // 14 + 1, 16), value if name != "bfp17" else -value, np.float32)
    x[:, :2] = 1
    actual = np.abs(quantize(frozen(x), parse_format(name), rounding=seeded()))
    assert np.count_nonzero(np.abs(actual[:, :2] - 1) > 1e-7) < 10  # 1 stays, but over a rounded scale it is not whole
    actual = actual[:, 2:]
    up = actual == np.float32(low + step)
    assert (up | (actual == np.float32(low))).all()
    assert abs(np.count_nonzero(up) - share * up.size) <= 4 * math.sqrt(share * (1 - share) * up.size)


@pytest.mark.parametrize("name", ["nf4", "nf4-double", "dynamic8"])
def test_stochastic_rounding_to_a_codebook_is_unbiased(name):
    values = table(name)
    for low, high in pairwise(values[values > 0.3]):
        value = np.float32(0.75 * low + 0.25 * high)
        x = np.stack([np.ones(DRAWS // 8, np.float32), np.full(DRAWS // 8, value)], axis=1)
        actual = quantize(x, parse_format(name), rounding=seeded())[:, 1].astype(np.float64)
        if name != "nf4-double":  # its scale of 1 is 448 fl(1/448)
            assert np.unique(actual).tolist() == [low, high]
        assert abs(actual.mean() - value) <= 4 * (high - low) * math.sqrt(3 / 16 / actual.size) + 1e-7 * value
        if name == "dynamic8":
            break


EXACT = (*IDEMPOTENT, "fixed16", "mxint8", "int8", "int8-asym", "nvfp4", "fp8-e4m3-128x128", "nf4", "dynamic8")


@pytest.mark.parametrize("name", EXACT)
def test_stochastic_rounding_takes_a_neighbour_and_a_seed_gives_the_same(name):
    """Neighbours are those of the nearest: the value lies between two draws, and no number between them."""
    format = parse_format(name)
    rng = np.random.default_rng(6)
    x = np.clip(rng.standard_normal((8, 64)) / 2, -0.95, 0.95).astype(np.float32)
    x[:, ::16] = 1  # so that all blocks have the scale that goes with 1
    frozen(x)
    assert_same_bits(quantize(x, format, rounding=seeded(7)), quantize(x, format, rounding=seeded(7)))
    many = seeded()
    draws = np.stack([quantize(x, format, rounding=many) for _ in range(100)])
    low, high = draws.min(axis=0), draws.max(axis=0)
    assert ((draws == low) | (draws == high)).all()
    both = low < high
    assert both.mean() > 0.7 or name in ("fp32", "bfp24", "bfp32")  # which hold most of x
    slack = 3e-7  # of scales that are rounded
    assert ((low <= x + slack) & (x - slack <= high))[both].all()
    inner = both & (x > x.min()) & (x < x.max())  # the extremes give the scale
    between = quantize(np.where(inner, (low + high) / 2, x).astype(np.float32), format)
    assert ((np.abs(between - low) <= slack) | (np.abs(between - high) <= slack)).all()


@pytest.mark.parametrize("name", [*IDEMPOTENT, "mxint8", "fixed16"])
def test_stochastic_rounding_keeps_what_is_held(name):
    """Magnitudes below the largest code, so that fixed point and mxint8 have the same scale again; -0 may become 0."""
    format = parse_format(name)
    x = np.clip(np.random.default_rng(8).standard_normal((9, 40)), -1.5, 1.5).astype(np.float32)
    x[:, ::5] = 1.5
    held = quantize(x, format)
    assert (quantize(held, format, rounding=seeded()) == held).all()


@pytest.mark.parametrize("name", ["fp8-e4m3", "fp8-e5m2", "fp16", "bf16", "tf32", "fp4-e2m1"])
def test_stochastic_rounding_of_floats_of_all_sizes(name):
    """One of the two numbers beside the value, as gfloat has them, saturated."""
    x = every_exponent(np.float32)
    x = x[np.isfinite(x)] * np.float32(1 - 2.0**-12)
    actual = quantize(frozen(x), parse_format(name), rounding=Rounding(rng=np.random.default_rng(0), saturate=True))
    modes = gfloat.RoundMode.TowardNegative, gfloat.RoundMode.TowardPositive
    low, high = (gfloat.round_ndarray(GFLOAT[name], x.astype(np.float64), mode, sat=True) for mode in modes)
    assert ((actual == low) | (actual == high)).all()
    assert (np.signbit(actual) == np.signbit(x)).all()
    differ = low < high
    assert 0.2 < (actual == high)[differ].mean() < 0.8


# --- NaN and infinity -------------------------------------------------------------------------------------------------

ODDITIES = frozen(np.float32([np.nan, np.inf, -np.inf, 1.0]))
NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("name", "saturate", "expected"),
    [
        *((name, saturate, [NAN, INF, -INF, 1]) for name in ("fp32", "tf32", "bf16", "fp16") for saturate in (None, 0)),
        ("fp16", True, [NAN, 65504, -65504, 1]),
        ("fp8-e5m2", False, [NAN, INF, -INF, 1]),
        ("fp8-e5m2", None, [NAN, 57344, -57344, 1]),
        ("fp8-e4m3", False, [NAN, NAN, NAN, 1]),
        ("fp8-e4m3", None, [NAN, 448, -448, 1]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rng", [None, np.random.default_rng(0)], ids=["nearest", "stochastic"])
def test_nan_and_infinity(name, saturate, expected, dtype, rng):
    rounding = Rounding(rng=rng, saturate=saturate)
    actual = quantize(ODDITIES.astype(dtype), parse_format(name), rounding=rounding)
    np.testing.assert_array_equal(actual, np.array(expected, dtype))
    np.testing.assert_array_equal(unpack(pack(ODDITIES.astype(dtype), parse_format(name), rounding=rounding)), actual)


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_holds_no_nan_or_infinity_says_so(name):
    format = parse_format(name)
    if name in ("fp32", "tf32", "bf16", "fp16", "fp8-e4m3", "fp8-e5m2") or format.values != "float":
        return
    for oddity in (NAN, INF, -INF):
        x = np.ones((3, 5), np.float32)
        x[1, 2] = oddity
        for act in (quantize, pack):
            for rounding in (OVERFLOW, SATURATE, seeded()):
                with pytest.raises(ValueError, match="holds no NaN or infinity"):
                    act(frozen(x), format, None, rounding)


# --- memory -----------------------------------------------------------------------------------------------------------


@cache
def large_matrix():
    return frozen(np.random.default_rng(9).standard_normal((2048, 2048), np.float32))


def memory_besides_the_result(x, name, axes):
    tracemalloc.start()
    try:
        actual = quantize(x, parse_format(name), axes)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert actual.nbytes == x.nbytes <= peak  # NumPy reports what it takes
    return peak - actual.nbytes


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    "name", ["fp8-e4m3", "bfp16", "int8", "int8-row", "int8-column", "mxfp8", "nvfp4", "fp8-e4m3-128x128"]
)
def test_little_memory_is_taken_besides_the_result(name, axis):
    assert memory_besides_the_result(large_matrix(), name, (axis,)) < 16 << 20


@pytest.mark.parametrize("name", ["nf4-double", "dynamic8", "int8-1x65536", "fp8-e4m3-65536x128"])
def test_blocks_larger_than_the_tensor_take_no_memory_for_what_is_not_there(name):
    """Regression: the scale of a block was repeated for all the elements that it could have had."""
    for x in (large_matrix()[:1024, :4], large_matrix()[:4]):
        assert memory_besides_the_result(x, name, None) < 1 << 20
