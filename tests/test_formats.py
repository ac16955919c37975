"""Formats: names, stored bits, the width of a multiplier."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costsim.errors import InputError
from costsim.formats import EXAMPLES, parse_format

# Facts, each with its origin.
KNOWN = {
    # IEEE 754-2019, table 3.5: significand bits with the hidden one, storage
    "fp32": (32, 24),
    "fp16": (16, 11),
    "bf16": (16, 8),
    "fixed16": (16, 16),
    "fixed2": (2, 2),
    "fixed32": (32, 32),
    "bfp4": (4.5, 4),
    # Darvish Rouhani et al., NeurIPS 2020, table 1: MSFP12 is 1 sign + 3 mantissa bits, 8 bits per box of 16: 4.5;
    # MSFP16 is 8 + 8/16 = 8.5
    "bfp8": (8.5, 8),
    "bfp8-box32": (8.25, 8),
    "bfp8-box32-exp5": (8 + 5 / 32, 8),
    "bfp2-exp0": (2, 2),
    "bfp3-box1": (11, 3),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_formats(name):
    format = parse_format(name)
    assert (format.bits_per_element, format.width) == KNOWN[name]
    assert format.name == name
    assert parse_format(format.name) is format


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_listed_format_exists_and_names_its_source(name):
    format = parse_format(name)
    assert format.name == name
    assert format.source
    assert format.stored_bits(7, 7) >= 7 * format.element_bits


@pytest.mark.parametrize(
    ("name", "expected"), [("bfp4-box16", "bfp4"), ("bfp4-exp8", "bfp4"), ("bfp4-box16-exp8", "bfp4")]
)
def test_defaults_are_left_out_of_the_name(name, expected):
    assert parse_format(name) == parse_format(expected)


def stored_bits_by_hand(bits, box, exponent, runs, run):
    """Walk over every element of every run and open a box whenever one is full."""
    total = 0
    for _ in range(runs):
        room = 0
        for _ in range(run):
            if room == 0:
                total += exponent
                room = box
            total += bits
            room -= 1
    return total


@given(st.integers(2, 32), st.integers(1, 40), st.integers(0, 16), st.integers(0, 5), st.integers(1, 70))
def test_stored_bits_with_partial_boxes(bits, box, exponent, runs, run):
    format = parse_format(f"bfp{bits}-box{box}-exp{exponent}")
    assert format.stored_bits(runs * run, run) == stored_bits_by_hand(bits, box, exponent, runs, run)


@given(st.integers(2, 32), st.integers(0, 10**30))
def test_flat_formats_cost_their_bits_whatever_the_run(bits, elements):
    assert parse_format(f"fixed{bits}").stored_bits(elements, 1) == bits * elements


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fp33", "did you mean 'fp32'"),
        ("FP32", "did you mean 'fp32'"),
        ("fixed1", "bits must be from 2 to 32"),
        ("fixed33", "bits must be from 2 to 32"),
        ("bfp64", "bits must be from 2 to 32"),
        ("bfp4-box0", "box must be from 1"),
        ("bfp4-exp17", "exponent bits must be from 0 to 16"),
        ("bfp" + "9" * 10000, "bits must be from 2 to 32"),
        ("", "unknown format"),
        ("bfp4 ", "unknown format"),
        ("bfp٤", "unknown format"),  # a digit, but not an ASCII one
    ],
)
def test_bad_names(name, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_format(name)
    assert len(str(caught.value)) < 400
