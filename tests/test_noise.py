"""The proxy for what bits cost in quality: noise that a format leaves in gradients."""

from fractions import Fraction

import pytest
from conftest import shipped_policy

from costsim.errors import InputError
from costsim.reference.noise import EXACT, gradient_noise, runs
from costsim.run.job import Request, prepare

GIVEN = (("gemm", "operand"), ("operand",), ("fp32", "bfp4", "bfp8", "bfp16"))


@pytest.fixture(scope="module")
def noise():
    ticks = []
    job, policy = prepare(Request("translation-small")), shipped_policy("fp32")
    measured = gradient_noise(job, policy, *GIVEN, tick=lambda: ticks.append(1))
    assert len(ticks) == runs(job, policy, *GIVEN)
    return measured


def test_more_bits_make_less_noise_in_every_group(noise):
    groups = {group for group, _ in noise}
    assert len(groups) == 6
    for group in groups:
        assert noise[group, EXACT] == 0
        assert 0 < noise[group, "bfp16"] < noise[group, "bfp8"] < noise[group, "bfp4"]


def test_it_falls_with_the_square_of_the_step(noise):
    """Eight bits more make steps 256 times smaller, so noise 65536 times smaller: where nothing else happens."""
    for group in ("operand/wgrad/x", "operand/wgrad/dy"):  # of which gradients are linear
        assert 2**14 < noise[group, "bfp8"] / noise[group, "bfp16"] < 2**18


def test_the_same_bytes_every_time(noise):
    again = gradient_noise(prepare(Request("translation-small")), shipped_policy("fp32"), *GIVEN)
    assert again == noise
    assert all(isinstance(value, Fraction) for value in again.values())


def test_layers_that_the_copy_lacks():
    job = prepare(Request("iwslt17-dsq"))
    with pytest.raises(InputError, match=r"a copy of few layers, which has no operand/decoder\.2; leave layer out"):
        gradient_noise(job, shipped_policy("bfp16"), ("layer",), ("operand",), ("bfp8",))
