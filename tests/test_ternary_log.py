"""Ternary and logarithmic formats against the definitions of their sources, one number at a time."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from conftest import decoder_step, miscounts, policy

from costsim.cost.laws import LAWS
from costsim.formats.elements import Rounding
from costsim.formats.named import parse_format
from costsim.formats.pack import pack, unpack
from costsim.formats.quantize import quantize


def drawn(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("name", ["ternary", "ternary2"])
def test_absmean_quantization(name):
    """Ma et al. 2024: RoundClip(W / mean |W|, -1, 1), times the mean."""
    x = drawn((6, 7))
    mean = np.float32(np.abs(x).mean())
    expected = [[max(-1, min(1, round(float(v) / float(mean)))) * float(mean) for v in row] for row in x]
    np.testing.assert_allclose(quantize(x, parse_format(name)), expected, rtol=1e-12)


def test_five_ternary_digits_are_a_byte():
    """Each of the 3^5 = 243 rows of five is a byte of its own, less than 243."""
    rows = np.array(list(product((-1.0, 0.0, 1.0), repeat=5)))
    packed = pack(rows, parse_format("ternary"))
    assert sorted(packed.elements.codes()) == list(range(243))
    np.testing.assert_array_equal(np.sign(unpack(packed)), rows)
    by_hand = [sum((int(digit) + 1) * 3**i for i, digit in enumerate(row)) for row in rows]
    assert list(packed.elements.codes()) == by_hand


@pytest.mark.parametrize("elements", [1, 4, 5, 6, 23])
def test_the_last_byte_is_whole(elements):
    ternary = parse_format("ternary")
    assert ternary.stored_bits(elements, elements) == 8 * math.ceil(elements / 5) + 32
    x = drawn(elements)
    packed = pack(x, ternary)
    assert packed.bits == ternary.stored_bits(elements, elements)
    np.testing.assert_array_equal(unpack(packed), quantize(x, ternary))


def test_bits_of_an_element():
    assert parse_format("ternary").bits_per_element == Fraction(8, 5)
    assert parse_format("ternary2").bits_per_element == 2


@pytest.mark.parametrize(("bits", "base"), [(8, 8), (4, 2), (6, 1)])
def test_logarithms(bits, base):
    """Zhao et al. 2022: sign s 2^(k / base), k the rounded logarithm, clipped to bits - 1 of them."""
    x = np.concatenate([drawn(200), [1e-30, -1e-30, 0.0]])
    top, scale = 2 ** (bits - 1) - 1, float(np.float32(np.abs(x).max()))
    ours = quantize(x, parse_format(f"log{bits}-base{base}"))
    for value, made in zip(x, ours, strict=True):
        k = 0 if value == 0 else round(math.log2(abs(value) / scale) * base)
        k = -top if value == 0 else max(-top, min(0, k))
        assert made == pytest.approx(math.copysign(scale * 2 ** (k / base), value), rel=1e-6)


def test_logarithms_have_all_their_codes():
    log = parse_format("log4-base2")
    values = np.array([sign * 2 ** (-k / 2) for k in range(8) for sign in (1, -1)])
    packed = pack(values, log)
    assert sorted(packed.elements.codes()) == list(range(16))
    np.testing.assert_allclose(unpack(packed), values, rtol=1e-12)


def test_chance_is_without_bias_among_logarithms():
    x = np.full(20000, 2**-0.3)
    x[0] = 1.0
    made = quantize(x, parse_format("log8-base1"), rounding=Rounding(rng=np.random.default_rng(0)))
    assert np.log2(made[1:]).mean() == pytest.approx(-0.3, abs=0.01)


@pytest.mark.parametrize("law", ["product", "magnitude", "bops"])
def test_laws_of_multipliers_are_not_defined_for_logarithms(law):
    log, fp32 = parse_format("log8-base8"), parse_format("fp32")
    assert LAWS[law].cost(log, fp32, 16, 100, ()) is None
    assert LAWS[law].cost(fp32, fp32, 16, 100, ()) is not None


@pytest.mark.parametrize("name", ["ternary", "ternary2", "log8-base8", "log6-base4-row"])
def test_bits_moved_are_what_is_packed(name):
    chosen = policy({"format": "fp32"}, {"copy": "operand", "format": name, "placement": "at_producer"})
    assert not miscounts(decoder_step(), chosen)
