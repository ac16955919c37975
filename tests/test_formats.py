"""Formats: names, stored bits, the width of a multiplier, range and step, what holds what."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costsim.errors import InputError
from costsim.formats.format import holds
from costsim.formats.named import EXAMPLES, parse_format

# bits per element in whole blocks, width in a multiplier, largest element (None: not checked). Origins:
KNOWN = {
    # IEEE 754-2019, table 3.5: storage, significand bits with the hidden one, largest finite number
    "fp32": (32, 24, (2 - 2**-23) * 2.0**127),
    "fp16": (16, 11, 65504),
    "bf16": (16, 8, (2 - 2**-7) * 2.0**127),
    "tf32": (32, 11, None),
    "fixed16": (16, 16, 32767),
    "fixed2": (2, 2, 1),
    "fixed32": (32, 32, 2**31 - 1),
    # arXiv:2209.05433, table 1, and OCP MX v1.0, as in gfloat's tables: largest element
    "fp8-e4m3": (8, 4, 448),
    "fp8-e5m2": (8, 3, 57344),
    "mxfp8": (8.25, 4, 448),
    "mxfp8-e5m2": (8.25, 3, 57344),
    "mxfp6": (6.25, 3, 28),
    "mxfp6-e2m3": (6.25, 4, 7.5),
    "mxfp4": (4.25, 2, 6),
    "mxint8": (8.25, 8, 127),
    # NVIDIA Transformer Engine, nvfp4.rst: 4 + 8/16
    "nvfp4": (4.5, 2, 6),
    "nvfp4-16x16": (4 + 8 / 256, 2, 6),
    # Darvish Rouhani et al., NeurIPS 2020, table 1: MSFPn has n - 8 bits and an 8-bit exponent per 16
    "msfp16": (8.5, 8, None),
    "msfp12": (4.5, 4, None),
    "msfp11": (3.5, 3, None),
    # Darvish Rouhani et al., ISCA 2023: 1 + m + 8/16 + 1/2
    "mx9": (9, 8, None),
    "mx6": (6, 5, None),
    "mx4": (4, 3, None),
    # Drumond et al. 2018: 24 x 24 tiles; Koster et al. 2017: an exponent per tensor; Zhang et al. 2022: e + g (m/2) 3
    "hbfp8": (8 + 8 / 576, 8, None),
    "flex16": (16, 16, None),
    "fast2": (3.25, 2, None),
    "fast4": (6.25, 4, None),
    # QLoRA: 32/64, and 8/64 + 32/(64 * 256) with double quantization
    "nf4": (4.5, 8, None),
    "nf4-double": (4 + 8 / 64 + 32 / (64 * 256), 8, None),
    "dynamic8": (8 + 32 / 2048, 24, None),
    "bfp4": (4.5, 4, 7),
    "bfp8-box32": (8.25, 8, 127),
    "bfp8-box32-exp5": (8 + 5 / 32, 8, 127),
    "bfp2-exp0": (2, 2, 1),
    "bfp3-box1": (11, 3, 3),
    "int8": (8, 8, 127),
    "int4-1x128": (4.25, 4, 7),
    "int4-asym-1x128": (4 + (32 + 4) / 128, 4, 7),
    "fp8-e4m3-1x128": (8.25, 4, 448),
    "fp8-e4m3-128x128": (8 + 32 / 128**2, 4, 448),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_formats(name):
    format = parse_format(name)
    bits, width, largest = KNOWN[name]
    assert (float(format.bits_per_element), format.width) == (bits, width)
    assert largest is None or format.largest == largest
    assert format.name == name
    assert parse_format(format.name) is format


# The step from 1 to the next number is 2^-(explicit significand bits).
@pytest.mark.parametrize(
    ("name", "step"), [("fp32", 2**-23), ("bf16", 2**-7), ("fp8-e4m3", 1 / 8), ("fp4-e2m1", 1 / 2)]
)
def test_steps_of_floats(name, step):
    assert parse_format(name).step == step


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_listed_format_exists_and_names_its_source(name):
    format = parse_format(name)
    assert format.name == name
    assert format.source
    assert format.stored_bits(10, 10) >= 10 * format.element_bits // format.together
    assert format.stored_bits(0, 0) == format.stored_bits(0, 5) == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bfp4-box16", "bfp4"),
        ("bfp4-exp8", "bfp4"),
        ("bfp4-box16-exp8", "bfp4"),
        ("int8-tensor", "int8"),
        ("int8-asym-tensor", "int8-asym"),
    ],
)
def test_defaults_are_left_out_of_the_name(name, expected):
    assert parse_format(name) == parse_format(expected)


def stored_bits_by_hand(bits, scale, block, runs, run):
    """Walk over every element and open a block whenever the element lies in one not seen before."""
    free, contracted = block
    seen = set()
    total = 0
    for i in range(runs):
        for j in range(run):
            total += bits
            cell = (i // free if free else 0, j // contracted if contracted else 0)
            if cell not in seen:
                seen.add(cell)
                total += scale
    return total


SIDES = st.one_of(st.none(), st.integers(1, 12))


@given(st.integers(2, 32), st.integers(1, 40), st.integers(0, 16), st.integers(0, 5), st.integers(1, 70))
def test_stored_bits_of_boxes(bits, box, exponent, runs, run):
    format = parse_format(f"bfp{bits}-box{box}-exp{exponent}")
    assert format.stored_bits(runs * run, run) == stored_bits_by_hand(bits, exponent, (1, box), runs, run)


@given(st.integers(2, 8), st.integers(1, 9), st.integers(1, 9), st.integers(0, 20), st.integers(1, 20))
def test_stored_bits_of_blocks_in_two_dimensions(bits, free, contracted, runs, run):
    block = (free, contracted)
    format = parse_format(f"int{bits}-{free}x{contracted}")
    assert format.stored_bits(runs * run, run) == stored_bits_by_hand(bits, 32, block, runs, run)
    asymmetric = parse_format(f"int{bits}-asym-{free}x{contracted}")
    assert asymmetric.stored_bits(runs * run, run) == stored_bits_by_hand(bits, 32 + bits, block, runs, run)


@given(st.sampled_from(["tensor", "row", "column"]), st.integers(0, 20), st.integers(1, 20))
def test_stored_bits_per_tensor_row_and_column(word, runs, run):
    block = {"tensor": (None, None), "row": (1, None), "column": (None, 1)}[word]
    assert parse_format(f"int8-{word}").stored_bits(runs * run, run) == stored_bits_by_hand(8, 32, block, runs, run)


@given(st.integers(2, 32), st.integers(0, 10**30))
def test_flat_formats_cost_their_bits_whatever_the_run(bits, elements):
    assert parse_format(f"fixed{bits}").stored_bits(elements, 1) == bits * elements


# --- values of elements, code by code ---------------------------------------------------------------------------------

# Exponent bits, mantissa bits, the last positive code that is a finite number. OCP OFP8 v1.0, table 1: e4m3 0x7e (448),
# e5m2 0x7b (57344); OCP MX v1.0, tables 3 to 5: every code of fp6 and fp4 is a number.
FLOATS = {
    "fp8-e4m3": (4, 3, 0x7E),
    "fp8-e5m2": (5, 2, 0x7B),
    "fp6-e3m2": (3, 2, 0x1F),
    "fp6-e2m3": (2, 3, 0x1F),
    "fp4-e2m1": (2, 1, 0x07),
}
CODES = [f"{family}{bits}" for family in ("fixed", "int", "bfp") for bits in range(2, 9)]


def values(name):
    """The values of all codes of an element, as exact fractions."""
    if name not in FLOATS:
        bits = int(name.lstrip("fixedntbp"))
        return {Fraction(code) for code in range(-(2 ** (bits - 1)), 2 ** (bits - 1))}
    exponent_bits, mantissa_bits, last = FLOATS[name]
    positive = set()
    for code in range(last + 1):
        exponent, mantissa = divmod(code, 2**mantissa_bits)
        significand = Fraction(mantissa, 2**mantissa_bits) + (exponent > 0)
        positive.add(significand * Fraction(2) ** (max(exponent, 1) - 2 ** (exponent_bits - 1) + 1))
    return positive | {-value for value in positive}


VALUES = {name: values(name) for name in (*CODES, *FLOATS)}


@pytest.mark.parametrize("name", VALUES)
def test_the_largest_and_the_smallest_element(name):
    format = parse_format(name)
    assert format.largest == max(VALUES[name])
    assert format.smallest == min(value for value in VALUES[name] if value > 0)


# IEEE 754-2019: 2 to the least exponent of a normal number, times the step
@pytest.mark.parametrize(("name", "smallest"), [("fp32", 2.0**-149), ("fp16", 2.0**-24), ("bf16", 2.0**-133)])
def test_the_smallest_subnormal(name, smallest):
    assert parse_format(name).smallest == smallest


@pytest.mark.parametrize("outer", VALUES)
def test_holds_is_inclusion_of_all_values(outer):
    held = {inner for inner in VALUES if holds(parse_format(outer), parse_format(inner))}
    assert held == {inner for inner in VALUES if VALUES[inner] <= VALUES[outer]}


AS_NUMPY_HAS_THEM = {
    "fp16": lambda exact: exact.astype(np.float16),
    "bf16": lambda exact: (exact.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32),
    "fp32": lambda exact: exact.astype(np.float32),
}


@pytest.mark.parametrize("outer", AS_NUMPY_HAS_THEM)
@pytest.mark.parametrize("inner", [*VALUES, *(f"fixed{bits}" for bits in range(9, 17)), "fixed24", "fixed25"])
def test_holds_in_wide_formats_is_no_rounding(inner, outer):
    exact = np.array([float(value) for value in VALUES.get(inner, ())])
    if inner not in VALUES:  # the ends, and what has the most bits
        exact = np.array([-(2.0 ** (int(inner[5:]) - 1)), 2.0 ** (int(inner[5:]) - 1) - 1, 1])
    with np.errstate(over="ignore"):  # beyond fp16 lies infinity
        kept = bool((AS_NUMPY_HAS_THEM[outer](exact) == exact).all())
    assert holds(parse_format(outer), parse_format(inner)) == kept


WIDE = {"fp32": {"fp32", "tf32", "bf16", "fp16"}, "tf32": {"tf32", "bf16", "fp16"}, "bf16": {"bf16"}, "fp16": {"fp16"}}


@pytest.mark.parametrize("outer", WIDE)
def test_holds_among_wide_floats(outer):
    assert {inner for inner in WIDE if holds(parse_format(outer), parse_format(inner))} == WIDE[outer]


def test_nvfp4_charges_both_scales():
    assert parse_format("nvfp4").stored_bits(10 * 40, 40) == 400 * 4 + 10 * 3 * 8 + 32


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fp33", "did you mean 'fp32'"),
        ("FP32", "did you mean 'fp32'"),
        ("mxfp5", "did you mean 'mxfp"),
        ("fixed1", "bits must be from 2 to 32"),
        ("fixed33", "bits must be from 2 to 32"),
        ("bfp64", "bits must be from 2 to 32"),
        ("int8-0x4", "a block's side must be from 1 to 65536"),
        ("fp8-e4m3-1x99999999", "a block's side must be from 1 to 65536"),
        ("fp8-e9m9-tensor", "unknown format"),
        ("int8-cow", "unknown format"),
        ("bfp4-box0", "box must be from 1"),
        ("bfp4-exp17", "exponent bits must be from 0 to 16"),
        ("bfp" + "9" * 90, "bits must be from 2 to 32"),
        ("bfp" + "9" * 10000, "at most 100 characters"),
        ("", "unknown format"),
        ("bfp4 ", "unknown format"),
        ("int16-in-bf16", "bf16 does not hold the values of int16"),
        ("bf16-in-fp16", "fp16 does not hold the values of bf16"),
        ("int4-in-mxfp8", "mxfp8 does not hold the values of int4"),  # it has scales of its own
        ("int4-in-int8-in-bf16", "does not hold the values of"),
        ("int8-in-bf61", "unknown format 'bf61'"),
        ("-in-bf16", "unknown format ''"),
        ("bfp٤", "unknown format"),  # a digit, but not an ASCII one
    ],
)
def test_bad_names(name, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_format(name)
    assert len(str(caught.value)) < 600
