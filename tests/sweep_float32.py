"""All 2^32 float32 values rounded to each plain float format, against ml_dtypes and numpy. Not part of the default run.

    python -m pytest tests/sweep_float32.py                          # all: 7 formats, some minutes each
    python -m pytest tests/sweep_float32.py -k fp8-e4m3              # one format
    python -m pytest tests/sweep_float32.py -k "bits-3f or bits-ff"  # a slice: the patterns that begin with these bytes

A test is a format and the highest byte of the bit pattern, 2^24 values, taken in pieces that stay in little memory.
"""

import numpy as np
import pytest
from test_quantize import FINITE_ONLY, ML_DTYPES, OVERFLOW, assert_same, cast

from costsim.formats.named import parse_format
from costsim.formats.quantize import quantize

PIECE = 1 << 20


@pytest.mark.parametrize("byte", range(256), ids=lambda byte: f"bits-{byte:02x}")
@pytest.mark.parametrize("name", ML_DTYPES)
def test_every_float32(name, byte):
    format = parse_format(name)
    for start in range(byte << 24, (byte + 1) << 24, PIECE):
        x = np.arange(start, start + PIECE, dtype=np.uint32).view(np.float32)
        if name in FINITE_ONLY:
            x = x[np.isfinite(x)]
        found = quantize(x, format, rounding=OVERFLOW)
        expected = cast(cast(x, ML_DTYPES[name]), np.float32)
        if found.tobytes() != expected.tobytes():  # it may be that only NaNs have other bits
            assert_same(found, expected)
