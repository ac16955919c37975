"""Quantize a tensor: the nearest numbers that a format holds, as floats (fake quantization).

A tensor is seen as a matrix of free rows, along which blocks lie: the axes named (a GEMM's contracted axes) are
flattened in that order, the others before them; some formats flatten the whole tensor. It is worked on in pieces that
fit a cache. Formats of more than 24 significant bits work in float64, all others in float32 (or float64, if given). The
real bits are in pack.py.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from costsim.formats.blocks import Extremes, quantize_matrix
from costsim.formats.elements import NEAREST, Array, Rounding, elements, keeps
from costsim.formats.format import Format
from costsim.formats.scales import MEAN

_CHUNK = 1 << 18  # elements that are worked on at once: they stay in cache, and so little more memory is taken


def needs_float64(format: Format) -> bool:
    """Whether float32 does not hold the codes of a format."""
    return format.width > 24


def working_dtype(x: Array, format: Format) -> Any:
    """What a tensor is worked on in: float32, or float64 if it is that or the format needs it."""
    return np.dtype(np.float64 if x.dtype == np.float64 or needs_float64(format) else np.float32)


def block_axes(x: Array, format: Format, axes: Sequence[int] | None) -> tuple[int, ...]:
    """The axes along which blocks lie: those named, else those that the format says."""
    return tuple(axes) if axes is not None and len(axes) else format.block_axes(x.ndim)


def block_axes_last(x: Array, axes: tuple[int, ...]) -> tuple[Array, int]:
    """The array with the axes along which blocks lie last, and how many those are."""
    if x.ndim == 0:
        return x.reshape(1), 1
    return np.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim)), len(axes)


def matrix_shape(moved: Array, along: int) -> tuple[int, int]:
    """The shape (free, run) of an array whose last `along` axes are those of blocks."""
    run = math.prod(moved.shape[moved.ndim - along :])
    return moved.size // run if run else 0, run


def _mean(x: Array) -> float:
    """The mean of the absolute values, in pieces."""
    flat = x.reshape(-1)
    pieces = (flat[start : start + _CHUNK] for start in range(0, x.size, _CHUNK))
    total: float = sum(float(np.abs(piece).sum(dtype=np.float64)) for piece in pieces)
    return total / float(x.size)


def extremes_of(x: Array, format: Format) -> Extremes:
    """The least and the largest number, or what scales take in their place: the mean size, both ways.

    Raises ValueError for NaN and infinity in a format that cannot hold them."""
    if not x.size:
        return 0.0, 0.0
    low, high = float(x.min()), float(x.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{format.name} holds no NaN or infinity")
    if any(scale.kind == MEAN for scale in format.scales):
        return -(mean := _mean(x)), mean
    return low, high


def _pieces(moved: Array, along: int, format: Format) -> Iterator[tuple[Any, tuple[int, int]]]:
    """Slices of an array in which no block is cut, each with its shape as a matrix (free, run)."""
    shape = moved.shape
    run = math.prod(shape[len(shape) - along :])
    rows_of_one = math.prod(shape[1 : len(shape) - along])  # that go with an index of the first axis
    blocks = [(scale.free, scale.contracted) for scale in format.scales if not scale.of_tensor]  # others are known
    across = math.lcm(*(n or 0 for n, _ in blocks)) if blocks else 1  # 0 if a block spans all rows
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


def chance(format: Format, rounding: Rounding) -> Rounding:
    """How to round to a format: one that rounds by chance draws the same numbers each time, unless it is given some."""
    if not format.stochastic or rounding.rng is not None:
        return rounding
    return replace(rounding, rng=np.random.default_rng(0))


def quantize(x: Array, format: Format, axes: Sequence[int] | None = None, rounding: Rounding = NEAREST) -> Array:
    """The nearest numbers that the format holds (`rounding` says otherwise), in the shape of x.

    `axes` are those along which blocks lie, flattened in this order; by default the last, or all of a format that
    flattens tensors. The result is float32, or
    float64 if x is, or if the format needs it. Raises ValueError for NaN and infinity in a format that has none.
    """
    if format.grid is not None:
        return quantize(quantize(x, format.grid, axes, rounding), replace(format, grid=None), None, rounding)
    if format.values != "float":
        return x
    dtype, rounding = working_dtype(x, format), chance(format, rounding)
    if not format.scaled and keeps(format, dtype):
        return x.astype(dtype)
    extremes = extremes_of(x, format) if format.scaled else (0.0, 0.0)
    out = np.empty(x.shape, dtype)
    if x.size:
        along_axes = block_axes(x, format, axes)
        (moved, along), (target, _) = block_axes_last(x, along_axes), block_axes_last(out, along_axes)
        for piece, shape in _pieces(moved, along, format):
            part = np.array(moved[piece], dtype).reshape(shape)
            if format.scaled:
                values = quantize_matrix(part, format, rounding, extremes).values
            else:
                values = elements(format).round(part, rounding)
            target[piece] = values.reshape(moved[piece].shape)
    return out
