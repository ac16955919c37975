"""What formats do to numbers, in NumPy: quantize (fake-quantized floats), pack (the real bits) and unpack.

Every format is one scheme: blocks share scales, elements are rounded in units of them. A tensor is seen as a matrix of
free rows, along which blocks lie: the axes named (a GEMM's contracted axes) are flattened in that order, the others
before them. Formats of more than 24 significant bits work in float64, all others in float32 (or float64, if given).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from costsim.formats.blocks import code_matrix
from costsim.formats.elements import MANTISSA, NEAREST, Array, How, round_float
from costsim.formats.format import Format

SCALE_RULES = ("floor", "ceil", "rceil", "even")
_CHUNK = 1 << 18  # elements that are worked on at once: they stay in cache, and so little more memory is taken


# --- whole arrays -----------------------------------------------------------------------------------------------------


def needs_float64(format: Format) -> bool:
    """Whether float32 does not hold the codes of a format."""
    return format.width > 24 and format.family != "float"


def working_dtype(x: Array, format: Format) -> Any:
    """What a tensor is worked on in: float32, or float64 if it is that or the format needs it."""
    return np.dtype(np.float64 if x.dtype == np.float64 or needs_float64(format) else np.float32)


def blocks_last(x: Array, axes: Sequence[int] | None) -> tuple[Array, int]:
    """The array with the axes along which blocks lie last, and how many those are."""
    if axes is None or not len(axes):
        axes = (x.ndim - 1,)
    if x.ndim == 0:
        return x.reshape(1), 1
    return np.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim)), len(axes)


def matrix_shape(moved: Array, along: int) -> tuple[int, int]:
    """The shape (free, run) of an array whose last `along` axes are those of blocks."""
    run = math.prod(moved.shape[moved.ndim - along :])
    return moved.size // run if run else 0, run


def extremes(x: Array, format: Format) -> tuple[float, float]:
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
    dtype = working_dtype(x, format)
    plain = format.family == "float" and not format.scales
    if plain and format.width > MANTISSA[dtype]:
        return x.astype(dtype)
    whole = (0.0, 0.0) if plain else extremes(x, format)
    out = np.empty(x.shape, dtype)
    if x.size:
        (moved, along), (target, _) = blocks_last(x, axes), blocks_last(out, axes)
        for piece, shape in _pieces(moved, along, format):
            part = np.array(moved[piece], dtype).reshape(shape)
            values = round_float(part, format, how) if plain else code_matrix(part, format, how, whole).values
            target[piece] = values.reshape(moved[piece].shape)
    return out
