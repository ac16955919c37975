"""Formats that are rounded to by chance, `FORMAT-sr`: no bias, the same multipliers, a random number an element."""

import numpy as np
import pytest
from conftest import decoder_step, miscounts, policy

from costsim.cost.count import count
from costsim.cost.totals import sum_rows
from costsim.errors import InputError
from costsim.formats.named import parse_format
from costsim.formats.quantize import quantize
from costsim.policy.assign import assign


def of(name):
    return policy({"format": "bf16"}, {"copy": "operand", "operand": ("dy",), "format": name, "placement": "on_chip"})


@pytest.mark.parametrize("name", ["nvfp4-sr", "mxfp4-sr", "int4-row-sr", "fp8-e5m2-sr", "bfp4-sr"])
def test_there_is_no_bias(name):
    """The mean of many roundings of one number is that number; to the nearest it is a neighbour."""
    x = np.full((400, 160), 0.3137, np.float32)
    x[:, ::16] = 1.0  # the largest of each block
    made = quantize(x, parse_format(name))[:, 1]
    assert len(np.unique(made)) == 2
    assert made.mean() == pytest.approx(0.3137, rel=0.05)
    nearest = quantize(x, parse_format(name.removesuffix("-sr")))[:, 1]
    assert abs(nearest[0] - 0.3137) <= abs(made - 0.3137).max()
    np.testing.assert_array_equal(made, quantize(x, parse_format(name))[:, 1])  # the same each time


def test_products_and_bits_are_those_of_the_nearest_and_draws_are_counted():
    graph = decoder_step()
    plain, chance = (
        sum_rows(count(graph, assign(graph, of(name)), "fused"), "product") for name in ("mxfp4", "mxfp4-sr")
    )
    assert (plain.macs, plain.priced, plain.dram_bits) == (chance.macs, chance.priced, chance.dram_bits)
    assert plain.vector["quantize"] == chance.vector["quantize"] == chance.vector["random"]
    assert "random" not in plain.vector


@pytest.mark.parametrize("placement", ["on_chip", "at_producer", "stored"])
def test_counts_are_what_a_run_measures(placement):
    chosen = policy(
        {"format": "bf16"}, {"copy": "operand", "operand": ("dy",), "format": "nvfp4-sr", "placement": placement}
    )
    assert not miscounts(decoder_step(), chosen)


@pytest.mark.parametrize("name", ["index32-sr", "mxfp4-sr-sr"])
def test_what_cannot_be_rounded_so(name):
    with pytest.raises(InputError, match="only numbers are rounded by chance, and once"):
        parse_format(name)
