"""Speed of quantizers on 4096 x 4096 float32. Run with: python -m pytest tests/benchmarks/test_quantize_speed.py -n 0

A copy and ml_dtypes' cast to fp8 and back stand beside the nearest rounding, and filling one float32 array with random
numbers, from the same generator, beside the stochastic one, so that ratios can be read off one table.
"""

from functools import cache

import ml_dtypes
import numpy as np
import pytest

from costsim.formats.elements import Rounding
from costsim.formats.named import parse_format
from costsim.formats.quantize import quantize

SHAPE = (4096, 4096)
FORMATS = ("fp8-e4m3", "fp8-e5m2", "bfp4", "bfp16", "int8")
ROUNDS = {"rounds": 5, "warmup_rounds": 1}


@cache
def matrix():
    return np.random.default_rng(0).standard_normal(SHAPE, np.float32)


@pytest.mark.benchmark(group="nearest")
def test_copy(benchmark):
    assert benchmark.pedantic(matrix().copy, **ROUNDS).shape == SHAPE


@pytest.mark.benchmark(group="nearest")
def test_cast_of_ml_dtypes(benchmark):
    x = matrix()
    found = benchmark.pedantic(lambda: x.astype(ml_dtypes.float8_e4m3fn).astype(np.float32), **ROUNDS)
    assert (found == quantize(x, parse_format("fp8-e4m3"))).all()


@pytest.mark.benchmark(group="nearest")
@pytest.mark.parametrize("name", FORMATS)
def test_nearest(benchmark, name):
    x, format = matrix(), parse_format(name)
    assert benchmark.pedantic(lambda: quantize(x, format), **ROUNDS).shape == SHAPE


@pytest.mark.benchmark(group="stochastic")
def test_random_numbers(benchmark):
    rng, out = np.random.default_rng(0), np.empty(SHAPE, np.float32)
    benchmark.pedantic(lambda: rng.random(dtype=np.float32, out=out), **ROUNDS)
    assert 0 <= out.min() < out.max() < 1


@pytest.mark.benchmark(group="stochastic")
@pytest.mark.parametrize("name", FORMATS)
def test_stochastic(benchmark, name):
    x, format, rounding = matrix(), parse_format(name), Rounding(rng=np.random.default_rng(0))
    assert benchmark.pedantic(lambda: quantize(x, format, rounding=rounding), **ROUNDS).shape == SHAPE
